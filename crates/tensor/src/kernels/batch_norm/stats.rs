//! Statistics of batch normalisation, in two passes: of chunks of rows, then mean and deviation per channel.
//!
//! A chunk gives the sum of its values and the sum of squares of their deviations from its own mean (Chan, Golub,
//! LeVeque 1979: "Updating formulae and a pairwise algorithm for computing sample variances"): nothing cancels, however
//! large the mean is beside the deviation. A convolution whose output is normalised computes them itself
//! ([`crate::kernels::conv2d::Conv2dForward::statistics`]); the first pass here is for all other inputs.

use crate::cpu;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::kernels::tiling::{Tiling, reduction_chunk};
use crate::shader;
use crate::shape::Spec;

/// Rows, in chunks of which sums are taken first; the last chunk may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    /// Rows that are normalised together: `N * H * W`.
    pub rows: usize,
    /// Rows of a chunk.
    pub chunk: usize,
}

impl Chunks {
    /// Chunks of a matrix `[rows, channels]` that no convolution has written. They depend on the shape only.
    pub fn new(rows: usize, channels: usize) -> Self {
        Self { rows, chunk: reduction_chunk(rows, channels) }
    }

    /// Number of chunks P.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(self.chunk)
    }
}

/// First pass: `x [M, rows, C]` -> `partials [P, M, 2, C]`: of each chunk the sum of `x`, and the sum of squares of its
/// deviations from the chunk's mean.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormPartials {
    /// Members M.
    pub members: usize,
    /// Channels C.
    pub channels: usize,
    /// The rows.
    pub chunks: Chunks,
}

impl BatchNormPartials {
    /// `[P, M, 2, C]`.
    pub(crate) fn spec(&self) -> Spec {
        Spec::f32([self.chunks.count(), self.members, 2, self.channels])
    }

    /// The pass over the operands that `x` and `partials` bind.
    pub(in crate::kernels) fn pass(&self, x: Binding, partials: Binding) -> Launch {
        let tiling = Tiling::new(self.channels);
        let workgroups = self.chunks.count() * self.members * tiling.tiles;
        let launch = Launch::new(shader!("batch_norm/stats"), 0, 0, workgroups)
            .bindings([x, partials])
            .size("MEMBERS", self.members)
            .size("ROWS", self.chunks.rows)
            .size("CHUNK_ROWS", self.chunks.chunk);
        tiling.describe_reduction(launch)
    }
}

impl Kernel for BatchNormPartials {
    fn name(&self) -> &'static str {
        "batch_norm_stats"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.chunks.rows, self.channels])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![self.spec()]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 4 * self.members * self.chunks.rows * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { members, channels, chunks: Chunks { rows, chunk } } = *self;
        let x = inputs[0].f32();
        for (index, partial) in outputs[0].f32().chunks_mut(2 * channels).enumerate() {
            let (member, first) = (index % members, index / members * chunk);
            let rows_of_chunk = first..(first + chunk).min(rows);
            for channel in 0..channels {
                let value = |row: usize| f64::from(x[(member * rows + row) * channels + channel]);
                let sum: f64 = rows_of_chunk.clone().map(value).sum();
                let mean = sum / rows_of_chunk.len() as f64;
                partial[channel] = sum as f32;
                partial[channels + channel] =
                    rows_of_chunk.clone().map(|row| (value(row) - mean).powi(2)).sum::<f64>() as f32;
            }
        }
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::batch_norm::partials(self, inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        self.pass(Binding::Input(0), Binding::Output(0))
    }
}

/// Second pass: `partials [P, M, 2, C]` -> `stats [M, 2, C]`, that is mean and `1 / sqrt(variance + eps)` with the
/// biased variance; updates `running_mean [M, C]` and `running_var [M, C]`: `running = (1 - momentum) * running +
/// momentum * batch`, with the unbiased variance.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormFinalize {
    /// Members M.
    pub members: usize,
    /// Channels C.
    pub channels: usize,
    /// The rows.
    pub chunks: Chunks,
    /// Added to the variance under the root.
    pub eps: f32,
    /// Weight of the batch in the running statistics.
    pub momentum: f32,
    /// With two more inputs, `gamma [M, C]` and `beta [M, C]`, and one more output, `affine [M, 3, C]` = (mean,
    /// `gamma * inv_std`, beta): the whole normalisation in one tensor, for a kernel that has no binding for more
    /// ([`super::Residual::Normalised`]).
    pub affine: bool,
}

impl Chunks {
    /// The statistics of a member's channels, of `partials [P, M, 2, C]`.
    fn moments(self, partials: &[f32], [members, channels]: [usize; 2], member: usize) -> Vec<Moments> {
        let Self { rows, chunk } = self;
        let mut moments = vec![Moments::default(); channels];
        for (index, partial) in partials.chunks_exact(2 * channels).skip(member).step_by(members).enumerate() {
            let (sums, squares) = partial.split_at(channels);
            let count = chunk.min(rows - index * chunk) as f64;
            for ((moments, &sum), &squares) in moments.iter_mut().zip(sums).zip(squares) {
                moments.add(count, f64::from(sum) / count, f64::from(squares));
            }
        }
        moments
    }
}

/// `partials [P, M, 2, C]` -> `[M, 2, C]`, those of all rows as one chunk.
pub(crate) fn merge_chunks(partials: &[f32], members: usize, channels: usize, chunks: Chunks) -> Vec<f32> {
    let mut merged = Vec::with_capacity(2 * members * channels);
    for member in 0..members {
        let moments = chunks.moments(partials, [members, channels], member);
        merged.extend(moments.iter().map(|moments| (moments.mean * moments.count) as f32));
        merged.extend(moments.iter().map(|moments| moments.squares as f32));
    }
    merged
}

/// Mean, and sum of squares of the deviations from it.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Those of both samples.
    fn add(&mut self, count: f64, mean: f64, squares: f64) {
        let (total, distance) = (self.count + count, mean - self.mean);
        self.mean += distance * count / total;
        self.squares += squares + distance * distance * self.count * count / total;
        self.count = total;
    }
}

impl Kernel for BatchNormFinalize {
    fn name(&self) -> &'static str {
        "batch_norm_stats_finalize"
    }

    fn inputs(&self) -> Vec<Spec> {
        let parameter = Spec::f32([self.members, self.channels]);
        let mut specs = vec![Spec::f32([self.chunks.count(), self.members, 2, self.channels])];
        if self.affine {
            specs.extend([parameter.clone(), parameter]);
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        let running = Spec::f32([self.members, self.channels]);
        let mut specs = vec![Spec::f32([self.members, 2, self.channels]), running.clone(), running];
        if self.affine {
            specs.push(Spec::f32([self.members, 3, self.channels]));
        }
        specs
    }

    fn updates(&self, index: usize) -> bool {
        index == 1 || index == 2
    }

    fn cost(&self) -> Cost {
        Cost::new(self, (5 * self.chunks.count() + 16) * self.members * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { members, channels, chunks, eps, momentum, .. } = *self;
        let partials = inputs[0].f32();
        let [stats, running_mean, running_var, affine @ ..] = outputs else { unreachable!("three at least") };
        let (stats, running_mean, running_var) = (stats.f32(), running_mean.f32(), running_var.f32());
        for member in 0..members {
            let moments = chunks.moments(partials, [members, channels], member);
            for (channel, Moments { count, mean, squares }) in moments.into_iter().enumerate() {
                let mean = mean as f32;
                let inv_std = (1.0 / (squares / count + f64::from(eps)).sqrt()) as f32;
                let unbiased = (squares / (count - 1.0).max(1.0)) as f32;
                stats[member * 2 * channels + channel] = mean;
                stats[(member * 2 + 1) * channels + channel] = inv_std;
                let index = member * channels + channel;
                running_mean[index] += momentum * (mean - running_mean[index]);
                running_var[index] += momentum * (unbiased - running_var[index]);
                if let [affine] = affine {
                    let values = [mean, inputs[1].f32()[index] * inv_std, inputs[2].f32()[index]];
                    for (row, value) in (3 * member..).zip(values) {
                        affine.f32()[row * channels + channel] = value;
                    }
                }
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::narrow(self.channels);
        let workgroups = self.members * tiling.tiles;
        // Without gamma and beta their bindings see the partial sums, and the shader leaves them alone.
        let inputs = if self.affine { [0, 1, 2] } else { [0; 3] }.map(Binding::Input);
        let outputs = (0..self.outputs().len()).map(Binding::Output);
        let bindings: Vec<Binding> = inputs.into_iter().chain(outputs).collect();
        let launch = Launch::new(shader!("batch_norm/stats_finalize"), 0, 0, workgroups)
            .entry(if self.affine { "affine" } else { "main" })
            .bindings(bindings)
            .size("MEMBERS", self.members)
            .size("ROWS", self.chunks.rows)
            .size("CHUNK_ROWS", self.chunks.chunk)
            .size("PARTIALS", self.chunks.count())
            .float("EPS", self.eps)
            .float("MOMENTUM", self.momentum);
        tiling.describe_reduction(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    /// Mean 1000 and deviation 1: a one-pass variance without a shift has no correct digit here.
    #[test]
    fn statistics_survive_a_mean_far_above_the_deviation() {
        for (members, rows, channels) in [(1, 1, 1), (2, 3, 5), (3, 2100, 16), (1, 700, 17)] {
            let x = normal(members * rows * channels, 1000.0, 1.0, 1);
            let chunks = Chunks::new(rows, channels);
            let partials = run(&BatchNormPartials { members, channels, chunks }, &[&x], &[]).remove(0);
            let (eps, momentum, affine) = (1e-5, 0.1, true);
            let finalize = BatchNormFinalize { members, channels, chunks, eps, momentum, affine };
            let (mean0, var0) = (normal(members * channels, 0.0, 1.0, 2), normal(members * channels, 2.0, 0.1, 3));
            let (gamma, beta) = (normal(members * channels, 1.0, 0.1, 4), normal(members * channels, 0.0, 0.1, 5));
            let outputs = run(&finalize, &[&partials, &gamma, &beta], &[&mean0, &var0]);
            for m in 0..members {
                for c in 0..channels {
                    let column: Vec<f64> = (0..rows).map(|r| f64::from(x[(m * rows + r) * channels + c])).collect();
                    let n = rows as f64;
                    let mean = column.iter().sum::<f64>() / n;
                    let squares = column.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
                    let i = m * channels + c;
                    let unbiased = squares / (n - 1.0).max(1.0);
                    assert_close(outputs[0][m * 2 * channels + c], mean, 1e-6);
                    assert_close(outputs[0][(m * 2 + 1) * channels + c], 1.0 / (squares / n + 1e-5).sqrt(), 1e-5);
                    assert_close(outputs[1][i], 0.9 * f64::from(mean0[i]) + 0.1 * mean, 1e-6);
                    assert_close(outputs[2][i], 0.9 * f64::from(var0[i]) + 0.1 * unbiased, 1e-5);
                    let scale = f64::from(gamma[i]) / (squares / n + 1e-5).sqrt();
                    for (row, want) in [mean, scale, f64::from(beta[i])].into_iter().enumerate() {
                        assert_close(outputs[3][(3 * m + row) * channels + c], want, 1e-5);
                    }
                }
            }
        }
    }
}
