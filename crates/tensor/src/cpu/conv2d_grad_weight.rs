//! The gradient of a convolution's weights on the CPU: parts of the rows in parallel.

use std::ops::Range;

use rayon::prelude::*;

use super::normalise::Normalisation;
use super::product::{Matrix, multiply};
use super::strips::{AddWeightGradient, Pitch, Strip, gather, serves};
use super::wide_layers::{grad_weight, is_wide};
use super::windows::{rows_per_block, runs_in_images, with_scratch};
use crate::kernel::{Slice, SliceMut};
use crate::kernels::conv2d::{Conv2dGradWeight, ConvGeometry};

impl Conv2dGradWeight {
    /// The partial sums of `g`, which is the own geometry or the merged one: parts in parallel, and their input is
    /// gathered once for all members that share it.
    fn sum_parts(&self, g: &ConvGeometry, inputs: &[Slice<'_>], partials: &mut [f32]) {
        if is_wide(g) {
            return grad_weight(g, self.rows_per_part(), inputs, partials);
        }
        let (x, dy) = (inputs[0].f32(), inputs[1].f32());
        let image = g.height * g.width * g.channels;
        let rows = g.batch * g.output_extent()[0];
        let rows_per_part = self.rows_per_part();
        let in_place = g.is_pointwise() && !self.normalised;
        let sharing = if g.fans_out() { g.members } else { 1 };
        let words = sharing * g.forward_window().depth() * g.filters;
        partials.par_chunks_mut(words).enumerate().for_each(|(task, partials)| {
            let (part, input) = (task / g.input_members, task % g.input_members);
            let part = Part {
                g,
                x: &x[input * g.batch * image..][..g.batch * image],
                dy: &dy[input * rows * g.output_extent()[1] * g.filters..],
                rows: part * rows_per_part..((part + 1) * rows_per_part).min(rows),
                normalisations: Normalisation::of_groups(g, &inputs[2..], input),
            };
            match serves(g, g.group_filters()) && !in_place {
                true => part.sum_in_registers(partials),
                false => part.sum_products(in_place, partials),
            }
        });
    }
}

/// Rows (n, p) of the output whose products are summed for all members that share the input.
struct Part<'a> {
    g: &'a ConvGeometry,
    /// Of the input's member, and from the first of the sharing members on.
    x: &'a [f32],
    dy: &'a [f32],
    rows: Range<usize>,
    normalisations: Vec<Option<Normalisation>>,
}

impl<'a> Part<'a> {
    /// `dy` of sharing member `member` from row `row` on, and from a group's first filter on.
    fn dy(&self, member: usize, row: usize, group: usize) -> &'a [f32] {
        let [height, width] = self.g.output_extent();
        let row = member * self.g.batch * height + row;
        &self.dy[row * width * self.g.filters + group * self.g.group_filters()..]
    }

    fn sum_in_registers(&self, partials: &mut [f32]) {
        let (g, window, filters) = (self.g, self.g.forward_window(), self.g.group_filters());
        let [height, width] = g.output_extent();
        let image = g.height * g.width * g.channels;
        let pitch = Pitch { row: width * g.filters, position: g.filters };
        partials.fill(0.0);
        for run in runs_in_images(self.rows.start, self.rows.len(), height) {
            let strip = Strip::new(window, run.rows, width);
            with_scratch(strip.words(), |x| {
                for (group, normalisation) in self.normalisations.iter().enumerate() {
                    let image = &self.x[run.image * image..][..image];
                    strip.fill(image, group, run.first, normalisation.as_ref(), x);
                    for (member, dw) in partials.chunks_exact_mut(window.depth() * g.filters).enumerate() {
                        let dy = self.dy(member, self.rows.start + run.offset, group);
                        let dw = &mut dw[group * filters..];
                        AddWeightGradient { strip, x, dy, pitch, filters, dw, stride: g.filters }.run();
                    }
                }
            });
        }
    }

    /// The sums as products of matrices: of `x` itself, or of gathered columns.
    fn sum_products(&self, in_place: bool, partials: &mut [f32]) {
        let (g, window, filters) = (self.g, self.g.forward_window(), self.g.group_filters());
        let ([height, width], depth) = (g.output_extent(), window.depth());
        let block_rows = rows_per_block(width, depth).min(self.rows.len());
        let mut add_block = |columns: Matrix<'_>, group: usize, first_row: usize, pixels: usize| {
            for (member, partial) in partials.chunks_exact_mut(depth * g.filters).enumerate() {
                let dy = Matrix::strided(self.dy(member, first_row, group), pixels, filters, g.filters, 1);
                let accumulate = first_row > self.rows.start;
                multiply(columns, dy, &mut partial[group * filters..], g.filters, accumulate);
            }
        };
        let near = Strip::new(window, block_rows.min(height), width).words();
        with_scratch(near + block_rows * width * depth, |scratch| {
            let (near, scratch) = scratch.split_at_mut(near);
            for first_row in self.rows.clone().step_by(block_rows) {
                let pixels = block_rows.min(self.rows.end - first_row) * width;
                for (group, normalisation) in self.normalisations.iter().enumerate() {
                    if in_place {
                        let x = &self.x[first_row * width * g.channels + group * depth..];
                        add_block(Matrix::strided(x, depth, pixels, 1, g.channels), group, first_row, pixels);
                        continue;
                    }
                    let (from, columns) = ((self.x, group, first_row), &mut scratch[..pixels * depth]);
                    gather(window, [height, width], from, normalisation.as_ref(), near, columns);
                    add_block(Matrix::new(columns, depth, pixels, true), group, first_row, pixels);
                }
            }
        });
    }
}

/// Computes the gradient: small groups merged, all products of a merged group computed, and the wanted ones kept.
pub(crate) fn compute(kernel: &Conv2dGradWeight, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let (merged, count) = kernel.geometry.merged();
    let partials = outputs[0].f32();
    if count == 1 {
        return kernel.sum_parts(&kernel.geometry, inputs, partials);
    }
    let words = merged.weight_spec().words();
    let mut wide = vec![0.0; kernel.partials() * words];
    kernel.sum_parts(&merged, inputs, &mut wide);
    let parts = partials.chunks_mut(kernel.geometry.weight_spec().words()).zip(wide.chunks(words));
    parts.for_each(|(own, wide)| kernel.geometry.split_weights(wide, own));
}
