//! The micro-kernel behind the peak of multiply-adds ([`crate::peaks`]): chains of them that touch no memory.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::matrix::{TASK, THREADS};
use super::vector::arch;
use crate::kernel::Target;
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;

/// `x [8, threads, 4]`, `f [2]` -> `y [8, threads, 4]`, x after `steps` times x <- f0 x + f1.
#[derive(Debug, Clone, PartialEq)]
pub struct PeakFma {
    /// Threads on a GPU: each has 32 chains.
    pub threads: usize,
    /// Multiply-adds of a chain; a multiple of 4.
    pub steps: usize,
}

/// Chains of a thread.
const CHAINS: usize = 32;

impl Kernel for PeakFma {
    fn name(&self) -> &'static str {
        "peak_fma"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([8, self.threads, 4]), Spec::f32([2])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([8, self.threads, 4])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 2 * CHAINS * self.threads * self.steps)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (x, f) = (inputs[0].f32(), inputs[1].f32());
        outputs[0].f32().par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
            y.copy_from_slice(x);
            arch().dispatch(Chains { y, factor: f[0], addend: f[1], steps: self.steps });
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        debug_assert!(self.steps.is_multiple_of(4), "the shader takes four steps at a time");
        let workgroups = self.threads.div_ceil(THREADS);
        Launch::new(include_str!("../../../../shaders/peak_fma.wgsl"), 2, 1, workgroups)
            .size("THREADS", self.threads)
            .size("STEPS", self.steps)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn chains_take_every_step() {
        let (threads, steps) = (5, 12);
        let x = normal(CHAINS * threads, 0.5, 1.0, 1);
        let y = run(&PeakFma { threads, steps }, &[&x, &[-0.75, 0.5]], &[]);
        for (&y, &x) in y[0].iter().zip(&x) {
            assert_close(y, (0..steps).fold(f64::from(x), |x, _| -0.75 * x + 0.5), 1e-6);
        }
    }
}
