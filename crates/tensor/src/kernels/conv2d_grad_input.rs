//! The gradient of a convolution with respect to its input.
//!
//! `dx[m,n,i,j,c] = addend + sum over r,s,k of dy[m,n,p,q,k] w[m,r,s,c,k]` over all `p stride_h + r - pad_h = i` and
//! `q stride_w + s - pad_w = j`. Which taps r meet a row i depends only on `i mod stride_h`, and likewise for
//! columns: each of these classes is a convolution of stride 1 over `dy` with a part of the kernel.

use rayon::prelude::*;

use super::batch_norm_backward::{Activation, BatchNormGradPartials, Bindings, Upstream};
use super::batch_norm_stats::Chunks;
use super::conv2d::{
    ConvGeometry, WORKGROUP, normalisation_specs, rows_per_block, runs_in_images, tile_pixels, tile_quads, with_scratch,
};
use super::conv2d_direct::{Convolve, Pitch, Strip, serves};
use super::conv2d_tiled::{TILE, Tiled, candidates, chunk_rows};
use super::gemm::{Matrix, multiply};
use super::masked_sums::{Norm, Rows};
use crate::kernel::Target;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;

/// Inputs `dy` (`[M, N, P, Q, K]`), `w` (`[M, R, S, C/G, K]`) and, with [`Self::addend`], a gradient of the shape of
/// the output; output `dx` (`[M or 1, N, H, W, C]`), summed over the members if the forward fanned out.
///
/// With [`Self::norm`], `dx` is the whole gradient of a batch-norm's output, and its first pass
/// ([`super::batch_norm_backward::BatchNormGradPartials`]) is done here: more inputs are the batch-norm's input
/// `[M or 1, N, H, W, C]` and its stats `[M or 1, 2, C]`, then with [`Activation::Relu`] gamma and beta `[M or 1, C]`, or with
/// [`Activation::ReluOfSum`] its output; outputs are `g`, that is `dx` or 0 where the ReLU is closed, and
/// `partials [P, M or 1, 2, C]`.
#[derive(Debug, Clone, Copy)]
pub struct Conv2dGradInput {
    /// The extents of the forward.
    pub geometry: ConvGeometry,
    /// Whether a third input is added: the gradient that reaches the same input on another way.
    pub addend: bool,
    /// What followed the batch-norm whose gradient begins here.
    pub norm: Option<Activation>,
}

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
    /// The first pass of the gradient of a batch-norm, over the chunks that a tile of the gradient is.
    pub fn partials(&self, activation: Activation) -> BatchNormGradPartials {
        let g = &self.geometry;
        let chunk = chunk_rows(g.height, g.width, g.channels) * g.width;
        let chunks = Chunks { rows: g.batch * g.height * g.width, chunk };
        BatchNormGradPartials {
            members: g.input_members,
            channels: g.channels,
            chunks,
            activation,
            upstream: Upstream::Whole,
        }
    }

    /// Index of the first input that belongs to the batch-norm.
    fn norm_input(&self) -> usize {
        2 + usize::from(self.addend)
    }

    /// Rows of the gradient that a task computes: whole chunks if their sums are taken.
    fn block_rows(&self) -> usize {
        let g = &self.geometry;
        let rows = rows_per_block(g.width, g.kernel[0] * g.kernel[1] * g.group_filters());
        if self.norm.is_none() {
            return rows.next_multiple_of(g.stride[0]);
        }
        let chunk = chunk_rows(g.height, g.width, g.channels);
        (rows / chunk).max(1) * chunk
    }

    /// Masks a block of `dx`, and takes its chunks' sums.
    fn begin_norm(&self, activation: Activation, inputs: &[Slice<'_>], task: &mut Task<'_>) {
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
            norm.begin(activation, rows, g, partial);
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
        let chunk_rows = chunk_rows(g.height, g.width, g.channels);
        for (index, partial) in partials.chunks_mut(2 * g.channels).enumerate() {
            let (chunk, input) = (index / g.input_members, index % g.input_members);
            tasks[input * blocks + chunk * chunk_rows / block_rows].partials.push(partial);
        }
        tasks
    }

    /// Along an axis, how far above (or left of) a position's own index the patch of `dy` begins that the position reads, in
    /// any class, and how many positions more than one it has.
    fn patch(&self, axis: usize) -> (isize, usize) {
        let g = &self.geometry;
        let reads = |tap: usize| (tap as isize - g.padding[axis] as isize).div_euclid(g.stride[axis] as isize);
        let (first, last) = (reads(0), reads(g.kernel[axis] - 1));
        (last, (last - first) as usize)
    }

    /// The work as tiles see it, whose rows are those of one class; none where tiles would cut through classes. Sums over the
    /// tile are those of the batch-norm's first pass, where the shader has bindings for all that they take, and where tiles
    /// are its chunks.
    fn tiled(&self) -> Option<Tiled> {
        let g = &self.geometry;
        let rows = chunk_rows(g.height, g.width, g.channels);
        let whole = rows >= g.height || rows.is_multiple_of(g.stride[0]);
        let out = [g.height.div_ceil(g.stride[0]), g.width.div_ceil(g.stride[1])];
        let rows = if rows >= g.height { rows / g.height * out[0] } else { rows / g.stride[0] };
        let cut = rows == 0 || !out[0].is_multiple_of(rows) && !rows.is_multiple_of(out[0]);
        let bound = match self.norm {
            Some(Activation::Relu) => !self.addend,
            Some(Activation::ReluOfSum) => true,
            Some(Activation::Linear) | None => false,
        };
        (!cut).then(|| Tiled {
            out,
            reach: [0, 1].map(|axis| self.patch(axis).1 + 1),
            step: [1, 1],
            taps: g.kernel[0] * g.kernel[1],
            classes: [g.stride[0], g.stride[1].min(g.kernel[1])],
            depth: g.group_filters() / 4,
            filters: g.group_channels() / 4,
            rows,
            sums: if bound && whole { 2 } else { 0 },
        })
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
    /// on, what the positions of one class receive, or adds it to what is there.
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
        let ClassWeights { class, weights } = class;
        let [row_stride, column_stride] = g.stride;
        let window = g.backward_window(*class);
        let (depth, channels) = (window.depth(), g.group_channels());
        let dx_row = g.width * g.channels;
        let width = g.width.saturating_sub(class[1]).div_ceil(column_stride);
        let rows: Vec<usize> =
            (0..dx.len() / dx_row).filter(|i| (first_row + i) % g.height % row_stride == class[0]).collect();
        let pixels = rows.len() * width;
        if depth == 0 || pixels == 0 {
            return;
        }
        let dy_image = window.vertical.source * window.horizontal.source * g.filters;
        let members = if g.fans_out() { 0..g.members } else { input..input + 1 };
        if serves(g, channels) {
            let pitch = Pitch { row: row_stride * dx_row, position: column_stride * g.channels };
            let columns = class[1] * g.channels;
            for run in runs_in_images(first_row, dx.len() / dx_row, g.height) {
                // Rows of the class: the first of the run, and how many.
                let skipped = (class[0] + row_stride - run.first % row_stride) % row_stride;
                let rows = run.rows.saturating_sub(skipped).div_ceil(row_stride);
                if rows == 0 {
                    continue;
                }
                let strip = Strip::new(window, rows, width);
                with_scratch(strip.words(), |x| {
                    for group in 0..g.groups {
                        let y = &mut dx[(run.offset + skipped) * dx_row + columns + group * channels..];
                        for member in members.clone() {
                            let dy = &dy[(member * g.batch + run.image) * dy_image..][..dy_image];
                            strip.fill(dy, group, (run.first + skipped) / row_stride, None, x);
                            let w = &weights[(member * g.groups + group) * depth * channels..][..depth * channels];
                            let (stride, filters) = (channels, channels);
                            let accumulate = accumulate || member > members.start;
                            Convolve { strip, x, w, stride, filters, y: &mut *y, pitch, accumulate }.run();
                        }
                    }
                });
            }
            return;
        }
        with_scratch(pixels * (depth + channels), |scratch| {
            let (columns, sums) = scratch.split_at_mut(pixels * depth);
            for group in 0..g.groups {
                for member in members.clone() {
                    let dy = &dy[member * g.batch * dy_image..][..g.batch * dy_image];
                    for (columns, i) in columns.chunks_exact_mut(width * depth).zip(&rows) {
                        let (image, row) = ((first_row + i) / g.height, (first_row + i) % g.height);
                        let dy = &dy[image * dy_image..][..dy_image];
                        window.gather(dy, group, row / row_stride, columns);
                    }
                    let w = &weights[(member * g.groups + group) * depth * channels..][..depth * channels];
                    let columns = Matrix::new(columns, pixels, depth, false);
                    let w = Matrix::new(w, depth, channels, false);
                    if g.stride == [1, 1] {
                        multiply(columns, w, &mut dx[group * channels..], g.channels, true);
                    } else {
                        multiply(columns, w, sums, channels, member > members.start);
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

impl Kernel for Conv2dGradInput {
    fn name(&self) -> &'static str {
        "conv2d_grad_input"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs = vec![self.geometry.output_spec(), self.geometry.weight_spec()];
        if self.addend {
            specs.push(self.geometry.input_spec());
        }
        if let Some(activation) = self.norm {
            let [stats, gamma, beta] = normalisation_specs(&self.geometry);
            specs.extend([self.geometry.input_spec(), stats]);
            match activation {
                Activation::Linear => {}
                Activation::Relu => specs.extend([gamma, beta]),
                Activation::ReluOfSum => specs.push(self.geometry.input_spec()),
            }
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        let mut specs = vec![self.geometry.input_spec()];
        specs.extend(self.norm.map(|activation| self.partials(activation).spec()));
        specs
    }

    fn activations(&self) -> Activations {
        let mut inputs = vec![0];
        if self.addend {
            inputs.push(2);
        }
        if let Some(activation) = self.norm {
            inputs.push(self.norm_input());
            inputs.extend((activation == Activation::ReluOfSum).then_some(self.norm_input() + 2));
        }
        Activations::new(inputs, [0])
    }

    fn cost(&self) -> Cost {
        let norm = self.norm.map_or(0, |activation| self.partials(activation).cost().flops as usize);
        Cost::new(self, 2 * self.geometry.macs() + norm)
    }

    /// Blocks of input rows in parallel; in each, one matrix product per class and member.
    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (merged, count) = self.geometry.merged();
        if count > 1 {
            let w = self.geometry.merge_weights(inputs[1].f32());
            let mut inputs = inputs.to_vec();
            inputs[1] = Slice::F32(&w);
            return Self { geometry: merged, ..*self }.reference(&inputs, outputs);
        }
        let dy = inputs[0].f32();
        let addend = self.addend.then(|| inputs[2].f32());
        let classes = self.class_weights(inputs[1].f32());
        let g = &self.geometry;
        let (dx, partials) = outputs.split_at_mut(1);
        let partials = partials.first_mut().map_or(&mut [][..], |slice| slice.f32());
        self.tasks(dx[0].f32(), partials).into_par_iter().for_each(|mut task| {
            // Where one class has all positions and sums in registers, what is there before may be anything.
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
                self.add_class(class, dy, task.input, task.first_row, accumulate, task.dx);
            }
            if let Some(activation) = self.norm {
                self.begin_norm(activation, inputs, &mut task);
            }
        });
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        // Without an addend its binding sees `dy`, and the shader leaves it alone.
        let addend = Binding::Input(if self.addend { 2 } else { 0 });
        let bindings = [Binding::Input(0), Binding::Input(1), Binding::Output(0), addend];
        let describe = |launch| g.describe_to(launch).bindings(bindings).switch("ADDEND", self.addend);
        if !g.in_quads() {
            let wgsl = include_str!("../../../../shaders/conv2d_grad_input_scalar.wgsl");
            let workgroups = g.input_spec().words().div_ceil(WORKGROUP);
            let launch = describe(Launch::new(wgsl, 2, 1, workgroups)).size("WORKGROUP", WORKGROUP);
            return vec![self.with_norm(launch)];
        }
        let describe = |launch| describe(launch).stored(4);
        let (height, width) = (g.height.div_ceil(g.stride[0]), g.width.div_ceil(g.stride[1]));
        let mut launches = Vec::new();
        if let Some(tiled) = self.tiled() {
            let [(top, span_h), (left, span_w)] = [0, 1].map(|axis| self.patch(axis));
            launches = candidates(target, tiled.tiles(), |tile| {
                let wgsl = include_str!("../../../../shaders/conv2d_grad_input_tiled.wgsl");
                let workgroups = g.input_members * g.groups * tile.workgroups(&tiled, g.batch * height);
                let launch = tile.describe_to(describe(Launch::new(wgsl, 2, 1, workgroups))).helpers(TILE);
                let launch = launch.size("SPAN_H", span_h).size("SPAN_W", span_w);
                let launch = launch.wrapping("TOP", top).wrapping("LEFT", left);
                if tiled.sums == 0 { self.with_norm(launch) } else { self.fused(launch) }
            });
        }
        let quads = g.group_channels() / 4;
        let (pixels, tile) = (tile_pixels(width), tile_quads(quads));
        let runs = (g.batch * height * width.div_ceil(pixels)).div_ceil(WORKGROUP);
        let classes = g.stride[0] * g.stride[1];
        let workgroups = g.input_members * g.groups * quads.div_ceil(tile) * classes * runs;
        let wgsl = include_str!("../../../../shaders/conv2d_grad_input.wgsl");
        let launch = describe(Launch::new(wgsl, 2, 1, workgroups)).size("WORKGROUP", WORKGROUP);
        launches.push(self.with_norm(launch.size("TP", pixels).size("TC", tile)));
        launches
    }
}

impl Conv2dGradInput {
    /// What masks the gradient of this activation: gamma and beta, or the output twice.
    fn gate(&self, activation: Activation) -> [Binding; 2] {
        let first = self.norm_input() + 2;
        if activation == Activation::Relu { [first, first + 1] } else { [first; 2] }.map(Binding::Input)
    }

    /// A launch that computes `dx`, and after it the first pass of the batch-norm, if there is one.
    fn with_norm(&self, launch: Launch) -> Launch {
        let Some(activation) = self.norm else { return launch };
        launch.then(self.partials(activation).pass(Bindings {
            x: Binding::Input(self.norm_input()),
            stats: Binding::Input(self.norm_input() + 1),
            gate: self.gate(activation),
            // Without a ReLU nothing is written again.
            dy: (activation == Activation::Linear).then_some(Binding::Written(0)),
            pooled: None,
            g: Binding::Output(0),
            partials: Binding::Output(1),
        }))
    }

    /// The entry point of the tiled shader that does both.
    fn fused(&self, launch: Launch) -> Launch {
        let activation = self.norm.unwrap_or(Activation::Linear);
        let (x, stats) = (Binding::Input(self.norm_input()), Binding::Input(self.norm_input() + 1));
        let [first, second] = self.gate(activation);
        let [dy, w, g] = [Binding::Input(0), Binding::Input(1), Binding::Output(0)];
        let partials = Binding::Output(1);
        if activation == Activation::Relu {
            return launch.entry("relu").bindings([dy, w, g, x, stats, partials, first, second]);
        }
        let addend = Binding::Input(if self.addend { 2 } else { 0 });
        launch.entry("relu_of_sum").bindings([dy, w, g, addend, stats, partials, x, first])
    }
}
