//! Global average pooling: the mean over the area of an image, and its gradient.

use rayon::prelude::*;

use super::tiling::{Tiling, width};
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// Threads of a workgroup: outputs are few, so small groups spread them over more of a GPU.
const POOL_THREADS: usize = 64;

/// `x [M, N, H * W, C]` -> `y [M, N, C]`, the mean over the area.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalAveragePool {
    /// Members M.
    pub members: usize,
    /// Images N.
    pub batch: usize,
    /// Positions of one image, `H * W`.
    pub area: usize,
    /// Channels C.
    pub channels: usize,
}

/// `dy [M, N, C]` -> `dx [M, N, H * W, C] = dy / (H * W)`, plus `addend [M, N, H * W, C]` if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalAveragePoolGrad {
    /// Members M.
    pub members: usize,
    /// Images N.
    pub batch: usize,
    /// Positions of one image, `H * W`.
    pub area: usize,
    /// Channels C.
    pub channels: usize,
    /// True if a second input is added: the gradient of another use of `x`.
    pub addend: bool,
}

impl Kernel for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "global_average_pool"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.batch, self.area, self.channels])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.batch, self.channels])]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.members * self.batch * self.area * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { area, channels, .. } = *self;
        let images = inputs[0].f32().par_chunks(area * channels);
        outputs[0].f32().par_chunks_mut(channels).zip(images).with_min_len(4).for_each(|(y, x)| {
            y.copy_from_slice(&x[..channels]);
            for row in x.chunks_exact(channels).skip(1) {
                for (y, x) in y.iter_mut().zip(row) {
                    *y += x;
                }
            }
            for y in y {
                *y /= area as f32;
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let width = width(self.channels);
        let vectors = self.channels / width;
        let outputs = self.members * self.batch * vectors;
        let wgsl = shader!("global_average_pool");
        Launch::new(wgsl, 1, 1, outputs.div_ceil(POOL_THREADS))
            .stored(width)
            .size("AREA", self.area)
            .size("VECTORS", vectors)
            .size("OUTPUTS", outputs)
    }
}

impl Kernel for GlobalAveragePoolGrad {
    fn name(&self) -> &'static str {
        "global_average_pool_grad"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs = vec![Spec::f32([self.members, self.batch, self.channels])];
        if self.addend {
            specs.push(Spec::f32([self.members, self.batch, self.area, self.channels]));
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.batch, self.area, self.channels])]
    }

    fn activations(&self) -> Activations {
        Activations::new([1], [0])
    }

    fn cost(&self) -> Cost {
        let per_element = 1 + usize::from(self.addend);
        Cost::new(self, per_element * self.members * self.batch * self.area * self.channels)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { area, channels, .. } = *self;
        let dy = inputs[0].f32();
        let addend = inputs.get(1).map(|slice| slice.f32());
        let factor = 1.0 / area as f32;
        outputs[0].f32().par_chunks_mut(area * channels).enumerate().for_each(|(image, dx)| {
            let dy = &dy[image * channels..][..channels];
            for (position, dx) in dx.chunks_exact_mut(channels).enumerate() {
                for (dx, dy) in dx.iter_mut().zip(dy) {
                    *dx = factor * dy;
                }
                if let Some(addend) = addend {
                    for (dx, addend) in dx.iter_mut().zip(&addend[(image * area + position) * channels..]) {
                        *dx += addend;
                    }
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiling = Tiling::new(self.channels);
        let images = self.members * self.batch;
        let wgsl = shader!("global_average_pool_grad");
        let mut launch = Launch::new(wgsl, self.inputs().len(), 1, images * tiling.tiles)
            .size("AREA", self.area)
            .switch("ADDEND", self.addend);
        if !self.addend {
            launch.bindings.insert(1, Binding::Input(0));
        }
        tiling.describe(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn means_and_their_gradients() {
        for (members, batch, area, channels) in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 64, 16)] {
            let words = members * batch * area * channels;
            let (x, addend) = (normal(words, 0.5, 1.0, 1), normal(words, 0.0, 1.0, 2));
            let dy = normal(members * batch * channels, 0.0, 1.0, 3);
            let y = run(&GlobalAveragePool { members, batch, area, channels }, &[&x], &[]).remove(0);
            for (i, &y) in y.iter().enumerate() {
                let (image, c) = (i / channels, i % channels);
                let sum: f64 = (0..area).map(|p| f64::from(x[(image * area + p) * channels + c])).sum();
                assert_close(y, sum / area as f64, 1e-6);
            }
            let grad = |addend| GlobalAveragePoolGrad { members, batch, area, channels, addend };
            let plain = run(&grad(false), &[&dy], &[]).remove(0);
            let added = run(&grad(true), &[&dy, &addend], &[]).remove(0);
            for i in 0..words {
                let want = f64::from(dy[i / (area * channels) * channels + i % channels]) / area as f64;
                assert_close(plain[i], want, 1e-6);
                assert_close(added[i], want + f64::from(addend[i]), 1e-6);
            }
        }
    }
}
