//! Chains of multiply-adds in the registers of all cores, by which the peak of the CPU is measured.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::arch;
use crate::kernel::{Slice, SliceMut};
use crate::kernels::peak_fma::PeakFma;
use crate::kernels::tiling::TASK;

/// Takes all steps of all chains.
pub(crate) fn compute(kernel: &PeakFma, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    let (x, f) = (inputs[0].f32(), inputs[1].f32());
    outputs[0].f32().par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        arch().dispatch(Chains { y, factor: f[0], addend: f[1], steps: kernel.steps });
    });
}

/// Vectors in flight: enough to hide the latency of a multiply-add, few enough for the registers of any machine.
const IN_FLIGHT: usize = 8;

struct Chains<'a> {
    y: &'a mut [f32],
    factor: f32,
    addend: f32,
    steps: usize,
}

impl WithSimd for Chains<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (factor, addend) = (simd.splat_f32s(self.factor), simd.splat_f32s(self.addend));
        let (vectors, rest) = S::as_mut_simd_f32s(self.y);
        let (blocks, vectors) = vectors.as_chunks_mut::<IN_FLIGHT>();
        for block in blocks {
            let mut chains = *block;
            for _ in 0..self.steps {
                for chain in &mut chains {
                    *chain = simd.mul_add_e_f32s(*chain, factor, addend);
                }
            }
            *block = chains;
        }
        for vector in vectors {
            for _ in 0..self.steps {
                *vector = simd.mul_add_e_f32s(*vector, factor, addend);
            }
        }
        for value in rest {
            for _ in 0..self.steps {
                *value = *value * self.factor + self.addend;
            }
        }
    }
}
