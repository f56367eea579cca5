//! The sum of the parts of a split reduction, in the order of the parts.
//!
//! `y[i] = sum over p of x[p, i]`.

use rayon::prelude::*;

use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;
use crate::target::Target;

/// Sums over the first axis: input `[partials, ..shape]`, output `shape`.
#[derive(Debug, Clone)]
pub struct SumPartials {
    /// Number of parts.
    pub partials: usize,
    /// Shape of each, and of the sum.
    pub shape: Vec<usize>,
}

const WORKGROUP: usize = 256;

impl SumPartials {
    fn words(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Kernel for SumPartials {
    fn name(&self) -> &'static str {
        "sum_partials"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut shape = vec![self.partials];
        shape.extend(&self.shape);
        vec![Spec::f32(shape)]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32(self.shape.clone())]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.partials * self.words())
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        const BLOCK: usize = 1024;
        let x = inputs[0].f32();
        outputs[0].f32().par_chunks_mut(BLOCK).enumerate().for_each(|(block, y)| {
            y.fill(0.0);
            for part in x.chunks_exact(self.words()) {
                for (y, x) in y.iter_mut().zip(&part[block * BLOCK..]) {
                    *y += x;
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let (element, width) = if self.words().is_multiple_of(4) { ("vec4<f32>", 4) } else { ("f32", 1) };
        let elements = self.words() / width;
        // At least four parts for a slice to sum.
        let slices = (1..=5).map(|log| 1 << log).take_while(|slices| 4 * slices <= self.partials).last().unwrap_or(1);
        let run = WORKGROUP / slices;
        Launch::new(include_str!("../../../../shaders/sum_partials.wgsl"), 1, 1, elements.div_ceil(run))
            .alias("Elem", element)
            .size("PARTIALS", self.partials)
            .size("ELEMENTS", elements)
            .size("SLICES", slices)
            .size("WIDTH", run)
    }
}
