//! The rectifier and its gradient.

use rayon::prelude::*;

use super::tiling::{TASK, THREADS, width};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shape::Spec;

/// `x [words]` -> `y = max(x, 0)`; NaN stays NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Relu {
    /// Elements of each operand.
    pub words: usize,
}

/// `y [words]` (the output of [`Relu`]), `dy [words]` -> `dx`, which is `dy` where `y > 0`, else 0.
#[derive(Debug, Clone, PartialEq)]
pub struct ReluGrad {
    /// Elements of each operand.
    pub words: usize,
}

fn launch(words: usize, inputs: usize, entry: &'static str) -> Launch {
    let width = width(words);
    let elements = words / width;
    let mut launch = Launch::new(include_str!("../../../../shaders/relu.wgsl"), inputs, 1, elements.div_ceil(THREADS))
        .entry(entry)
        .stored(width)
        .size("ELEMENTS", elements);
    launch.bindings.rotate_right(1);
    launch
}

impl Kernel for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32().par_chunks_mut(TASK).zip(inputs[0].f32().par_chunks(TASK)).for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = if *x < 0.0 { 0.0 } else { *x };
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.words, 1, "relu")
    }
}

impl Kernel for ReluGrad {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words]), Spec::f32([self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0, 1], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let operands = inputs[0].f32().par_chunks(TASK).zip(inputs[1].f32().par_chunks(TASK));
        outputs[0].f32().par_chunks_mut(TASK).zip(operands).for_each(|(dx, (y, dy))| {
            for ((dx, y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = if *y > 0.0 { dy } else { 0.0 };
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.words, 2, "gradient")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::run;

    #[test]
    fn positive_values_and_their_gradients_pass() {
        let x = [-1.0, 0.0, 2.0, -0.5, 3.0];
        let y = run(&Relu { words: 5 }, &[&x], &[]).remove(0);
        assert_eq!(y, [0.0, 0.0, 2.0, 0.0, 3.0]);
        let dx = run(&ReluGrad { words: 5 }, &[&y, &[1.0, 2.0, 3.0, 4.0, 5.0]], &[]).remove(0);
        assert_eq!(dx, [0.0, 0.0, 3.0, 0.0, 5.0]);
        assert!(run(&Relu { words: 1 }, &[&[f32::NAN]], &[])[0][0].is_nan());
    }
}
