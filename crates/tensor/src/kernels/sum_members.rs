//! Sum over the member axis: the gradient of a tensor that fans out to every member.

use rayon::prelude::*;

use super::tiling::{TASK, THREADS, width};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// `x [M, words]` -> `y [1, words]`, the sum over the members in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct SumMembers {
    /// Members M.
    pub members: usize,
    /// Elements of one member.
    pub words: usize,
}

impl Kernel for SumMembers {
    fn name(&self) -> &'static str {
        "sum_members"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([1, self.words])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, (self.members - 1) * self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let x = inputs[0].f32();
        outputs[0].f32().par_chunks_mut(TASK).enumerate().for_each(|(task, y)| {
            y.copy_from_slice(&x[task * TASK..][..y.len()]);
            for member in 1..self.members {
                for (y, x) in y.iter_mut().zip(&x[member * self.words + task * TASK..]) {
                    *y += x;
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let width = width(self.words);
        let elements = self.words / width;
        Launch::new(shader!("sum_members"), 1, 1, elements.div_ceil(THREADS))
            .stored(width)
            .size("MEMBERS", self.members)
            .size("ELEMENTS", elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn members_are_added_up() {
        for (members, words) in [(1, 3), (3, 1), (4, 20_000)] {
            let x = normal(members * words, 0.5, 1.0, 1);
            for (i, &y) in run(&SumMembers { members, words }, &[&x], &[])[0].iter().enumerate() {
                assert_close(y, (0..members).map(|m| f64::from(x[m * words + i])).sum(), 1e-6);
            }
        }
    }
}
