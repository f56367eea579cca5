//! The gradient of a convolution's input on the CPU: blocks of input rows in parallel, and in each one product per
//! class of positions and member.

use std::ops::Range;

use rayon::prelude::*;

use super::masked_sums::{Norm, Rows};
use super::product::{Matrix, multiply};
use super::strips::{Convolve, Pitch, Strip, serves};
use super::windows::{Window, rows_per_block, runs_in_images, with_scratch};
use crate::kernel::{Slice, SliceMut};
use crate::kernels::batch_norm::Activation;
use crate::kernels::conv2d::{Conv2dGradInput, ConvGeometry, tile_chunk};

/// Transposes a matrix whose rows begin `stride` apart to `to`, in which rows have `rows` elements: in blocks, so that
/// every cache line is used whole on both sides.
fn transpose(from: &[f32], stride: usize, rows: usize, to: &mut [f32]) {
    const BLOCK: usize = 16;
    for (block, to) in to.chunks_mut(BLOCK * rows).enumerate() {
        for first in (0..rows).step_by(BLOCK) {
            for (j, to) in to.chunks_exact_mut(rows).enumerate() {
                for (i, to) in to[first..].iter_mut().take(BLOCK).enumerate() {
                    *to = from[(first + i) * stride + block * BLOCK + j];
                }
            }
        }
    }
}

/// A block of rows of the gradient of an input member, and the chunks' sums that belong to it.
struct Task<'a> {
    input: usize,
    first_row: usize,
    dx: &'a mut [f32],
    partials: Vec<&'a mut [f32]>,
}

/// The weights that one class of input positions meets, ready for a matrix product.
struct ClassWeights {
    class: [usize; 2],
    /// `[M, G, taps * K/G, C/G]`, taps in the order of the class's window.
    weights: Vec<f32>,
}

impl Conv2dGradInput {
    /// Rows of the gradient that a task computes: whole chunks if their sums are taken.
    fn block_rows(&self) -> usize {
        let g = &self.geometry;
        let rows = rows_per_block(g.width, g.kernel[0] * g.kernel[1] * g.group_filters());
        if self.norm.is_none() {
            return rows.next_multiple_of(g.stride[0]);
        }
        let chunk = tile_chunk(g.height, g.width, g.channels);
        (rows / chunk).max(1) * chunk
    }

    /// Masks a block of `dx`, and takes its chunks' sums.
    fn mask_and_sum(&self, activation: Activation, inputs: &[Slice<'_>], task: &mut Task<'_>) {
        let channels = self.geometry.channels;
        let inputs: Vec<&[f32]> = inputs[self.norm_input()..].iter().map(|slice| slice.f32()).collect();
        let chunks = self.partials(activation).chunks;
        let norm = match activation {
            Activation::Relu => Norm::of(&inputs[1..4], task.input, channels),
            Activation::Linear | Activation::ReluOfSum => Norm::of(&inputs[1..2], task.input, channels),
        };
        let y = (activation == Activation::ReluOfSum).then(|| inputs[2]);
        let mut start = (task.input * chunks.rows + task.first_row * self.geometry.width) * channels;
        for (g, partial) in task.dx.chunks_mut(chunks.chunk * channels).zip(&mut task.partials) {
            let words = start..start + g.len();
            let rows = Rows { x: &inputs[0][words.clone()], y: y.map(|y| &y[words.clone()]) };
            norm.mask_and_sum(activation, rows, g, partial);
            start = words.end;
        }
    }

    /// The blocks of rows, those of an input member together.
    fn tasks<'a>(&self, dx: &'a mut [f32], partials: &'a mut [f32]) -> Vec<Task<'a>> {
        let g = &self.geometry;
        let (row, block_rows) = (g.width * g.channels, self.block_rows());
        let mut tasks: Vec<Task<'a>> = Vec::new();
        for (input, dx) in dx.chunks_mut(g.batch * g.height * row).enumerate() {
            for (block, dx) in dx.chunks_mut(block_rows * row).enumerate() {
                tasks.push(Task { input, first_row: block * block_rows, dx, partials: Vec::new() });
            }
        }
        let blocks = tasks.len() / g.input_members;
        let tile_rows = tile_chunk(g.height, g.width, g.channels);
        for (index, partial) in partials.chunks_mut(2 * g.channels).enumerate() {
            let (chunk, input) = (index / g.input_members, index % g.input_members);
            tasks[input * blocks + chunk * tile_rows / block_rows].partials.push(partial);
        }
        tasks
    }

    fn class_weights(&self, w: &[f32]) -> Vec<ClassWeights> {
        let g = &self.geometry;
        let (channels, filters) = (g.group_channels(), g.group_filters());
        let kernel_words = g.kernel[0] * g.kernel[1] * channels * g.filters;
        (0..g.stride[0] * g.stride[1])
            .map(|index| {
                let class = [index / g.stride[1], index % g.stride[1]];
                let taps = [0, 1].map(|axis| g.class_taps(axis, class[axis]));
                let count = taps[0] * taps[1];
                let mut weights = vec![0.0; g.members * g.groups * count * filters * channels];
                weights.par_chunks_mut(filters * channels).enumerate().for_each(|(chunk, weights)| {
                    let (member, group, tap) = (chunk / (count * g.groups), chunk / count % g.groups, chunk % count);
                    let r = g.class_tap(0, class[0], tap / taps[1]);
                    let s = g.class_tap(1, class[1], tap % taps[1]);
                    let tap = member * kernel_words + (r * g.kernel[1] + s) * channels * g.filters;
                    transpose(&w[tap + group * filters..], g.filters, channels, weights);
                });
                ClassWeights { class, weights }
            })
            .collect()
    }

    /// Writes to `dx`, which holds whole rows of input member `input` from row `first_row` (counted over the batch)
    /// on, the gradient of the positions of one class, or adds it to the values there.
    fn add_class(
        &self,
        class: &ClassWeights,
        dy: &[f32],
        input: usize,
        first_row: usize,
        accumulate: bool,
        dx: &mut [f32],
    ) {
        let g = &self.geometry;
        let members = if g.fans_out() { 0..g.members } else { input..input + 1 };
        let width = g.width.saturating_sub(class.class[1]).div_ceil(g.stride[1]);
        let window = g.backward_window(class.class);
        if window.depth() == 0 || width == 0 {
            return;
        }
        let part = ClassPart { geometry: g, class, window, dy, members, first_row, width };
        if serves(g, g.group_channels()) {
            part.by_strips(accumulate, dx);
        } else {
            part.by_products(dx);
        }
    }
}

/// The positions of one class in some rows of an input member.
struct ClassPart<'a> {
    geometry: &'a ConvGeometry,
    class: &'a ClassWeights,
    window: Window,
    dy: &'a [f32],
    /// Members whose gradients meet in the input.
    members: Range<usize>,
    /// Counted over the batch.
    first_row: usize,
    /// Positions in a row.
    width: usize,
}

impl ClassPart<'_> {
    /// Words of an image of `dy`.
    fn dy_image(&self) -> usize {
        self.window.vertical.source * self.window.horizontal.source * self.geometry.filters
    }

    /// Weights of one group of a member, `[depth, channels]`.
    fn weights(&self, member: usize, group: usize) -> &[f32] {
        let words = self.window.depth() * self.geometry.group_channels();
        &self.class.weights[(member * self.geometry.groups + group) * words..][..words]
    }

    /// Convolves strips of rows, for the widths that have tiles in registers.
    fn by_strips(&self, accumulate: bool, dx: &mut [f32]) {
        let g = self.geometry;
        let (class, channels, dx_row, dy_image) =
            (self.class.class, g.group_channels(), g.width * g.channels, self.dy_image());
        let [row_stride, column_stride] = g.stride;
        let pitch = Pitch { row: row_stride * dx_row, position: column_stride * g.channels };
        for run in runs_in_images(self.first_row, dx.len() / dx_row, g.height) {
            // Rows of the class: the first of the run, and how many.
            let skipped = (class[0] + row_stride - run.first % row_stride) % row_stride;
            let rows = run.rows.saturating_sub(skipped).div_ceil(row_stride);
            if rows == 0 {
                continue;
            }
            let strip = Strip::new(self.window, rows, self.width);
            with_scratch(strip.words(), |x| {
                for group in 0..g.groups {
                    let first = class[1] * g.channels + group * channels;
                    let y = &mut dx[(run.offset + skipped) * dx_row + first..];
                    for member in self.members.clone() {
                        let dy = &self.dy[(member * g.batch + run.image) * dy_image..][..dy_image];
                        strip.fill(dy, group, (run.first + skipped) / row_stride, None, x);
                        let w = self.weights(member, group);
                        let (stride, filters) = (channels, channels);
                        let accumulate = accumulate || member > self.members.start;
                        Convolve { strip, x, w, stride, filters, y: &mut *y, pitch, accumulate }.run();
                    }
                }
            });
        }
    }

    /// Multiplies matrices, for all other widths: the gradients of `dy` that each position meets, by the weights. Adds
    /// to `dx`.
    fn by_products(&self, dx: &mut [f32]) {
        let g = self.geometry;
        let (class, channels, dx_row, dy_image) =
            (self.class.class, g.group_channels(), g.width * g.channels, self.dy_image());
        let (depth, width, [row_stride, column_stride]) = (self.window.depth(), self.width, g.stride);
        let rows: Vec<usize> =
            (0..dx.len() / dx_row).filter(|i| (self.first_row + i) % g.height % row_stride == class[0]).collect();
        let pixels = rows.len() * width;
        if pixels == 0 {
            return;
        }
        with_scratch(pixels * (depth + channels), |scratch| {
            let (columns, sums) = scratch.split_at_mut(pixels * depth);
            for group in 0..g.groups {
                for member in self.members.clone() {
                    let dy = &self.dy[member * g.batch * dy_image..][..g.batch * dy_image];
                    for (columns, i) in columns.chunks_exact_mut(width * depth).zip(&rows) {
                        let (image, row) = ((self.first_row + i) / g.height, (self.first_row + i) % g.height);
                        let dy = &dy[image * dy_image..][..dy_image];
                        self.window.gather(dy, group, row / row_stride, columns);
                    }
                    let columns = Matrix::new(columns, pixels, depth, false);
                    let w = Matrix::new(self.weights(member, group), depth, channels, false);
                    if g.stride == [1, 1] {
                        multiply(columns, w, &mut dx[group * channels..], g.channels, true);
                    } else {
                        multiply(columns, w, sums, channels, member > self.members.start);
                    }
                }
                if g.stride == [1, 1] {
                    continue;
                }
                for (sums, i) in sums.chunks_exact(width * channels).zip(&rows) {
                    let first = i * dx_row + class[1] * g.channels + group * channels;
                    for (j, sums) in sums.chunks_exact(channels).enumerate() {
                        let dx = &mut dx[first + j * column_stride * g.channels..][..channels];
                        dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx += sum);
                    }
                }
            }
        });
    }
}

/// Computes the gradient.
pub(crate) fn compute(kernel: &Conv2dGradInput, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let (merged, count) = kernel.geometry.merged();
    if count > 1 {
        let w = kernel.geometry.merge_weights(inputs[1].f32());
        let mut inputs = inputs.to_vec();
        inputs[1] = Slice::F32(&w);
        return compute(&Conv2dGradInput { geometry: merged, ..*kernel }, &inputs, outputs);
    }
    let dy = inputs[0].f32();
    let addend = kernel.addend.then(|| inputs[2].f32());
    let classes = kernel.class_weights(inputs[1].f32());
    let g = &kernel.geometry;
    let (dx, partials) = outputs.split_at_mut(1);
    let partials = partials.first_mut().map_or(&mut [][..], |slice| slice.f32());
    kernel.tasks(dx[0].f32(), partials).into_par_iter().for_each(|mut task| {
        // One class that has all positions and sums in registers overwrites `dx`, whatever it holds.
        let accumulate = addend.is_some() || g.stride != [1, 1] || !serves(g, g.group_channels());
        match addend {
            Some(addend) => {
                let start = (task.input * g.batch * g.height + task.first_row) * g.width * g.channels;
                task.dx.copy_from_slice(&addend[start..][..task.dx.len()]);
            }
            None if accumulate => task.dx.fill(0.0),
            None => {}
        }
        for class in &classes {
            kernel.add_class(class, dy, task.input, task.first_row, accumulate, task.dx);
        }
        if let Some(activation) = kernel.norm {
            kernel.mask_and_sum(activation, inputs, &mut task);
        }
    });
}
