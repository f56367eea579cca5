//! Windows: the pixels that a position of a convolution reads. Small groups merged into larger ones, and blocks of rows
//! that fit the caches.

use crate::kernels::conv2d::ConvGeometry;

impl ConvGeometry {
    /// The same convolution with its smallest groups merged into groups of up to [`MERGED_CHANNELS`] channels, and how
    /// many became one. The merged weights are zero between different groups: more arithmetic, but matrix
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

    /// The window of output positions into the input.
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

    /// The window of input positions into the output's gradient. Position `i stride + class` of an axis meets only
    /// the taps `t = first, first + stride, …` with `first = (class + pad) mod stride`, at `i + (class + pad - t) /
    /// stride`.
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

    /// The window of one tap, `group_channels` channels wide.
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

/// Consecutive rows of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Index of the image.
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
