//! The gradient of a convolution with respect to its input.
//!
//! `dx[m,n,i,j,c] = addend + sum over r,s,k of dy[m,n,p,q,k] w[m,r,s,c,k]` over all `p stride_h + r - pad_h = i` and
//! `q stride_w + s - pad_w = j`. The taps r that meet a row i depend only on `i mod stride_h`, and likewise for
//! columns: each of these classes is a convolution of stride 1 over `dy` with a part of the kernel.

use super::tile::{TILE, Tiled, candidates, tile_chunk};
use super::{ConvGeometry, WORKGROUP, normalisation_specs, tile_pixels, tile_quads};
use crate::cpu;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::kernels::batch_norm::{Activation, BatchNormGradPartials, Chunks, PassBindings, Upstream};
use crate::shader;
use crate::shape::Spec;

/// Inputs `dy` (`[M, N, P, Q, K]`), `w` (`[M, R, S, C/G, K]`) and, with [`Self::addend`], a gradient of the shape of
/// the output; output `dx` (`[M or 1, N, H, W, C]`), summed over the members if the forward fanned out.
///
/// With [`Self::norm`], `dx` is the whole gradient of a batch-norm's output, and its first pass
/// ([`crate::kernels::batch_norm::BatchNormGradPartials`]) is done here: more inputs are the batch-norm's input `[M or
/// 1, N, H, W, C]` and its stats `[M or 1, 2, C]`, then with [`Activation::Relu`] gamma and beta `[M or 1, C]`, or with
/// [`Activation::ReluOfSum`] its output; outputs are `g`, that is `dx` or 0 where the ReLU is closed, and `partials [P,
/// M or 1, 2, C]`.
#[derive(Debug, Clone, Copy)]
pub struct Conv2dGradInput {
    /// The extents of the forward.
    pub geometry: ConvGeometry,
    /// True if a third input is added: the gradient that reaches the same input along another path.
    pub addend: bool,
    /// The operation behind the batch-norm whose gradient begins here.
    pub norm: Option<Activation>,
}

impl Conv2dGradInput {
    /// The first pass of the gradient of a batch-norm, over the chunks that a tile of the gradient is.
    pub fn partials(&self, activation: Activation) -> BatchNormGradPartials {
        let g = &self.geometry;
        let chunk = tile_chunk(g.height, g.width, g.channels) * g.width;
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
    pub(crate) fn norm_input(&self) -> usize {
        2 + usize::from(self.addend)
    }

    /// Along an axis, how far above (or left of) a position's own index the patch of `dy` begins that the position
    /// reads, in any class, and how many positions more than one it has.
    fn patch(&self, axis: usize) -> (isize, usize) {
        let g = &self.geometry;
        let reads = |tap: usize| (tap as isize - g.padding[axis] as isize).div_euclid(g.stride[axis] as isize);
        let (first, last) = (reads(0), reads(g.kernel[axis] - 1));
        (last, (last - first) as usize)
    }

    /// The work as tiles see it, whose rows are those of one class; none where tiles would cut through classes. Sums
    /// over the tile are those of the batch-norm's first pass, where the shader has bindings for all their operands,
    /// and where tiles are its chunks.
    fn tiled(&self) -> Option<Tiled> {
        let g = &self.geometry;
        let rows = tile_chunk(g.height, g.width, g.channels);
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

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (dy, w) = (inputs[0].f32(), inputs[1].f32());
        let mut sums = vec![0.0; self.geometry.input_spec().words()];
        if self.addend {
            sums.iter_mut().zip(inputs[2].f32()).for_each(|(sum, &addend)| *sum = f64::from(addend));
        }
        self.geometry.terms(|x_at, w_at, y_at| sums[x_at] += f64::from(dy[y_at]) * f64::from(w[w_at]));
        let dx: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        let Some(activation) = self.norm else { return outputs[0].f32().copy_from_slice(&dx) };
        let [x, stats, gate @ ..] = &inputs[self.norm_input()..] else { unreachable!("two at least are declared") };
        let (g, partials) = outputs.split_at_mut(1);
        self.partials(activation).of_rows(
            [x, stats].map(|slice| slice.f32()),
            gate,
            &dx,
            g[0].f32(),
            partials[0].f32(),
        );
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::conv2d_grad_input::compute(self, inputs, outputs);
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        // Without an addend its binding sees `dy`, and the shader leaves it alone.
        let addend = Binding::Input(if self.addend { 2 } else { 0 });
        let bindings = [Binding::Input(0), Binding::Input(1), addend, Binding::Output(0)];
        let describe = |launch| g.describe_to(launch).bindings(bindings).switch("ADDEND", self.addend);
        if !g.in_quads() {
            let wgsl = shader!("conv2d/grad_input_scalar");
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
                let wgsl = shader!("conv2d/grad_input_tiled");
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
        let wgsl = shader!("conv2d/grad_input_direct");
        let launch = describe(Launch::new(wgsl, 2, 1, workgroups)).size("WORKGROUP", WORKGROUP);
        launches.push(self.with_norm(launch.size("TP", pixels).size("TC", tile)));
        launches
    }
}

impl Conv2dGradInput {
    /// The inputs that mask the gradient of this activation: gamma and beta, or the output twice.
    fn gate(&self, activation: Activation) -> [Binding; 2] {
        let first = self.norm_input() + 2;
        if activation == Activation::Relu { [first, first + 1] } else { [first; 2] }.map(Binding::Input)
    }

    /// A launch that computes `dx`, and after it the first pass of the batch-norm, if there is one.
    fn with_norm(&self, launch: Launch) -> Launch {
        let Some(activation) = self.norm else { return launch };
        launch.then(self.partials(activation).pass(PassBindings {
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
            return launch.entry("relu").bindings([dy, w, x, stats, first, second, g, partials]);
        }
        let addend = Binding::Input(if self.addend { 2 } else { 0 });
        launch.entry("relu_of_sum").bindings([dy, w, addend, stats, x, first, g, partials])
    }
}
