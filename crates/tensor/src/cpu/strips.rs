//! The CPU's inner loops of convolutions: sums over taps and channels in registers, without a matrix of columns.
//!
//! The input of consecutive output rows is copied to a *strip*, padded with zeros, so that no loop looks at edges;
//! within a row of the strip the taps and channels of a position are contiguous. The loops are written once over
//! vectors of whatever width the machine has (crate `pulp`, chosen at run time), and are used where the filters fill
//! such vectors, and the weights stay in the cache (`wide_layers`); elsewhere columns are gathered and multiplied
//! (`gather` and `multiply`).

use pulp::{Simd, WithSimd};

use super::normalise::Normalisation;
use super::vectors::arch;
use super::wide_layers::is_wide;
use super::windows::{Axis, Window, runs_in_images};
use crate::kernels::conv2d::ConvGeometry;

/// Words of a strip, with the gradients that belong to it, over which weights' gradients are summed before they go to
/// memory: they stay in the second-level cache with room for the weights.
const NEAR_WORDS: usize = 16 * 1024;

/// Tells whether the loops serve a layer whose groups have this number of filters (for gradients of inputs: channels).
pub(super) fn serves(g: &ConvGeometry, filters: usize) -> bool {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    filters > 0 && filters.is_multiple_of(arch().dispatch(Lanes)) && !is_wide(g)
}

/// The layout of a strip, which `rows` output rows of `width` positions each read through `window`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strip {
    window: Window,
    rows: usize,
    width: usize,
}

impl Strip {
    /// The strip of `rows` output rows of `width` positions.
    pub fn new(window: Window, rows: usize, width: usize) -> Self {
        Self { window, rows, width }
    }

    /// Source rows and columns that are read.
    fn extent(&self) -> [usize; 2] {
        let reach = |axis: Axis, positions: usize| (positions - 1) * axis.step + axis.taps;
        [reach(self.window.vertical, self.rows), reach(self.window.horizontal, self.width)]
    }

    /// Words between rows.
    fn pitch(&self) -> usize {
        self.extent()[1] * self.window.group_channels
    }

    /// Words in all.
    pub fn words(&self) -> usize {
        self.extent()[0] * self.pitch()
    }

    /// Tells whether a row has three taps, and positions next to each other share two of the pixels.
    fn has_three_taps(&self) -> bool {
        self.window.horizontal.taps == 3 && self.window.horizontal.step == 1
    }

    /// Words that the taps of a position have in one row.
    fn line(&self) -> usize {
        self.window.horizontal.taps * self.window.group_channels
    }

    /// Copies the pixels of `image` that output rows from `first` on read, of a group's channels, normalised if asked
    /// for; zeros outside of it.
    pub fn fill(
        &self,
        image: &[f32],
        group: usize,
        first: usize,
        normalisation: Option<&Normalisation>,
        strip: &mut [f32],
    ) {
        let Window { vertical, horizontal, channels, group_channels } = self.window;
        let top = (first * vertical.step) as isize + vertical.start;
        let columns = self.extent()[1] as isize;
        let inside = |position: isize, extent: usize| position.clamp(0, extent as isize) as usize;
        let left = inside(horizontal.start, horizontal.source);
        let right = inside(horizontal.start + columns, horizontal.source).max(left);
        let before = (left as isize - horizontal.start).clamp(0, columns) as usize * group_channels;
        let after = before + (right - left) * group_channels;
        for (row, to) in (top..).zip(strip[..self.words()].chunks_exact_mut(self.pitch())) {
            if row < 0 || row >= vertical.source as isize {
                to.fill(0.0);
                continue;
            }
            to[..before].fill(0.0);
            to[after..].fill(0.0);
            let from = &image[(row as usize * horizontal.source + left) * channels..][..(right - left) * channels];
            if group_channels == channels {
                to[before..after].copy_from_slice(from);
            } else {
                let pixels = to[before..after].chunks_exact_mut(group_channels).zip(from.chunks_exact(channels));
                pixels.for_each(|(to, from)| to.copy_from_slice(&from[group * group_channels..][..group_channels]));
            }
            if let Some(normalisation) = normalisation {
                normalisation.apply(&mut to[before..after]);
            }
        }
    }

    /// Copies the window of each position to a row of `columns`, `[positions, depth]`.
    pub fn columns(&self, strip: &[f32], columns: &mut [f32]) {
        let Window { vertical, horizontal, group_channels, .. } = self.window;
        let (line, step) = (self.line(), horizontal.step * group_channels);
        for (position, column) in columns.chunks_exact_mut(self.window.depth()).take(self.rows * self.width).enumerate()
        {
            let (row, q) = (position / self.width, position % self.width);
            for (tap, to) in column.chunks_exact_mut(line).enumerate() {
                to.copy_from_slice(&strip[(row * vertical.step + tap) * self.pitch() + q * step..][..line]);
            }
        }
    }
}

/// Fills `columns`, `[pixels, depth]`, with the windows of output rows of `width` positions from `first_row` on,
/// counted over images of `height` rows, into a group's channels of `x`, normalised if asked for. `near` has room for
/// a strip.
pub(super) fn gather(
    window: Window,
    [height, width]: [usize; 2],
    (x, group, first_row): (&[f32], usize, usize),
    normalisation: Option<&Normalisation>,
    near: &mut [f32],
    columns: &mut [f32],
) {
    let image = window.vertical.source * window.horizontal.source * window.channels;
    let depth = window.depth();
    for run in runs_in_images(first_row, columns.len() / (width * depth), height) {
        let strip = Strip::new(window, run.rows, width);
        strip.fill(&x[run.image * image..][..image], group, run.first, normalisation, near);
        strip.columns(near, &mut columns[run.offset * width * depth..]);
    }
}

/// The vectors of which a slice consists. Arrays of vectors are only ever indexed by constants here: whatever takes the
/// address of one (`copy_from_slice`, iterators) may keep it in memory, at half the speed.
#[inline(always)]
pub(super) fn load<S: Simd, const V: usize>(values: &[f32]) -> [S::f32s; V] {
    let (vectors, _) = S::as_simd_f32s(values);
    std::array::from_fn(|v| vectors[v])
}

/// A tensor of rows of positions of `filters` elements each, with gaps between them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pitch {
    /// Words between rows, and between positions of a row.
    pub row: usize,
    pub position: usize,
}

/// `y[position, k] = sum over taps and channels of strip[position, tap, c] w[tap, c, k]`, or the sum added to `y`.
pub(super) struct Convolve<'a> {
    pub strip: Strip,
    pub x: &'a [f32],
    /// Rows of the taps' channels, `stride` apart.
    pub w: &'a [f32],
    pub stride: usize,
    pub filters: usize,
    pub y: &'a mut [f32],
    pub pitch: Pitch,
    pub accumulate: bool,
}

impl Convolve<'_> {
    /// Computes.
    pub fn run(self) {
        arch().dispatch(self);
    }

    /// All positions of a row, `V` vectors of filters from filter `k` on.
    #[inline(always)]
    fn filters<S: Simd, const V: usize>(&mut self, simd: S, row: usize, k: usize) {
        let width = self.strip.width;
        let mut q = 0;
        // The sums of a tile and the operands in use fill the registers.
        if S::REGISTER_COUNT >= 32 && self.strip.has_three_taps() {
            while V == 1 && q + 16 <= width {
                self.tile::<S, 16, 18, V, 3>(simd, row, q, k);
                q += 16;
            }
            while q + 8 <= width {
                self.tile::<S, 8, 10, V, 3>(simd, row, q, k);
                q += 8;
            }
        }
        while S::REGISTER_COUNT >= 32 && q + 8 <= width {
            self.tile::<S, 8, 8, V, 1>(simd, row, q, k);
            q += 8;
        }
        // Of few registers, sums of six positions take twelve. Rows of eight are two tiles of four.
        while V == 2 && q + 6 <= width && q + 8 != width {
            self.tile::<S, 6, 6, V, 1>(simd, row, q, k);
            q += 6;
        }
        while q + 4 <= width {
            self.tile::<S, 4, 4, V, 1>(simd, row, q, k);
            q += 4;
        }
        while q < width {
            self.tile::<S, 1, 1, V, 1>(simd, row, q, k);
            q += 1;
        }
    }

    /// `P` positions of a row from `q` on. `T` neighbouring taps are taken together, so that each of the `J = P + T -
    /// 1` pixels that they read is loaded once for all; with T = 1, taps and channels are one line.
    #[expect(clippy::needless_range_loop, clippy::manual_memcpy, reason = "see `load`")]
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const J: usize, const V: usize, const T: usize>(
        &mut self,
        simd: S,
        row: usize,
        q: usize,
        k: usize,
    ) {
        let block = V * S::F32_LANES;
        let Window { vertical, horizontal, group_channels, .. } = self.strip.window;
        let (line, pitch, step) = (self.strip.line(), self.strip.pitch(), horizontal.step * group_channels);
        let depth = line / T;
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        let first = row * self.pitch.row + q * self.pitch.position + k;
        if self.accumulate {
            sums = std::array::from_fn(|p| load::<S, V>(&self.y[first + p * self.pitch.position..][..block]));
        }
        for tap in 0..vertical.taps {
            let start = (row * vertical.step + tap) * pitch + q * step;
            let x: [&[f32]; J] = std::array::from_fn(|j| &self.x[start + j * step..][..depth]);
            let w: [&[f32]; T] = std::array::from_fn(|t| &self.w[(tap * line + t * depth) * self.stride + k..]);
            for i in 0..depth {
                let w: [[S::f32s; V]; T] = std::array::from_fn(|t| load::<S, V>(&w[t][i * self.stride..][..block]));
                for t in 0..T {
                    for p in 0..P {
                        let x = simd.splat_f32s(x[p + t][i]);
                        for v in 0..V {
                            sums[p][v] = simd.mul_add_e_f32s(x, w[t][v], sums[p][v]);
                        }
                    }
                }
            }
        }
        for p in 0..P {
            let (y, _) = S::as_mut_simd_f32s(&mut self.y[first + p * self.pitch.position..][..block]);
            for v in 0..V {
                y[v] = sums[p][v];
            }
        }
    }
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for row in 0..self.strip.rows {
            let mut k = 0;
            while k + 2 * S::F32_LANES <= self.filters {
                self.filters::<S, 2>(simd, row, k);
                k += 2 * S::F32_LANES;
            }
            if k < self.filters {
                self.filters::<S, 1>(simd, row, k);
            }
        }
    }
}

/// `dw[tap, c, k] += sum over positions of strip[position, tap, c] dy[position, k]`.
pub(super) struct AddWeightGradient<'a> {
    pub strip: Strip,
    pub x: &'a [f32],
    pub dy: &'a [f32],
    pub pitch: Pitch,
    pub filters: usize,
    pub dw: &'a mut [f32],
    /// Words between rows of `dw`.
    pub stride: usize,
}

impl AddWeightGradient<'_> {
    /// Computes.
    pub fn run(self) {
        arch().dispatch(self);
    }

    /// Rows `rows` of output positions, `V` vectors of filters from filter `k` on: `WIDE` lines of taps and channels at
    /// a time as long as there are as many.
    #[inline(always)]
    fn filters<S: Simd, const WIDE: usize, const V: usize>(&mut self, simd: S, rows: [usize; 2], k: usize) {
        let line = self.strip.line();
        for tap in 0..self.strip.window.vertical.taps {
            let mut i = 0;
            while i + WIDE <= line {
                self.tile::<S, WIDE, V>(simd, rows, tap, i, k);
                i += WIDE;
            }
            while i + 4 <= line {
                self.tile::<S, 4, V>(simd, rows, tap, i, k);
                i += 4;
            }
            while i < line {
                self.tile::<S, 1, V>(simd, rows, tap, i, k);
                i += 1;
            }
        }
    }

    /// Rows `rows` of output positions, of at least two each, whose rows have three taps; a vector of filters from
    /// filter `k` on.
    #[inline(always)]
    fn three_taps<S: Simd>(&mut self, simd: S, rows: [usize; 2], k: usize) {
        let channels = self.strip.window.group_channels;
        for tap in 0..self.strip.window.vertical.taps {
            let mut c = 0;
            while c + 8 <= channels {
                self.three_tap_tile::<S, 8>(simd, rows, tap, c, k);
                c += 8;
            }
            while c + 4 <= channels {
                self.three_tap_tile::<S, 4>(simd, rows, tap, c, k);
                c += 4;
            }
            while c < channels {
                self.three_tap_tile::<S, 1>(simd, rows, tap, c, k);
                c += 1;
            }
        }
    }

    /// `C` channels from `channel` on of each of a row's three taps: a pixel is loaded once for all three, and so is a
    /// gradient.
    #[inline(always)]
    fn three_tap_tile<S: Simd, const C: usize>(
        &mut self,
        simd: S,
        [first, end]: [usize; 2],
        tap: usize,
        channel: usize,
        k: usize,
    ) {
        let Window { vertical, group_channels, .. } = self.strip.window;
        let (pitch, width) = (self.strip.pitch(), self.strip.width);
        let zero = [[simd.splat_f32s(0.0)]; C];
        // Three arrays: one that loops index stays in memory if there are too many elements to unroll them.
        let (mut left, mut middle, mut right) = (zero, zero, zero);
        macro_rules! add {
            ($x:expr, $($sums:ident += $dy:expr),+) => {
                for c in 0..C {
                    let x = simd.splat_f32s($x[c]);
                    $($sums[c][0] = simd.mul_add_e_f32s(x, $dy[0], $sums[c][0]);)+
                }
            };
        }
        for row in first..end {
            let x = &self.x[(row * vertical.step + tap) * pitch + channel..];
            let dy = &self.dy[row * self.pitch.row + k..];
            let x = |q: usize| &x[q * group_channels..][..C];
            let dy = |q: usize| load::<S, 1>(&dy[q * self.pitch.position..][..S::F32_LANES]);
            let (mut before, mut last) = (dy(0), dy(1));
            add!(x(0), left += before);
            add!(x(1), left += last, middle += before);
            for q in 2..width {
                let (x, this) = (x(q), dy(q));
                add!(x, left += this, middle += last, right += before);
                (before, last) = (last, this);
            }
            add!(x(width), middle += last, right += before);
            add!(x(width + 1), right += last);
        }
        let first = tap * self.strip.line() + channel;
        self.add(simd, first, k, left);
        self.add(simd, first + group_channels, k, middle);
        self.add(simd, first + 2 * group_channels, k, right);
    }

    /// `C` rows of the gradient from `i` of the tap's line on, summed over output rows `first` to `end`.
    #[inline(always)]
    fn tile<S: Simd, const C: usize, const V: usize>(
        &mut self,
        simd: S,
        [first, end]: [usize; 2],
        tap: usize,
        i: usize,
        k: usize,
    ) {
        let block = V * S::F32_LANES;
        let Window { vertical, horizontal, group_channels, .. } = self.strip.window;
        let (line, pitch, step) = (self.strip.line(), self.strip.pitch(), horizontal.step * group_channels);
        let mut sums = [[simd.splat_f32s(0.0); V]; C];
        for row in first..end {
            let x = &self.x[(row * vertical.step + tap) * pitch + i..];
            let dy = &self.dy[row * self.pitch.row + k..];
            for q in 0..self.strip.width {
                let x = &x[q * step..][..C];
                let dy = load::<S, V>(&dy[q * self.pitch.position..][..block]);
                for c in 0..C {
                    let x = simd.splat_f32s(x[c]);
                    for v in 0..V {
                        sums[c][v] = simd.mul_add_e_f32s(x, dy[v], sums[c][v]);
                    }
                }
            }
        }
        self.add(simd, tap * line + i, k, sums);
    }

    /// Adds sums to `C` rows of the gradient, from row `first` on.
    #[expect(clippy::needless_range_loop, reason = "see `load`")]
    #[inline(always)]
    fn add<S: Simd, const C: usize, const V: usize>(
        &mut self,
        simd: S,
        first: usize,
        k: usize,
        sums: [[S::f32s; V]; C],
    ) {
        for c in 0..C {
            let (dw, _) = S::as_mut_simd_f32s(&mut self.dw[(first + c) * self.stride + k..][..V * S::F32_LANES]);
            for v in 0..V {
                dw[v] = simd.add_f32s(dw[v], sums[c][v]);
            }
        }
    }
}

impl WithSimd for AddWeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let words = self.strip.window.vertical.step * self.strip.pitch() + self.strip.width * self.filters;
        let rows = (NEAR_WORDS / words).max(1);
        let three = S::REGISTER_COUNT >= 32 && self.strip.has_three_taps() && self.strip.width >= 2;
        for first in (0..self.strip.rows).step_by(rows) {
            let rows = [first, (first + rows).min(self.strip.rows)];
            let mut k = 0;
            while three && k < self.filters {
                self.three_taps(simd, rows, k);
                k += S::F32_LANES;
            }
            while k + 2 * S::F32_LANES <= self.filters {
                if S::REGISTER_COUNT >= 32 {
                    self.filters::<S, 8, 2>(simd, rows, k);
                } else {
                    self.filters::<S, 6, 2>(simd, rows, k);
                }
                k += 2 * S::F32_LANES;
            }
            if k < self.filters {
                if S::REGISTER_COUNT >= 32 {
                    self.filters::<S, 16, 1>(simd, rows, k);
                } else {
                    self.filters::<S, 8, 1>(simd, rows, k);
                }
            }
        }
    }
}
