//! Batch normalisation of few rows, such as a gate's: all passes in one kernel, and all those of its gradient in
//! another.
//!
//! The results are those of [`BatchNormPartials`], [`BatchNormFinalize`], [`BatchNormApply`],
//! [`BatchNormGradPartials`] and [`BatchNormGradInput`], which take several dispatches, each of which would take longer
//! to begin than to run.

use super::apply::{BatchNormApply, Residual};
use super::grad::{Activation, BatchNormGradInput, BatchNormGradPartials, Upstream};
use super::stats::{BatchNormFinalize, BatchNormPartials, Chunks};
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::kernels::sum_partials::{Sum, SumPartials};
use crate::kernels::tiling::Tiling;
use crate::shader;
use crate::shape::Spec;

/// Most rows that one workgroup goes through.
pub const SMALL_ROWS: usize = 1024;

/// `x [M, rows, C]`, `gamma [M, C]`, `beta [M, C]` -> `y [M, rows, C]`, `stats [M, 2, C]` = (mean, 1 / deviation);
/// updates `running_mean [M, C]` and `running_var [M, C]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormSmall {
    /// Members M.
    pub members: usize,
    /// Rows that are normalised together, [`SMALL_ROWS`] at most.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// True if negative values become 0 at the end.
    pub relu: bool,
    /// Added to the variance under the root.
    pub eps: f32,
    /// Weight of the batch in the running statistics.
    pub momentum: f32,
}

/// `x [M, rows, C]`, `dy [M, rows, C]`, `stats [M, 2, C]`, `gamma [M, C]`, `beta [M, C]` -> `dx [M, rows, C]`,
/// `dgamma [M, C]`, `dbeta [M, C]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormSmallGrad {
    /// Members M.
    pub members: usize,
    /// Rows that were normalised together, [`SMALL_ROWS`] at most.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// True if a ReLU followed.
    pub relu: bool,
}

/// Single channels, a workgroup for sixteen of them.
fn describe(launch: Launch, rows: usize, channels: usize, relu: bool) -> Launch {
    Tiling::narrow(channels).describe_reduction(launch.size("ROWS", rows).switch("RELU", relu))
}

/// Runs a kernel on operands.
type Run = fn(&dyn Kernel, &[Slice<'_>], &mut [SliceMut<'_>]);

impl BatchNormSmall {
    fn chunks(&self) -> Chunks {
        Chunks { rows: self.rows, chunk: self.rows }
    }

    /// The passes, each run by `run`.
    fn passes(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>], run: Run) {
        let Self { members, rows, channels, relu, eps, momentum } = *self;
        let chunks = self.chunks();
        let mut partials = vec![0.0; members * 2 * channels];
        run(&BatchNormPartials { members, channels, chunks }, &inputs[..1], &mut [SliceMut::F32(&mut partials)]);
        let (y, statistics) = outputs.split_at_mut(1);
        let finalize = BatchNormFinalize { members, channels, chunks, eps, momentum, affine: false };
        run(&finalize, &[Slice::F32(&partials)], statistics);
        let apply = BatchNormApply { members, rows, channels, residual: Residual::None, relu };
        run(&apply, &[inputs[0], Slice::F32(statistics[0].f32()), inputs[1], inputs[2]], y);
    }
}

impl Kernel for BatchNormSmall {
    fn name(&self) -> &'static str {
        "batch_norm_small"
    }

    fn inputs(&self) -> Vec<Spec> {
        let parameter = Spec::f32([self.members, self.channels]);
        vec![Spec::f32([self.members, self.rows, self.channels]), parameter.clone(), parameter]
    }

    fn outputs(&self) -> Vec<Spec> {
        let running = Spec::f32([self.members, self.channels]);
        let y = Spec::f32([self.members, self.rows, self.channels]);
        vec![y, Spec::f32([self.members, 2, self.channels]), running.clone(), running]
    }

    fn updates(&self, index: usize) -> bool {
        index > 1
    }

    fn cost(&self) -> Cost {
        let per_element = 7 + usize::from(self.relu);
        Cost::new(self, (per_element * self.rows + 16) * self.members * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.passes(inputs, outputs, Kernel::reference);
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.passes(inputs, outputs, Kernel::compute);
    }

    fn launch(&self, _: &Target) -> Launch {
        let workgroups = self.members * Tiling::narrow(self.channels).tiles;
        let launch = Launch::new(shader!("batch_norm/small"), 3, 4, workgroups)
            .float("EPS", self.eps)
            .float("MOMENTUM", self.momentum);
        describe(launch, self.rows, self.channels, self.relu)
    }
}

impl BatchNormSmallGrad {
    /// The passes, each run by `run`.
    fn passes(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>], run: Run) {
        let Self { members, rows, channels, relu } = *self;
        let chunks = Chunks { rows, chunk: rows };
        let (activation, upstream) = (if relu { Activation::Relu } else { Activation::Linear }, Upstream::Whole);
        let first = BatchNormGradPartials { members, channels, chunks, activation, upstream };
        let mut passed: Vec<Vec<f32>> = first.outputs().iter().map(|spec| vec![0.0; spec.words()]).collect();
        let mut slices: Vec<SliceMut<'_>> = passed.iter_mut().map(|values| SliceMut::F32(values)).collect();
        run(&first, inputs, &mut slices);
        let [dx, dgamma, dbeta] = outputs else { unreachable!("three outputs are declared") };
        let sums = &mut [SliceMut::F32(dbeta.f32()), SliceMut::F32(dgamma.f32())];
        run(&SumPartials::new(Sum::of_pairs(1, members, channels)), &[Slice::F32(&passed[0])], sums);
        let g = passed.get(1).map_or(inputs[1], |g| Slice::F32(g));
        let sums = [Slice::F32(dgamma.f32()), Slice::F32(dbeta.f32())];
        let last = BatchNormGradInput { members, rows, channels, addend: false };
        run(&last, &[inputs[0], g, inputs[2], inputs[3], sums[0], sums[1]], std::slice::from_mut(dx));
    }
}

impl Kernel for BatchNormSmallGrad {
    fn name(&self) -> &'static str {
        "batch_norm_small_grad"
    }

    fn inputs(&self) -> Vec<Spec> {
        let rows = Spec::f32([self.members, self.rows, self.channels]);
        let parameter = Spec::f32([self.members, self.channels]);
        vec![rows.clone(), rows, Spec::f32([self.members, 2, self.channels]), parameter.clone(), parameter]
    }

    fn outputs(&self) -> Vec<Spec> {
        let parameter = Spec::f32([self.members, self.channels]);
        vec![Spec::f32([self.members, self.rows, self.channels]), parameter.clone(), parameter]
    }

    fn cost(&self) -> Cost {
        let per_element = 10 + 3 * usize::from(self.relu);
        Cost::new(self, (per_element * self.rows + 6) * self.members * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.passes(inputs, outputs, Kernel::reference);
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.passes(inputs, outputs, Kernel::compute);
    }

    fn launch(&self, _: &Target) -> Launch {
        let workgroups = self.members * Tiling::narrow(self.channels).tiles;
        let wgsl = shader!("batch_norm/small_grad");
        let launch = Launch::new(wgsl, 5, 3, workgroups);
        describe(launch, self.rows, self.channels, self.relu)
    }
}
