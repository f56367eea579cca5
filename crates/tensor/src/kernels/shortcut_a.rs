//! The parameter-free shortcut of residual networks (option A): every `stride`-th pixel, and zeros for the channels
//! that the input lacks, one half in front and one half behind.

use rayon::prelude::*;

use super::tiling::{THREADS, width};
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// `x [M, N, H, W, C]` -> `y [M, N, P, Q, K]`, where `y[m, n, p, q, k] = x[m, n, p * stride, q * stride, k - before]`
/// for `before <= k < before + C`, else 0; `before = (K - C) / 2`, `P = ceil(H / stride)`, `Q = ceil(W / stride)`.
#[derive(Debug, Clone, PartialEq)]
pub struct ShortcutA {
    /// Members M.
    pub members: usize,
    /// Images N.
    pub batch: usize,
    /// Input height H.
    pub height: usize,
    /// Input width W.
    pub width: usize,
    /// Input channels C.
    pub channels: usize,
    /// Output channels K, not below C.
    pub filters: usize,
    /// Distance between the pixels that are kept.
    pub stride: usize,
}

/// `dy [M, N, P, Q, K]` -> `dx [M, N, H, W, C]`, plus `addend [M, N, H, W, C]` if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct ShortcutAGrad {
    /// Members M.
    pub members: usize,
    /// Images N.
    pub batch: usize,
    /// Input height H.
    pub height: usize,
    /// Input width W.
    pub width: usize,
    /// Input channels C.
    pub channels: usize,
    /// Output channels K, not below C.
    pub filters: usize,
    /// Distance between the pixels that are kept.
    pub stride: usize,
    /// True if a second input is added: the gradient of another use of `x`.
    pub addend: bool,
}

impl ShortcutA {
    fn out_height(&self) -> usize {
        self.height.div_ceil(self.stride)
    }

    fn out_width(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Zero channels in front.
    fn before(&self) -> usize {
        debug_assert!(self.filters >= self.channels, "the shortcut only adds channels");
        (self.filters - self.channels) / 2
    }

    fn x(&self) -> Spec {
        Spec::f32([self.members, self.batch, self.height, self.width, self.channels])
    }

    fn y(&self) -> Spec {
        Spec::f32([self.members, self.batch, self.out_height(), self.out_width(), self.filters])
    }

    /// Floats per element that every run of channels allows.
    fn element_width(&self) -> usize {
        width(self.channels).min(width(self.filters)).min(width(self.before()))
    }

    fn describe(&self, launch: Launch, words: usize) -> Launch {
        let width = self.element_width();
        launch
            .stored(width)
            .size("ELEMENTS", words / width)
            .size("H", self.height)
            .size("W", self.width)
            .size("C", self.channels / width)
            .size("P", self.out_height())
            .size("Q", self.out_width())
            .size("K", self.filters / width)
            .size("STRIDE", self.stride)
            .size("BEFORE", self.before() / width)
    }
}

impl Kernel for ShortcutA {
    fn name(&self) -> &'static str {
        "shortcut_a"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![self.x()]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![self.y()]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { width, channels, filters, stride, .. } = *self;
        let (out_height, out_width, before) = (self.out_height(), self.out_width(), self.before());
        let images = inputs[0].f32().par_chunks(self.height * width * channels);
        outputs[0].f32().par_chunks_mut(out_height * out_width * filters).zip(images).for_each(|(y, x)| {
            y.fill(0.0);
            for (position, y) in y.chunks_exact_mut(filters).enumerate() {
                let (p, q) = (position / out_width, position % out_width);
                let x = &x[(p * stride * width + q * stride) * channels..][..channels];
                y[before..before + channels].copy_from_slice(x);
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let words = self.y().words();
        let workgroups = (words / self.element_width()).div_ceil(THREADS);
        let launch = Launch::new(shader!("shortcut_a"), 1, 1, workgroups);
        self.describe(launch, words)
    }
}

impl ShortcutAGrad {
    fn forward(&self) -> ShortcutA {
        let Self { members, batch, height, width, channels, filters, stride, .. } = *self;
        ShortcutA { members, batch, height, width, channels, filters, stride }
    }
}

impl Kernel for ShortcutAGrad {
    fn name(&self) -> &'static str {
        "shortcut_a_grad"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut specs = vec![self.forward().y()];
        if self.addend {
            specs.push(self.forward().x());
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![self.forward().x()]
    }

    fn activations(&self) -> Activations {
        Activations::new([0, 1], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, if self.addend { self.forward().y().words() } else { 0 })
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let Self { height, width, channels, filters, stride, .. } = *self;
        let (out_height, out_width) = (self.forward().out_height(), self.forward().out_width());
        let before = self.forward().before();
        let dy = inputs[0].f32();
        let addend = inputs.get(1).map(|slice| slice.f32());
        let size = height * width * channels;
        outputs[0].f32().par_chunks_mut(size).enumerate().for_each(|(image, dx)| {
            match addend {
                Some(addend) => dx.copy_from_slice(&addend[image * size..][..size]),
                None => dx.fill(0.0),
            }
            let dy = &dy[image * out_height * out_width * filters..][..out_height * out_width * filters];
            for (position, dy) in dy.chunks_exact(filters).enumerate() {
                let (p, q) = (position / out_width, position % out_width);
                let dx = &mut dx[(p * stride * width + q * stride) * channels..][..channels];
                for (dx, dy) in dx.iter_mut().zip(&dy[before..]) {
                    *dx += dy;
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let words = self.forward().x().words();
        let workgroups = (words / self.forward().element_width()).div_ceil(THREADS);
        let wgsl = shader!("shortcut_a_grad");
        let addend = if self.addend { 1 } else { 0 };
        let launch = Launch::new(wgsl, 0, 0, workgroups)
            .bindings([Binding::Input(0), Binding::Input(addend), Binding::Output(0)])
            .switch("ADDEND", self.addend);
        self.forward().describe(launch, words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{normal, run};

    #[test]
    fn pixels_are_kept_channels_are_padded_and_the_gradient_is_the_adjoint() {
        for (height, width, channels, filters, stride) in [(4, 4, 4, 8, 2), (5, 3, 3, 8, 2), (7, 5, 2, 2, 3)] {
            let (members, batch) = (2, 3);
            let forward = ShortcutA { members, batch, height, width, channels, filters, stride };
            let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
            let x = normal(forward.x().words(), 0.5, 1.0, 1);
            let y = run(&forward, &[&x], &[]).remove(0);
            let before = (filters - channels) / 2;
            for (i, &y) in y.iter().enumerate() {
                let (k, q, p) = (i % filters, i / filters % out_width, i / filters / out_width % out_height);
                let image = i / filters / out_width / out_height;
                let mut want = 0.0;
                if (before..before + channels).contains(&k) {
                    want = x[((image * height + p * stride) * width + q * stride) * channels + k - before];
                }
                assert_eq!(y, want);
            }
            let dy = normal(forward.y().words(), 0.5, 1.0, 2);
            let addend = normal(x.len(), 0.0, 1.0, 3);
            let grad = |addend| ShortcutAGrad { members, batch, height, width, channels, filters, stride, addend };
            let dx = run(&grad(false), &[&dy], &[]).remove(0);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert!((dot(&dx, &x) - dot(&dy, &y)).abs() < 1e-4);
            let added = run(&grad(true), &[&dy, &addend], &[]).remove(0);
            for i in 0..x.len() {
                assert_eq!(added[i], dx[i] + addend[i]);
            }
        }
    }
}
