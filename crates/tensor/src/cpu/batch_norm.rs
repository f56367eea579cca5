//! Batch normalisation and its gradient on the CPU, over tiles that stay in the caches.

use pulp::Simd;
use rayon::prelude::*;

use super::column_sums::{Terms, add_up, repeat_over_sums, vector};
use super::masked_sums::{Norm, Rows};
use super::tiles::{repeat_over_tile, task_words};
use super::vectors::{Loops, wide};
use crate::kernel::{Slice, SliceMut};
use crate::kernels::batch_norm::{
    Activation, BatchNormApply, BatchNormGradInput, BatchNormGradPartials, BatchNormInference, BatchNormPartials,
    Chunks, Residual, Upstream,
};

/// The values of `x`.
struct Values<'a> {
    x: &'a [f32],
}

impl Terms<1> for Values<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, _: S, at: usize, _: usize) -> [S::f32s; 1] {
        [vector::<S>(self.x, at)]
    }

    #[inline(always)]
    fn add_to(&mut self, [sums]: [&mut [f32]; 1]) {
        for tile in self.x.chunks(sums.len()) {
            for (x, sum) in tile.iter().zip(sums.iter_mut()) {
                *sum += x;
            }
        }
    }
}

/// The squares of the deviations of `x` from `mean`.
struct Squares<'a> {
    x: &'a [f32],
    mean: &'a [f32],
}

impl Terms<1> for Squares<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, at: usize, column: usize) -> [S::f32s; 1] {
        let deviation = simd.sub_f32s(vector::<S>(self.x, at), vector::<S>(self.mean, column));
        [simd.mul_f32s(deviation, deviation)]
    }

    #[inline(always)]
    fn add_to(&mut self, [squares]: [&mut [f32]; 1]) {
        for tile in self.x.chunks(self.mean.len()) {
            for ((x, mean), square) in tile.iter().zip(self.mean).zip(squares.iter_mut()) {
                let deviation = x - mean;
                *square += deviation * deviation;
            }
        }
    }
}

/// The `partial [2, C]` of a chunk's rows.
pub(super) fn chunk_statistics(x: &[f32], partial: &mut [f32]) {
    let (sum, square) = partial.split_at_mut(partial.len() / 2);
    let rows = (x.len() / sum.len()) as f32;
    add_up(x.len(), Values { x }, [&mut *sum]);
    let mean: Vec<f32> = sum.iter().map(|sum| sum / rows).collect();
    add_up(x.len(), Squares { x, mean: &repeat_over_sums(&mean) }, [square]);
}

/// Computes the first pass of the statistics.
pub(crate) fn partials(kernel: &BatchNormPartials, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let BatchNormPartials { members, channels, chunks: Chunks { rows, chunk } } = *kernel;
    let x = inputs[0].f32();
    outputs[0].f32().par_chunks_mut(2 * channels).enumerate().for_each(|(index, partial)| {
        let start = index / members * chunk;
        let rows = start..(start + chunk).min(rows);
        let first = index % members * kernel.chunks.rows + rows.start;
        chunk_statistics(&x[first * channels..][..rows.len() * channels], partial);
    });
}

/// `y = max((x - mean) scale + shift + residual, floor)`, tile by tile.
struct Apply<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    /// Mean, scale and shift of the residual.
    affine: Option<[&'a [f32]; 3]>,
    mean: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    floor: f32,
    y: &'a mut [f32],
}

impl Loops for Apply<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, residual, affine, mean, scale, shift, floor, y } = self;
        for (tile, y) in y.chunks_mut(mean.len()).enumerate() {
            let start = tile * mean.len();
            let x = &x[start..][..y.len()];
            let parameters = mean.iter().zip(scale).zip(shift);
            for ((y, x), ((mean, scale), shift)) in y.iter_mut().zip(x).zip(parameters) {
                *y = (x - mean) * scale + shift;
            }
            if let Some(residual) = residual {
                let elements = y.iter_mut().zip(&residual[start..]);
                if let Some([mean, scale, shift]) = affine {
                    for ((y, residual), ((mean, scale), shift)) in elements.zip(mean.iter().zip(scale).zip(shift)) {
                        *y += (residual - mean) * scale + shift;
                    }
                } else {
                    for (y, residual) in elements {
                        *y += residual;
                    }
                }
            }
            for y in y.iter_mut() {
                *y = if *y < floor { floor } else { *y };
            }
        }
    }
}

/// The inputs that training and inference share.
#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    residual: Option<&'a [f32]>,
    affine: Option<&'a [f32]>,
}

impl BatchNormApply {
    /// `y` from `x`, where `mean` and `inv_std` give the statistics of a member.
    fn apply_to<'a>(
        &self,
        operands: Operands<'_>,
        y: &mut [f32],
        statistics: impl Fn(usize) -> (&'a [f32], Vec<f32>) + Sync,
    ) {
        let Self { rows, channels, relu, .. } = *self;
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let task = task_words(channels);
        y.par_chunks_mut(rows * channels).enumerate().for_each(|(member, y)| {
            let (mean, inv_std) = statistics(member);
            let gamma = &operands.gamma[member * channels..][..channels];
            let scale: Vec<f32> = gamma.iter().zip(&inv_std).map(|(gamma, inv_std)| gamma * inv_std).collect();
            let shift = repeat_over_tile(&operands.beta[member * channels..][..channels]);
            let (mean, scale) = (repeat_over_tile(mean), repeat_over_tile(&scale));
            let x = &operands.x[member * rows * channels..][..rows * channels];
            let residual = match self.residual {
                Residual::None => None,
                Residual::Shared => operands.residual,
                Residual::Same | Residual::Normalised => {
                    operands.residual.map(|all| &all[member * rows * channels..][..rows * channels])
                }
            };
            let affine = operands.affine.map(|affine| {
                [0, 1, 2].map(|row| repeat_over_tile(&affine[(3 * member + row) * channels..][..channels]))
            });
            let affine = affine.as_ref().map(|affine| affine.each_ref().map(Vec::as_slice));
            y.par_chunks_mut(task).enumerate().for_each(|(index, y)| {
                let x = &x[index * task..][..y.len()];
                let residual = residual.map(|residual| &residual[index * task..][..y.len()]);
                wide(Apply { x, residual, affine, mean: &mean, scale: &scale, shift: &shift, floor, y });
            });
        });
    }
}

/// Normalises by the statistics of the batch.
pub(crate) fn apply(kernel: &BatchNormApply, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let channels = kernel.channels;
    let stats = inputs[1].f32();
    let operands = Operands {
        x: inputs[0].f32(),
        gamma: inputs[2].f32(),
        beta: inputs[3].f32(),
        residual: inputs.get(4).map(|slice| slice.f32()),
        affine: inputs.get(5).map(|slice| slice.f32()),
    };
    kernel.apply_to(operands, outputs[0].f32(), |member| {
        let (mean, inv_std) = stats[member * 2 * channels..][..2 * channels].split_at(channels);
        (mean, inv_std.to_vec())
    });
}

/// Normalises by running statistics.
pub(crate) fn inference(kernel: &BatchNormInference, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let channels = kernel.channels;
    let (mean, var) = (inputs[1].f32(), inputs[2].f32());
    let operands = Operands {
        x: inputs[0].f32(),
        gamma: inputs[3].f32(),
        beta: inputs[4].f32(),
        residual: inputs.get(5).map(|slice| slice.f32()),
        affine: inputs.get(6).map(|slice| slice.f32()),
    };
    kernel.apply().apply_to(operands, outputs[0].f32(), |member| {
        let range = member * channels..(member + 1) * channels;
        let inv_std = var[range.clone()].iter().map(|var| 1.0 / (var + kernel.eps).sqrt()).collect();
        (&mean[range], inv_std)
    });
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
    /// The chunks, all chunks of a member together as in `g`.
    fn chunks<'a>(&self, partials: &'a mut [f32], g: &'a mut [f32]) -> Vec<Chunk<'a>> {
        let Self { members, channels, chunks: Chunks { rows, chunk }, .. } = *self;
        let mut chunks: Vec<Chunk<'a>> = (partials.chunks_mut(2 * channels).enumerate())
            .map(|(index, partial)| {
                let start = index / members * chunk * channels;
                Chunk { member: index % members, start, partial, g: &mut [] }
            })
            .collect();
        chunks.sort_by_key(|chunk| (chunk.member, chunk.start));
        let g = g.chunks_mut(rows * channels).flat_map(|g| g.chunks_mut(chunk * channels));
        for (chunk, g) in chunks.iter_mut().zip(g) {
            chunk.g = g;
        }
        chunks
    }

    /// Writes rows of `dy`, from element `start` of the whole tensor on.
    fn gather(&self, inputs: &[&[f32]], start: usize, dy: &mut [f32]) {
        let (area, pooled) = match self.upstream {
            Upstream::Whole => {
                dy.copy_from_slice(&inputs[1][start..][..dy.len()]);
                return;
            }
            Upstream::Pooled { area } => {
                dy.fill(0.0);
                (area, inputs[1])
            }
            Upstream::Both { area } => {
                dy.copy_from_slice(&inputs[1][start..][..dy.len()]);
                (area, inputs[inputs.len() - 1])
            }
        };
        let factor = 1.0 / area as f32;
        for (row, dy) in (start / self.channels..).zip(dy.chunks_exact_mut(self.channels)) {
            for (dy, pooled) in dy.iter_mut().zip(&pooled[row / area * self.channels..]) {
                *dy += factor * pooled;
            }
        }
    }
}

/// Computes the first pass of the gradient.
pub(crate) fn grad_partials(kernel: &BatchNormGradPartials, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let BatchNormGradPartials { channels, activation, chunks: Chunks { rows, chunk }, .. } = *kernel;
    let inputs: Vec<&[f32]> = inputs.iter().map(|slice| slice.f32()).collect();
    let (partials, g) = outputs.split_at_mut(1);
    let g = g.first_mut().map_or(&mut [][..], |slice| slice.f32());
    kernel.chunks(partials[0].f32(), g).into_par_iter().for_each(|Chunk { member, start, partial, g }| {
        let norm = Norm::of(&inputs[2..5], member, channels);
        let first = member * rows * channels + start;
        let words = first..first + (chunk * channels).min(rows * channels - start);
        let x = &inputs[0][words.clone()];
        if activation == Activation::Linear {
            norm.sums(x, &inputs[1][words], partial);
            return;
        }
        kernel.gather(&inputs, words.start, g);
        let y = (activation == Activation::ReluOfSum).then(|| &inputs[5][words]);
        norm.mask_and_sum(activation, Rows { x, y }, g, partial);
    });
}

/// `dx` from tiles of `x` and of `g`.
struct Input<'a> {
    x: &'a [f32],
    g: &'a [f32],
    addend: Option<&'a [f32]>,
    /// Mean, scale, slope, offset.
    parameters: [&'a [f32]; 4],
    dx: &'a mut [f32],
}

impl Loops for Input<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, g, addend, parameters: [mean, scale, slope, offset], dx } = self;
        let tile = mean.len();
        for ((dx, x), g) in dx.chunks_mut(tile).zip(x.chunks(tile)).zip(g.chunks(tile)) {
            let columns = mean.iter().zip(scale).zip(slope).zip(offset);
            for (((dx, x), g), (((mean, scale), slope), offset)) in dx.iter_mut().zip(x).zip(g).zip(columns) {
                *dx = scale * g - (x - mean) * slope - offset;
            }
        }
        if let Some(addend) = addend {
            for (dx, addend) in dx.iter_mut().zip(addend) {
                *dx += addend;
            }
        }
    }
}

/// Computes the last pass of the gradient.
pub(crate) fn grad_input(kernel: &BatchNormGradInput, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let BatchNormGradInput { rows, channels, .. } = *kernel;
    let inputs: Vec<&[f32]> = inputs.iter().map(|slice| slice.f32()).collect();
    let task = task_words(channels);
    outputs[0].f32().par_chunks_mut(rows * channels).enumerate().for_each(|(member, dx)| {
        let (mean, inv_std) = inputs[2][member * 2 * channels..][..2 * channels].split_at(channels);
        let [gamma, dgamma, dbeta] = [3, 4, 5].map(|i| &inputs[i][member * channels..][..channels]);
        let scale: Vec<f32> = gamma.iter().zip(inv_std).map(|(gamma, inv_std)| gamma * inv_std).collect();
        let scaled = |c: usize, sum: &[f32]| scale[c] * (sum[c] / rows as f32);
        let slope: Vec<f32> = (0..channels).map(|c| inv_std[c] * scaled(c, dgamma)).collect();
        let offset: Vec<f32> = (0..channels).map(|c| scaled(c, dbeta)).collect();
        let parameters = [mean, &scale, &slope, &offset].map(repeat_over_tile);
        dx.par_chunks_mut(task).enumerate().for_each(|(index, dx)| {
            let start = member * rows * channels + index * task;
            let (x, g) = (&inputs[0][start..][..dx.len()], &inputs[1][start..][..dx.len()]);
            let addend = inputs.get(6).map(|addend| &addend[start..][..dx.len()]);
            wide(Input { x, g, addend, parameters: parameters.each_ref().map(Vec::as_slice), dx });
        });
    });
}
