//! Concatenation of channels, and its gradient: a range of channels.

use rayon::prelude::*;

use super::tiling::{TASK, THREADS, width};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// `a [rows, A]`, `b [rows, B]` -> `y [rows, A + B]`: each row of `a`, then that of `b`. Rows are pixels, `M N H W`.
#[derive(Debug, Clone, Copy)]
pub struct Concat {
    /// Pixels.
    pub rows: usize,
    /// Channels A and B.
    pub channels: [usize; 2],
}

/// `x [rows, C]` -> `y [rows, K]`: the channels from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct SliceChannels {
    /// Pixels.
    pub rows: usize,
    /// Channels C of the input.
    pub channels: usize,
    /// The first channel that is taken.
    pub first: usize,
    /// Channels K that are taken.
    pub count: usize,
}

/// Rows of `channels` that a CPU task copies.
fn task_rows(channels: usize) -> usize {
    (TASK / channels).max(1)
}

impl Kernel for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn inputs(&self) -> Vec<Spec> {
        self.channels.map(|channels| Spec::f32([self.rows, channels])).to_vec()
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.rows, self.channels[0] + self.channels[1]])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0, 1], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let [left, right] = self.channels;
        let rows = task_rows(left + right);
        let (a, b) = (inputs[0].f32().par_chunks(rows * left), inputs[1].f32().par_chunks(rows * right));
        outputs[0].f32().par_chunks_mut(rows * (left + right)).zip(a.zip(b)).for_each(|(y, (a, b))| {
            let sources = a.chunks_exact(left).zip(b.chunks_exact(right));
            for (y, (a, b)) in y.chunks_exact_mut(left + right).zip(sources) {
                y[..left].copy_from_slice(a);
                y[left..].copy_from_slice(b);
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let [left, right] = self.channels;
        let width = width(left).min(width(right));
        let elements = self.rows * (left + right) / width;
        Launch::new(shader!("concat"), 2, 1, elements.div_ceil(THREADS))
            .stored(width)
            .size("ELEMENTS", elements)
            .size("A", left / width)
            .size("B", right / width)
    }
}

impl Kernel for SliceChannels {
    fn name(&self) -> &'static str {
        "slice_channels"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.rows, self.channels])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.rows, self.count])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        let bytes = 2 * self.outputs()[0].bytes() as u64;
        Cost { flops: 0, bytes }
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { channels, first, count, .. } = *self;
        let rows = task_rows(count);
        let x = inputs[0].f32().par_chunks(rows * channels);
        outputs[0].f32().par_chunks_mut(rows * count).zip(x).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(count).zip(x.chunks_exact(channels)) {
                y.copy_from_slice(&x[first..first + count]);
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let width = width(self.channels).min(width(self.first)).min(width(self.count));
        let elements = self.rows * self.count / width;
        Launch::new(shader!("slice_channels"), 1, 1, elements.div_ceil(THREADS))
            .stored(width)
            .size("ELEMENTS", elements)
            .size("C", self.channels / width)
            .size("FIRST", self.first / width)
            .size("K", self.count / width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{normal, run};

    #[test]
    fn slices_of_a_concatenation_are_its_parts() {
        for (rows, left, right) in [(1, 1, 1), (7, 6, 4), (1500, 24, 12)] {
            let (a, b) = (normal(rows * left, 0.0, 1.0, 1), normal(rows * right, 0.0, 1.0, 2));
            let y = run(&Concat { rows, channels: [left, right] }, &[&a, &b], &[]).remove(0);
            for (i, row) in y.chunks(left + right).enumerate() {
                assert_eq!(&row[..left], &a[i * left..][..left]);
                assert_eq!(&row[left..], &b[i * right..][..right]);
            }
            let slice =
                |first, count| run(&SliceChannels { rows, channels: left + right, first, count }, &[&y], &[]).remove(0);
            assert_eq!((slice(0, left), slice(left, right)), (a, b));
        }
    }
}
