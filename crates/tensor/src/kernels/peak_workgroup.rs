//! The micro-kernel behind the peak bandwidth of workgroup memory ([`crate::Peaks`]).

use rayon::prelude::*;

use super::tiling::THREADS;
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// `x [workgroups, 256, 4]` -> `y [workgroups, 256, 4]`, y[g, l] the sum over i < `steps` of x[g, (l + i) mod 256].
#[derive(Debug, Clone, PartialEq)]
pub struct PeakWorkgroup {
    /// Workgroups of 256 threads.
    pub workgroups: usize,
    /// Vectors that a thread reads; a multiple of 8.
    pub steps: usize,
}

impl PeakWorkgroup {
    /// Bytes that are read from workgroup memory.
    pub fn workgroup_bytes(&self) -> u64 {
        (16 * THREADS * self.workgroups * self.steps) as u64
    }
}

impl Kernel for PeakWorkgroup {
    fn name(&self) -> &'static str {
        "peak_workgroup"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.workgroups, THREADS, 4])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.workgroups, THREADS, 4])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 4 * THREADS * self.workgroups * self.steps)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let tile = 4 * THREADS;
        outputs[0].f32().par_chunks_mut(tile).zip(inputs[0].f32().par_chunks(tile)).for_each(|(y, x)| {
            y.fill(0.0);
            for step in 0..self.steps {
                let (front, back) = x.split_at(step % THREADS * 4);
                for (y, x) in y.iter_mut().zip(back.iter().chain(front)) {
                    *y += x;
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        debug_assert!(self.steps.is_multiple_of(8), "the shader takes eight steps at a time");
        Launch::new(shader!("peak_workgroup"), 1, 1, self.workgroups).size("STEPS", self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn lanes_sum_their_neighbours_around_the_tile() {
        let (workgroups, steps) = (2, 264);
        let x = normal(4 * THREADS * workgroups, 0.5, 1.0, 1);
        let y = run(&PeakWorkgroup { workgroups, steps }, &[&x], &[]);
        for (index, &y) in y[0].iter().enumerate() {
            let (group, lane, part) = (index / 1024, index / 4 % 256, index % 4);
            let at = |step: usize| f64::from(x[group * 1024 + (lane + step) % 256 * 4 + part]);
            assert_close(y, (0..steps).map(at).sum(), 1e-4);
        }
    }
}
