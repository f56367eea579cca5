//! The CPU's inner loops of convolutions: sums over taps and channels in registers, without a matrix of columns.
//!
//! What consecutive output rows read is copied to a *strip*, padded with zeros, so that no loop looks at edges; within a
//! row of the strip the taps and channels of a position are contiguous. The loops are written once over vectors of
//! whatever width the machine has (crate `pulp`, chosen at run time), and are used where the filters fill such vectors;
//! elsewhere columns are gathered and multiplied (`gather` and `multiply`).

use pulp::{Arch, Simd, WithSimd};

use super::conv2d::{Normalisation, Window};

/// Words of a strip with what belongs to it that stay in the first-level cache.
const NEAR_WORDS: usize = 6 * 1024;

/// Whether the loops serve this number of filters (for gradients of inputs: channels).
pub(super) fn serves(filters: usize) -> bool {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    filters > 0 && filters.is_multiple_of(Arch::new().dispatch(Lanes))
}

/// Where the parts of a strip lie: `rows` output rows of `width` positions each read it through `window`.
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
        let reach = |axis: super::conv2d::Axis, positions: usize| (positions - 1) * axis.step + axis.taps;
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

    /// Words that the taps of a position have in one row.
    fn line(&self) -> usize {
        self.window.horizontal.taps * self.window.group_channels
    }

    /// Copies what output rows from `first` on read of a group's channels of `image`, normalised if asked for; zeros
    /// outside of it.
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
}

/// The vectors of which a slice consists. Arrays of vectors are only ever indexed by constants here: whatever takes the
/// address of one (`copy_from_slice`, iterators) may keep it in memory, at half the speed.
#[inline(always)]
fn load<S: Simd, const V: usize>(values: &[f32]) -> [S::f32s; V] {
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

/// `y[position, k] = sum over taps and channels of strip[position, tap, c] w[tap, c, k]`, or that added to `y`.
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
        Arch::new().dispatch(self);
    }

    /// All positions, `V` vectors of filters from filter `k` on.
    #[inline(always)]
    fn filters<S: Simd, const V: usize>(&mut self, simd: S, row: usize, k: usize) {
        let width = self.strip.width;
        let mut q = 0;
        // Sums of a tile and the operands at hand fill the registers.
        if S::REGISTER_COUNT >= 32 {
            while q + 8 <= width {
                self.tile::<S, 8, V>(simd, row, q, k);
                q += 8;
            }
        }
        while q + 4 <= width {
            self.tile::<S, 4, V>(simd, row, q, k);
            q += 4;
        }
        while q < width {
            self.tile::<S, 1, V>(simd, row, q, k);
            q += 1;
        }
    }

    /// `P` positions of a row from `q` on.
    #[expect(clippy::needless_range_loop, clippy::manual_memcpy, reason = "see `load`")]
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, row: usize, q: usize, k: usize) {
        let block = V * S::F32_LANES;
        let Window { vertical, horizontal, group_channels, .. } = self.strip.window;
        let (line, pitch, step) = (self.strip.line(), self.strip.pitch(), horizontal.step * group_channels);
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        let first = row * self.pitch.row + q * self.pitch.position + k;
        if self.accumulate {
            sums = std::array::from_fn(|p| load::<S, V>(&self.y[first + p * self.pitch.position..][..block]));
        }
        for tap in 0..vertical.taps {
            let start = (row * vertical.step + tap) * pitch + q * step;
            let x: [&[f32]; P] = std::array::from_fn(|p| &self.x[start + p * step..][..line]);
            let w = &self.w[tap * line * self.stride + k..];
            for i in 0..line {
                let w = load::<S, V>(&w[i * self.stride..][..block]);
                for p in 0..P {
                    let x = simd.splat_f32s(x[p][i]);
                    for v in 0..V {
                        sums[p][v] = simd.mul_add_e_f32s(x, w[v], sums[p][v]);
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
        Arch::new().dispatch(self);
    }

    /// Rows `rows` of output positions, `V` vectors of filters from filter `k` on: `wide` lines of taps and channels at a
    /// time as long as there are as many.
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

    /// `C` rows of the gradient from `i` of the tap's line on, summed over output rows `first` to `end`.
    #[expect(clippy::needless_range_loop, reason = "see `load`")]
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
        for c in 0..C {
            let (dw, _) = S::as_mut_simd_f32s(&mut self.dw[(tap * line + i + c) * self.stride + k..][..block]);
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
        for first in (0..self.strip.rows).step_by(rows) {
            let rows = [first, (first + rows).min(self.strip.rows)];
            let mut k = 0;
            while k + 2 * S::F32_LANES <= self.filters {
                if S::REGISTER_COUNT >= 32 {
                    self.filters::<S, 8, 2>(simd, rows, k);
                } else {
                    self.filters::<S, 4, 2>(simd, rows, k);
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
