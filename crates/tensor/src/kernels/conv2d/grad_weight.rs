//! The gradient of a convolution with respect to its weights, in parts that `sum_partials` adds up.
//!
//! `dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p stride_h + r - pad_h, q stride_w + s - pad_w, c] dy[m,n,p,q,k]`: a
//! small result of a very long reduction. It is split over the rows (n, p) of the output, in order: part i sums
//! [`Conv2dGradWeight::rows_per_part`] consecutive rows of the N P there are, the last part perhaps fewer.

use super::tile::{WeightTile, candidates};
use super::{ConvGeometry, WORKGROUP, normalisation_specs, read_source, tile_quads};
use crate::cpu;
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// Inputs `x` (`[M or 1, N, H, W, C]`) and `dy` (`[M, N, P, Q, K]`), output `[parts, M, R, S, C/G, K]`; with
/// [`Self::normalised`] the same three inputs more as the forward has ([`super::Conv2dForward`]).
#[derive(Debug, Clone, Copy)]
pub struct Conv2dGradWeight {
    /// The extents of the forward.
    pub geometry: ConvGeometry,
    /// True if the forward's input is normalised when it is read.
    pub normalised: bool,
}

const MAX_WORKGROUP: usize = 256;

impl Conv2dGradWeight {
    /// Number of parts of the reduction, from the geometry alone: about 512 workgroups in all, no part below 256
    /// pixels, and no more memory than two fifths of the activations', since it is written and read again.
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

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let g = &self.geometry;
        let (x, dy) = (g.normalised(inputs[0].f32(), &inputs[2..]), inputs[1].f32());
        let ([height, width], words) = (g.output_extent(), g.weight_spec().words());
        let mut sums = vec![0.0; self.partials() * words];
        g.terms(|x_at, w_at, y_at| {
            let row = y_at / (width * g.filters) % (g.batch * height);
            sums[row / self.rows_per_part() * words + w_at] += x[x_at] * f64::from(dy[y_at]);
        });
        outputs[0].f32().iter_mut().zip(sums).for_each(|(part, sum)| *part = sum as f32);
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::conv2d_grad_weight::compute(self, inputs, outputs);
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let g = &self.geometry;
        let parts = self.partials();
        let describe = |launch| {
            let launch = read_source(g, self.normalised, 1, g.describe_to(launch));
            launch.size("PARTS", parts).size("ROWS", self.rows_per_part())
        };
        if !g.in_quads() {
            let wgsl = shader!("conv2d/grad_weight_scalar");
            let workgroups = (parts * g.weight_spec().words()).div_ceil(WORKGROUP);
            return vec![describe(Launch::new(wgsl, 0, 0, workgroups)).size("WORKGROUP", WORKGROUP)];
        }
        let mut launches = candidates(target, WeightTile::all(g, parts), |tile| {
            let wgsl = shader!("conv2d/grad_weight_tiled");
            let workgroups = parts * g.members * g.groups * tile.workgroups(g);
            tile.describe_to(describe(Launch::new(wgsl, 0, 0, workgroups)))
        });
        let wgsl = shader!("conv2d/grad_weight_direct");
        let launch = describe(Launch::new(wgsl, 0, 0, parts * g.members * self.workgroups_per_part()));
        launches.push(launch.size("TK", tile_quads(g.group_filters() / 4)).size("WORKGROUP", self.workgroup()));
        launches
    }
}
