//! The gradient of a convolution with respect to its weights, in parts that `sum_partials` adds up.
//!
//! `dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p stride_h + r - pad_h, q stride_w + s - pad_w, c] dy[m,n,p,q,k]`: a
//! small result of a very long reduction. It is split over the rows (n, p) of the output, in order: part i sums
//! [`Conv2dGradWeight::rows_per_part`] consecutive rows of the N P there are, the last part perhaps fewer.

use std::ops::Range;

use rayon::prelude::*;

use super::conv2d::{
    ConvGeometry, Normalisation, WORKGROUP, bindings, normalisation_specs, rows_per_block, runs_in_images, tile_quads,
    with_scratch,
};
use super::conv2d_direct::{AddWeightGradient, Pitch, Strip, gather, serves};
use super::conv2d_tiled::{WeightTile, candidates};
use super::conv2d_wide::{grad_weight, is_wide};
use super::gemm::{Matrix, multiply};
use crate::kernel::Target;
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;

/// Inputs `x` (`[M or 1, N, H, W, C]`) and `dy` (`[M, N, P, Q, K]`), output `[parts, M, R, S, C/G, K]`; with
/// [`Self::normalised`] the same three inputs more as the forward has ([`super::conv2d_forward::Conv2dForward`]).
#[derive(Debug, Clone, Copy)]
pub struct Conv2dGradWeight {
    /// The extents of the forward.
    pub geometry: ConvGeometry,
    /// Whether the forward's input is normalised as it is read.
    pub normalised: bool,
}

const MAX_WORKGROUP: usize = 256;

impl Conv2dGradWeight {
    /// Number of parts of the reduction, from the geometry alone: about 512 workgroups in all, no part below 256
    /// pixels, and no more memory than two fifths of what the activations take, since it is written and read again.
    pub fn partials(&self) -> usize {
        (self.geometry.batch * self.geometry.output_extent()[0]).div_ceil(self.rows_per_part())
    }

    /// Rows (n, p) of the output that a part sums: in eights, as they are staged, unless it has fewer.
    pub fn rows_per_part(&self) -> usize {
        const WORKGROUPS: usize = 512;
        const PIXELS: usize = 256;
        let g = &self.geometry;
        let [height, width] = g.output_extent();
        let rows = g.batch * height;
        let activations = g.input_spec().elements() + g.output_spec().elements();
        let parts = (WORKGROUPS / (g.members * self.workgroups_per_part()))
            .min(rows * width / PIXELS)
            .min(2 * activations / (5 * g.weight_spec().words()))
            .clamp(1, rows);
        match rows.div_ceil(parts) {
            few if few < 8 => few,
            many => many.next_multiple_of(8),
        }
    }

    /// Quadruples of rows (r, s, c) of a group's gradient.
    fn lanes(&self) -> usize {
        self.geometry.kernel[0] * self.geometry.kernel[1] * self.geometry.group_channels().div_ceil(4)
    }

    fn workgroups_per_part(&self) -> usize {
        let quads = self.geometry.group_filters().div_ceil(4);
        self.geometry.groups * quads.div_ceil(tile_quads(quads)) * self.lanes().div_ceil(MAX_WORKGROUP)
    }

    /// Threads of a workgroup: a multiple of 8 that leaves as few of them idle as that allows.
    fn workgroup(&self) -> usize {
        self.lanes().div_ceil(self.lanes().div_ceil(MAX_WORKGROUP)).next_multiple_of(8)
    }

    /// The partial sums of `g`, which is the own geometry or the merged one: parts in parallel, what they read gathered once
    /// for all members that share the input.
    fn compute(&self, g: &ConvGeometry, inputs: &[Slice<'_>], partials: &mut [f32]) {
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

    /// As products of matrices, of `x` as it is or of columns that are gathered.
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

impl Kernel for Conv2dGradWeight {
    fn name(&self) -> &'static str {
        "conv2d_grad_weight"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs = vec![self.geometry.input_spec(), self.geometry.output_spec()];
        if self.normalised {
            specs.extend(normalisation_specs(&self.geometry));
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        let mut shape = vec![self.partials()];
        shape.extend(self.geometry.weight_spec().shape);
        vec![Spec::f32(shape)]
    }

    fn activations(&self) -> Activations {
        Activations::new([0, 1], [])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 2 * self.geometry.macs())
    }

    /// Small groups merged, all products of a merged group computed, and the wanted ones kept.
    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (merged, count) = self.geometry.merged();
        let partials = outputs[0].f32();
        if count == 1 {
            return self.compute(&self.geometry, inputs, partials);
        }
        let words = merged.weight_spec().words();
        let mut wide = vec![0.0; self.partials() * words];
        self.compute(&merged, inputs, &mut wide);
        let parts = partials.chunks_mut(self.geometry.weight_spec().words()).zip(wide.chunks(words));
        parts.for_each(|(own, wide)| self.geometry.split_weights(wide, own));
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        let parts = self.partials();
        let describe = |launch| {
            g.describe_to(launch)
                .bindings(bindings(self.normalised))
                .switch("NORMALISED", self.normalised)
                .size("PARTS", parts)
                .size("ROWS", self.rows_per_part())
        };
        if !g.in_quads() {
            let wgsl = include_str!("../../../../shaders/conv2d_grad_weight_scalar.wgsl");
            let workgroups = (parts * g.weight_spec().words()).div_ceil(WORKGROUP);
            return vec![describe(Launch::new(wgsl, 0, 0, workgroups)).size("WORKGROUP", WORKGROUP)];
        }
        let describe = |launch| describe(launch).stored(4);
        let mut launches = candidates(target, WeightTile::all(g, parts), |tile| {
            let wgsl = include_str!("../../../../shaders/conv2d_grad_weight_tiled.wgsl");
            let workgroups = parts * g.members * g.groups * tile.workgroups(g);
            tile.describe_to(describe(Launch::new(wgsl, 0, 0, workgroups)))
        });
        let wgsl = include_str!("../../../../shaders/conv2d_grad_weight.wgsl");
        let launch = describe(Launch::new(wgsl, 0, 0, parts * g.members * self.workgroups_per_part()));
        launches.push(launch.size("TK", tile_quads(g.group_filters() / 4)).size("WORKGROUP", self.workgroup()));
        launches
    }
}
