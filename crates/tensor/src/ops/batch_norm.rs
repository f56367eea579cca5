//! Batch normalisation (Ioffe and Szegedy, 2015), with what follows it in a residual network fused into it:
//! `y = relu(gamma (x - mean) / sqrt(var + eps) + beta + residual)`.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::batch_norm::{
    Activation, BatchNormApply, BatchNormFinalize, BatchNormGradInput, BatchNormGradPartials, BatchNormInference,
    BatchNormPartials, BatchNormSmall, BatchNormSmallGrad, Chunks, Residual, SMALL_ROWS, Upstream,
};
use crate::kernels::sum_members::SumMembers;
use crate::kernels::sum_partials::{Sum, SumPartials};

/// The operands of a batch normalisation besides its input. All tensors are `[M, C]`.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm {
    /// Scale.
    pub gamma: Var,
    /// Shift.
    pub beta: Var,
    /// Running mean, updated in training and used in inference.
    pub running_mean: Var,
    /// Running (unbiased) variance, likewise.
    pub running_var: Var,
    /// Added before the activation: of the input's shape, or with one member for all.
    pub residual: Option<Var>,
    /// True if a ReLU follows.
    pub relu: bool,
    /// Added to the variance under the root.
    pub eps: f32,
    /// Weight of the batch in the running statistics.
    pub momentum: f32,
    /// True if statistics are those of the batch (and update the running ones), or the running ones.
    pub training: bool,
}

#[derive(Debug)]
struct Backward {
    members: usize,
    rows: usize,
    channels: usize,
    spec: BatchNorm,
    residual: Residual,
    x: Var,
    stats: Var,
    y: Var,
}

#[derive(Debug)]
struct SmallBackward {
    kernel: BatchNormSmallGrad,
    x: Var,
    stats: Var,
    gamma: Var,
    beta: Var,
    y: Var,
}

impl Differentiable for SmallBackward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let &Self { ref kernel, x, stats, gamma, beta, .. } = self;
        let outputs = graph.launch(kernel.clone(), &[x, dy, stats, gamma, beta])?;
        for (var, gradient) in [x, gamma, beta].into_iter().zip(outputs) {
            if graph.needs_gradient(var) {
                gradients.add(graph, var, gradient)?;
            }
        }
        Ok(())
    }
}

impl Graph {
    /// Normalises each channel of `x` `[M, …, C]` over all axes between the first and the last.
    ///
    /// # Errors
    /// When the operands do not fit the input's members and channels.
    pub fn batch_norm(&mut self, x: Var, spec: BatchNorm) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        if shape.len() < 3 || shape.contains(&0) {
            return shape_error("batch_norm", format!("x should be [M,rows,C] or [M,N,H,W,C], got {shape:?}"));
        }
        let (members, channels) = (shape[0], shape[shape.len() - 1]);
        let rows = shape[1..shape.len() - 1].iter().product();
        for var in [spec.gamma, spec.beta, spec.running_mean, spec.running_var] {
            if self.shape(var) != [members, channels] {
                let got = self.shape(var);
                return shape_error("batch_norm", format!("x is {shape:?}, and a parameter {got:?} instead of [M,C]"));
            }
        }
        let residual = self.residual(spec.residual, &shape)?;
        let mut extra: Vec<Var> = spec.residual.into_iter().collect();
        if !spec.training {
            let mut inputs = vec![x, spec.running_mean, spec.running_var, spec.gamma, spec.beta];
            inputs.append(&mut extra);
            let kernel = BatchNormInference { members, rows, channels, residual, relu: spec.relu, eps: spec.eps };
            let y = self.launch_one(kernel, &inputs)?;
            return self.set_shape(y, shape);
        }
        if shape.len() == 3 && rows <= SMALL_ROWS && residual == Residual::None && !self.shares_batch_norm() {
            return self.small_batch_norm(x, [members, rows, channels], spec);
        }
        let chunks = Chunks::new(rows, channels);
        let partials = self.launch_one(BatchNormPartials { members, channels, chunks }, &[x])?;
        let (partials, chunks) = self.share_moments(partials, [members, channels], chunks)?;
        let BatchNorm { eps, momentum, .. } = spec;
        let finalize = BatchNormFinalize { members, channels, chunks, eps, momentum, affine: false };
        let outputs = [None, Some(spec.running_mean), Some(spec.running_var)];
        let stats = self.launch_into(finalize, &[partials], &outputs)?[0];
        let mut inputs = vec![x, stats, spec.gamma, spec.beta];
        inputs.append(&mut extra);
        let y = self.launch_one(BatchNormApply { members, rows, channels, residual, relu: spec.relu }, &inputs)?;
        self.set_shape(y, shape)?;
        let mut operands = vec![x, spec.gamma, spec.beta];
        operands.extend(spec.residual);
        self.differentiable(Backward { members, rows, channels, spec, residual, x, stats, y }, &operands, &[y]);
        Ok(y)
    }

    /// Few rows that no convolution has written: a dispatch for everything, and one for its gradient.
    fn small_batch_norm(&mut self, x: Var, [members, rows, channels]: [usize; 3], spec: BatchNorm) -> Result<Var> {
        let BatchNorm { gamma, beta, relu, eps, momentum, .. } = spec;
        let kernel = BatchNormSmall { members, rows, channels, relu, eps, momentum };
        let outputs = [None, None, Some(spec.running_mean), Some(spec.running_var)];
        let outputs = self.launch_into(kernel, &[x, gamma, beta], &outputs)?;
        let (y, stats) = (outputs[0], outputs[1]);
        let op =
            SmallBackward { kernel: BatchNormSmallGrad { members, rows, channels, relu }, x, stats, gamma, beta, y };
        self.differentiable(op, &[x, gamma, beta], &[y]);
        Ok(y)
    }

    fn residual(&self, residual: Option<Var>, shape: &[usize]) -> Result<Residual> {
        let Some(var) = residual else { return Ok(Residual::None) };
        let got = self.shape(var);
        if got == shape {
            Ok(Residual::Same)
        } else if got[0] == 1 && got[1..] == shape[1..] {
            Ok(Residual::Shared)
        } else {
            shape_error("batch_norm", format!("x is {shape:?}, and the residual {got:?}"))
        }
    }
}

impl Backward {
    fn activation(&self) -> Activation {
        match (self.spec.relu, self.spec.residual) {
            (false, _) => Activation::Linear,
            (true, None) => Activation::Relu,
            (true, Some(_)) => Activation::ReluOfSum,
        }
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let &Self { members, rows, channels, ref spec, x, stats, .. } = self;
        let (chunks, activation) = (Chunks::new(rows, channels), self.activation());
        let mut inputs = vec![x, dy, stats, spec.gamma, spec.beta];
        if activation == Activation::ReluOfSum {
            inputs.push(self.y);
        }
        let kernel = BatchNormGradPartials { members, channels, chunks, activation, upstream: Upstream::Whole };
        let outputs = graph.launch(kernel, &inputs)?;
        let behind = outputs.get(1).copied().unwrap_or(dy);
        let sums = graph.launch(SumPartials::new(Sum::of_pairs(chunks.count(), members, channels)), &outputs[..1])?;
        let [dbeta, dgamma] = graph.share_sums([sums[0], sums[1]])?;
        if graph.needs_gradient(spec.gamma) {
            gradients.add(graph, spec.gamma, dgamma)?;
        }
        if graph.needs_gradient(spec.beta) {
            gradients.add(graph, spec.beta, dbeta)?;
        }
        if graph.needs_gradient(x) {
            let mut inputs = vec![x, behind, stats, spec.gamma, dgamma, dbeta];
            inputs.extend(gradients.take(x));
            let kernel = BatchNormGradInput { members, rows, channels, addend: inputs.len() == 7 };
            let dx = graph.launch_one(kernel, &inputs)?;
            gradients.add(graph, x, dx)?;
        }
        if let Some(residual) = spec.residual.filter(|&var| graph.needs_gradient(var)) {
            let shared = matches!(self.residual, Residual::Shared);
            let gradient = if shared {
                let words = rows * channels;
                graph.launch_one(SumMembers { members, words }, &[behind])?
            } else {
                behind
            };
            gradients.add(graph, residual, gradient)?;
        }
        Ok(())
    }
}
