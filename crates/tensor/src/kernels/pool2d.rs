//! Pooling over windows: the largest value or the mean of each channel, and the gradients.

use rayon::prelude::*;

use super::tiling::{THREADS, width};
use super::windows::Windows;
use crate::kernel::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// The value that a window gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The largest value; positions outside the image are left out.
    Max,
    /// The sum over the window's area `R S`; positions outside the image count as zeros.
    Average,
}

/// Extents of a pooling. The gradient is described by the geometry of its forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Images of all members, M N.
    pub images: usize,
    /// Input rows H.
    pub height: usize,
    /// Input columns W.
    pub width: usize,
    /// Channels C.
    pub channels: usize,
    /// Height R and width S of the window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step between windows.
    pub stride: [usize; 2],
    /// Rows and columns added on each side, at most half of the window: no window lies outside the image.
    pub padding: [usize; 2],
    /// The value that a window gives.
    pub pooling: Pooling,
}

impl PoolGeometry {
    /// P and Q: `(extent + 2 padding - kernel) / stride + 1` of each axis.
    pub fn output_extent(&self) -> [usize; 2] {
        self.windows().count()
    }

    fn windows(&self) -> Windows {
        let Self { kernel, stride, padding, .. } = *self;
        Windows { extent: [self.height, self.width], kernel, stride, padding }
    }

    fn x(&self) -> Spec {
        Spec::f32([self.images, self.height, self.width, self.channels])
    }

    fn y(&self) -> Spec {
        let [rows, columns] = self.output_extent();
        Spec::f32([self.images, rows, columns, self.channels])
    }

    /// Positions of one image, as indices of its pixels, that window `(p, q)` covers, row by row.
    fn window(&self, p: usize, q: usize) -> impl Iterator<Item = usize> + use<> {
        let inside = |axis: usize, index: usize, extent: usize| {
            let (first, padding) = (index * self.stride[axis], self.padding[axis]);
            first.saturating_sub(padding)..(first + self.kernel[axis] - padding).min(extent)
        };
        let (rows, columns, width) = (inside(0, p, self.height), inside(1, q, self.width), self.width);
        rows.flat_map(move |i| columns.clone().map(move |j| i * width + j))
    }

    fn describe(&self, launch: Launch, words: usize) -> Launch {
        let width = width(self.channels);
        self.windows()
            .describe_to(launch)
            .stored(width)
            .size("ELEMENTS", words / width)
            .size("C", self.channels / width)
            .switch("MAXIMUM", self.pooling == Pooling::Max)
    }

    fn workgroups(&self, words: usize) -> usize {
        (words / width(self.channels)).div_ceil(THREADS)
    }

    fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// Pools: input `x` `[M N, H, W, C]`, output `y` `[M N, P, Q, C]`.
#[derive(Debug, Clone, Copy)]
pub struct Pool2d {
    /// The extents.
    pub geometry: PoolGeometry,
}

impl Kernel for Pool2d {
    fn name(&self) -> &'static str {
        "pool2d"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![self.geometry.x()]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![self.geometry.y()]
    }

    fn activations(&self) -> Activations {
        Activations::new([0], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.geometry.area() * self.geometry.y().words())
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let g = &self.geometry;
        let [rows, columns] = g.output_extent();
        let channels = g.channels;
        let (x, image) = (inputs[0].f32(), g.height * g.width * channels);
        outputs[0].f32().par_chunks_mut(columns * channels).enumerate().for_each(|(line, y)| {
            let x = &x[line / rows * image..][..image];
            for (q, y) in y.chunks_exact_mut(channels).enumerate() {
                y.fill(if g.pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 });
                for pixel in g.window(line % rows, q) {
                    let x = &x[pixel * channels..][..channels];
                    match g.pooling {
                        Pooling::Max => y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y { x } else { *y }),
                        Pooling::Average => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
                    }
                }
                if g.pooling == Pooling::Average {
                    y.iter_mut().for_each(|y| *y /= g.area() as f32);
                }
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let words = self.geometry.y().words();
        let wgsl = shader!("pool2d");
        self.geometry.describe(Launch::new(wgsl, 1, 1, self.geometry.workgroups(words)), words)
    }
}

/// The gradient of a pooling: inputs `dy` `[M N, P, Q, C]` and, of a maximum, `x` `[M N, H, W, C]`; output `dx`
/// `[M N, H, W, C]`. The gradient of a maximum goes to its first position, row by row, as in PyTorch; it is
/// found again from `x`, so that the forward stores nothing.
#[derive(Debug, Clone, Copy)]
pub struct Pool2dGrad {
    /// The extents of the forward.
    pub geometry: PoolGeometry,
}

impl Pool2dGrad {
    /// One image of a maximum: each window's gradient is added at its first maximum.
    fn maximum(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let g = &self.geometry;
        let (columns, channels) = (g.output_extent()[1], g.channels);
        let mut largest = vec![0.0; channels];
        let mut position = vec![0; channels];
        for (index, dy) in dy.chunks_exact(channels).enumerate() {
            largest.fill(f32::NEG_INFINITY);
            for pixel in g.window(index / columns, index % columns) {
                let x = &x[pixel * channels..][..channels];
                for ((largest, position), &x) in largest.iter_mut().zip(&mut position).zip(x) {
                    if x > *largest {
                        (*largest, *position) = (x, pixel);
                    }
                }
            }
            for (c, (position, dy)) in position.iter().zip(dy).enumerate() {
                dx[position * channels + c] += dy;
            }
        }
    }

    /// One image of a mean: each window's gradient is shared out over its positions.
    fn average(&self, dy: &[f32], dx: &mut [f32]) {
        let g = &self.geometry;
        let (columns, channels) = (g.output_extent()[1], g.channels);
        for (index, dy) in dy.chunks_exact(channels).enumerate() {
            for pixel in g.window(index / columns, index % columns) {
                for (dx, dy) in dx[pixel * channels..][..channels].iter_mut().zip(dy) {
                    *dx += dy / g.area() as f32;
                }
            }
        }
    }
}

impl Kernel for Pool2dGrad {
    fn name(&self) -> &'static str {
        "pool2d_grad"
    }

    fn inputs(&self) -> Vec<Spec> {
        match self.geometry.pooling {
            Pooling::Max => vec![self.geometry.y(), self.geometry.x()],
            Pooling::Average => vec![self.geometry.y()],
        }
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![self.geometry.x()]
    }

    fn activations(&self) -> Activations {
        Activations::new([0, 1], [0])
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 2 * self.geometry.area() * self.geometry.y().words())
    }

    /// Images in parallel; a position adds up its windows in their order.
    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let g = &self.geometry;
        let [rows, columns] = g.output_extent();
        let (input, output) = (g.height * g.width * g.channels, rows * columns * g.channels);
        let dy = inputs[0].f32();
        let x = inputs.get(1).map(|slice| slice.f32());
        outputs[0].f32().par_chunks_mut(input).enumerate().for_each(|(image, dx)| {
            dx.fill(0.0);
            let dy = &dy[image * output..][..output];
            match x {
                Some(x) => self.maximum(&x[image * input..][..input], dy, dx),
                None => self.average(dy, dx),
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let words = self.geometry.x().words();
        let wgsl = shader!("pool2d_grad");
        let x = Binding::Input(self.inputs().len() - 1);
        let launch = Launch::new(wgsl, 0, 0, self.geometry.workgroups(words));
        self.geometry.describe(launch.bindings([Binding::Input(0), x, Binding::Output(0)]), words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    fn geometry(pooling: Pooling) -> PoolGeometry {
        let (kernel, stride, padding) = ([3, 2], [2, 1], [1, 0]);
        PoolGeometry { images: 2, height: 7, width: 4, channels: 3, kernel, stride, padding, pooling }
    }

    /// The inputs of window `(p, q)` of an image and channel, in their order: index in `x`.
    fn window(g: &PoolGeometry, image: usize, p: usize, q: usize, c: usize) -> Vec<usize> {
        let mut inside = Vec::new();
        for r in 0..g.kernel[0] {
            for s in 0..g.kernel[1] {
                let i = (p * g.stride[0] + r).checked_sub(g.padding[0]).filter(|&i| i < g.height);
                let j = (q * g.stride[1] + s).checked_sub(g.padding[1]).filter(|&j| j < g.width);
                if let (Some(i), Some(j)) = (i, j) {
                    inside.push(((image * g.height + i) * g.width + j) * g.channels + c);
                }
            }
        }
        inside
    }

    #[test]
    fn both_poolings_and_their_gradients_follow_the_definition() {
        for pooling in [Pooling::Max, Pooling::Average] {
            let g = geometry(pooling);
            let [rows, columns] = g.output_extent();
            // Few different values: ties are frequent.
            let x: Vec<f32> = normal(g.x().words(), 0.0, 1.0, 1).iter().map(|x| x.round()).collect();
            let dy = normal(g.y().words(), 0.0, 1.0, 2);
            let y = run(&Pool2d { geometry: g }, &[&x], &[]).remove(0);
            let inputs: &[&[f32]] = if pooling == Pooling::Max { &[&dy, &x] } else { &[&dy] };
            let dx = run(&Pool2dGrad { geometry: g }, inputs, &[]).remove(0);
            let mut want = vec![0.0; x.len()];
            for index in 0..y.len() {
                let (c, q, p) = (index % 3, index / 3 % columns, index / 3 / columns % rows);
                let window = window(&g, index / 3 / columns / rows, p, q, c);
                match pooling {
                    Pooling::Max => {
                        let largest = window.iter().map(|&i| x[i]).fold(f32::NEG_INFINITY, f32::max);
                        assert_close(y[index], f64::from(largest), 0.0);
                        let first = window.iter().find(|&&i| x[i] >= largest).expect("no window is empty");
                        want[*first] += f64::from(dy[index]);
                    }
                    Pooling::Average => {
                        let sum: f64 = window.iter().map(|&i| f64::from(x[i])).sum();
                        assert_close(y[index], sum / 6.0, 1e-6);
                        window.iter().for_each(|&i| want[i] += f64::from(dy[index]) / 6.0);
                    }
                }
            }
            dx.iter().zip(want).for_each(|(&dx, want)| assert_close(dx, want, 1e-6));
        }
    }
}
