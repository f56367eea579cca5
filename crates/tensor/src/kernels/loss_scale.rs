//! Dynamic loss scaling (Micikevicius et al., *Mixed Precision Training*, 2018): the loss is multiplied by a scale so
//! that small gradients do not vanish in 16 bits. If a gradient is not finite the step is left out and the scale
//! halved; after [`INTERVAL`] good steps it doubles.

use rayon::prelude::*;

use super::tiling::THREADS;
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// Words of the state: scale, good steps since it changed, factor that the gradients are multiplied by (0: the step is
/// left out), and steps left out so far.
pub const STATE: usize = 4;

/// The state that training begins with.
pub const INITIAL: [f32; STATE] = [65_536.0, 0.0, 0.0, 0.0];

/// Good steps after which the scale doubles.
pub const INTERVAL: usize = 2000;

const SMALLEST: f32 = 1.0;
const LARGEST: f32 = 16_777_216.0;

/// Words that one flag of [`CheckGradients`] stands for.
pub const CHUNK: usize = 16_384;

/// `x [words]`, state `[4]` -> `x * scale`: the gradient of the loss with respect to the logits, scaled.
#[derive(Debug, Clone, Copy)]
pub struct ScaleGradient {
    /// Elements of `x`.
    pub words: usize,
}

/// Gradients `[words]` -> flags `[ceil(words / CHUNK)]`: 1 where one of them is not finite, else 0.
#[derive(Debug, Clone, Copy)]
pub struct CheckGradients {
    /// Words of the gradients, a multiple of 4.
    pub words: usize,
}

/// Flags `[flags]`; updates the state `[4]`.
#[derive(Debug, Clone, Copy)]
pub struct UpdateLossScale {
    /// Number of flags.
    pub flags: usize,
}

/// A launch of one entry point; every one of them has the same prelude.
fn launch(entry: &'static str, inputs: usize, elements: usize, flags: usize, workgroups: usize) -> Launch {
    Launch::new(shader!("loss_scale"), inputs, 1, workgroups)
        .entry(entry)
        .size("ELEMENTS", elements)
        .size("FLAGS", flags)
        .size("CHUNK", CHUNK / 4)
        .size("INTERVAL", INTERVAL)
        .float("SMALLEST", SMALLEST)
        .float("LARGEST", LARGEST)
}

impl Kernel for ScaleGradient {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words]), Spec::f32([STATE])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let scale = inputs[1].f32()[0];
        outputs[0].f32().iter_mut().zip(inputs[0].f32()).for_each(|(y, x)| *y = x * scale);
    }

    fn launch(&self, _: &Target) -> Launch {
        launch("scale_gradient", 2, self.words, 0, self.words.div_ceil(THREADS))
    }
}

impl Kernel for CheckGradients {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words.div_ceil(CHUNK)])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32().par_iter_mut().zip(inputs[0].f32().par_chunks(CHUNK)).for_each(|(flag, gradients)| {
            *flag = f32::from(u8::from(gradients.iter().any(|gradient| !gradient.is_finite())));
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        launch("check", 1, self.words / 4, 0, self.words.div_ceil(CHUNK))
    }
}

impl Kernel for UpdateLossScale {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.flags])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([STATE])]
    }

    fn updates(&self, _index: usize) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.flags)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let [scale, good, factor, skipped] = outputs[0].f32() else { unreachable!("the state has four words") };
        if inputs[0].f32().iter().any(|&flag| flag != 0.0) {
            (*factor, *good) = (0.0, 0.0);
            *scale = (*scale * 0.5).max(SMALLEST);
            *skipped += 1.0;
            return;
        }
        *factor = 1.0 / *scale;
        *good += 1.0;
        if *good >= INTERVAL as f32 {
            (*scale, *good) = ((*scale * 2.0).min(LARGEST), 0.0);
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        launch("update", 1, 0, self.flags, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::run;

    #[test]
    fn the_scale_halves_at_what_is_not_finite_and_doubles_after_good_steps() {
        let step = |flags: &[f32], state: [f32; 4]| {
            run(&UpdateLossScale { flags: flags.len() }, &[flags], &[&state]).remove(0)
        };
        assert_eq!(step(&[0.0, 1.0], [1024.0, 7.0, 0.5, 2.0]), [512.0, 0.0, 0.0, 3.0]);
        assert_eq!(step(&[0.0, 0.0], [512.0, 7.0, 0.0, 3.0]), [512.0, 8.0, 1.0 / 512.0, 3.0]);
        assert_eq!(step(&[0.0], [512.0, 1999.0, 0.0, 3.0]), [1024.0, 0.0, 1.0 / 512.0, 3.0]);
        assert_eq!(step(&[1.0], [1.0, 0.0, 0.0, 0.0])[0], 1.0, "never below 1");
        assert_eq!(step(&[0.0], [LARGEST, 1999.0, 0.0, 0.0])[0], LARGEST, "never above 2^24");
    }

    #[test]
    fn a_flag_is_raised_by_infinities_and_by_what_is_no_number() {
        let mut gradients = vec![1.0; 2 * CHUNK + 64];
        (gradients[3], gradients[CHUNK]) = (f32::MAX, -f32::INFINITY);
        let check = CheckGradients { words: gradients.len() };
        assert_eq!(run(&check, &[&gradients], &[])[0], [0.0, 1.0, 0.0]);
        gradients[2 * CHUNK + 63] = f32::NAN;
        assert_eq!(run(&check, &[&gradients], &[])[0], [0.0, 1.0, 1.0]);
    }
}
