//! The convolution: see [`ConvGeometry`] for the formula.

use rayon::prelude::*;

use super::conv2d::{
    ConvGeometry, Normalisation, WORKGROUP, bindings, normalisation_specs, normalised, rows_per_block, runs_in_images,
    tile_pixels, tile_quads, with_scratch,
};
use super::conv2d_direct::{Convolve, Pitch, Strip, serves};
use super::conv2d_tiled::{TILE, Tiled, candidates, chunk_rows};
use super::gemm::{Matrix, multiply};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;
use crate::target::Target;

/// Convolves: inputs `x` (`[M or 1, N, H, W, C]`) and `w` (`[M, R, S, C/G, K]`), output `y` (`[M, N, P, Q, K]`).
///
/// With [`Self::normalised`] what is convolved is `relu((x - mean) inv_std gamma + beta)`, and three more inputs say how:
/// stats `[M or 1, 2, C]` = (mean, inv_std), gamma and beta `[M or 1, C]`. Zeros are padded behind that.
#[derive(Debug, Clone, Copy)]
pub struct Conv2dForward {
    /// The extents.
    pub geometry: ConvGeometry,
    /// Whether the input is normalised as it is read.
    pub normalised: bool,
}

impl Conv2dForward {
    fn tiled(&self) -> Tiled {
        let g = &self.geometry;
        let out = g.output_extent();
        let rows = chunk_rows(out[0], out[1], g.filters);
        let (depth, filters) = (g.group_channels() / 4, g.group_filters() / 4);
        let step = [0, 1].map(|axis| if g.kernel[axis] == 1 { 1 } else { g.stride[axis] });
        Tiled { out, reach: g.kernel, step, taps: g.kernel[0] * g.kernel[1], classes: [1, 1], depth, filters, rows }
    }
}

impl Kernel for Conv2dForward {
    fn name(&self) -> &'static str {
        "conv2d_forward"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs = vec![self.geometry.input_spec(), self.geometry.weight_spec()];
        if self.normalised {
            specs.extend(normalisation_specs(&self.geometry));
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![self.geometry.output_spec()]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 2 * self.geometry.macs())
    }

    /// Blocks of output rows in parallel: what a block reads is gathered once for all members that share the input.
    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (merged, count) = self.geometry.merged();
        if count > 1 {
            let w = self.geometry.merge_weights(inputs[1].f32());
            let mut inputs = inputs.to_vec();
            inputs[1] = Slice::F32(&w);
            return Self { geometry: merged, ..*self }.reference(&inputs, outputs);
        }
        if self.normalised && !serves(merged.group_filters()) {
            let x = normalised(&self.geometry, inputs[0].f32(), &inputs[2..]);
            return Self { normalised: false, ..*self }.reference(&[Slice::F32(&x), inputs[1]], outputs);
        }
        let g = &self.geometry;
        let (x, w, y) = (inputs[0].f32(), inputs[1].f32(), outputs[0].f32());
        let [height, width] = g.output_extent();
        let window = g.forward_window();
        let (depth, filters) = (window.depth(), g.group_filters());
        let image = g.height * g.width * g.channels;
        let block_rows = rows_per_block(width, depth);
        let blocks = (g.batch * height).div_ceil(block_rows);

        let mut tasks: Vec<Vec<(usize, &mut [f32])>> = Vec::new();
        tasks.resize_with(g.input_members * blocks, Vec::new);
        for (member, y) in y.chunks_mut(g.batch * height * width * g.filters).enumerate() {
            let input = if g.fans_out() { 0 } else { member };
            for (block, y) in y.chunks_mut(block_rows * width * g.filters).enumerate() {
                tasks[input * blocks + block].push((member, y));
            }
        }
        tasks.into_par_iter().enumerate().for_each(|(task, mut members)| {
            let (input, block) = (task / blocks, task % blocks);
            let pixels = members[0].1.len() / g.filters;
            let x = &x[input * g.batch * image..][..g.batch * image];
            if serves(filters) && (self.normalised || !g.is_pointwise()) {
                let pitch = Pitch { row: width * g.filters, position: g.filters };
                let rows = pixels / width;
                let normalisations = Normalisation::of_groups(g, &inputs[2..], input);
                for run in runs_in_images(block * block_rows, rows, height) {
                    let strip = Strip::new(window, run.rows, width);
                    with_scratch(strip.words(), |x_strip| {
                        for group in 0..g.groups {
                            let (image, normalisation) =
                                (&x[run.image * image..][..image], normalisations[group].as_ref());
                            strip.fill(image, group, run.first, normalisation, x_strip);
                            for (member, y) in &mut members {
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
                for (member, y) in &mut members {
                    let w = &w[*member * depth * g.filters + group * filters..];
                    let w = Matrix::strided(w, depth, filters, g.filters, 1);
                    multiply(columns, w, &mut y[group * filters..], g.filters, false);
                }
            };
            if g.is_pointwise() {
                let first = block * block_rows * width * g.channels;
                for group in 0..g.groups {
                    let x = &x[first + group * depth..];
                    multiply_members(Matrix::strided(x, pixels, depth, g.channels, 1), group);
                }
                return;
            }
            with_scratch(pixels * depth, |columns| {
                for group in 0..g.groups {
                    for (i, columns) in columns.chunks_exact_mut(width * depth).enumerate() {
                        let row = block * block_rows + i;
                        window.gather(&x[row / height * image..][..image], group, row % height, columns);
                    }
                    multiply_members(Matrix::new(columns, pixels, depth, false), group);
                }
            });
        });
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        let describe =
            |launch| g.describe_to(launch).bindings(bindings(self.normalised)).switch("NORMALISED", self.normalised);
        if !g.in_quads() {
            let wgsl = include_str!("../../../../shaders/conv2d_forward_scalar.wgsl");
            let workgroups = g.output_spec().words().div_ceil(WORKGROUP);
            return vec![describe(Launch::new(wgsl, 0, 0, workgroups)).size("WORKGROUP", WORKGROUP)];
        }
        let describe = |launch| describe(launch).stored(4);
        let [height, width] = g.output_extent();
        let tiled = self.tiled();
        let mut launches = candidates(target, tiled.tiles(), |tile| {
            let wgsl = include_str!("../../../../shaders/conv2d_forward_tiled.wgsl");
            let workgroups = g.members * g.groups * tile.workgroups(&tiled, g.batch * height);
            tile.describe_to(describe(Launch::new(wgsl, 0, 0, workgroups))).helpers(TILE)
        });
        let quads = g.group_filters() / 4;
        let (pixels, tile) = (tile_pixels(width), tile_quads(quads));
        let runs = (g.batch * height * width.div_ceil(pixels)).div_ceil(WORKGROUP);
        let workgroups = g.members * g.groups * quads.div_ceil(tile) * runs;
        let wgsl = include_str!("../../../../shaders/conv2d_forward.wgsl");
        let launch = describe(Launch::new(wgsl, 0, 0, workgroups)).size("WORKGROUP", WORKGROUP);
        launches.push(launch.size("TP", pixels).size("TK", tile));
        launches
    }
}
