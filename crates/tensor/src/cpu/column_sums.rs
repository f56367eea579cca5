//! Sums of columns over the rows of a chunk, on the CPU: kept in registers, over blocks of a few vectors.

use pulp::{Simd, WithSimd};

use super::strips::load;
use super::tiles::{fold, tile_rows};
use super::vectors::arch;
use super::windows::with_scratch;

/// Vectors of a block: enough sums at once that none waits for the one before it.
const VECTORS: usize = 8;

/// Floats of a block of the widest vectors.
const BLOCK: usize = 16 * VECTORS;

/// `values` repeated to the length of a tile of sums: rows that fill blocks, where few of them do.
pub(super) fn repeat_over_sums(values: &[f32]) -> Vec<f32> {
    values.repeat(rows_of_sums(values.len()))
}

/// Rows of a tile of sums.
fn rows_of_sums(channels: usize) -> usize {
    let rows = BLOCK >> channels.trailing_zeros().min(BLOCK.trailing_zeros());
    if rows * channels <= 8 * BLOCK { rows } else { tile_rows(channels) }
}

/// N terms of each element of a chunk, which are added up by the column. Implementations are `#[inline(always)]`: see
/// [`super::vectors::Loops`].
pub(super) trait Terms<const N: usize> {
    /// Those of a vector of elements, the first of which is element `at` of the chunk and `column` of a tile.
    fn vector<S: Simd>(&mut self, simd: S, at: usize, column: usize) -> [S::f32s; N];

    /// Adds those of all elements to tiles of sums, in loops that need no whole vectors.
    fn add_to(&mut self, sums: [&mut [f32]; N]);
}

/// The sums of the terms of `words` elements, whole rows, over the rows of each column.
pub(super) fn add_up<const N: usize>(words: usize, terms: impl Terms<N>, sums: [&mut [f32]; N]) {
    let tile = rows_of_sums(sums[0].len()) * sums[0].len();
    with_scratch(N * tile, |scratch| {
        scratch.fill(0.0);
        let mut tiles = scratch.chunks_exact_mut(tile);
        let tiles = std::array::from_fn(|_| tiles.next().unwrap_or_default());
        arch().dispatch(AddUp { words, tile, terms, sums: tiles });
        for (sums, tile) in sums.into_iter().zip(scratch.chunks_exact(tile)) {
            fold(tile, sums);
        }
    });
}

struct AddUp<'a, const N: usize, T> {
    words: usize,
    tile: usize,
    terms: T,
    /// Tiles.
    sums: [&'a mut [f32]; N],
}

impl<const N: usize, T: Terms<N>> AddUp<'_, N, T> {
    /// The blocks of all tiles that begin with column `column`.
    #[expect(clippy::needless_range_loop, reason = "see `load`")]
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, column: usize) {
        let lanes = S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); N]; VECTORS];
        for at in (column..self.words).step_by(self.tile) {
            for v in 0..VECTORS {
                let terms = self.terms.vector(simd, at + v * lanes, column + v * lanes);
                for n in 0..N {
                    sums[v][n] = simd.add_f32s(sums[v][n], terms[n]);
                }
            }
        }
        for n in 0..N {
            let (to, _) = S::as_mut_simd_f32s(&mut self.sums[n][column..][..VECTORS * lanes]);
            for v in 0..VECTORS {
                to[v] = sums[v][n];
            }
        }
    }
}

impl<const N: usize, T: Terms<N>> WithSimd for AddUp<'_, N, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let block = VECTORS * S::F32_LANES;
        if self.tile.is_multiple_of(block) && self.words.is_multiple_of(self.tile) {
            for column in (0..self.tile).step_by(block) {
                self.block(simd, column);
            }
        } else {
            self.terms.add_to(self.sums);
        }
    }
}

/// One vector.
#[inline(always)]
pub(super) fn vector<S: Simd>(values: &[f32], at: usize) -> S::f32s {
    let [vector] = load::<S, 1>(&values[at..][..S::F32_LANES]);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The elements themselves, and how often there were any.
    struct Counted<'a>(&'a [f32]);

    impl Terms<2> for Counted<'_> {
        #[inline(always)]
        fn vector<S: Simd>(&mut self, simd: S, at: usize, _: usize) -> [S::f32s; 2] {
            [vector::<S>(self.0, at), simd.splat_f32s(1.0)]
        }

        #[inline(always)]
        fn add_to(&mut self, [sums, counts]: [&mut [f32]; 2]) {
            for (i, x) in self.0.iter().enumerate() {
                sums[i % counts.len()] += x;
                counts[i % counts.len()] += 1.0;
            }
        }
    }

    #[test]
    fn every_row_is_added_once() {
        for channels in [1, 3, 10, 16, 24, 36, 64, 127, 128, 320, 2048] {
            for rows in [1, 5, 64, 131] {
                // Small whole numbers: sums are exact in any order.
                let x: Vec<f32> = (0..rows * channels).map(|i| (i * 31 % 127) as f32).collect();
                let (mut sums, mut counts) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
                add_up(x.len(), Counted(&x), [&mut sums, &mut counts]);
                for (c, (sum, count)) in sums.iter().zip(&counts).enumerate() {
                    let expected: f32 = x.iter().skip(c).step_by(channels).sum();
                    assert_eq!((*sum, *count), (expected, rows as f32), "{channels} channels, {rows} rows");
                }
            }
        }
    }
}
