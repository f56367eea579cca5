//! The convolution: see [`ConvGeometry`] for the formula.

use rayon::prelude::*;

use super::batch_norm_stats::{BatchNormPartials, Chunks, chunk_statistics};
use super::conv2d::{
    ConvGeometry, Normalisation, WORKGROUP, bindings, normalisation_specs, rows_per_block, runs_in_images, tile_pixels,
    tile_quads, with_scratch,
};
use super::conv2d_direct::{Convolve, Pitch, Strip, gather, serves};
use super::conv2d_tiled::{TILE, Tiled, candidates, chunk_rows};
use super::gemm::{Matrix, multiply};
use crate::kernel::Target;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;

/// Convolves: inputs `x` (`[M or 1, N, H, W, C]`) and `w` (`[M, R, S, C/G, K]`), output `y` (`[M, N, P, Q, K]`).
///
/// With [`Self::normalised`] what is convolved is `relu((x - mean) inv_std gamma + beta)`, and three more inputs say how:
/// stats `[M or 1, 2, C]` = (mean, inv_std), gamma and beta `[M or 1, C]`. Zeros are padded behind that.
///
/// With [`Self::statistics`] there is a second output, `partials [P, M, 2, K]`: the first pass of a batch-norm of `y`
/// ([`super::batch_norm_stats::BatchNormPartials`]).
#[derive(Debug, Clone, Copy)]
pub struct Conv2dForward {
    /// The extents.
    pub geometry: ConvGeometry,
    /// Whether the input is normalised as it is read.
    pub normalised: bool,
    /// Whether the output's sums are taken, too, over chunks of rows.
    pub statistics: bool,
}

/// What a task writes: a block of rows of one member, and the chunks' sums that belong to it.
struct Block<'a> {
    member: usize,
    y: &'a mut [f32],
    partials: Vec<&'a mut [f32]>,
}

impl Conv2dForward {
    /// The first pass of a batch-norm of the output, over the chunks that a tile of the output is.
    pub fn partials(&self) -> BatchNormPartials {
        let g = &self.geometry;
        let [height, width] = g.output_extent();
        let chunk = chunk_rows(height, width, g.filters) * width;
        let chunks = Chunks { rows: g.batch * height * width, chunk };
        BatchNormPartials { members: g.members, channels: g.filters, chunks }
    }

    /// Rows of the output that a task computes: whole chunks if their sums are taken.
    fn block_rows(&self, width: usize, depth: usize) -> usize {
        let rows = rows_per_block(width, depth);
        if !self.statistics {
            return rows;
        }
        let chunk = self.partials().chunks.chunk / width;
        (rows / chunk).max(1) * chunk
    }

    /// Convolves what the blocks of rows from `first_row` on read of an input, gathered once for all of them.
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

    fn tiled(&self) -> Tiled {
        let g = &self.geometry;
        let out = g.output_extent();
        let rows = chunk_rows(out[0], out[1], g.filters);
        let (depth, filters) = (g.group_channels() / 4, g.group_filters() / 4);
        let step = [0, 1].map(|axis| if g.kernel[axis] == 1 { 1 } else { g.stride[axis] });
        Tiled {
            out,
            reach: g.kernel,
            step,
            taps: g.kernel[0] * g.kernel[1],
            classes: [1, 1],
            depth,
            filters,
            rows,
            sums: usize::from(self.statistics),
        }
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
        let mut specs = vec![self.geometry.output_spec()];
        if self.statistics {
            specs.push(self.partials().spec());
        }
        specs
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        let statistics = if self.statistics { self.partials().cost().flops as usize } else { 0 };
        Cost::new(self, 2 * self.geometry.macs() + statistics)
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
        let g = &self.geometry;
        let (y, partials) = outputs.split_at_mut(1);
        let partials = partials.first_mut().map_or(&mut [][..], |slice| slice.f32());
        let [height, width] = g.output_extent();
        let block_rows = self.block_rows(width, g.forward_window().depth());
        let blocks = (g.batch * height).div_ceil(block_rows);
        let tasks = self.tasks(block_rows, y[0].f32(), partials);
        tasks.into_par_iter().enumerate().for_each(|(task, mut members)| {
            self.convolve(inputs, task / blocks, task % blocks * block_rows, &mut members);
            let chunk = self.partials().chunks.chunk * g.filters;
            for Block { y, partials, .. } in &mut members {
                for (y, partial) in y.chunks(chunk).zip(partials) {
                    chunk_statistics(y, partial);
                }
            }
        });
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        let bindings = bindings(self.normalised);
        let describe =
            |launch: Launch| g.describe_to(launch).bindings(bindings.clone()).switch("NORMALISED", self.normalised);
        let with_statistics = |launch: Launch| match self.statistics {
            true => launch.then(self.partials().pass(Binding::Written(0), Binding::Output(1))),
            false => launch,
        };
        if !g.in_quads() {
            let wgsl = include_str!("../../../../shaders/conv2d_forward_scalar.wgsl");
            let workgroups = g.output_spec().words().div_ceil(WORKGROUP);
            let launch = describe(Launch::new(wgsl, 0, 0, workgroups)).size("WORKGROUP", WORKGROUP);
            return vec![with_statistics(launch)];
        }
        let describe = |launch| describe(launch).stored(4);
        let [height, width] = g.output_extent();
        let tiled = self.tiled();
        let mut launches = candidates(target, tiled.tiles(), |tile| {
            let wgsl = include_str!("../../../../shaders/conv2d_forward_tiled.wgsl");
            let workgroups = g.members * g.groups * tile.workgroups(&tiled, g.batch * height);
            let launch = tile.describe_to(describe(Launch::new(wgsl, 0, 0, workgroups))).helpers(TILE);
            if !self.statistics {
                return launch;
            }
            let partials = [Binding::Output(1)];
            launch.entry("statistics").bindings(bindings.iter().copied().chain(partials).collect::<Vec<_>>())
        });
        let quads = g.group_filters() / 4;
        let (pixels, tile) = (tile_pixels(width), tile_quads(quads));
        let runs = (g.batch * height * width.div_ceil(pixels)).div_ceil(WORKGROUP);
        let workgroups = g.members * g.groups * quads.div_ceil(tile) * runs;
        let wgsl = include_str!("../../../../shaders/conv2d_forward.wgsl");
        let launch = describe(Launch::new(wgsl, 0, 0, workgroups)).size("WORKGROUP", WORKGROUP);
        launches.push(with_statistics(launch.size("TP", pixels).size("TK", tile)));
        launches
    }
}
