//! Stochastic gradient descent with momentum and weight decay, over all parameters at once.

use rayon::prelude::*;

use super::loss_scale::STATE;
use super::tiling::{TASK, THREADS};
use crate::kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// Words that share one factor of the weight decay.
pub const DECAY_BLOCK: usize = 64;

/// `gradient [words]`, `decay_scale [words / 64]`, `hyper [3]` = (learning rate, momentum, weight decay); updates
/// `values [words]` and `velocity [words]`, in PyTorch's convention:
///
/// ```text
/// g = gradient + weight_decay * decay_scale * values
/// velocity = momentum * velocity + g
/// values = values - learning_rate * (g + momentum * velocity if nesterov, else velocity)
/// ```
///
/// With [`Sgd::loss_scaled`] a fourth input is the state of the loss scale ([`super::loss_scale`]): gradients are
/// multiplied by its factor first, and nothing is updated where that is 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Sgd {
    /// Words of all parameters, a multiple of [`DECAY_BLOCK`].
    pub words: usize,
    /// True if the step looks ahead along the velocity (Nesterov).
    pub nesterov: bool,
    /// True if the gradients are those of a scaled loss.
    pub loss_scaled: bool,
}

impl Kernel for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs = vec![Spec::f32([self.words]), Spec::f32([self.words / DECAY_BLOCK]), Spec::f32([3])];
        if self.loss_scaled {
            specs.push(Spec::f32([STATE]));
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words]), Spec::f32([self.words])]
    }

    fn updates(&self, _index: usize) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::new(self, (6 + 2 * usize::from(self.nesterov)) * self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (gradient, decay_scale) = (inputs[0].f32(), inputs[1].f32());
        let &[learning_rate, momentum, weight_decay] = inputs[2].f32() else {
            unreachable!("three hyperparameters are declared")
        };
        let factor = inputs.get(3).map_or(1.0, |state| state.f32()[2]);
        if factor == 0.0 {
            return;
        }
        let [values, velocity] = outputs else { unreachable!("two outputs are declared") };
        let state = values.f32().par_chunks_mut(TASK).zip(velocity.f32().par_chunks_mut(TASK));
        let given = gradient.par_chunks(TASK).zip(decay_scale.par_chunks(TASK / DECAY_BLOCK));
        state.zip(given).for_each(|((values, velocity), (gradient, decay_scale))| {
            let blocks = values.chunks_exact_mut(DECAY_BLOCK).zip(velocity.chunks_exact_mut(DECAY_BLOCK));
            for (((values, velocity), gradient), scale) in
                blocks.zip(gradient.chunks_exact(DECAY_BLOCK)).zip(decay_scale)
            {
                let decay = weight_decay * scale;
                for ((value, velocity), gradient) in values.iter_mut().zip(velocity).zip(gradient) {
                    let g = gradient * factor + decay * *value;
                    *velocity = momentum * *velocity + g;
                    *value -= learning_rate * if self.nesterov { g + momentum * *velocity } else { *velocity };
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let elements = self.words / 4;
        let state = Binding::Input(if self.loss_scaled { 3 } else { 2 });
        let inputs = [0, 1, 2].map(Binding::Input).into_iter().chain([state]);
        let bindings: Vec<Binding> = inputs.chain([0, 1].map(Binding::Output)).collect();
        Launch::new(shader!("sgd"), 0, 0, elements.div_ceil(THREADS))
            .bindings(bindings)
            .switch("LOSS_SCALED", self.loss_scaled)
            .size("ELEMENTS", elements)
            .size("DECAY_BLOCK", DECAY_BLOCK / 4)
            .switch("NESTEROV", self.nesterov)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn two_steps_follow_the_formula() {
        for nesterov in [false, true] {
            let words = TASK + 3 * DECAY_BLOCK;
            let mut values = normal(words, 0.0, 1.0, 1);
            let mut velocity = vec![0.0; words];
            let mut want: Vec<(f64, f64)> = values.iter().map(|&w| (f64::from(w), 0.0)).collect();
            let scales: Vec<f32> = (0..words / DECAY_BLOCK).map(|block| (block % 2) as f32).collect();
            let hyper = [0.1, 0.9, 0.01].map(|value: f64| value as f32);
            for step in 0..2 {
                let gradient = normal(words, 0.0, 1.0, 2 + step);
                let inputs: [&[f32]; 3] = [&gradient, &scales, &hyper];
                let outputs = run(&Sgd { words, nesterov, loss_scaled: false }, &inputs, &[&values, &velocity]);
                for (i, (w, v)) in want.iter_mut().enumerate() {
                    let g = f64::from(gradient[i]) + 0.01 * f64::from(scales[i / DECAY_BLOCK]) * *w;
                    *v = 0.9 * *v + g;
                    *w -= 0.1 * if nesterov { g + 0.9 * *v } else { *v };
                    assert_close(outputs[0][i], *w, 1e-6);
                    assert_close(outputs[1][i], *v, 1e-6);
                }
                [values, velocity] = outputs.try_into().expect("two outputs");
            }
        }
    }
}
