//! Trained networks as ONNX models: images `[N, 3, H, W]` in, logits `[N, K]` out, any number of images at a time.
//!
//! Tensors are named after the layer that makes them (`layer1.0.bn1`, `branches.1.layer3.0.conv1`), and parameters as
//! everywhere. A tensor of several members is several tensors here.

mod proto;

use std::collections::{HashMap, HashSet};

use anyhow::{Result, anyhow};
use nets::{ConvSpec, Layer, Model, NamedTensor, Operation, member_name};
use tensor::ops::Pool2d;
use tensor::{Graph, Spec, Var};

use crate::formats::fold::{self, Pair};
use crate::step::pretrained::Pretrained;
use proto::{Attribute, Extent, GraphProto};

/// The images.
const IMAGE: &str = "image";
/// The logits of the one network, or of the ensemble.
const LOGITS: &str = "logits";
/// The gate's shares `[N, M]`.
const GATE: &str = "gate";
/// Channels of an image, and as many as the engine stores.
const CHANNELS: usize = 3;
const STORED_CHANNELS: usize = 4;

/// Options of an ONNX model.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// True if batch-norms are folded into the layers before them.
    pub fold: bool,
    /// True if the model itself normalises: images are then of pixels in 0 to 1.
    pub normalise: bool,
}

/// The bytes of a model.
///
/// # Errors
/// When the network has a layer that its record does not tell of.
pub fn model(network: &Pretrained, options: Options) -> Result<Vec<u8>> {
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let size = network.header.size()?;
    let image = graph.input(IMAGE, Spec::f32([1, 1, size, size, STORED_CHANNELS]));
    let heads = network.record(&mut graph, &mut model, image)?;
    let mut state = network.state.clone();
    let mut folded = Vec::new();
    if options.fold {
        folded = fold::pairs(&heads.layers);
        state = fold::fold(&heads.layers, state).map_err(|what| anyhow!("the network cannot be folded: {what}"))?;
    }
    let mut writer = Writer::new(state, folded);
    writer.image(network, image, options.normalise, size);
    for layer in &heads.layers {
        writer.layer(layer)?;
    }
    writer.outputs(network, heads.logits, heads.gate)?;
    let numbers = |values: [f64; 3]| serde_json::to_string(&values);
    let metadata = [
        ("network", network.describe()),
        ("classes", serde_json::to_string(&network.header.class_names)?),
        ("mean", numbers(network.header.mean)?),
        ("std", numbers(network.header.std)?),
        ("normalised_by_the_model", options.normalise.to_string()),
    ];
    Ok(writer.graph.model(&network.header.network.net, &metadata))
}

/// Translates layers into nodes.
struct Writer {
    graph: GraphProto,
    /// Parameters that are not written yet, and the names of those that are.
    state: HashMap<String, NamedTensor>,
    written: HashSet<String>,
    folded: Vec<Pair>,
    /// Names of a tensor's members; one name where they share it.
    names: HashMap<Var, Vec<String>>,
    image: Option<Var>,
    unnamed: usize,
}

impl Writer {
    fn new(state: Vec<NamedTensor>, folded: Vec<Pair>) -> Self {
        let state = state.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self {
            graph: GraphProto::default(),
            state,
            written: HashSet::new(),
            folded,
            names: HashMap::new(),
            image: None,
            unnamed: 0,
        }
    }

    /// The model's input, normalised on request.
    fn image(&mut self, network: &Pretrained, image: Var, normalise: bool, size: usize) {
        let extents = [Extent::Batch, Extent::Fixed(CHANNELS), Extent::Fixed(size), Extent::Fixed(size)];
        self.graph.input(IMAGE, &extents);
        let mut name = IMAGE;
        if normalise {
            let mut constant = |name: &str, values: [f64; 3]| {
                self.graph.floats(name, &[1, CHANNELS, 1, 1], &values.map(|value| value as f32));
            };
            constant("mean", network.header.mean);
            constant("std", network.header.std);
            self.graph.node("Sub", &[IMAGE, "mean"], "image.centred", &[]);
            self.graph.node("Div", &["image.centred", "std"], "image.normalised", &[]);
            name = "image.normalised";
        }
        self.names.insert(image, vec![name.to_owned()]);
        self.image = Some(image);
    }

    /// Name of member `member` of a tensor.
    fn name(&self, var: Var, member: usize) -> Result<&str> {
        let names = self.names.get(&var).ok_or_else(|| {
            anyhow!(
                "a layer of this network was recorded on its graph alone: record it by the builder to write it as ONNX"
            )
        })?;
        // A tensor with one member is read by all.
        Ok(&names[if names.len() == 1 { 0 } else { member }])
    }

    /// A name for what a layer without parameters makes.
    fn fresh(&mut self, what: &str) -> String {
        self.unnamed += 1;
        format!("{what}_{}", self.unnamed)
    }

    /// Writes a parameter as a constant, once, and gives its name.
    fn parameter(&mut self, name: &str, member: usize) -> Result<String> {
        let name = member_name(name, member);
        if let Some(tensor) = self.state.remove(&name) {
            self.graph.floats(&name, &tensor.shape, &tensor.data);
            self.written.insert(name.clone());
        }
        if self.written.contains(&name) { Ok(name) } else { Err(anyhow!("the network's state has no {name}")) }
    }

    fn layer(&mut self, layer: &Layer) -> Result<()> {
        let names = (0..layer.members).map(|member| self.member(layer, member)).collect::<Result<Vec<_>>>()?;
        self.names.insert(layer.output, names);
        Ok(())
    }

    /// Writes one member of a layer, and gives its output's name.
    fn member(&mut self, layer: &Layer, member: usize) -> Result<String> {
        let inputs = layer.inputs.iter().map(|&input| Ok(self.name(input, member)?.to_owned()));
        let inputs = inputs.collect::<Result<Vec<String>>>()?;
        let x = inputs[0].as_str();
        match &layer.operation {
            Operation::Conv { name, spec } => self.convolution(name, *spec, x, member),
            Operation::BatchNorm { name, epsilon, relu } => {
                self.batch_norm(name, *epsilon, *relu, x, inputs.get(1).map(String::as_str), member)
            }
            Operation::Linear { name } => {
                let output = member_name(name, member);
                let weight = self.parameter(&format!("{name}.weight"), member)?;
                let bias = self.parameter(&format!("{name}.bias"), member)?;
                self.graph.node("Gemm", &[x, &weight, &bias], &output, &[("transB", Attribute::Int(1))]);
                Ok(output)
            }
            Operation::MaxPool(windows) => Ok(self.pool("MaxPool", *windows, x, &[])),
            Operation::AveragePool(windows) => {
                Ok(self.pool("AveragePool", *windows, x, &[("count_include_pad", Attribute::Int(1))]))
            }
            Operation::GlobalAveragePool => Ok(self.global_average_pool(x, self.image == Some(layer.inputs[0]))),
            Operation::Concat => {
                let output = self.fresh("concat");
                self.graph.node("Concat", &[x, &inputs[1]], &output, &[("axis", Attribute::Int(1))]);
                Ok(output)
            }
            Operation::ShortcutA { added, stride } => Ok(self.shortcut_a(x, *added, *stride)),
            Operation::Expand => Ok(x.to_owned()),
        }
    }

    fn convolution(&mut self, name: &str, spec: ConvSpec, x: &str, member: usize) -> Result<String> {
        let output = member_name(name, member);
        let mut inputs = vec![x.to_owned(), self.parameter(&format!("{name}.weight"), member)?];
        if self.folded.iter().any(|pair| pair.layer == name) {
            inputs.push(self.parameter(&format!("{name}.bias"), member)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let ConvSpec { kernel, stride, padding, groups, .. } = spec;
        let attributes = [
            ("kernel_shape", Attribute::Ints(&[kernel; 2])),
            ("strides", Attribute::Ints(&[stride; 2])),
            ("pads", Attribute::Ints(&[padding; 4])),
            ("group", Attribute::Int(groups as i64)),
        ];
        self.graph.node("Conv", &inputs, &output, &attributes);
        Ok(output)
    }

    fn batch_norm(
        &mut self,
        name: &str,
        epsilon: f32,
        relu: bool,
        x: &str,
        residual: Option<&str>,
        member: usize,
    ) -> Result<String> {
        let own = member_name(name, member);
        let mut y = x.to_owned();
        if !self.folded.iter().any(|pair| pair.norm == name) {
            let parts = ["weight", "bias", "running_mean", "running_var"];
            let parts = parts.map(|part| self.parameter(&format!("{name}.{part}"), member));
            let [gamma, beta, mean, var] = parts;
            let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
            let attributes = [("epsilon", Attribute::Float(epsilon))];
            self.graph.node("BatchNormalization", &[x, &gamma, &beta, &mean, &var], &own, &attributes);
            y.clone_from(&own);
        }
        if let Some(residual) = residual {
            let sum = format!("{own}.sum");
            self.graph.node("Add", &[&y, residual], &sum, &[]);
            y = sum;
        }
        if relu {
            let positive = format!("{own}.relu");
            self.graph.node("Relu", &[&y], &positive, &[]);
            y = positive;
        }
        Ok(y)
    }

    fn pool(&mut self, operator: &str, windows: Pool2d, x: &str, more: &[(&str, Attribute<'_>)]) -> String {
        let output = self.fresh(&operator.to_lowercase());
        let Pool2d { kernel, stride, padding: [rows, columns] } = windows;
        let pads = [rows, columns, rows, columns];
        let mut attributes = vec![
            ("kernel_shape", Attribute::Ints(&kernel)),
            ("strides", Attribute::Ints(&stride)),
            ("pads", Attribute::Ints(&pads)),
        ];
        attributes.extend_from_slice(more);
        self.graph.node(operator, &[x], &output, &attributes);
        output
    }

    /// The linear layer of a gate that looks at the image itself has weights for its fourth channel.
    fn global_average_pool(&mut self, x: &str, of_image: bool) -> String {
        let x = if of_image { self.pad_channels(x, [0, STORED_CHANNELS - CHANNELS]) } else { x.to_owned() };
        let (pooled, output) = (self.fresh("globalaveragepool"), self.fresh("flatten"));
        self.graph.node("GlobalAveragePool", &[&x], &pooled, &[]);
        self.graph.node("Flatten", &[&pooled], &output, &[("axis", Attribute::Int(1))]);
        output
    }

    /// Zero channels in front and behind.
    fn pad_channels(&mut self, x: &str, [before, behind]: [usize; 2]) -> String {
        let (pads, output) = (self.fresh("pads"), self.fresh("pad"));
        self.graph.integers(&pads, &[0, before as i64, 0, 0, 0, behind as i64, 0, 0]);
        self.graph.node("Pad", &[x, &pads], &output, &[]);
        output
    }

    fn shortcut_a(&mut self, x: &str, added: usize, stride: usize) -> String {
        let mut y = x.to_owned();
        if stride > 1 {
            let names = ["starts", "ends", "axes", "steps"].map(|what| self.fresh(what));
            let values = [[0; 2], [i64::MAX; 2], [2, 3], [stride as i64; 2]];
            names.iter().zip(&values).for_each(|(name, values)| self.graph.integers(name, values));
            let output = self.fresh("slice");
            let [starts, ends, axes, steps] = &names;
            self.graph.node("Slice", &[x, starts, ends, axes, steps], &output, &[]);
            y = output;
        }
        if added > 0 { self.pad_channels(&y, [added / 2, added - added / 2]) } else { y }
    }

    /// The model's outputs. Of several members: the ensemble's logits, the gate's shares, and each member's logits.
    fn outputs(&mut self, network: &Pretrained, logits: Var, gate: Option<Var>) -> Result<()> {
        let (members, classes) = (network.header.network.branches, network.header.classes);
        let names = (0..members).map(|member| Ok(self.name(logits, member)?.to_owned())).collect::<Result<Vec<_>>>()?;
        let rows = [Extent::Batch, Extent::Fixed(classes)];
        self.graph.output(LOGITS, &rows);
        if members == 1 {
            self.graph.node("Identity", &[&names[0]], LOGITS, &[]);
            return Ok(());
        }
        let scores = gate.map(|gate| Ok::<_, anyhow::Error>(self.name(gate, 0)?.to_owned())).transpose()?;
        let parts: Vec<&str> = names.iter().map(String::as_str).collect();
        match network.header.method_config()?.ensemble() {
            one::Network::MeanProbabilities => self.mean_of_probabilities(&parts),
            one::Network::Gated => self.gated(&parts, scores.as_deref().unwrap_or_default()),
            one::Network::MeanLogits | one::Network::Member(_) => self.graph.node("Mean", &parts, LOGITS, &[]),
        }
        if gate.is_some() {
            self.graph.output(GATE, &[Extent::Batch, Extent::Fixed(members)]);
        }
        for (member, part) in parts.iter().enumerate() {
            let name = format!("branch{member}");
            self.graph.node("Identity", &[part], &name, &[]);
            self.graph.output(&name, &rows);
        }
        Ok(())
    }

    /// `sum_i softmax(scores)_i logits_i`.
    fn gated(&mut self, parts: &[&str], scores: &str) {
        self.graph.node("Softmax", &[scores], GATE, &[("axis", Attribute::Int(1))]);
        let shares: Vec<String> = (0..parts.len()).map(|i| format!("gate.share{i}")).collect();
        let shares: Vec<&str> = shares.iter().map(String::as_str).collect();
        self.graph.node_of_several("Split", &[GATE], &shares, &[("axis", Attribute::Int(1))]);
        let weighted: Vec<String> = parts
            .iter()
            .zip(&shares)
            .map(|(part, share)| {
                let name = format!("{share}.logits");
                self.graph.node("Mul", &[part, share], &name, &[]);
                name
            })
            .collect();
        let weighted: Vec<&str> = weighted.iter().map(String::as_str).collect();
        self.graph.node("Sum", &weighted, LOGITS, &[]);
    }

    /// `log mean_i softmax(logits_i)`, whose softmax is the mean of the probabilities.
    fn mean_of_probabilities(&mut self, parts: &[&str]) {
        let probabilities: Vec<String> = parts
            .iter()
            .map(|part| {
                let name = format!("{part}.probabilities");
                self.graph.node("Softmax", &[part], &name, &[("axis", Attribute::Int(1))]);
                name
            })
            .collect();
        let probabilities: Vec<&str> = probabilities.iter().map(String::as_str).collect();
        self.graph.node("Mean", &probabilities, "probabilities", &[]);
        self.graph.node("Log", &["probabilities"], LOGITS, &[]);
    }
}
