//! Geometry of a two-dimensional convolution, shared by its forward and both its gradients, and the gathering of
//! columns with which their references turn it into matrix products.
//!
//! Letters: M members, N batch, H W input extents, C channels, K filters, R S kernel extents, P Q output extents,
//! G groups. A convolution without dilation is
//!
//! `y[m,n,p,q,k] = sum over r,s,c of x[m,n, p stride_h + r - pad_h, q stride_w + s - pad_w, c] w[m,r,s,c,k]`
//!
//! where `c` runs over the channels of `k`'s group, and positions outside the image read as zero.

use std::ops::Range;

use super::matrix::repeat;
use super::vector::{Loops, wide};
use crate::kernel::{Binding, Launch, Slice};
use crate::shape::Spec;

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
        let input = [self.height, self.width];
        [0, 1].map(|axis| (input[axis] + 2 * self.padding[axis] - self.kernel[axis]) / self.stride[axis] + 1)
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

    /// Channels of one group.
    pub(super) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Filters of one group.
    pub(super) fn group_filters(&self) -> usize {
        self.filters / self.groups
    }

    /// Whether the members read the same input.
    pub(crate) fn fans_out(&self) -> bool {
        self.input_members < self.members
    }

    /// Whether the kernel is 1x1 with stride 1 and no padding: a plain matrix product over pixels.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Whether `vec4` serves: the channels and the filters of a group come in fours.
    pub(crate) fn in_quads(&self) -> bool {
        self.group_channels().is_multiple_of(4) && self.group_filters().is_multiple_of(4)
    }

    /// The same convolution with its smallest groups merged into groups of up to [`MERGED_CHANNELS`] channels, and how
    /// many became one. The merged weights are zero between what was not one group: more arithmetic, but matrix
    /// products of fewer columns than these take longer.
    pub(super) fn merged(&self) -> (Self, usize) {
        let widest = self.group_channels().max(self.group_filters());
        let count = (1..=self.groups).rev().find(|&n| self.groups.is_multiple_of(n) && n * widest <= MERGED_CHANNELS);
        let count = count.unwrap_or(1);
        (Self { groups: self.groups / count, ..*self }, count)
    }

    /// Calls `with(merged, own)` for each weight, as their indices in the merged and in the own weights.
    fn merged_weights(&self, mut with: impl FnMut(usize, usize)) {
        let (merged, count) = self.merged();
        let (own, wide) = (self.group_channels(), merged.group_channels());
        let taps = self.members * self.kernel[0] * self.kernel[1];
        for tap in 0..taps {
            for c in 0..own {
                for k in 0..self.filters {
                    let group = k / self.group_filters() % count;
                    with((tap * wide + group * own + c) * self.filters + k, (tap * own + c) * self.filters + k);
                }
            }
        }
    }

    /// The weights of [`ConvGeometry::merged`].
    pub(super) fn merge_weights(&self, w: &[f32]) -> Vec<f32> {
        let mut merged = vec![0.0; self.merged().0.weight_spec().words()];
        self.merged_weights(|at, own| merged[at] = w[own]);
        merged
    }

    /// The own weights among merged ones.
    pub(super) fn split_weights(&self, merged: &[f32], w: &mut [f32]) {
        self.merged_weights(|at, own| w[own] = merged[at]);
    }

    /// Adds the extents to a launch, under the letters that the shaders use.
    pub(super) fn describe_to(&self, launch: Launch) -> Launch {
        let [rows, columns] = self.output_extent();
        launch
            .size("M", self.members)
            .size("X_MEMBERS", self.input_members)
            .size("N", self.batch)
            .size("H", self.height)
            .size("W", self.width)
            .size("C", self.channels)
            .size("P", rows)
            .size("Q", columns)
            .size("K", self.filters)
            .size("R", self.kernel[0])
            .size("S", self.kernel[1])
            .size("STRIDE_H", self.stride[0])
            .size("STRIDE_W", self.stride[1])
            .size("PAD_H", self.padding[0])
            .size("PAD_W", self.padding[1])
            .size("G", self.groups)
            .size("CG", self.group_channels())
            .size("KG", self.group_filters())
    }

    /// What output positions read of the input.
    pub(super) fn forward_window(&self) -> Window {
        let axis = |axis: usize, source| Axis {
            step: self.stride[axis],
            start: -(self.padding[axis] as isize),
            taps: self.kernel[axis],
            source,
        };
        Window {
            vertical: axis(0, self.height),
            horizontal: axis(1, self.width),
            channels: self.channels,
            group_channels: self.group_channels(),
        }
    }

    /// What input positions read of the output's gradient. Position `i stride + class` of an axis meets only the
    /// taps `t = first, first + stride, …` with `first = (class + pad) mod stride`, at `i + (class + pad - t) / stride`.
    pub(super) fn backward_window(&self, class: [usize; 2]) -> Window {
        let output = self.output_extent();
        let axis = |axis: usize| {
            let taps = self.class_taps(axis, class[axis]);
            let last = (class[axis] + self.padding[axis]) / self.stride[axis];
            Axis { step: 1, start: last as isize - taps as isize + 1, taps, source: output[axis] }
        };
        Window { vertical: axis(0), horizontal: axis(1), channels: self.filters, group_channels: self.group_filters() }
    }

    /// Number of kernel taps along `axis` that input positions of `class` (modulo the stride) meet.
    pub(super) fn class_taps(&self, axis: usize, class: usize) -> usize {
        let first = (class + self.padding[axis]) % self.stride[axis];
        self.kernel[axis].saturating_sub(first).div_ceil(self.stride[axis])
    }

    /// The kernel tap along `axis` that tap `index` of [`Self::backward_window`] is. The window's taps ascend in
    /// the position that they read, hence descend in the kernel.
    pub(super) fn class_tap(&self, axis: usize, class: usize, index: usize) -> usize {
        let first = (class + self.padding[axis]) % self.stride[axis];
        first + (self.class_taps(axis, class) - 1 - index) * self.stride[axis]
    }
}

/// Channels of merged groups: on AVX-512, products with 16 columns run at more than half of the full rate, and those
/// with 4 at a twentieth.
const MERGED_CHANNELS: usize = 16;

/// Pixels of a row that a thread computes, given the length of the row.
pub(super) fn tile_pixels(width: usize) -> usize {
    width.min(4)
}

/// Quads of channels that a thread computes, of the `quads` that there are: as many as registers hold, unless a
/// smaller tile leaves less of the last one idle. A tile costs its quads, and about one more for its loads.
pub(super) fn tile_quads(quads: usize) -> usize {
    (1..=4).rev().min_by_key(|tile| quads.div_ceil(*tile) * (tile + 1)).unwrap_or(1)
}

/// Threads of a workgroup of the convolution kernels where the shader leaves the choice.
pub(super) const WORKGROUP: usize = 64;

/// Along one axis, position `i` reads the `taps` consecutive source positions from `i step + start` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub step: usize,
    pub start: isize,
    pub taps: usize,
    /// Extent of the source; positions outside are zero.
    pub source: usize,
}

impl Axis {
    /// First source position of `i`, and the range of its taps that lie inside the source.
    fn taps_inside(&self, i: usize) -> (isize, usize, usize) {
        let first = (i * self.step) as isize + self.start;
        let low = (-first).clamp(0, self.taps as isize) as usize;
        let high = (self.source as isize - first).clamp(low as isize, self.taps as isize) as usize;
        (first, low, high)
    }
}

/// The rectangle of source pixels that a position reads, as one row of a matrix `[positions, taps * channels]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub vertical: Axis,
    pub horizontal: Axis,
    /// Channels of a source pixel.
    pub channels: usize,
    /// Channels that one group reads.
    pub group_channels: usize,
}

impl Window {
    /// Length of a row of the matrix: vertical taps, horizontal taps, channels of a group.
    pub fn depth(&self) -> usize {
        self.vertical.taps * self.horizontal.taps * self.group_channels
    }

    /// What one tap of the window reads, of `group_channels` channels at a time.
    pub fn of_tap(self, [vertical, horizontal]: [usize; 2], group_channels: usize) -> Self {
        let one = |axis: Axis, tap: usize| Axis { start: axis.start + tap as isize, taps: 1, ..axis };
        Self {
            vertical: one(self.vertical, vertical),
            horizontal: one(self.horizontal, horizontal),
            group_channels,
            ..self
        }
    }

    /// Fills `columns`, `[positions, depth]`, for consecutive positions of row `row` of `image`, from the first.
    pub fn gather(&self, image: &[f32], group: usize, row: usize, columns: &mut [f32]) {
        let line = self.horizontal.taps * self.group_channels;
        let source_row = self.horizontal.source * self.channels;
        let (first_row, top, bottom) = self.vertical.taps_inside(row);
        for tap in 0..self.vertical.taps {
            let lines = columns.chunks_exact_mut(self.depth()).map(|column| &mut column[tap * line..][..line]);
            if (top..bottom).contains(&tap) {
                let start = (first_row + tap as isize) as usize * source_row + group * self.group_channels;
                self.gather_lines(&image[start..][..source_row - group * self.group_channels], lines);
            } else {
                lines.for_each(|line| line.fill(0.0));
            }
        }
    }

    /// Fills the line of each position with the horizontal taps that it has in one row of the source.
    fn gather_lines<'a>(&self, row: &[f32], lines: impl Iterator<Item = &'a mut [f32]>) {
        let (channels, group_channels) = (self.channels, self.group_channels);
        for (j, line) in lines.enumerate() {
            let (first, low, high) = self.horizontal.taps_inside(j);
            line[..low * group_channels].fill(0.0);
            line[high * group_channels..].fill(0.0);
            if low == high {
                continue;
            }
            let inside = &mut line[low * group_channels..high * group_channels];
            let source = &row[(first + low as isize) as usize * channels..];
            if group_channels == channels {
                inside.copy_from_slice(&source[..inside.len()]);
            } else {
                for (tap, pixel) in inside.chunks_exact_mut(group_channels).zip(source.chunks(channels)) {
                    tap.copy_from_slice(&pixel[..group_channels]);
                }
            }
        }
    }
}

/// Rows of pixels that a task takes at once: enough for an efficient matrix product, few enough that `depth`
/// columns of them stay in the second-level cache.
pub(super) fn rows_per_block(width: usize, depth: usize) -> usize {
    const SCRATCH_WORDS: usize = 96 * 1024;
    let pixels = (SCRATCH_WORDS / depth.max(1)).clamp(64, 512);
    (pixels / width).max(1)
}

/// What a convolution with a normalised input makes of it as it reads it: `relu((x - mean) scale + shift)`, by the
/// channel. The batch-norm and the ReLU in front of a convolution need no tensor of their own.
#[derive(Debug, Clone)]
pub(super) struct Normalisation {
    // Repeated over a few pixels, so that loops over them are long.
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Normalisation {
    /// That of channels `channels` of a member, from `[stats [M, 2, C], gamma [M, C], beta [M, C]]`; none if there are no
    /// such inputs.
    pub fn of(inputs: &[Slice<'_>], member: usize, all: usize, channels: Range<usize>) -> Option<Self> {
        let &[stats, gamma, beta] = inputs else { return None };
        let (mean, inv_std) = stats.f32()[member * 2 * all..][..2 * all].split_at(all);
        let [gamma, beta] = [gamma, beta].map(|values| &values.f32()[member * all..][..all][channels.clone()]);
        let scale: Vec<f32> = gamma.iter().zip(&inv_std[channels.clone()]).map(|(gamma, s)| gamma * s).collect();
        Some(Self { mean: repeat(&mean[channels]), scale: repeat(&scale), shift: repeat(beta) })
    }

    /// That of each group's channels of an input member.
    pub fn of_groups(g: &ConvGeometry, inputs: &[Slice<'_>], member: usize) -> Vec<Option<Self>> {
        let channels = |group: usize| group * g.group_channels()..(group + 1) * g.group_channels();
        (0..g.groups).map(|group| Self::of(inputs, member, g.channels, channels(group))).collect()
    }

    /// Normalises whole pixels of these channels.
    pub fn apply(&self, pixels: &mut [f32]) {
        wide(Normalise { normalisation: self, pixels });
    }
}

struct Normalise<'a> {
    normalisation: &'a Normalisation,
    pixels: &'a mut [f32],
}

impl Loops for Normalise<'_> {
    #[inline(always)]
    fn run(self) {
        let Normalisation { mean, scale, shift } = self.normalisation;
        for pixels in self.pixels.chunks_mut(mean.len()) {
            let parameters = mean.iter().zip(scale).zip(shift);
            for (x, ((mean, scale), shift)) in pixels.iter_mut().zip(parameters) {
                let value = (*x - mean) * scale + shift;
                // A comparison that leaves NaN what it is.
                *x = if value < 0.0 { 0.0 } else { value };
            }
        }
    }
}

/// The specifications of a normalisation's tensors.
pub(super) fn normalisation_specs(g: &ConvGeometry) -> [Spec; 3] {
    let parameter = Spec::f32([g.input_members, g.channels]);
    [Spec::f32([g.input_members, 2, g.channels]), parameter.clone(), parameter]
}

/// The bindings of a convolution's two inputs and its output, and of its normalisation, for which `x` stands where there
/// is none.
pub(super) fn bindings(normalised: bool) -> Vec<Binding> {
    let normalisation = [2, 3, 4].map(|index| Binding::Input(if normalised { index } else { 0 }));
    [Binding::Input(0), Binding::Input(1), Binding::Output(0)].into_iter().chain(normalisation).collect()
}

/// Consecutive rows of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Which image.
    pub image: usize,
    /// Its first row, and how many.
    pub first: usize,
    pub rows: usize,
    /// Rows of earlier runs.
    pub offset: usize,
}

/// The runs of which rows `first` to `first + rows` consist, counted over images of `height` rows.
pub(super) fn runs_in_images(first: usize, rows: usize, height: usize) -> impl Iterator<Item = Run> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let row = first + offset;
        let run =
            Run { image: row / height, first: row % height, rows: (height - row % height).min(rows - offset), offset };
        offset += run.rows;
        (run.rows > 0).then_some(run)
    })
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Calls `work` with a buffer of this thread, of `words` arbitrary elements.
pub(super) fn with_scratch<T>(words: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < words {
            scratch.resize(words, 0.0);
        }
        work(&mut scratch[..words])
    })
}
