//! Gradient of batch normalisation by the statistics of the batch, with the ReLU that follows it:
//!
//! ```text
//! xhat = (x - mean) * inv_std            g = dy, or 0 where the ReLU is closed
//! dgamma = sum(g * xhat)                 dbeta = sum(g)                       over the rows
//! dx = gamma * inv_std * (g - dbeta / rows - xhat * dgamma / rows)
//! ```
//!
//! The sums take two passes, over chunks of rows and then over chunks ([`crate::kernels::sum_partials`]), `dx` one
//! more. Nothing is stored for the ReLU: without a residual it is open where `gamma * xhat + beta > 0`, with one
//! where the saved output is positive. A convolution that computes `dy` writes `g` instead, and takes the first sums,
//! too ([`crate::kernels::conv2d::Conv2dGradInput::norm`]); the first pass here is for all other gradients.

use super::stats::Chunks;
use crate::cpu;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::kernels::tiling::{ROWS_PER_THREAD, Tiling};
use crate::shader;
use crate::shape::Spec;

/// The operation behind the normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing, or the addition of a residual only.
    Linear,
    /// A ReLU; it is open where `gamma * xhat + beta > 0`.
    Relu,
    /// A ReLU that is open where the output is positive: of the sum with a residual.
    ReluOfSum,
}

/// The source of the output's gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A tensor `dy [M, rows, C]`.
    Whole,
    /// The gradient `[M, rows / area, C]` of a global average pooling over images of `area` rows, which is spread over
    /// them here. There is a ReLU: `g` is written.
    Pooled {
        /// Rows of an image.
        area: usize,
    },
    /// The sum of both, for which there is one more input behind the others.
    Both {
        /// Rows of an image.
        area: usize,
    },
}

impl Upstream {
    /// Rows of an image, if there is a pooling.
    fn area(self) -> Option<usize> {
        match self {
            Upstream::Whole => None,
            Upstream::Pooled { area } | Upstream::Both { area } => Some(area),
        }
    }
}

/// First pass: `x [M, rows, C]`, `dy` ([`Upstream`]), `stats [M, 2, C]`, `gamma [M, C]`, `beta [M, C]` ->
/// `partials [P, M, 2, C]`, the sums of `g` and of `g * xhat` over the rows of each of P chunks, and with a ReLU
/// `g [M, rows, C]`. With [`Activation::ReluOfSum`] the output `y [M, rows, C]` is one more input.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormGradPartials {
    /// Members M.
    pub members: usize,
    /// Channels C.
    pub channels: usize,
    /// The rows.
    pub chunks: Chunks,
    /// The operation behind the normalisation.
    pub activation: Activation,
    /// The source of its gradient.
    pub upstream: Upstream,
}

/// The bindings of a first pass: its operands may be any of the launching kernel's.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct PassBindings {
    pub x: Binding,
    pub stats: Binding,
    /// `gamma` and `beta`, or `y` twice.
    pub gate: [Binding; 2],
    /// None where `g` overwrites it, or where there is a pooling only.
    pub dy: Option<Binding>,
    pub pooled: Option<Binding>,
    pub g: Binding,
    pub partials: Binding,
}

impl BatchNormGradPartials {
    /// `[P, M, 2, C]`.
    pub(crate) fn spec(&self) -> Spec {
        Spec::f32([self.chunks.count(), self.members, 2, self.channels])
    }

    /// `dy`, spread from a pooling's gradient if there is one.
    fn whole(&self, inputs: &[Slice<'_>]) -> Vec<f32> {
        let area = self.upstream.area().unwrap_or(1);
        let spread = |pooled: &[f32], at: usize| {
            pooled[at / self.channels / area * self.channels + at % self.channels] * (1.0 / area as f32)
        };
        let (dy, pooled) = (inputs[1].f32(), inputs[inputs.len() - 1].f32());
        let words = inputs[0].f32().len();
        match self.upstream {
            Upstream::Whole => dy.to_vec(),
            Upstream::Pooled { .. } => (0..words).map(|at| spread(dy, at)).collect(),
            Upstream::Both { .. } => (0..words).map(|at| dy[at] + spread(pooled, at)).collect(),
        }
    }

    /// The formula, from `[x, stats]`, the `gate` of the ReLU (gamma and beta, or the output), and `dy`: `g`, and the
    /// sums of `g` and of `g * xhat` over each chunk of rows.
    pub(in crate::kernels) fn of_rows(
        &self,
        [x, stats]: [&[f32]; 2],
        gate: &[Slice<'_>],
        dy: &[f32],
        g: &mut [f32],
        partials: &mut [f32],
    ) {
        let Self { members, channels, chunks: Chunks { rows, chunk }, .. } = *self;
        let mut sums = vec![0.0; partials.len()];
        for (at, (g, &dy)) in g.iter_mut().zip(dy).enumerate() {
            let (member, row, channel) = (at / (rows * channels), at / channels % rows, at % channels);
            let row_of_stats = 2 * member * channels;
            let (mean, inv_std) = (stats[row_of_stats + channel], stats[row_of_stats + channels + channel]);
            let parameter = member * channels + channel;
            let open = match self.activation {
                Activation::Linear => true,
                Activation::Relu => {
                    (x[at] - mean) * (gate[0].f32()[parameter] * inv_std) + gate[1].f32()[parameter] > 0.0
                }
                Activation::ReluOfSum => gate[0].f32()[at] > 0.0,
            };
            *g = if open { dy } else { 0.0 };
            let partial = (row / chunk * members + member) * 2 * channels;
            sums[partial + channel] += f64::from(*g);
            sums[partial + channels + channel] += f64::from(*g) * f64::from(x[at] - mean) * f64::from(inv_std);
        }
        partials.iter_mut().zip(sums).for_each(|(partial, sum)| *partial = sum as f32);
    }

    /// The pass.
    pub(in crate::kernels) fn pass(&self, bindings: PassBindings) -> Launch {
        let PassBindings { x, stats, gate, dy, pooled, g, partials } = bindings;
        let tiling = Tiling::new(self.channels);
        let workgroups = self.chunks.count() * self.members * tiling.tiles;
        // `x` stands for inputs that are absent.
        let [first, second] = if self.activation == Activation::Linear { [x; 2] } else { gate };
        let mut bindings = vec![x, dy.unwrap_or(x), stats, first, second, pooled.unwrap_or(x), partials];
        bindings.extend((self.activation != Activation::Linear).then_some(g));
        let entry = match self.activation {
            Activation::Linear => "linear",
            Activation::Relu => "relu",
            Activation::ReluOfSum => "relu_of_sum",
        };
        let launch = Launch::new(shader!("batch_norm/grad"), 0, 0, workgroups)
            .entry(entry)
            .bindings(bindings)
            .switch("IN_PLACE", dy.is_none() && pooled.is_none())
            .switch("WHOLE", dy.is_some())
            .size("AREA", self.upstream.area().unwrap_or(0))
            .size("MEMBERS", self.members)
            .size("ROWS", self.chunks.rows)
            .size("CHUNK_ROWS", self.chunks.chunk);
        tiling.describe_reduction(launch)
    }
}

impl Kernel for BatchNormGradPartials {
    fn name(&self) -> &'static str {
        "batch_norm_grad"
    }

    fn inputs(&self) -> Vec<Spec> {
        let activations = Spec::f32([self.members, self.chunks.rows, self.channels]);
        let parameter = Spec::f32([self.members, self.channels]);
        let stats = Spec::f32([self.members, 2, self.channels]);
        let pooled = |area: usize| Spec::f32([self.members, self.chunks.rows / area, self.channels]);
        let dy = match self.upstream {
            Upstream::Pooled { area } => pooled(area),
            Upstream::Whole | Upstream::Both { .. } => activations.clone(),
        };
        let mut specs = vec![activations.clone(), dy, stats, parameter.clone(), parameter];
        if self.activation == Activation::ReluOfSum {
            specs.push(activations);
        }
        if let Upstream::Both { area } = self.upstream {
            specs.push(pooled(area));
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        let mut specs = vec![self.spec()];
        if self.activation != Activation::Linear {
            specs.push(Spec::f32([self.members, self.chunks.rows, self.channels]));
        }
        specs
    }

    fn activations(&self) -> Activations {
        let y = (self.activation == Activation::ReluOfSum).then_some(5);
        let g = (self.activation != Activation::Linear).then_some(1);
        let dy = (!matches!(self.upstream, Upstream::Pooled { .. })).then_some(1);
        Activations::new([0].into_iter().chain(dy).chain(y), g)
    }

    fn cost(&self) -> Cost {
        let upstream = usize::from(self.upstream != Upstream::Whole);
        let per_element = upstream + if self.activation == Activation::Relu { 8 } else { 5 };
        Cost::new(self, per_element * self.members * self.chunks.rows * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let of_sum = self.activation == Activation::ReluOfSum;
        let gate = if of_sum { &inputs[5..6] } else { &inputs[3..5] };
        let dy = self.whole(inputs);
        let (partials, g) = outputs.split_at_mut(1);
        let mut masked = vec![0.0; dy.len()];
        let x_and_stats = [inputs[0].f32(), inputs[2].f32()];
        self.of_rows(x_and_stats, gate, &dy, &mut masked, partials[0].f32());
        if let [g] = g {
            g.f32().copy_from_slice(&masked);
        }
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::batch_norm::grad_partials(self, inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        let of_sum = self.activation == Activation::ReluOfSum;
        self.pass(PassBindings {
            x: Binding::Input(0),
            stats: Binding::Input(2),
            gate: if of_sum { [5, 5] } else { [3, 4] }.map(Binding::Input),
            dy: (!matches!(self.upstream, Upstream::Pooled { .. })).then_some(Binding::Input(1)),
            pooled: match self.upstream {
                Upstream::Whole => None,
                Upstream::Pooled { .. } => Some(Binding::Input(1)),
                Upstream::Both { .. } => Some(Binding::Input(self.inputs().len() - 1)),
            },
            g: Binding::Output(1),
            partials: Binding::Output(0),
        })
    }
}

/// Last pass: `x [M, rows, C]`, `g [M, rows, C]`, `stats [M, 2, C]`, `gamma [M, C]`, `dgamma [M, C]`, `dbeta [M, C]`
/// and, with [`Self::addend`], a gradient `[M, rows, C]` -> `dx [M, rows, C]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormGradInput {
    /// Members M.
    pub members: usize,
    /// Rows that were normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// True if a seventh input is added: the gradient that reaches the same input along another path.
    pub addend: bool,
}

impl Kernel for BatchNormGradInput {
    fn name(&self) -> &'static str {
        "batch_norm_grad_input"
    }

    fn inputs(&self) -> Vec<Spec> {
        let activations = Spec::f32([self.members, self.rows, self.channels]);
        let parameter = Spec::f32([self.members, self.channels]);
        let stats = Spec::f32([self.members, 2, self.channels]);
        let mut specs = vec![activations.clone(), activations.clone(), stats];
        specs.extend([parameter.clone(), parameter.clone(), parameter]);
        if self.addend {
            specs.push(activations);
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.rows, self.channels])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0, 1].into_iter().chain(self.addend.then_some(6)), [0])
    }

    fn cost(&self) -> Cost {
        let per_element = 5 + usize::from(self.addend);
        Cost::new(self, per_element * self.members * self.rows * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { rows, channels, .. } = *self;
        let inputs: Vec<&[f32]> = inputs.iter().map(|slice| slice.f32()).collect();
        for (at, dx) in outputs[0].f32().iter_mut().enumerate() {
            let (member, channel) = (at / (rows * channels), at % channels);
            let row_of_stats = 2 * member * channels;
            let [mean, inv_std] = [0, channels].map(|row| f64::from(inputs[2][row_of_stats + row + channel]));
            let [gamma, dgamma, dbeta] = [3, 4, 5].map(|input| f64::from(inputs[input][member * channels + channel]));
            let xhat = (f64::from(inputs[0][at]) - mean) * inv_std;
            let centred = f64::from(inputs[1][at]) - dbeta / rows as f64 - xhat * dgamma / rows as f64;
            let addend = inputs.get(6).map_or(0.0, |addend| f64::from(addend[at]));
            *dx = (gamma * inv_std * centred + addend) as f32;
        }
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::batch_norm::grad_input(self, inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::new(self.channels);
        let block_rows = ROWS_PER_THREAD * tiling.lanes;
        let blocks = self.rows.div_ceil(block_rows);
        let wgsl = shader!("batch_norm/grad_input");
        // Without an addend its binding sees `x`, and the shader leaves it alone.
        let inputs = [0, 1, 2, 3, 4, 5, if self.addend { 6 } else { 0 }].map(Binding::Input);
        let bindings: Vec<Binding> = inputs.into_iter().chain([Binding::Output(0)]).collect();
        let launch = Launch::new(wgsl, 0, 0, self.members * blocks * tiling.tiles)
            .bindings(bindings)
            .switch("ADDEND", self.addend)
            .size("ROWS", self.rows)
            .size("BLOCKS", blocks)
            .size("BLOCK_ROWS", block_rows);
        tiling.describe(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::sum_partials::{Sum, SumPartials};
    use crate::kernels::testing::{assert_close, normal, run};

    const EPS: f64 = 1e-5;

    /// One channel's input, factors, residual and upstream gradient.
    struct Column {
        x: Vec<f64>,
        gamma: f64,
        beta: f64,
        residual: Vec<f64>,
        dy: Vec<f64>,
        activation: Activation,
    }

    impl Column {
        /// Mean, inverse deviation and the value before the activation.
        fn normalise(&self) -> (f64, f64, Vec<f64>) {
            let n = self.x.len() as f64;
            let mean = self.x.iter().sum::<f64>() / n;
            let inv_std = 1.0 / (self.x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + EPS).sqrt();
            let sums = (self.x.iter().zip(&self.residual))
                .map(|(x, residual)| self.gamma * (x - mean) * inv_std + self.beta + residual)
                .collect();
            (mean, inv_std, sums)
        }

        /// The scalar whose gradient is taken: `sum(dy * y)`.
        fn loss(&self) -> f64 {
            let (_, _, sums) = self.normalise();
            let relu = self.activation != Activation::Linear;
            sums.iter().zip(&self.dy).map(|(sum, dy)| dy * if relu { sum.max(0.0) } else { *sum }).sum()
        }

        /// Central difference along whatever `place` selects.
        fn slope(&mut self, place: impl Fn(&mut Self) -> &mut f64) -> f64 {
            let (at, step) = (*place(self), 1e-5);
            *place(self) = at + step;
            let above = self.loss();
            *place(self) = at - step;
            let below = self.loss();
            *place(self) = at;
            (above - below) / (2.0 * step)
        }
    }

    #[test]
    fn gradients_are_the_finite_differences_of_the_formula() {
        for activation in [Activation::Linear, Activation::Relu, Activation::ReluOfSum] {
            for (members, rows, channels) in [(1, 2, 1), (2, 9, 5), (1, 1100, 4)] {
                check(activation, members, rows, channels);
            }
        }
    }

    fn check(activation: Activation, members: usize, rows: usize, channels: usize) {
        let words = members * rows * channels;
        let (x, dy) = (normal(words, 0.5, 2.0, 1), normal(words, 0.1, 1.0, 2));
        let (gamma, beta) = (normal(members * channels, 1.0, 0.3, 3), normal(members * channels, 0.1, 0.3, 4));
        let mut residual = vec![0.0; words];
        if activation == Activation::ReluOfSum {
            residual = normal(words, 0.0, 1.0, 5);
        }
        let at = |m: usize, r: usize, c: usize| (m * rows + r) * channels + c;
        let mut stats = vec![0.0; 2 * members * channels];
        let mut y = vec![0.0; words];
        let mut columns = Vec::new();
        for m in 0..members {
            for c in 0..channels {
                let take = |from: &[f32]| (0..rows).map(|r| f64::from(from[at(m, r, c)])).collect::<Vec<_>>();
                let index = m * channels + c;
                let (gamma, beta) = (f64::from(gamma[index]), f64::from(beta[index]));
                let column = Column { x: take(&x), gamma, beta, residual: take(&residual), dy: take(&dy), activation };
                let (mean, inv_std, sums) = column.normalise();
                stats[m * 2 * channels + c] = mean as f32;
                stats[(m * 2 + 1) * channels + c] = inv_std as f32;
                for (r, sum) in sums.iter().enumerate() {
                    y[at(m, r, c)] = sum.max(0.0) as f32;
                }
                columns.push((m, c, column));
            }
        }
        let chunks = Chunks::new(rows, channels);
        let first = BatchNormGradPartials { members, channels, chunks, activation, upstream: Upstream::Whole };
        let mut inputs: Vec<&[f32]> = vec![&x, &dy, &stats, &gamma, &beta];
        if activation == Activation::ReluOfSum {
            inputs.push(&y);
        }
        let partials = run(&first, &inputs, &[]);
        let second = SumPartials::new(Sum::of_pairs(chunks.count(), members, channels));
        let sums = run(&second, &[&partials[0]], &[]);
        let third = BatchNormGradInput { members, rows, channels, addend: false };
        let g = partials.get(1).unwrap_or(&dy);
        let dx = run(&third, &[&x, g, &stats, &gamma, &sums[1], &sums[0]], &[]).remove(0);
        let tolerance = 2e-4;
        for (m, c, mut column) in columns {
            assert_close(sums[1][m * channels + c], column.slope(|column| &mut column.gamma), tolerance);
            assert_close(sums[0][m * channels + c], column.slope(|column| &mut column.beta), tolerance);
            for r in (0..rows).step_by(rows.div_ceil(40)) {
                assert_close(dx[at(m, r, c)], column.slope(|column| &mut column.x[r]), tolerance);
                if activation == Activation::ReluOfSum {
                    assert_close(g[at(m, r, c)], column.slope(|column| &mut column.residual[r]), tolerance);
                }
            }
        }
    }

    /// A pooled gradient, alone and beside another, is that of the tensor that it is spread to.
    #[test]
    fn pooled_gradients_are_spread() {
        let (members, images, area, channels) = (2, 5, 6, 7);
        let rows = images * area;
        let chunks = Chunks { rows, chunk: 8 };
        let [x, dy, y] = [1, 2, 3].map(|key| normal(members * rows * channels, 0.1, 1.0, key));
        let pooled = normal(members * images * channels, 0.1, 5.0, 4);
        let stats: Vec<f32> = normal(members * 2 * channels, 0.8, 0.1, 5);
        let [gamma, beta] = [6, 7].map(|key| normal(members * channels, 0.5, 1.0, key));
        let spread = |i: usize| pooled[i / (area * channels) * channels + i % channels] * (1.0 / area as f32);
        let alone: Vec<f32> = (0..x.len()).map(spread).collect();
        let both: Vec<f32> = dy.iter().zip(&alone).map(|(dy, spread)| dy + spread).collect();
        for activation in [Activation::Relu, Activation::ReluOfSum] {
            let pass = |upstream: Upstream, dy: &[f32], last: Option<&[f32]>| {
                let kernel = BatchNormGradPartials { members, channels, chunks, activation, upstream };
                let mut inputs = vec![x.as_slice(), dy, &stats, &gamma, &beta];
                if activation == Activation::ReluOfSum {
                    inputs.push(&y);
                }
                inputs.extend(last);
                run(&kernel, &inputs, &[])
            };
            assert!(pass(Upstream::Pooled { area }, &pooled, None) == pass(Upstream::Whole, &alone, None));
            assert!(pass(Upstream::Both { area }, &dy, Some(&pooled)) == pass(Upstream::Whole, &both, None));
        }
    }
}
