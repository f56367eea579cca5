//! Tiles of `[rows, channels]` matrices in the caches: per-channel values are repeated, so that loops are long.

use crate::kernels::tiling::TASK;

/// Rows in one tile. Per-channel values are [repeated](repeat_over_tile) to the length of a tile, so that the
/// inner loops are long and vectorise whatever the number of channels.
pub(super) fn tile_rows(channels: usize) -> usize {
    (512 / channels).max(1)
}

/// Floats in a CPU task over a matrix: whole tiles, about [`TASK`].
pub(super) fn task_words(channels: usize) -> usize {
    let tile = tile_rows(channels) * channels;
    tile * (TASK / tile).max(1)
}

/// `values` repeated to the length of a tile.
pub(super) fn repeat_over_tile(values: &[f32]) -> Vec<f32> {
    values.repeat(tile_rows(values.len()))
}

/// Adds the rows of a tile up in `sums`, in their order.
pub(super) fn fold(tile: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for row in tile.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}
