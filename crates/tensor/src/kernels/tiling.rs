//! Tilings: the division of the work on `[rows, channels]` matrices among a GPU's threads.

use crate::kernel::{Launch, REDUCE_LANES};

/// Threads of a workgroup.
pub(super) const THREADS: usize = 256;

/// Most channels, counted in elements of [`Tiling::width`] floats, that one workgroup spans: lanes beyond that only
/// shorten the rows in flight, and 64 neighbours already fill the widest memory transaction.
const MAX_COLUMNS: usize = 64;

/// Most row chunks of a two-pass reduction: enough workgroups to fill a GPU, few enough for one workgroup to sum.
const MAX_CHUNKS: usize = 256;

/// Rows that each thread takes in one pass over a matrix, so that it loads the per-channel values once for all.
pub(super) const ROWS_PER_THREAD: usize = 4;

/// The threads of a workgroup over a matrix: `columns` neighbours along a row, `lanes` rows at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Floats in one element: as many as the channels allow, 4, 2 or 1.
    pub width: usize,
    /// Elements in one row.
    pub vectors: usize,
    /// Elements of a row that one workgroup spans.
    pub columns: usize,
    /// Workgroups that span a row.
    pub tiles: usize,
    /// Rows that one workgroup works on at a time.
    pub lanes: usize,
}

impl Tiling {
    /// Elements as wide as `channels` allow.
    pub fn new(channels: usize) -> Self {
        let width = width(channels);
        let vectors = channels / width;
        let tiles = vectors.div_ceil(MAX_COLUMNS);
        let columns = vectors.div_ceil(tiles);
        Self { width, vectors, columns, tiles, lanes: THREADS / columns }
    }

    /// Single channels, 16 per workgroup: for few and long reductions such as the second pass over partial sums.
    pub fn narrow(channels: usize) -> Self {
        let columns = 16;
        Self { width: 1, vectors: channels, columns, tiles: channels.div_ceil(columns), lanes: THREADS / columns }
    }

    /// Adds these numbers to a launch, under the names that shaders have for them.
    pub fn describe(&self, launch: Launch) -> Launch {
        launch
            .stored(self.width)
            .size("VECTORS", self.vectors)
            .size("COLUMNS", self.columns)
            .size("TILES", self.tiles)
            .size("LANES", self.lanes)
    }

    /// Adds [`REDUCE_LANES`] and its constants.
    pub fn describe_reduction(&self, launch: Launch) -> Launch {
        self.describe(launch).size("HALF", self.lanes.next_power_of_two() / 2).helpers(&[REDUCE_LANES])
    }
}

/// Floats per element of an operand whose contiguous runs have this length: 4, 2 or 1.
pub(super) fn width(length: usize) -> usize {
    match length % 4 {
        0 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Rows in one chunk of a two-pass reduction. It depends on nothing but the shape, so the sums do not either.
pub(super) fn reduction_chunk(rows: usize, channels: usize) -> usize {
    rows.div_ceil(MAX_CHUNKS).next_multiple_of(ROWS_PER_THREAD * Tiling::new(channels).lanes)
}

/// Floats that a thread of the CPU takes at a time: 64 KiB, small enough to share out evenly, large enough to be worth
/// a task.
pub(crate) const TASK: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilings_cover_every_column_and_fit_a_workgroup() {
        for channels in 1..700 {
            for tiling in [Tiling::new(channels), Tiling::narrow(channels)] {
                assert_eq!(tiling.vectors * tiling.width, channels);
                assert!(tiling.tiles * tiling.columns >= tiling.vectors);
                assert!((tiling.tiles - 1) * tiling.columns < tiling.vectors);
                assert!(tiling.lanes >= 1 && tiling.lanes * tiling.columns <= THREADS);
            }
        }
    }

    #[test]
    fn chunks_cover_every_row() {
        for rows in [1usize, 2, 63, 64, 65, 1000, 8192, 131_072, 1_605_632] {
            for channels in [1, 3, 16, 36, 64, 640] {
                let chunks = rows.div_ceil(reduction_chunk(rows, channels));
                assert!((1..=MAX_CHUNKS).contains(&chunks));
            }
        }
    }
}
