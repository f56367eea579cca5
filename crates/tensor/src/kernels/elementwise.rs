//! Kernels whose output element depends on the input elements at the same place only.

use rayon::prelude::*;

use super::tiling::{TASK, THREADS, width};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// `a [words]`, `b [words]` -> `a + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Add {
    /// Elements of each operand.
    pub words: usize,
}

/// `x [words]` -> `factor * x`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Elements of each operand.
    pub words: usize,
    /// The factor.
    pub factor: f32,
}

/// `x [words]` -> `x`.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// Elements of each operand.
    pub words: usize,
}

/// Nothing -> `value` in every one of `words` elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// Elements of the output.
    pub words: usize,
    /// The value.
    pub value: f32,
}

/// The launch of one entry point; every one of them has the same prelude.
fn launch(words: usize, inputs: usize, entry: &'static str, value: f32) -> Launch {
    let width = width(words);
    let elements = words / width;
    Launch::new(shader!("elementwise"), inputs, 1, elements.div_ceil(THREADS))
        .entry(entry)
        .stored(width)
        .size("ELEMENTS", elements)
        .float("VALUE", value)
}

impl Kernel for Add {
    fn name(&self) -> &'static str {
        "elementwise"
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
        outputs[0].f32().par_chunks_mut(TASK).zip(operands).for_each(|(out, (a, b))| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = a + b;
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.words, 2, "add", 0.0)
    }
}

impl Kernel for Scale {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32().par_chunks_mut(TASK).zip(inputs[0].f32().par_chunks(TASK)).for_each(|(out, x)| {
            for (out, x) in out.iter_mut().zip(x) {
                *out = self.factor * x;
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.words, 1, "scale", self.factor)
    }
}

impl Kernel for Copy {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32().par_chunks_mut(TASK).zip(inputs[0].f32().par_chunks(TASK)).for_each(|(out, x)| {
            out.copy_from_slice(x);
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.words, 1, "copy", 0.0)
    }
}

impl Kernel for Fill {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, _inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32().fill(self.value);
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.words, 0, "fill", self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{normal, run};

    #[test]
    fn every_element_is_computed_from_those_at_its_place() {
        for words in [1, 4, 17, 40_000] {
            let (a, b) = (normal(words, 0.0, 1.0, 1), normal(words, 0.0, 1.0, 2));
            let sum = run(&Add { words }, &[&a, &b], &[]).remove(0);
            let scaled = run(&Scale { words, factor: -2.5 }, &[&a], &[]).remove(0);
            for i in 0..words {
                assert_eq!((sum[i], scaled[i]), (a[i] + b[i], -2.5 * a[i]));
            }
            assert_eq!(run(&Copy { words }, &[&a], &[]), [a]);
            assert_eq!(run(&Fill { words, value: 0.5 }, &[], &[]), [vec![0.5; words]]);
        }
    }
}
