//! The builder: layers with parameters, recorded on a graph.

use tensor::ops::{BatchNorm, Conv2d, Pool2d};
use tensor::{Graph, Kind, Spec, Var};

use crate::cost::Macs;
use crate::error::Result;
use crate::layers::{Layer, Operation};
use crate::layout::Layout;
use crate::model::{Decay, Declaration, Init, Model};

/// Purpose of the recorded graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, which update the running ones; gradients will follow.
    Training,
    /// Running statistics.
    Inference,
}

/// A convolution layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSpec {
    /// Output channels.
    pub filters: usize,
    /// Kernel height and width.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Groups.
    pub groups: usize,
}

impl ConvSpec {
    /// 3x3 with padding 1.
    pub fn three(filters: usize, stride: usize) -> Self {
        Self { filters, kernel: 3, stride, padding: 1, groups: 1 }
    }

    /// 1x1.
    pub fn one(filters: usize, stride: usize) -> Self {
        Self { filters, kernel: 1, stride, padding: 0, groups: 1 }
    }
}

/// Batch-norm constants: PyTorch's defaults.
const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;
/// Image channels that carry data.
const IMAGE_CHANNELS: usize = 3;

/// Records layers on a graph and declares their parameters in a model.
#[derive(Debug)]
pub struct Builder<'a> {
    graph: &'a mut Graph,
    model: &'a mut Model,
    mode: Mode,
    members: usize,
    image: Option<Var>,
    macs: Macs,
    vars: Vec<(usize, Var)>,
    layers: Vec<Layer>,
}

impl<'a> Builder<'a> {
    /// A builder of layers with one member.
    pub fn new(graph: &'a mut Graph, model: &'a mut Model, mode: Mode) -> Self {
        Self { graph, model, mode, members: 1, image: None, macs: Macs(0), vars: Vec::new(), layers: Vec::new() }
    }

    /// The graph being recorded.
    pub fn graph(&mut self) -> &mut Graph {
        self.graph
    }

    /// Sets the members of the layers that follow: a layer whose input has one member fans out.
    pub fn set_members(&mut self, members: usize) {
        self.members = members;
    }

    /// Names the tensor that is the image: its four channels count as three, and the weights of the fourth stay zero.
    pub fn set_image(&mut self, image: Var) {
        self.image = Some(image);
    }

    /// Multiply-accumulates recorded so far, for one image, all members counted.
    pub fn macs(&self) -> Macs {
        self.macs
    }

    /// The parameters recorded so far (index in `Params::entries`, and tensor of the graph), and the layers.
    pub fn finish(self) -> (Vec<(usize, Var)>, Vec<Layer>) {
        (self.vars, self.layers)
    }

    /// Notes a layer and returns its output.
    fn note(&mut self, operation: Operation, inputs: &[Var], output: Var) -> Var {
        let members = self.graph.spec(output).members();
        self.layers.push(Layer { operation, inputs: inputs.to_vec(), output, members });
        output
    }

    /// Copies a shared `x` once for each member, for layers that do not fan out themselves.
    ///
    /// # Errors
    /// When `x` has another number of members.
    pub fn expand(&mut self, x: Var) -> Result<Var> {
        let y = self.graph.expand_members(x, self.members)?;
        Ok(if y == x { x } else { self.note(Operation::Expand, &[x], y) })
    }

    /// Records the largest value in each window.
    ///
    /// # Errors
    /// When the windows do not fit the input.
    pub fn max_pool(&mut self, x: Var, spec: Pool2d) -> Result<Var> {
        let y = self.graph.max_pool(x, spec)?;
        Ok(self.note(Operation::MaxPool(spec), &[x], y))
    }

    /// Records the mean of each window; positions outside count as zeros.
    ///
    /// # Errors
    /// When the windows do not fit the input.
    pub fn average_pool(&mut self, x: Var, spec: Pool2d) -> Result<Var> {
        let y = self.graph.average_pool(x, spec)?;
        Ok(self.note(Operation::AveragePool(spec), &[x], y))
    }

    /// Records the mean over all pixels, `[M, N, C]`.
    ///
    /// # Errors
    /// When `x` is not of images.
    pub fn global_average_pool(&mut self, x: Var) -> Result<Var> {
        let y = self.graph.global_average_pool(x)?;
        Ok(self.note(Operation::GlobalAveragePool, &[x], y))
    }

    /// Appends the channels of `y` to those of `x`.
    ///
    /// # Errors
    /// When their shapes differ in anything but channels.
    pub fn concat(&mut self, x: Var, y: Var) -> Result<Var> {
        let both = self.graph.concat(x, y)?;
        Ok(self.note(Operation::Concat, &[x, y], both))
    }

    /// Records every `stride`-th pixel of `x`, with zero channels up to `filters`.
    ///
    /// # Errors
    /// When there are fewer filters than channels.
    pub fn shortcut_a(&mut self, x: Var, filters: usize, stride: usize) -> Result<Var> {
        let y = self.graph.shortcut_a(x, filters, stride)?;
        let added = filters - self.graph.spec(x).last();
        Ok(self.note(Operation::ShortcutA { added, stride }, &[x], y))
    }

    /// The kind of parameters that are not weights of a convolution or a linear layer.
    fn no_weight(&self) -> Kind {
        Kind::Trained { decay: self.model.decay() == Decay::All }
    }

    fn parameter(&mut self, name: &str, shape: &[usize], kind: Kind, layout: Layout, init: Init) -> Result<Var> {
        let mut full = vec![self.members];
        full.extend_from_slice(shape);
        let declaration = Declaration { layout, init };
        let index = self.model.declare(name, Spec::f32(full), kind, declaration)?;
        let params = self.model.params();
        let var = self.graph.param(params, &params.entries()[index])?;
        self.vars.push((index, var));
        Ok(var)
    }

    /// Records a convolution without bias, `{name}.weight`, initialised as `N(0, sqrt(2 / (R S K)))` (He et al.,
    /// fan-out).
    ///
    /// # Errors
    /// When the input does not fit.
    pub fn conv(&mut self, name: &str, x: Var, spec: ConvSpec) -> Result<Var> {
        let ConvSpec { filters, kernel, stride, padding, groups } = spec;
        let stored = self.graph.spec(x).last();
        let channels = if self.image == Some(x) { IMAGE_CHANNELS } else { stored };
        let (group_channels, padded) = (channels / groups, stored / groups);
        let layout = Layout::Conv { filters, channels: group_channels, padded, kernel: [kernel, kernel] };
        let init = Init::Normal((2.0 / (kernel * kernel * filters) as f64).sqrt());
        let shape = [kernel, kernel, padded, filters];
        let w = self.parameter(&format!("{name}.weight"), &shape, Kind::Trained { decay: true }, layout, init)?;
        let y = self.graph.conv2d(x, w, Conv2d { stride: [stride, stride], padding: [padding, padding], groups })?;
        let &[_, _, p, q, _] = self.graph.shape(y) else { unreachable!("convolutions give five axes") };
        self.macs.0 += (self.members * p * q * kernel * kernel * group_channels * filters) as u64;
        Ok(self.note(Operation::Conv { name: name.to_owned(), spec }, &[x], y))
    }

    /// Records batch-norm (`{name}.weight`, `.bias`, `.running_mean`, `.running_var`), then adds `residual` and
    /// applies a ReLU if asked for.
    ///
    /// # Errors
    /// When the operands do not fit each other.
    pub fn batch_norm(&mut self, name: &str, x: Var, residual: Option<Var>, relu: bool) -> Result<Var> {
        let channels = [self.graph.spec(x).last()];
        let trained = self.no_weight();
        let mut parameter = |part: &str, kind, value: f32| {
            self.parameter(&format!("{name}.{part}"), &channels, kind, Layout::Vector, Init::Constant(value))
        };
        let gamma = parameter("weight", trained, 1.0)?;
        let beta = parameter("bias", trained, 0.0)?;
        let running_mean = parameter("running_mean", Kind::Running, 0.0)?;
        let running_var = parameter("running_var", Kind::Running, 1.0)?;
        let training = self.mode == Mode::Training;
        let (eps, momentum) = (EPS, MOMENTUM);
        let spec = BatchNorm { gamma, beta, running_mean, running_var, residual, relu, eps, momentum, training };
        let y = self.graph.batch_norm(x, spec)?;
        let inputs: Vec<Var> = [x].into_iter().chain(residual).collect();
        Ok(self.note(Operation::BatchNorm { name: name.to_owned(), epsilon: eps, relu }, &inputs, y))
    }

    /// Records a linear layer with bias (`{name}.weight`, `.bias`), both initialised as `U(-1/sqrt(C), 1/sqrt(C))`.
    ///
    /// # Errors
    /// When the input does not fit.
    pub fn linear(&mut self, name: &str, x: Var, outputs: usize) -> Result<Var> {
        let inputs = self.graph.spec(x).last();
        let init = Init::Uniform(1.0 / (inputs as f64).sqrt());
        let layout = Layout::Linear { inputs, outputs };
        let weight = Kind::Trained { decay: true };
        let w = self.parameter(&format!("{name}.weight"), &[inputs, outputs], weight, layout, init)?;
        let bias = self.no_weight();
        let b = self.parameter(&format!("{name}.bias"), &[outputs], bias, Layout::Vector, init)?;
        self.macs.0 += (self.members * inputs * outputs) as u64;
        let y = self.graph.linear(x, w, b)?;
        Ok(self.note(Operation::Linear { name: name.to_owned() }, &[x], y))
    }
}
