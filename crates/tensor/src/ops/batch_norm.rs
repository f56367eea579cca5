//! Batch normalisation (Ioffe and Szegedy, 2015), with what follows it in a residual network fused into it:
//! `y = relu(gamma (x - mean) / sqrt(var + eps) + beta + residual)`.

use crate::autodiff::{Differentiable, Gradients};
use crate::error::{Result, shape_error};
use crate::graph::{Graph, Normalised, Var};
use crate::kernels::batch_norm_apply::{BatchNormApply, BatchNormInference, Residual};
use crate::kernels::batch_norm_backward::{Activation, BatchNormGradInput, BatchNormGradPartials, Upstream};
use crate::kernels::batch_norm_small::{BatchNormSmall, BatchNormSmallGrad, MAX_ROWS};
use crate::kernels::batch_norm_stats::{BatchNormFinalize, BatchNormPartials, Chunks};
use crate::kernels::conv2d_forward::Conv2dForward;
use crate::kernels::conv2d_grad_input::Conv2dGradInput;
use crate::kernels::global_average_pool::GlobalAveragePoolGrad;
use crate::kernels::sum_members::SumMembers;
use crate::kernels::sum_partials::Sum;

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
        if shape.len() == 3 && rows <= MAX_ROWS && residual == Residual::None && !self.shares_batch_norm() {
            return self.small_batch_norm(x, [members, rows, channels], spec);
        }
        let (partials, chunks) = self.statistics(x, [members, rows, channels])?;
        let (partials, chunks) = self.share_moments(partials, [members, channels], chunks)?;
        let BatchNorm { eps, momentum, .. } = spec;
        let finalize = BatchNormFinalize { members, channels, chunks, eps, momentum, affine: false };
        let outputs = [None, Some(spec.running_mean), Some(spec.running_var)];
        let stats = self.launch_into(finalize, &[partials], &outputs)?[0];
        let mut inputs = vec![x, stats, spec.gamma, spec.beta];
        let mut added = residual;
        if let Some(normalised) = spec.residual.filter(|_| residual == Residual::Same)
            && let Some(operands) = self.inlined(normalised)?
        {
            (added, extra) = (Residual::Normalised, operands.to_vec());
        }
        inputs.append(&mut extra);
        let y =
            self.launch_one(BatchNormApply { members, rows, channels, residual: added, relu: spec.relu }, &inputs)?;
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

    /// The sums from which statistics of `x` `[M, rows, C]` follow: out of the convolution that writes it, if one does.
    fn statistics(&mut self, x: Var, [members, rows, channels]: [usize; 3]) -> Result<(Var, Chunks)> {
        if let Some((node, conv)) = self.producer::<Conv2dForward>(x) {
            let BatchNormPartials { members: m, channels: c, chunks } = conv.partials();
            if (m, chunks.rows, c) == (members, rows, channels) {
                let partials = if conv.statistics {
                    self.nodes[node].outputs[1]
                } else {
                    self.extend(node, Conv2dForward { statistics: true, ..conv }, &[], 1)?[0]
                };
                return Ok((partials, chunks));
            }
        }
        let chunks = Chunks::new(rows, channels);
        Ok((self.launch_one(BatchNormPartials { members, channels, chunks }, &[x])?, chunks))
    }

    /// If nothing but a batch-norm without a ReLU is to be added, and nothing has read it yet: its input, and what
    /// normalises that. If nothing else reads it later, the plan drops the kernel that writes it.
    fn inlined(&mut self, residual: Var) -> Result<Option<[Var; 2]>> {
        let Some((node, apply)) = self.producer::<BatchNormApply>(residual) else { return Ok(None) };
        let &[x, stats, gamma, beta] = self.nodes[node].inputs.as_slice() else { return Ok(None) };
        if apply.relu || self.is_read(residual) {
            return Ok(None);
        }
        let Some((node, finalize)) = self.producer::<BatchNormFinalize>(stats) else { return Ok(None) };
        let affine = if finalize.affine {
            self.nodes[node].outputs[3]
        } else {
            self.extend(node, BatchNormFinalize { affine: true, ..finalize }, &[gamma, beta], 3)?[0]
        };
        Ok(Some([x, affine]))
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

    /// The first pass: partial sums with their chunks, and the gradient behind the activation. The convolution that has
    /// computed `dy` does it, if one has and nothing else reads `dy`.
    fn begin(&self, graph: &mut Graph, gradients: &mut Gradients, dy: Var) -> Result<(Var, Chunks, Var)> {
        let &Self { members, rows, channels, ref spec, x, stats, y, .. } = self;
        let mut activation = self.activation();
        if let Some((node, conv)) = graph.producer::<Conv2dGradInput>(dy)
            && conv.norm.is_none()
            && gradients.is_sole(dy)
            && !graph.is_read(dy)
        {
            if conv.addend && activation == Activation::Relu {
                // Its inputs would be more than a kernel may bind. Since there is another way on which gradients arrive,
                // something else than convolutions reads `y`, and it has been written.
                activation = Activation::ReluOfSum;
            }
            let BatchNormGradPartials { members: m, channels: c, chunks, .. } = conv.partials(activation);
            if (m, chunks.rows, c) == (members, rows, channels) {
                let operands = match activation {
                    Activation::Linear => vec![x, stats],
                    Activation::Relu => vec![x, stats, spec.gamma, spec.beta],
                    Activation::ReluOfSum => vec![x, stats, y],
                };
                let kernel = Conv2dGradInput { norm: Some(activation), ..conv };
                let outputs = graph.extend(node, kernel, &operands, 0)?;
                gradients.take(y);
                return Ok((outputs[1], chunks, outputs[0]));
            }
        }
        let chunks = Chunks::new(rows, channels);
        let (upstream, dy, pooled) = self.upstream(graph, dy, activation);
        let mut inputs = vec![x, dy, stats, spec.gamma, spec.beta];
        if activation == Activation::ReluOfSum {
            inputs.push(y);
        }
        inputs.extend(pooled);
        let kernel = BatchNormGradPartials { members, channels, chunks, activation, upstream };
        let outputs = graph.launch(kernel, &inputs)?;
        Ok((outputs[0], chunks, outputs.get(1).copied().unwrap_or(dy)))
    }

    /// If the residual is a normalised tensor without an activation, what is behind this activation is its gradient, too,
    /// unless something else reads it: takes its sums, which then share a dispatch with the own ones.
    fn begin_shortcut(&self, graph: &mut Graph, gradients: &mut Gradients, dy: Var) -> Result<()> {
        let &Self { members, rows, channels, ref spec, residual, .. } = self;
        let Some(shortcut) = spec.residual.filter(|&var| residual == Residual::Same && graph.needs_gradient(var))
        else {
            return Ok(());
        };
        let Some((node, apply)) = graph.producer::<BatchNormApply>(shortcut) else { return Ok(()) };
        let &[x, stats, gamma, beta] = graph.nodes[node].inputs.as_slice() else { return Ok(()) };
        if apply.relu || gradients.of(shortcut).is_some() {
            return Ok(());
        }
        let chunks = Chunks::new(rows, channels);
        let (activation, upstream) = (Activation::Linear, Upstream::Whole);
        let kernel = BatchNormGradPartials { members, channels, chunks, activation, upstream };
        let partials = graph.launch_one(kernel, &[x, dy, stats, gamma, beta])?;
        let sums = graph.sum_later(Sum::of_pairs(chunks.count(), members, channels), partials)?;
        gradients.remember_sums(shortcut, dy, [sums[0], sums[1]]);
        Ok(())
    }

    /// Where `dy` is the gradient of a global average pooling, or the sum of one and another gradient: these, instead of
    /// the tensor that the pooling's kernel would write.
    fn upstream(&self, graph: &Graph, dy: Var, activation: Activation) -> (Upstream, Var, Option<Var>) {
        if let Some((node, pool)) = graph.producer::<GlobalAveragePoolGrad>(dy)
            && activation != Activation::Linear
        {
            let area = pool.area;
            return match graph.nodes[node].inputs.as_slice() {
                &[pooled, whole] => (Upstream::Both { area }, whole, Some(pooled)),
                inputs => (Upstream::Pooled { area }, inputs[0], None),
            };
        }
        (Upstream::Whole, dy, None)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let &Self { members, rows, channels, ref spec, x, stats, .. } = self;
        let (behind, [dbeta, dgamma]) = match gradients.taken_sums(self.y) {
            Some((known, sums)) if known == dy => (dy, sums),
            _ => {
                let (partials, chunks, behind) = self.begin(graph, gradients, dy)?;
                self.begin_shortcut(graph, gradients, behind)?;
                let sums = graph.sum(Sum::of_pairs(chunks.count(), members, channels), partials)?;
                (behind, [sums[0], sums[1]])
            }
        };
        let [dbeta, dgamma] = graph.share_sums([dbeta, dgamma])?;
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
