//! Batch normalisation with what follows it in a network, the addition of a residual and the ReLU, in one pass:
//! `y = act(gamma * (x - mean) * inv_std + beta + residual)`.

use rayon::prelude::*;

use super::matrix::{ROWS_PER_THREAD, Tiling, repeat, task_words};
use super::vector::{Loops, wide};
use crate::kernel::Target;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;

/// What is added to the normalised values before the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residual {
    /// Nothing.
    None,
    /// A tensor `[M, rows, C]`.
    Same,
    /// A tensor `[1, rows, C]` that every member adds.
    Shared,
    /// A tensor `[M, rows, C]` that is normalised as it is read, by one more input `affine [M, 3, C]` = (mean, scale, beta)
    /// behind it: `(residual - mean) scale + beta`.
    Normalised,
}

/// Normalisation by the statistics of the batch: `x [M, rows, C]`, `stats [M, 2, C]` = (mean, 1 / deviation),
/// `gamma [M, C]`, `beta [M, C]` and, if any, the residual `[M or 1, rows, C]` and its `affine` -> `y [M, rows, C]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormApply {
    /// Members M.
    pub members: usize,
    /// Rows that are normalised together: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// What is added.
    pub residual: Residual,
    /// Whether negative values become 0 at the end.
    pub relu: bool,
}

/// Normalisation by running statistics: `x [M, rows, C]`, `running_mean [M, C]`, `running_var [M, C]`, `gamma [M, C]`,
/// `beta [M, C]` and, if any, the residual `[M or 1, rows, C]` -> `y [M, rows, C]`, where
/// `inv_std = 1 / sqrt(running_var + eps)`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormInference {
    /// Members M.
    pub members: usize,
    /// Rows: `N * H * W`.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// What is added.
    pub residual: Residual,
    /// Whether negative values become 0 at the end.
    pub relu: bool,
    /// Added to the variance under the root.
    pub eps: f32,
}

/// `y = max((x - mean) scale + shift + residual, floor)`, tile by tile.
struct Apply<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    /// Mean, scale and shift of the residual.
    affine: Option<[&'a [f32]; 3]>,
    mean: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    floor: f32,
    y: &'a mut [f32],
}

impl Loops for Apply<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, residual, affine, mean, scale, shift, floor, y } = self;
        for (tile, y) in y.chunks_mut(mean.len()).enumerate() {
            let start = tile * mean.len();
            let x = &x[start..][..y.len()];
            let parameters = mean.iter().zip(scale).zip(shift);
            for ((y, x), ((mean, scale), shift)) in y.iter_mut().zip(x).zip(parameters) {
                *y = (x - mean) * scale + shift;
            }
            if let Some(residual) = residual {
                let elements = y.iter_mut().zip(&residual[start..]);
                if let Some([mean, scale, shift]) = affine {
                    for ((y, residual), ((mean, scale), shift)) in elements.zip(mean.iter().zip(scale).zip(shift)) {
                        *y += (residual - mean) * scale + shift;
                    }
                } else {
                    for (y, residual) in elements {
                        *y += residual;
                    }
                }
            }
            for y in y.iter_mut() {
                *y = if *y < floor { floor } else { *y };
            }
        }
    }
}

impl BatchNormApply {
    fn inputs_after_statistics(&self) -> Vec<Spec> {
        let parameter = Spec::f32([self.members, self.channels]);
        let mut specs = vec![parameter.clone(), parameter];
        match self.residual {
            Residual::None => {}
            Residual::Same => specs.push(Spec::f32([self.members, self.rows, self.channels])),
            Residual::Shared => specs.push(Spec::f32([1, self.rows, self.channels])),
            Residual::Normalised => {
                specs.push(Spec::f32([self.members, self.rows, self.channels]));
                specs.push(Spec::f32([self.members, 3, self.channels]));
            }
        }
        specs
    }

    fn flops(&self) -> usize {
        let residual = match self.residual {
            Residual::None => 0,
            Residual::Same | Residual::Shared => 1,
            Residual::Normalised => 4,
        };
        let per_element = 3 + residual + usize::from(self.relu);
        per_element * self.members * self.rows * self.channels
    }

    /// `y` from `x`, where `mean` and `inv_std` give the statistics of a member.
    fn compute<'a>(
        &self,
        operands: Operands<'_>,
        y: &mut [f32],
        statistics: impl Fn(usize) -> (&'a [f32], Vec<f32>) + Sync,
    ) {
        let Self { rows, channels, relu, .. } = *self;
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let task = task_words(channels);
        y.par_chunks_mut(rows * channels).enumerate().for_each(|(member, y)| {
            let (mean, inv_std) = statistics(member);
            let gamma = &operands.gamma[member * channels..][..channels];
            let scale: Vec<f32> = gamma.iter().zip(&inv_std).map(|(gamma, inv_std)| gamma * inv_std).collect();
            let shift = repeat(&operands.beta[member * channels..][..channels]);
            let (mean, scale) = (repeat(mean), repeat(&scale));
            let x = &operands.x[member * rows * channels..][..rows * channels];
            let residual = match self.residual {
                Residual::None => None,
                Residual::Shared => operands.residual,
                Residual::Same | Residual::Normalised => {
                    operands.residual.map(|all| &all[member * rows * channels..][..rows * channels])
                }
            };
            let affine = operands
                .affine
                .map(|affine| [0, 1, 2].map(|row| repeat(&affine[(3 * member + row) * channels..][..channels])));
            let affine = affine.as_ref().map(|affine| affine.each_ref().map(Vec::as_slice));
            y.par_chunks_mut(task).enumerate().for_each(|(index, y)| {
                let x = &x[index * task..][..y.len()];
                let residual = residual.map(|residual| &residual[index * task..][..y.len()]);
                wide(Apply { x, residual, affine, mean: &mean, scale: &scale, shift: &shift, floor, y });
            });
        });
    }

    /// The launch with the statistics in inputs `first` and `second`, parameters and residual behind them.
    fn launch_with(&self, inference: Option<f32>, second: usize) -> Launch {
        let tiling = Tiling::new(self.channels);
        let block_rows = ROWS_PER_THREAD * tiling.lanes;
        let blocks = self.rows.div_ceil(block_rows);
        let workgroups = self.members * blocks * tiling.tiles;
        let gamma = second + 1;
        let residual = if self.residual == Residual::None { 0 } else { gamma + 2 };
        let affine = if self.residual == Residual::Normalised { gamma + 3 } else { 1 };
        let inputs = [0, 1, second, gamma, gamma + 1, residual].map(Binding::Input);
        let bindings: Vec<Binding> = inputs.into_iter().chain([Binding::Output(0), Binding::Input(affine)]).collect();
        let launch = Launch::new(include_str!("../../../../shaders/batch_norm_apply.wgsl"), 0, 0, workgroups)
            .bindings(bindings)
            .size("ROWS", self.rows)
            .size("BLOCKS", blocks)
            .size("BLOCK_ROWS", block_rows)
            .switch("INFERENCE", inference.is_some())
            .float("EPS", inference.unwrap_or(0.0))
            .switch("HAS_RESIDUAL", self.residual != Residual::None)
            .switch("SHARED_RESIDUAL", self.residual == Residual::Shared)
            .switch("NORMALISED_RESIDUAL", self.residual == Residual::Normalised)
            .switch("RELU", self.relu);
        tiling.describe(launch)
    }
}

/// The inputs that training and inference share.
#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    residual: Option<&'a [f32]>,
    affine: Option<&'a [f32]>,
}

impl Kernel for BatchNormApply {
    fn name(&self) -> &'static str {
        "batch_norm_apply"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs =
            vec![Spec::f32([self.members, self.rows, self.channels]), Spec::f32([self.members, 2, self.channels])];
        specs.extend(self.inputs_after_statistics());
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.rows, self.channels])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0].into_iter().chain((self.residual != Residual::None).then_some(4)), [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.flops())
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let channels = self.channels;
        let stats = inputs[1].f32();
        let operands = Operands {
            x: inputs[0].f32(),
            gamma: inputs[2].f32(),
            beta: inputs[3].f32(),
            residual: inputs.get(4).map(|slice| slice.f32()),
            affine: inputs.get(5).map(|slice| slice.f32()),
        };
        self.compute(operands, outputs[0].f32(), |member| {
            let (mean, inv_std) = stats[member * 2 * channels..][..2 * channels].split_at(channels);
            (mean, inv_std.to_vec())
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        self.launch_with(None, 1)
    }
}

impl BatchNormInference {
    /// The same pass with other statistics.
    fn apply(&self) -> BatchNormApply {
        let Self { members, rows, channels, residual, relu, .. } = *self;
        BatchNormApply { members, rows, channels, residual, relu }
    }
}

impl Kernel for BatchNormInference {
    fn name(&self) -> &'static str {
        "batch_norm_apply"
    }

    fn inputs(&self) -> Vec<Spec> {
        let statistic = Spec::f32([self.members, self.channels]);
        let mut specs = vec![Spec::f32([self.members, self.rows, self.channels]), statistic.clone(), statistic];
        specs.extend(self.apply().inputs_after_statistics());
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        self.apply().outputs()
    }

    fn activations(&self) -> Activations {
        Activations::new([0].into_iter().chain((self.residual != Residual::None).then_some(5)), [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.apply().flops())
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let channels = self.channels;
        let (mean, var) = (inputs[1].f32(), inputs[2].f32());
        let operands = Operands {
            x: inputs[0].f32(),
            gamma: inputs[3].f32(),
            beta: inputs[4].f32(),
            residual: inputs.get(5).map(|slice| slice.f32()),
            affine: inputs.get(6).map(|slice| slice.f32()),
        };
        self.apply().compute(operands, outputs[0].f32(), |member| {
            let range = member * channels..(member + 1) * channels;
            let inv_std = var[range.clone()].iter().map(|var| 1.0 / (var + self.eps).sqrt()).collect();
            (&mean[range], inv_std)
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        self.apply().launch_with(Some(self.eps), 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn both_modes_follow_the_formula() {
        for (members, rows, channels) in [(1, 1, 1), (2, 3, 5), (3, 1100, 16), (2, 40, 640)] {
            for residual in [Residual::None, Residual::Same, Residual::Shared, Residual::Normalised] {
                for relu in [false, true] {
                    let words = members * rows * channels;
                    let x = normal(words, 0.3, 2.0, 1);
                    let mean = normal(members * channels, 0.3, 1.0, 2);
                    let var: Vec<f32> = normal(members * channels, 0.0, 1.0, 3).iter().map(|v| v * v + 0.1).collect();
                    let gamma = normal(members * channels, 1.0, 0.5, 4);
                    let beta = normal(members * channels, 0.0, 0.5, 5);
                    let shared = residual == Residual::Shared;
                    let extra = normal(if shared { rows * channels } else { words }, 0.0, 1.0, 6);
                    let affine = normal(members * 3 * channels, 0.5, 1.0, 7);
                    let stats: Vec<f32> = (mean.chunks(channels).zip(var.chunks(channels)))
                        .flat_map(|(mean, var)| {
                            mean.iter().copied().chain(var.iter().map(|v| 1.0 / (v + 1e-3).sqrt())).collect::<Vec<_>>()
                        })
                        .collect();
                    let mut training: Vec<&[f32]> = vec![&x, &stats, &gamma, &beta];
                    let mut inference: Vec<&[f32]> = vec![&x, &mean, &var, &gamma, &beta];
                    if residual != Residual::None {
                        training.push(&extra);
                        inference.push(&extra);
                    }
                    if residual == Residual::Normalised {
                        training.push(&affine);
                        inference.push(&affine);
                    }
                    let apply = BatchNormApply { members, rows, channels, residual, relu };
                    let infer = BatchNormInference { members, rows, channels, residual, relu, eps: 1e-3 };
                    let got = [run(&apply, &training, &[]).remove(0), run(&infer, &inference, &[]).remove(0)];
                    for i in 0..words {
                        let p = i / (rows * channels) * channels + i % channels;
                        let inv_std = 1.0 / (f64::from(var[p]) + 1e-3).sqrt();
                        let mut want = f64::from(gamma[p]) * f64::from(x[i] - mean[p]) * inv_std + f64::from(beta[p]);
                        want += match residual {
                            Residual::None => 0.0,
                            Residual::Same => f64::from(extra[i]),
                            Residual::Shared => f64::from(extra[i % (rows * channels)]),
                            Residual::Normalised => {
                                let at = |row| f64::from(affine[(p / channels * 3 + row) * channels + p % channels]);
                                (f64::from(extra[i]) - at(0)) * at(1) + at(2)
                            }
                        };
                        want = if relu { want.max(0.0) } else { want };
                        assert_close(got[0][i], want, 1e-5);
                        assert_close(got[1][i], want, 1e-5);
                    }
                }
            }
        }
    }
}
