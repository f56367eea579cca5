//! Geometry of a two-dimensional convolution, shared by its forward and both its gradients.
//!
//! Letters: M members, N batch, H W input extents, C channels, K filters, R S kernel extents, P Q output extents,
//! G groups. A convolution without dilation is
//!
//! `y[m,n,p,q,k] = sum over r,s,c of x[m,n, p stride_h + r - pad_h, q stride_w + s - pad_w, c] w[m,r,s,c,k]`
//!
//! where `c` runs over the channels of `k`'s group, and positions outside the image read as zero.

mod forward;
mod grad_input;
mod grad_weight;
mod tile;

use crate::kernel::{Binding, Launch, Slice};
use crate::kernels::windows::Windows;
use crate::shader;
use crate::shape::Spec;

pub use forward::Conv2dForward;
pub use grad_input::Conv2dGradInput;
pub use grad_weight::Conv2dGradWeight;
pub(crate) use tile::tile_chunk;

/// Extents of a convolution. The gradients are described by the geometry of their forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvGeometry {
    /// M: members of the weights and of the output.
    pub members: usize,
    /// Members of the input: M, or 1 when every member reads the same input (fan-out).
    pub input_members: usize,
    /// N: images per member.
    pub batch: usize,
    /// H: rows of an input image.
    pub height: usize,
    /// W: columns of an input image.
    pub width: usize,
    /// C: input channels, of all groups together.
    pub channels: usize,
    /// K: output channels, of all groups together.
    pub filters: usize,
    /// R and S: kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros added above and below, and left and right.
    pub padding: [usize; 2],
    /// G: groups; both C and K are multiples of it.
    pub groups: usize,
}

impl ConvGeometry {
    /// P and Q: `(extent + 2 padding - kernel) / stride + 1` of each axis.
    pub fn output_extent(&self) -> [usize; 2] {
        self.windows().count()
    }

    fn windows(&self) -> Windows {
        let Self { kernel, stride, padding, .. } = *self;
        Windows { extent: [self.height, self.width], kernel, stride, padding }
    }

    /// `[input members, N, H, W, C]`.
    pub fn input_spec(&self) -> Spec {
        Spec::f32([self.input_members, self.batch, self.height, self.width, self.channels])
    }

    /// `[M, R, S, C/G, K]`.
    pub fn weight_spec(&self) -> Spec {
        Spec::f32([self.members, self.kernel[0], self.kernel[1], self.group_channels(), self.filters])
    }

    /// `[M, N, P, Q, K]`.
    pub fn output_spec(&self) -> Spec {
        let [rows, columns] = self.output_extent();
        Spec::f32([self.members, self.batch, rows, columns, self.filters])
    }

    /// Multiply-adds of the forward, and of each gradient; those with padding are counted.
    pub fn macs(&self) -> usize {
        self.output_spec().elements() * self.kernel[0] * self.kernel[1] * self.group_channels()
    }

    /// Calls `term(x, w, y)` with the indices of the operands of every product in the formula.
    pub fn terms(&self, mut term: impl FnMut(usize, usize, usize)) {
        let [height, width] = self.output_extent();
        let [channels, filters] = [self.group_channels(), self.group_filters()];
        let pixels = pairs(self.members, self.batch).flat_map(|image| pairs(height, width).map(move |at| (image, at)));
        for ((m, n), (p, q)) in pixels {
            let input = if self.fans_out() { 0 } else { m };
            for (r, s) in pairs(self.kernel[0], self.kernel[1]) {
                let i = (p * self.stride[0] + r).wrapping_sub(self.padding[0]);
                let j = (q * self.stride[1] + s).wrapping_sub(self.padding[1]);
                if i >= self.height || j >= self.width {
                    continue;
                }
                for (c, k) in pairs(channels, self.filters) {
                    let pixel = ((input * self.batch + n) * self.height + i) * self.width + j;
                    let x = pixel * self.channels + k / filters * channels + c;
                    let w = (((m * self.kernel[0] + r) * self.kernel[1] + s) * channels + c) * self.filters + k;
                    let y = (((m * self.batch + n) * height + p) * width + q) * self.filters + k;
                    term(x, w, y);
                }
            }
        }
    }

    /// The values that are convolved, from `x` and, if there are any, `[stats [M, 2, C], gamma [M, C], beta [M, C]]`:
    /// `relu((x - mean) inv_std gamma + beta)`.
    pub(crate) fn normalised(&self, x: &[f32], normalisation: &[Slice<'_>]) -> Vec<f64> {
        let &[stats, gamma, beta] = normalisation else { return x.iter().map(|&x| f64::from(x)).collect() };
        let (stats, gamma, beta) = (stats.f32(), gamma.f32(), beta.f32());
        let (channels, member_words) = (self.channels, x.len() / self.input_members);
        let value = |(index, &x): (usize, &f32)| {
            let (member, channel) = (index / member_words, index % channels);
            let (mean, inv_std) =
                (stats[2 * member * channels + channel], stats[(2 * member + 1) * channels + channel]);
            let parameter = member * channels + channel;
            let normal = f64::from(x - mean) * f64::from(gamma[parameter] * inv_std) + f64::from(beta[parameter]);
            // A comparison keeps NaN, which `max` would not.
            if normal < 0.0 { 0.0 } else { normal }
        };
        x.iter().enumerate().map(value).collect()
    }

    /// Channels of one group.
    pub(crate) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Filters of one group.
    pub(crate) fn group_filters(&self) -> usize {
        self.filters / self.groups
    }

    /// Tells whether the members read the same input.
    pub(crate) fn fans_out(&self) -> bool {
        self.input_members < self.members
    }

    /// Tells whether the kernel is 1x1 with stride 1 and no padding: a plain matrix product over pixels.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Tells whether `vec4` serves: the channels and the filters of a group come in fours.
    pub(crate) fn in_quads(&self) -> bool {
        self.group_channels().is_multiple_of(4) && self.group_filters().is_multiple_of(4)
    }

    /// Adds the extents to a launch, under the letters that the shaders use.
    fn describe_to(&self, launch: Launch) -> Launch {
        self.windows()
            .describe_to(launch)
            .size("M", self.members)
            .size("X_MEMBERS", self.input_members)
            .size("N", self.batch)
            .size("C", self.channels)
            .size("K", self.filters)
            .size("G", self.groups)
            .size("CG", self.group_channels())
            .size("KG", self.group_filters())
    }
}

/// Pixels of a row that a thread computes, given the length of the row.
fn tile_pixels(width: usize) -> usize {
    width.min(4)
}

/// Quads of channels that a thread computes, of the `quads` that there are: as many as registers hold, unless a
/// smaller tile leaves less of the last one idle. A tile costs its quads, and about one more for its loads.
fn tile_quads(quads: usize) -> usize {
    (1..=4).rev().min_by_key(|tile| quads.div_ceil(*tile) * (tile + 1)).unwrap_or(1)
}

/// Threads of a workgroup of the convolution kernels where the shader leaves the choice.
const WORKGROUP: usize = 64;

/// The specifications of a normalisation's tensors.
fn normalisation_specs(g: &ConvGeometry) -> [Spec; 3] {
    let parameter = Spec::f32([g.input_members, g.channels]);
    [Spec::f32([g.input_members, 2, g.channels]), parameter.clone(), parameter]
}

/// Adds the helper that reads a convolution's input, and the bindings of its two inputs, of its normalisation and of
/// its outputs. Without a normalisation `x` stands for its tensors.
fn read_source(g: &ConvGeometry, normalised: bool, outputs: usize, launch: Launch) -> Launch {
    let width = if g.in_quads() { 4 } else { 1 };
    let normalisation = [2, 3, 4].map(|index| if normalised { index } else { 0 });
    let inputs = [0, 1].into_iter().chain(normalisation).map(Binding::Input);
    let bindings: Vec<Binding> = inputs.chain((0..outputs).map(Binding::Output)).collect();
    let launch = launch.bindings(bindings).stored(width).size("WIDTH", width);
    launch.switch("NORMALISED", normalised).helpers(&[shader!("conv2d/source")])
}

/// All pairs of an index below `a` and one below `b`.
fn pairs(a: usize, b: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..a).flat_map(move |i| (0..b).map(move |j| (i, j)))
}
