//! Batch normalisation and the operations behind it in a network, the addition of a residual and the ReLU, in one pass:
//! `y = act(gamma * (x - mean) * inv_std + beta + residual)`.

use crate::cpu;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::kernels::tiling::{ROWS_PER_THREAD, Tiling};
use crate::shader;
use crate::shape::Spec;

/// The addend of the normalised values, before the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residual {
    /// Nothing.
    None,
    /// A tensor `[M, rows, C]`.
    Same,
    /// A tensor `[1, rows, C]` that every member adds.
    Shared,
    /// A tensor `[M, rows, C]` that is normalised when it is read, by one more input `affine [M, 3, C]` = (mean, scale,
    /// beta) behind it: `(residual - mean) scale + beta`.
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
    /// The addend.
    pub residual: Residual,
    /// True if negative values become 0 at the end.
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
    /// The addend.
    pub residual: Residual,
    /// True if negative values become 0 at the end.
    pub relu: bool,
    /// Added to the variance under the root.
    pub eps: f32,
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

    /// The formula, given mean and 1 / deviation of a member's channel, and the inputs behind the statistics.
    fn formula(&self, x: &[f32], statistics: impl Fn(usize, usize) -> (f64, f64), after: &[Slice<'_>], y: &mut [f32]) {
        let &Self { rows, channels, .. } = self;
        let (gamma, beta) = (after[0].f32(), after[1].f32());
        let extra = |index: usize| after.get(index).map_or(&[][..], |slice| slice.f32());
        let (residual, affine) = (extra(2), extra(3));
        for (at, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let (member, channel) = (at / (rows * channels), at % channels);
            let (mean, inv_std) = statistics(member, channel);
            let parameter = member * channels + channel;
            let normal = f64::from(gamma[parameter]) * (f64::from(x) - mean) * inv_std + f64::from(beta[parameter]);
            let sum = normal
                + match self.residual {
                    Residual::None => 0.0,
                    Residual::Same => f64::from(residual[at]),
                    Residual::Shared => f64::from(residual[at % (rows * channels)]),
                    Residual::Normalised => {
                        let [mean, scale, shift] =
                            [0, 1, 2].map(|row| f64::from(affine[(3 * member + row) * channels + channel]));
                        (f64::from(residual[at]) - mean) * scale + shift
                    }
                };
            *y = if self.relu && sum < 0.0 { 0.0 } else { sum as f32 };
        }
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
        let inputs = [0, 1, second, gamma, gamma + 1, residual, affine].map(Binding::Input);
        let bindings: Vec<Binding> = inputs.into_iter().chain([Binding::Output(0)]).collect();
        let launch = Launch::new(shader!("batch_norm/apply"), 0, 0, workgroups)
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
        let (stats, channels) = (inputs[1].f32(), self.channels);
        let statistics = |member: usize, channel: usize| {
            let row = 2 * member * channels;
            (f64::from(stats[row + channel]), f64::from(stats[row + channels + channel]))
        };
        self.formula(inputs[0].f32(), statistics, &inputs[2..], outputs[0].f32());
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::batch_norm::apply(self, inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        self.launch_with(None, 1)
    }
}

impl BatchNormInference {
    /// The same pass with other statistics.
    pub(crate) fn apply(&self) -> BatchNormApply {
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
        let (mean, var) = (inputs[1].f32(), inputs[2].f32());
        let statistics = |member: usize, channel: usize| {
            let at = member * self.channels + channel;
            (f64::from(mean[at]), 1.0 / (f64::from(var[at]) + f64::from(self.eps)).sqrt())
        };
        self.apply().formula(inputs[0].f32(), statistics, &inputs[3..], outputs[0].f32());
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::batch_norm::inference(self, inputs, outputs);
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
