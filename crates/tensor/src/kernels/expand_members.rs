//! One tensor for every member: the way into members for layers whose kernels do not fan out themselves.

use rayon::prelude::*;

use super::tiling::{THREADS, width};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// `x [1, words]` -> `y [M, words]`, a copy for each member. Its gradient is [`super::sum_members`].
#[derive(Debug, Clone, Copy)]
pub struct ExpandMembers {
    /// Members M.
    pub members: usize,
    /// Elements of one member.
    pub words: usize,
}

impl Kernel for ExpandMembers {
    fn name(&self) -> &'static str {
        "expand_members"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([1, self.words])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.words])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let x = inputs[0].f32();
        outputs[0].f32().par_chunks_mut(self.words).for_each(|y| y.copy_from_slice(x));
    }

    fn launch(&self, _: &Target) -> Launch {
        let width = width(self.words);
        let elements = self.words / width;
        Launch::new(shader!("expand_members"), 1, 1, elements.div_ceil(THREADS))
            .stored(width)
            .size("MEMBERS", self.members)
            .size("ELEMENTS", elements)
    }
}
