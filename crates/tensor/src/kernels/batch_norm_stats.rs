//! Statistics of batch normalisation, in two passes: sums per chunk of rows, then mean and deviation per channel.
//!
//! The sums are of `x - x0`, where `x0` is the member's first row: a sample of the very distribution, so the variance
//! does not cancel when the mean is large beside the deviation, and one pass over `x` is enough.

use rayon::prelude::*;

use super::matrix::{Tiling, chunk_rows, fold, repeat, sum_partials};
use super::vector::{Loops, wide};
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;
use crate::target::Target;

/// First pass: `x [M, rows, C]` -> `partials [P, M, 2, C]`, the sums of `x - x0` and of `(x - x0)^2` over the rows of
/// each of P chunks, where `x0 = x[m, 0, c]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormPartials {
    /// Members M.
    pub members: usize,
    /// Rows that are normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
}

impl BatchNormPartials {
    /// Number of chunks P. It depends on the shape only.
    pub fn partials(&self) -> usize {
        self.rows.div_ceil(self.chunk_rows())
    }

    fn chunk_rows(&self) -> usize {
        chunk_rows(self.rows, self.channels)
    }
}

/// Sums of the deviations of tiles of `x` from `shift`, and of their squares.
struct Sums<'a> {
    x: &'a [f32],
    shift: &'a [f32],
    sums: &'a mut [f32],
    squares: &'a mut [f32],
}

impl Loops for Sums<'_> {
    #[inline(always)]
    fn run(self) {
        for tile in self.x.chunks(self.shift.len()) {
            let columns = self.sums.iter_mut().zip(self.squares.iter_mut());
            for ((x, shift), (sum, square)) in tile.iter().zip(self.shift).zip(columns) {
                let deviation = x - shift;
                *sum += deviation;
                *square += deviation * deviation;
            }
        }
    }
}

impl Kernel for BatchNormPartials {
    fn name(&self) -> &'static str {
        "batch_norm_stats"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.rows, self.channels])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.partials(), self.members, 2, self.channels])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 4 * self.members * self.rows * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { members, rows, channels } = *self;
        let x = inputs[0].f32();
        outputs[0].f32().par_chunks_mut(2 * channels).enumerate().for_each(|(index, partial)| {
            let (chunk, member) = (index / members, index % members);
            let x = &x[member * rows * channels..][..rows * channels];
            let shift = repeat(&x[..channels]);
            let start = chunk * self.chunk_rows();
            let end = (start + self.chunk_rows()).min(rows);
            let mut sums = vec![0.0; shift.len()];
            let mut squares = vec![0.0; shift.len()];
            let x = &x[start * channels..end * channels];
            wide(Sums { x, shift: &shift, sums: &mut sums, squares: &mut squares });
            let (sum, square) = partial.split_at_mut(channels);
            fold(&sums, sum);
            fold(&squares, square);
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::new(self.channels);
        let workgroups = self.partials() * self.members * tiling.tiles;
        let launch = Launch::new(include_str!("../../../../shaders/batch_norm_stats.wgsl"), 1, 1, workgroups)
            .size("MEMBERS", self.members)
            .size("ROWS", self.rows)
            .size("CHUNK_ROWS", self.chunk_rows());
        tiling.describe_reduction(launch)
    }
}

/// Second pass: `partials [P, M, 2, C]`, `x [M, rows, C]` (its row 0 only) -> `stats [M, 2, C]`, that is mean and
/// `1 / sqrt(variance + eps)` with the biased variance; updates `running_mean [M, C]` and `running_var [M, C]`:
/// `running = (1 - momentum) * running + momentum * batch`, with the unbiased variance.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormFinalize {
    /// Members M.
    pub members: usize,
    /// Rows that are normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// Added to the variance under the root.
    pub eps: f32,
    /// Weight of the batch in the running statistics.
    pub momentum: f32,
}

impl BatchNormFinalize {
    fn partials(&self) -> usize {
        self.rows.div_ceil(chunk_rows(self.rows, self.channels))
    }
}

impl Kernel for BatchNormFinalize {
    fn name(&self) -> &'static str {
        "batch_norm_stats_finalize"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![
            Spec::f32([self.partials(), self.members, 2, self.channels]),
            Spec::f32([self.members, self.rows, self.channels]),
        ]
    }

    fn outputs(&self) -> Vec<Spec> {
        let running = Spec::f32([self.members, self.channels]);
        vec![Spec::f32([self.members, 2, self.channels]), running.clone(), running]
    }

    fn updates(&self, index: usize) -> bool {
        index > 0
    }

    fn cost(&self) -> Cost {
        let channels = self.members * self.channels;
        let floats = 2 * self.partials() * channels + channels + 6 * channels;
        Cost { flops: (2 * self.partials() * channels + 16 * channels) as u64, bytes: 4 * floats as u64 }
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { members, rows, channels, eps, momentum } = *self;
        let (partials, x) = (inputs[0].f32(), inputs[1].f32());
        let [stats, running_mean, running_var] = outputs else { unreachable!("three outputs are declared") };
        let (stats, running_mean, running_var) = (stats.f32(), running_mean.f32(), running_var.f32());
        let n = rows as f64;
        for member in 0..members {
            let sums = sum_partials(partials, members, member, channels);
            for channel in 0..channels {
                let offset = sums[channel] / n;
                let mean = (f64::from(x[member * rows * channels + channel]) + offset) as f32;
                let variance = (sums[channels + channel] / n - offset * offset).max(0.0);
                let unbiased = (variance * n / (n - 1.0).max(1.0)) as f32;
                stats[member * 2 * channels + channel] = mean;
                stats[(member * 2 + 1) * channels + channel] = (1.0 / (variance + f64::from(eps)).sqrt()) as f32;
                let index = member * channels + channel;
                running_mean[index] += momentum * (mean - running_mean[index]);
                running_var[index] += momentum * (unbiased - running_var[index]);
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::narrow(self.channels);
        let workgroups = self.members * tiling.tiles;
        let launch = Launch::new(include_str!("../../../../shaders/batch_norm_stats_finalize.wgsl"), 2, 3, workgroups)
            .size("MEMBERS", self.members)
            .size("ROWS", self.rows)
            .size("PARTIALS", self.partials())
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
            let kernel = BatchNormPartials { members, rows, channels };
            let partials = run(&kernel, &[&x], &[]).remove(0);
            let finalize = BatchNormFinalize { members, rows, channels, eps: 1e-5, momentum: 0.1 };
            let (mean0, var0) = (normal(members * channels, 0.0, 1.0, 2), normal(members * channels, 2.0, 0.1, 3));
            let outputs = run(&finalize, &[&partials, &x], &[&mean0, &var0]);
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
                }
            }
        }
    }
}
