//! The convolution: see [`ConvGeometry`] for the formula.

use super::tile::{TILE, Tiled, candidates, tile_chunk};
use super::{ConvGeometry, WORKGROUP, normalisation_specs, read_source, tile_pixels, tile_quads};
use crate::cpu;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::kernels::batch_norm::{BatchNormPartials, Chunks};
use crate::shader;
use crate::shape::Spec;

/// Convolves: inputs `x` (`[M or 1, N, H, W, C]`) and `w` (`[M, R, S, C/G, K]`), output `y` (`[M, N, P, Q, K]`).
///
/// With [`Self::normalised`] `relu((x - mean) inv_std gamma + beta)` is convolved, and three more inputs are stats `[M
/// or 1, 2, C]` = (mean, inv_std), gamma and beta `[M or 1, C]`. Zeros are padded to the normalised input.
///
/// With [`Self::statistics`] there is a second output, `partials [P, M, 2, K]`: the first pass of a batch-norm of `y`
/// ([`crate::kernels::batch_norm::BatchNormPartials`]).
#[derive(Debug, Clone, Copy)]
pub struct Conv2dForward {
    /// The extents.
    pub geometry: ConvGeometry,
    /// True if the input is normalised when it is read.
    pub normalised: bool,
    /// True if the output's sums are taken, too, over chunks of rows.
    pub statistics: bool,
}

impl Conv2dForward {
    /// The first pass of a batch-norm of the output, over the chunks that a tile of the output is.
    pub fn partials(&self) -> BatchNormPartials {
        let g = &self.geometry;
        let [height, width] = g.output_extent();
        let chunk = tile_chunk(height, width, g.filters) * width;
        let chunks = Chunks { rows: g.batch * height * width, chunk };
        BatchNormPartials { members: g.members, channels: g.filters, chunks }
    }

    fn tiled(&self) -> Tiled {
        let g = &self.geometry;
        let out = g.output_extent();
        let rows = tile_chunk(out[0], out[1], g.filters);
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

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (y, partials) = outputs.split_at_mut(1);
        let x = self.geometry.normalised(inputs[0].f32(), &inputs[2..]);
        let w = inputs[1].f32();
        let mut sums = vec![0.0; y[0].f32().len()];
        self.geometry.terms(|x_at, w_at, y_at| sums[y_at] += x[x_at] * f64::from(w[w_at]));
        y[0].f32().iter_mut().zip(sums).for_each(|(y, sum)| *y = sum as f32);
        if self.statistics {
            self.partials().reference(&[Slice::F32(y[0].f32())], partials);
        }
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::conv2d_forward::compute(self, inputs, outputs);
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        let describe = |launch, outputs| read_source(g, self.normalised, outputs, g.describe_to(launch));
        let with_statistics = |launch: Launch| match self.statistics {
            true => launch.then(self.partials().pass(Binding::Written(0), Binding::Output(1))),
            false => launch,
        };
        if !g.in_quads() {
            let wgsl = shader!("conv2d/forward_scalar");
            let workgroups = g.output_spec().words().div_ceil(WORKGROUP);
            let launch = describe(Launch::new(wgsl, 0, 0, workgroups), 1).size("WORKGROUP", WORKGROUP);
            return vec![with_statistics(launch)];
        }
        let [height, width] = g.output_extent();
        let tiled = self.tiled();
        let mut launches = candidates(target, tiled.tiles(), |tile| {
            let wgsl = shader!("conv2d/forward_tiled");
            let workgroups = g.members * g.groups * tile.workgroups(&tiled, g.batch * height);
            let launch = describe(Launch::new(wgsl, 0, 0, workgroups), self.outputs().len());
            let launch = tile.describe_to(launch).helpers(TILE);
            if self.statistics { launch.entry("statistics") } else { launch }
        });
        let quads = g.group_filters() / 4;
        let (pixels, tile) = (tile_pixels(width), tile_quads(quads));
        let runs = (g.batch * height * width.div_ceil(pixels)).div_ceil(WORKGROUP);
        let workgroups = g.members * g.groups * quads.div_ceil(tile) * runs;
        let wgsl = shader!("conv2d/forward_direct");
        let launch = describe(Launch::new(wgsl, 0, 0, workgroups), 1).size("WORKGROUP", WORKGROUP);
        launches.push(with_statistics(launch.size("TP", pixels).size("TK", tile)));
        launches
    }
}
