//! The convolution on the CPU: blocks of output rows in parallel.

use rayon::prelude::*;

use super::batch_norm::chunk_statistics;
use super::normalise::Normalisation;
use super::product::{Matrix, multiply};
use super::strips::{Convolve, Pitch, Strip, gather, serves};
use super::windows::{rows_per_block, runs_in_images, with_scratch};
use crate::kernel::{Slice, SliceMut};
use crate::kernels::conv2d::Conv2dForward;

/// The output of a task: a block of rows of one member, and the chunks' sums that belong to it.
struct Block<'a> {
    member: usize,
    y: &'a mut [f32],
    partials: Vec<&'a mut [f32]>,
}

impl Conv2dForward {
    /// Rows of the output that a task computes: whole chunks if their sums are taken.
    fn block_rows(&self, width: usize, depth: usize) -> usize {
        let rows = rows_per_block(width, depth);
        if !self.statistics {
            return rows;
        }
        let chunk = self.partials().chunks.chunk / width;
        (rows / chunk).max(1) * chunk
    }

    /// Convolves the blocks of rows from `first_row` on; the input that they read is gathered once for all of them.
    fn convolve(&self, inputs: &[Slice<'_>], input: usize, first_row: usize, members: &mut [Block<'_>]) {
        let g = &self.geometry;
        let (x, w) = (inputs[0].f32(), inputs[1].f32());
        let [height, width] = g.output_extent();
        let window = g.forward_window();
        let (depth, filters) = (window.depth(), g.group_filters());
        let image = g.height * g.width * g.channels;
        let pixels = members[0].y.len() / g.filters;
        let x = &x[input * g.batch * image..][..g.batch * image];
        let normalisations = Normalisation::of_groups(g, &inputs[2..], input);
        if serves(g, filters) && (self.normalised || !g.is_pointwise()) {
            let pitch = Pitch { row: width * g.filters, position: g.filters };
            for run in runs_in_images(first_row, pixels / width, height) {
                let strip = Strip::new(window, run.rows, width);
                with_scratch(strip.words(), |x_strip| {
                    for group in 0..g.groups {
                        let (image, normalisation) = (&x[run.image * image..][..image], normalisations[group].as_ref());
                        strip.fill(image, group, run.first, normalisation, x_strip);
                        for Block { member, y, .. } in members.iter_mut() {
                            let w = &w[*member * depth * g.filters + group * filters..];
                            let y = &mut y[run.offset * pitch.row + group * filters..];
                            let (stride, accumulate) = (g.filters, false);
                            Convolve { strip, x: x_strip, w, stride, filters, y, pitch, accumulate }.run();
                        }
                    }
                });
            }
            return;
        }
        let mut multiply_members = |columns: Matrix<'_>, group: usize| {
            for Block { member, y, .. } in members.iter_mut() {
                let w = &w[*member * depth * g.filters + group * filters..];
                let w = Matrix::strided(w, depth, filters, g.filters, 1);
                multiply(columns, w, &mut y[group * filters..], g.filters, false);
            }
        };
        if g.is_pointwise() && !self.normalised {
            for group in 0..g.groups {
                let x = &x[first_row * width * g.channels + group * depth..];
                multiply_members(Matrix::strided(x, pixels, depth, g.channels, 1), group);
            }
            return;
        }
        let near = Strip::new(window, (pixels / width).min(height), width).words();
        with_scratch(near + pixels * depth, |scratch| {
            let (near, columns) = scratch.split_at_mut(near);
            for (group, normalisation) in normalisations.iter().enumerate() {
                let from = (x, group, first_row);
                gather(window, [height, width], from, normalisation.as_ref(), near, columns);
                multiply_members(Matrix::new(columns, pixels, depth, false), group);
            }
        });
    }

    /// The blocks of each task, which are those of all members that share its input.
    fn tasks<'a>(&self, block_rows: usize, y: &'a mut [f32], partials: &'a mut [f32]) -> Vec<Vec<Block<'a>>> {
        let g = &self.geometry;
        let [height, width] = g.output_extent();
        let blocks = (g.batch * height).div_ceil(block_rows);
        let task = |member: usize, block: usize| if g.fans_out() { block } else { member * blocks + block };
        let mut tasks: Vec<Vec<Block<'a>>> = Vec::new();
        tasks.resize_with(g.input_members * blocks, Vec::new);
        for (member, y) in y.chunks_mut(g.batch * height * width * g.filters).enumerate() {
            for (block, y) in y.chunks_mut(block_rows * width * g.filters).enumerate() {
                tasks[task(member, block)].push(Block { member, y, partials: Vec::new() });
            }
        }
        for (index, partial) in partials.chunks_mut(2 * g.filters).enumerate() {
            let (chunk, member) = (index / g.members, index % g.members);
            let block = chunk * self.partials().chunks.chunk / width / block_rows;
            tasks[task(member, block)][if g.fans_out() { member } else { 0 }].partials.push(partial);
        }
        tasks
    }
}

/// Computes the convolution; the input of a block is gathered once for all members that share it.
pub(crate) fn compute(kernel: &Conv2dForward, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let (merged, count) = kernel.geometry.merged();
    if count > 1 {
        let w = kernel.geometry.merge_weights(inputs[1].f32());
        let mut inputs = inputs.to_vec();
        inputs[1] = Slice::F32(&w);
        return compute(&Conv2dForward { geometry: merged, ..*kernel }, &inputs, outputs);
    }
    let g = &kernel.geometry;
    let (y, partials) = outputs.split_at_mut(1);
    let partials = partials.first_mut().map_or(&mut [][..], |slice| slice.f32());
    let [height, width] = g.output_extent();
    let block_rows = kernel.block_rows(width, g.forward_window().depth());
    let blocks = (g.batch * height).div_ceil(block_rows);
    let tasks = kernel.tasks(block_rows, y[0].f32(), partials);
    tasks.into_par_iter().enumerate().for_each(|(task, mut members)| {
        kernel.convolve(inputs, task / blocks, task % blocks * block_rows, &mut members);
        let chunk = kernel.partials().chunks.chunk * g.filters;
        for Block { y, partials, .. } in &mut members {
            for (y, partial) in y.chunks(chunk).zip(partials) {
                chunk_statistics(y, partial);
            }
        }
    });
}
