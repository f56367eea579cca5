//! Batch normalisation (Ioffe and Szegedy, 2015), with what follows it in a residual network fused into it:
//! `y = relu(gamma (x - mean) / sqrt(var + eps) + beta + residual)`.

use crate::autodiff::{Differentiable, Gradients};
use crate::error::{Result, shape_error};
use crate::graph::{Graph, Normalised, Var};
use crate::kernels::batch_norm_apply::{BatchNormApply, BatchNormInference, Residual};
use crate::kernels::batch_norm_backward::{
    Activation, BatchNormGradFinalize, BatchNormGradInput, BatchNormGradPartials,
};
use crate::kernels::batch_norm_stats::{BatchNormFinalize, BatchNormPartials};
use crate::kernels::sum_members::SumMembers;

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
    /// Whether a ReLU follows.
    pub relu: bool,
    /// Added to the variance under the root.
    pub eps: f32,
    /// Weight of the batch in the running statistics.
    pub momentum: f32,
    /// Whether statistics are those of the batch (and update the running ones), or the running ones.
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
        let partials = self.launch_one(BatchNormPartials { members, rows, channels }, &[x])?;
        let finalize = BatchNormFinalize { members, rows, channels, eps: spec.eps, momentum: spec.momentum };
        let outputs = [None, Some(spec.running_mean), Some(spec.running_var)];
        let stats = self.launch_into(finalize, &[partials, x], &outputs)?[0];
        let mut inputs = vec![x, stats, spec.gamma, spec.beta];
        inputs.append(&mut extra);
        let y = self.launch_one(BatchNormApply { members, rows, channels, residual, relu: spec.relu }, &inputs)?;
        self.set_shape(y, shape)?;
        if spec.relu && spec.residual.is_none() {
            // If only convolutions read it, the plan drops the kernel that writes it.
            let BatchNorm { gamma, beta, .. } = spec;
            self.normalised.insert(y, Normalised { x, stats, gamma, beta });
        }
        let mut operands = vec![x, spec.gamma, spec.beta];
        operands.extend(spec.residual);
        self.differentiable(Backward { members, rows, channels, spec, residual, x, stats, y }, &operands, &[y]);
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

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let &Self { members, rows, channels, ref spec, x, stats, y, .. } = self;
        let activation = match (spec.relu, spec.residual) {
            (false, _) => Activation::Linear,
            (true, None) => Activation::Relu,
            (true, Some(_)) => Activation::ReluOfSum,
        };
        let kernel = BatchNormGradPartials { members, rows, channels, activation };
        let count = kernel.partials();
        let mut inputs = vec![x, dy, stats, spec.gamma, spec.beta];
        if activation == Activation::ReluOfSum {
            inputs.push(y);
        }
        let passed = graph.launch(kernel, &inputs)?;
        // The gradient behind the activation: written by the first pass where a residual needs it, too.
        let behind = passed.get(1).copied().unwrap_or(dy);

        let finalize = BatchNormGradFinalize { members, rows, channels, partials: count };
        let sums = graph.launch(finalize, &[passed[0], stats, spec.gamma, spec.beta])?;
        let (dgamma, dbeta, coefficients) = (sums[0], sums[1], sums[2]);
        if graph.needs_gradient(spec.gamma) {
            gradients.add(graph, spec.gamma, dgamma)?;
        }
        if graph.needs_gradient(spec.beta) {
            gradients.add(graph, spec.beta, dbeta)?;
        }
        if graph.needs_gradient(x) {
            let relu = activation == Activation::Relu;
            let mut inputs = vec![x, behind, coefficients];
            inputs.extend(gradients.take(x));
            let kernel = BatchNormGradInput { members, rows, channels, relu, addend: inputs.len() == 4 };
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
