//! The micro-kernel behind the peak of multiply-adds ([`crate::Peaks`]): chains of them that touch no memory.

use super::tiling::THREADS;
use crate::cpu;
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
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
        for (y, &x) in outputs[0].f32().iter_mut().zip(x) {
            *y = (0..self.steps).fold(x, |x, _| f[0].mul_add(x, f[1]));
        }
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::peak_fma::compute(self, inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        debug_assert!(self.steps.is_multiple_of(4), "the shader takes four steps at a time");
        let workgroups = self.threads.div_ceil(THREADS);
        Launch::new(shader!("peak_fma"), 2, 1, workgroups).size("THREADS", self.threads).size("STEPS", self.steps)
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
