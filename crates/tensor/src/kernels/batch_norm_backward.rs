//! Gradient of batch normalisation by the statistics of the batch, with the ReLU that follows it:
//!
//! ```text
//! xhat = (x - mean) * inv_std            g = dy, or 0 where the ReLU is closed
//! dgamma = sum(g * xhat)                 dbeta = sum(g)                       over the rows
//! dx = gamma * inv_std * (g - dbeta / rows - xhat * dgamma / rows)
//! ```
//!
//! The sums take two passes (chunks of rows, then channels), `dx` a third. Nothing is stored for the ReLU: without a
//! residual it is open where `gamma * xhat + beta > 0`, with one where the saved output is positive.

use rayon::prelude::*;

use super::matrix::{ROWS_PER_THREAD, Tiling, chunk_rows, fold, repeat, sum_partials, task_words};
use super::vector::{Loops, wide};
use crate::kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;
use crate::target::Target;

/// Per-channel values in the `coefficients [M, COEFFICIENTS, C]` from which [`BatchNormGradInput`] computes:
/// `mean`, `scale = gamma * inv_std`, `beta`, `slope = scale * inv_std * dgamma / rows`,
/// `offset = scale * dbeta / rows`.
pub const COEFFICIENTS: usize = 5;

/// What followed the normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing, or the addition of a residual only.
    Linear,
    /// A ReLU; it is open where `gamma * xhat + beta > 0`.
    Relu,
    /// A ReLU of the sum with a residual; it is open where the output is positive.
    ReluOfSum,
}

/// First pass: `x [M, rows, C]`, `dy [M, rows, C]`, `stats [M, 2, C]`, `gamma [M, C]`, `beta [M, C]` ->
/// `partials [P, M, 2, C]`, the sums of `g` and of `g * xhat` over the rows of each of P chunks. With
/// [`Activation::ReluOfSum`] the output `y [M, rows, C]` is one more input, and `g [M, rows, C]` one more output: it is
/// the residual's gradient, too.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormGradPartials {
    /// Members M.
    pub members: usize,
    /// Rows that were normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// What followed the normalisation.
    pub activation: Activation,
}

/// One chunk of rows of one member in the first pass.
struct Chunk<'a> {
    member: usize,
    start: usize,
    partial: &'a mut [f32],
    /// Empty unless `g` is written.
    g: &'a mut [f32],
}

impl BatchNormGradPartials {
    /// Number of chunks P. It depends on the shape only.
    pub fn partials(&self) -> usize {
        self.rows.div_ceil(self.chunk_rows())
    }

    fn chunk_rows(&self) -> usize {
        chunk_rows(self.rows, self.channels)
    }

    /// The chunks, all chunks of a member together as in `g`.
    fn chunks<'a>(&self, partials: &'a mut [f32], g: &'a mut [f32]) -> Vec<Chunk<'a>> {
        let Self { members, rows, channels, .. } = *self;
        let mut chunks: Vec<Chunk<'a>> = (partials.chunks_mut(2 * channels).enumerate())
            .map(|(index, partial)| {
                let start = index / members * self.chunk_rows() * channels;
                Chunk { member: index % members, start, partial, g: &mut [] }
            })
            .collect();
        chunks.sort_by_key(|chunk| (chunk.member, chunk.start));
        let g = g.chunks_mut(rows * channels).flat_map(|g| g.chunks_mut(self.chunk_rows() * channels));
        for (chunk, g) in chunks.iter_mut().zip(g) {
            chunk.g = g;
        }
        chunks
    }
}

/// Sums of `g`, and of `g * (x - mean)`, over tiles; writes `g` where a residual needs it.
struct Sums<'a> {
    activation: Activation,
    x: &'a [f32],
    dy: &'a [f32],
    /// For [`Activation::ReluOfSum`].
    y: &'a [f32],
    /// Mean, scale, shift.
    parameters: [&'a [f32]; 3],
    g: &'a mut [f32],
    sums: &'a mut [f32],
    products: &'a mut [f32],
}

impl Loops for Sums<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { activation, x, dy, y, parameters: [mean, scale, shift], g, sums, products } = self;
        let tile = mean.len();
        for (index, (x, dy)) in x.chunks(tile).zip(dy.chunks(tile)).enumerate() {
            let columns = mean.iter().zip(sums.iter_mut()).zip(products.iter_mut());
            match activation {
                Activation::Linear => {
                    for ((x, g), ((mean, sum), product)) in x.iter().zip(dy).zip(columns) {
                        *sum += g;
                        *product += g * (x - mean);
                    }
                }
                Activation::Relu => {
                    let columns = columns.zip(scale).zip(shift);
                    for ((x, &dy), ((((mean, sum), product), scale), shift)) in x.iter().zip(dy).zip(columns) {
                        let deviation = x - mean;
                        let g = if deviation * scale + shift > 0.0 { dy } else { 0.0 };
                        *sum += g;
                        *product += g * deviation;
                    }
                }
                Activation::ReluOfSum => {
                    let y = &y[index * tile..][..x.len()];
                    let g = &mut g[index * tile..][..x.len()];
                    for ((g, &dy), y) in g.iter_mut().zip(dy).zip(y) {
                        *g = if *y > 0.0 { dy } else { 0.0 };
                    }
                    for ((x, g), ((mean, sum), product)) in x.iter().zip(g).zip(columns) {
                        *sum += *g;
                        *product += *g * (x - mean);
                    }
                }
            }
        }
    }
}

impl Kernel for BatchNormGradPartials {
    fn name(&self) -> &'static str {
        "batch_norm_backward"
    }

    fn inputs(&self) -> Vec<Spec> {
        let activations = Spec::f32([self.members, self.rows, self.channels]);
        let parameter = Spec::f32([self.members, self.channels]);
        let stats = Spec::f32([self.members, 2, self.channels]);
        let mut specs = vec![activations.clone(), activations.clone(), stats, parameter.clone(), parameter];
        if self.activation == Activation::ReluOfSum {
            specs.push(activations);
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        let mut specs = vec![Spec::f32([self.partials(), self.members, 2, self.channels])];
        if self.activation == Activation::ReluOfSum {
            specs.push(Spec::f32([self.members, self.rows, self.channels]));
        }
        specs
    }

    fn cost(&self) -> Cost {
        let per_element = if self.activation == Activation::Relu { 8 } else { 5 };
        Cost::new(self, per_element * self.members * self.rows * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { rows, channels, activation, .. } = *self;
        let (x, dy, stats, gamma, beta) =
            (inputs[0].f32(), inputs[1].f32(), inputs[2].f32(), inputs[3].f32(), inputs[4].f32());
        let y = inputs.get(5).map_or(&[][..], |slice| slice.f32());
        let (partials, g) = outputs.split_at_mut(1);
        let g = g.first_mut().map_or(&mut [][..], |slice| slice.f32());
        self.chunks(partials[0].f32(), g).into_par_iter().for_each(|chunk| {
            let (mean, inv_std) = stats[chunk.member * 2 * channels..][..2 * channels].split_at(channels);
            let parameters = chunk.member * channels..(chunk.member + 1) * channels;
            let scale: Vec<f32> = gamma[parameters.clone()].iter().zip(inv_std).map(|(g, s)| g * s).collect();
            let (mean, scale, shift) = (repeat(mean), repeat(&scale), repeat(&beta[parameters]));
            let tile = mean.len();
            let start = chunk.member * rows * channels + chunk.start;
            let words = (self.chunk_rows() * channels).min(rows * channels - chunk.start);
            let (x, dy) = (&x[start..][..words], &dy[start..][..words]);
            // Sums of g, and of g * (x - mean): the constant 1 / deviation is multiplied at the end.
            let mut sums = vec![0.0; tile];
            let mut products = vec![0.0; tile];
            let y = if activation == Activation::ReluOfSum { &y[start..][..words] } else { y };
            let parameters = [&mean, &scale, &shift].map(Vec::as_slice);
            wide(Sums { activation, x, dy, y, parameters, g: chunk.g, sums: &mut sums, products: &mut products });
            let (sum, product) = chunk.partial.split_at_mut(channels);
            fold(&sums, sum);
            fold(&products, product);
            for (product, inv_std) in product.iter_mut().zip(inv_std) {
                *product *= inv_std;
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::new(self.channels);
        let workgroups = self.partials() * self.members * tiling.tiles;
        let operands = [Binding::Input(0), Binding::Input(1), Binding::Input(2), Binding::Output(0)];
        let (entry, rest) = match self.activation {
            Activation::Linear => ("linear", vec![]),
            Activation::Relu => ("relu", vec![Binding::Input(3), Binding::Input(4)]),
            Activation::ReluOfSum => ("relu_of_sum", vec![Binding::Input(5), Binding::Input(0), Binding::Output(1)]),
        };
        let bindings: Vec<Binding> = operands.into_iter().chain(rest).collect();
        let launch = Launch::new(include_str!("../../../../shaders/batch_norm_backward.wgsl"), 0, 0, workgroups)
            .entry(entry)
            .bindings(bindings)
            .size("MEMBERS", self.members)
            .size("ROWS", self.rows)
            .size("CHUNK_ROWS", self.chunk_rows());
        tiling.describe_reduction(launch)
    }
}

/// Second pass: `partials [P, M, 2, C]`, `stats [M, 2, C]`, `gamma [M, C]`, `beta [M, C]` -> `dgamma [M, C]`,
/// `dbeta [M, C]`, `coefficients [M, COEFFICIENTS, C]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormGradFinalize {
    /// Members M.
    pub members: usize,
    /// Rows that were normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// Chunks P: [`BatchNormGradPartials::partials`].
    pub partials: usize,
}

impl Kernel for BatchNormGradFinalize {
    fn name(&self) -> &'static str {
        "batch_norm_backward_finalize"
    }

    fn inputs(&self) -> Vec<Spec> {
        let parameter = Spec::f32([self.members, self.channels]);
        vec![
            Spec::f32([self.partials, self.members, 2, self.channels]),
            Spec::f32([self.members, 2, self.channels]),
            parameter.clone(),
            parameter,
        ]
    }

    fn outputs(&self) -> Vec<Spec> {
        let parameter = Spec::f32([self.members, self.channels]);
        vec![parameter.clone(), parameter, Spec::f32([self.members, COEFFICIENTS, self.channels])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, (2 * self.partials + 6) * self.members * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { members, rows, channels, .. } = *self;
        let (partials, stats, gamma, beta) = (inputs[0].f32(), inputs[1].f32(), inputs[2].f32(), inputs[3].f32());
        let [dgamma, dbeta, coefficients] = outputs else { unreachable!("three outputs are declared") };
        let (dgamma, dbeta, coefficients) = (dgamma.f32(), dbeta.f32(), coefficients.f32());
        for member in 0..members {
            let sums = sum_partials(partials, members, member, channels);
            let stats = &stats[member * 2 * channels..][..2 * channels];
            let coefficients = &mut coefficients[member * COEFFICIENTS * channels..][..COEFFICIENTS * channels];
            for channel in 0..channels {
                let index = member * channels + channel;
                let (mean, inv_std) = (stats[channel], stats[channels + channel]);
                let scale = gamma[index] * inv_std;
                dbeta[index] = sums[channel] as f32;
                dgamma[index] = sums[channels + channel] as f32;
                let values = [
                    mean,
                    scale,
                    beta[index],
                    scale * inv_std * (dgamma[index] / rows as f32),
                    scale * (dbeta[index] / rows as f32),
                ];
                for (which, value) in values.into_iter().enumerate() {
                    coefficients[which * channels + channel] = value;
                }
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::narrow(self.channels);
        let workgroups = self.members * tiling.tiles;
        let wgsl = include_str!("../../../../shaders/batch_norm_backward_finalize.wgsl");
        let launch = Launch::new(wgsl, 4, 3, workgroups)
            .size("MEMBERS", self.members)
            .size("ROWS", self.rows)
            .size("PARTIALS", self.partials)
            .size("COEFFICIENTS", COEFFICIENTS);
        tiling.describe_reduction(launch)
    }
}

/// Third pass: `x [M, rows, C]`, `g [M, rows, C]`, `coefficients [M, COEFFICIENTS, C]` and, with [`Self::addend`], a
/// gradient `[M, rows, C]` -> `dx [M, rows, C]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormGradInput {
    /// Members M.
    pub members: usize,
    /// Rows that were normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// Whether the second input is `dy`, to be masked where `gamma * xhat + beta <= 0`, instead of `g`.
    pub relu: bool,
    /// Whether a fourth input is added: the gradient that reaches the same input on another way.
    pub addend: bool,
}

/// `dx` from tiles of `x` and of `g` (or `dy`).
struct Input<'a> {
    relu: bool,
    x: &'a [f32],
    g: &'a [f32],
    addend: Option<&'a [f32]>,
    /// Mean, scale, shift, slope, offset.
    parameters: [&'a [f32]; 5],
    dx: &'a mut [f32],
}

impl Loops for Input<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { relu, x, g, addend, parameters: [mean, scale, shift, slope, offset], dx } = self;
        let tile = mean.len();
        for ((dx, x), g) in dx.chunks_mut(tile).zip(x.chunks(tile)).zip(g.chunks(tile)) {
            let columns = mean.iter().zip(scale).zip(slope).zip(offset);
            let elements = dx.iter_mut().zip(x).zip(g);
            if relu {
                for (((dx, x), &dy), ((((mean, scale), slope), offset), shift)) in elements.zip(columns.zip(shift)) {
                    let deviation = x - mean;
                    let g = if deviation * scale + shift > 0.0 { dy } else { 0.0 };
                    *dx = scale * g - deviation * slope - offset;
                }
            } else {
                for (((dx, x), g), (((mean, scale), slope), offset)) in elements.zip(columns) {
                    *dx = scale * g - (x - mean) * slope - offset;
                }
            }
        }
        if let Some(addend) = addend {
            for (dx, addend) in dx.iter_mut().zip(addend) {
                *dx += addend;
            }
        }
    }
}

impl Kernel for BatchNormGradInput {
    fn name(&self) -> &'static str {
        "batch_norm_backward_input"
    }

    fn inputs(&self) -> Vec<Spec> {
        let activations = Spec::f32([self.members, self.rows, self.channels]);
        let coefficients = Spec::f32([self.members, COEFFICIENTS, self.channels]);
        let mut specs = vec![activations.clone(), activations.clone(), coefficients];
        if self.addend {
            specs.push(activations);
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.rows, self.channels])]
    }

    fn cost(&self) -> Cost {
        let per_element = if self.relu { 8 } else { 5 } + usize::from(self.addend);
        Cost::new(self, per_element * self.members * self.rows * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { rows, channels, relu, .. } = *self;
        let (x, g, coefficients) = (inputs[0].f32(), inputs[1].f32(), inputs[2].f32());
        let addend = inputs.get(3).map(|slice| slice.f32());
        let task = task_words(channels);
        outputs[0].f32().par_chunks_mut(rows * channels).enumerate().for_each(|(member, dx)| {
            let coefficients = &coefficients[member * COEFFICIENTS * channels..][..COEFFICIENTS * channels];
            let [mean, scale, shift, slope, offset] =
                [0, 1, 2, 3, 4].map(|which| repeat(&coefficients[which * channels..][..channels]));
            dx.par_chunks_mut(task).enumerate().for_each(|(index, dx)| {
                let start = member * rows * channels + index * task;
                let (x, g) = (&x[start..][..dx.len()], &g[start..][..dx.len()]);
                let addend = addend.map(|addend| &addend[start..][..dx.len()]);
                let parameters = [&mean, &scale, &shift, &slope, &offset].map(Vec::as_slice);
                wide(Input { relu, x, g, addend, parameters, dx });
            });
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::new(self.channels);
        let block_rows = ROWS_PER_THREAD * tiling.lanes;
        let blocks = self.rows.div_ceil(block_rows);
        let wgsl = include_str!("../../../../shaders/batch_norm_backward_input.wgsl");
        // Without an addend its binding sees `x`, and the shader leaves it alone.
        let inputs = [0, 1, 2, if self.addend { 3 } else { 0 }].map(Binding::Input);
        let bindings: Vec<Binding> = inputs.into_iter().chain([Binding::Output(0)]).collect();
        let launch = Launch::new(wgsl, 0, 0, self.members * blocks * tiling.tiles)
            .bindings(bindings)
            .switch("ADDEND", self.addend)
            .size("ROWS", self.rows)
            .size("BLOCKS", blocks)
            .size("BLOCK_ROWS", block_rows)
            .size("COEFFICIENTS", COEFFICIENTS)
            .switch("RELU", self.relu);
        tiling.describe(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let first = BatchNormGradPartials { members, rows, channels, activation };
        let mut inputs: Vec<&[f32]> = vec![&x, &dy, &stats, &gamma, &beta];
        if activation == Activation::ReluOfSum {
            inputs.push(&y);
        }
        let partials = run(&first, &inputs, &[]);
        let second = BatchNormGradFinalize { members, rows, channels, partials: first.partials() };
        let gradients = run(&second, &[&partials[0], &stats, &gamma, &beta], &[]);
        let relu = activation == Activation::Relu;
        let third = BatchNormGradInput { members, rows, channels, relu, addend: false };
        let g = partials.get(1).unwrap_or(&dy);
        let dx = run(&third, &[&x, g, &gradients[2]], &[]).remove(0);
        let tolerance = 2e-4;
        for (m, c, mut column) in columns {
            assert_close(gradients[0][m * channels + c], column.slope(|column| &mut column.gamma), tolerance);
            assert_close(gradients[1][m * channels + c], column.slope(|column| &mut column.beta), tolerance);
            for r in (0..rows).step_by(rows.div_ceil(40)) {
                assert_close(dx[at(m, r, c)], column.slope(|column| &mut column.x[r]), tolerance);
                if activation == Activation::ReluOfSum {
                    assert_close(g[at(m, r, c)], column.slope(|column| &mut column.residual[r]), tolerance);
                }
            }
        }
    }
}
