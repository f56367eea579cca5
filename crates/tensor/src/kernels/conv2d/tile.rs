//! Tiles of the tiled convolutions: the Rust half of `shaders/conv2d/tile.wgsl`.
//!
//! A workgroup computes whole rows of the result, over which statistics are summed, too, times some quads of filters.
//! The patch of the source that they read and the weights of all taps are staged in workgroup memory, a few channels
//! at a time.

use super::ConvGeometry;
use crate::kernel::Launch;
use crate::kernel::Target;
use crate::shader;

/// The inner part that the tiled shaders share.
pub(super) const TILE: &[&str] = &[shader!("conv2d/tile")];

/// Workgroup memory that every adapter has, in `vec4<f32>`.
const WORKGROUP_QUADS: usize = 16 * 1024 / 16;
/// Threads of a workgroup that every adapter can run.
const MAX_THREADS: usize = 256;
/// Threads of a workgroup where the sizes leave the choice.
const PREFERRED_THREADS: usize = 192;
/// Quads of sums of a thread, at most, and where there is a choice: with more there are too few registers.
const MAX_SUMS: usize = 16;
const PREFERRED_SUMS: usize = 8;
/// Quads of filters of a workgroup, at most: 64 filters.
const MAX_FILTER_QUADS: usize = 16;

/// A convolution as the tiles see it: the gradient of an input is one over the gradient of the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiled {
    /// Rows and columns of the result.
    pub out: [usize; 2],
    /// Rows and columns of the source that a pixel of the result reads.
    pub reach: [usize; 2],
    /// Distance in the staged source between two pixels of the result.
    pub step: [usize; 2],
    /// Kernel taps.
    pub taps: usize,
    /// Vertical and horizontal classes of a strided gradient, each with as many pixels as are counted here. The threads
    /// of a tile divide the vertical ones among them, and have all horizontal ones that meet a tap.
    pub classes: [usize; 2],
    /// Quads of channels of a group that are summed over.
    pub depth: usize,
    /// Quads of channels of a group of the result.
    pub filters: usize,
    /// Rows of the result, of all images, in a tile.
    pub rows: usize,
    /// Sums over the tile that are taken of each filter.
    pub sums: usize,
}

/// A tile, one of those that a kernel may choose from.
pub(super) trait Candidate {
    /// Tiles of one form stage different amounts; tiles of different forms give a thread different work.
    type Form: PartialEq;
    fn form(&self) -> Self::Form;
}

/// The launches of the first few tiles and of the first of each other form, if any are for such an adapter: staging
/// gains nothing on an emulated one.
pub(super) fn candidates<T: Candidate>(target: &Target, tiles: Vec<T>, launch: impl Fn(T) -> Launch) -> Vec<Launch> {
    const FIRST: usize = 4;
    const COUNT: usize = 8;
    if target.software {
        return Vec::new();
    }
    let mut taken: Vec<T> = Vec::new();
    for (index, tile) in tiles.into_iter().enumerate() {
        if index < FIRST || taken.len() < COUNT && taken.iter().all(|other| other.form() != tile.form()) {
            taken.push(tile);
        }
    }
    taken.into_iter().map(launch).collect()
}

/// Sizes of a tile, under the names that the shaders have for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    images: usize,
    rows: usize,
    columns: usize,
    /// TP: consecutive pixels of a thread.
    pixels: usize,
    /// TK: quads of filters of a thread.
    quads: usize,
    filter_threads: usize,
    /// CQ: quads of channels staged at a time.
    chunk: usize,
    /// SHARES: threads that divide the staged quads of channels among them.
    shares: usize,
    /// STRIDE_H of a gradient, else 1.
    classes: usize,
    /// SUMS: quads that a thread gives to sums over the tile.
    sums: usize,
}

impl Tiled {
    /// The tiles that fit, the one to take first; none where a row is too long to be staged.
    pub fn tiles(&self) -> Vec<Tile> {
        let width = self.out[1];
        let pixels: &[usize] = match self.classes[1] == 1 && self.step[1] == 1 {
            true if width > 8 => &[8, 4, 16],
            true if width > 4 => &[8, 4],
            _ => &[4],
        };
        let mut tiles = Vec::new();
        for most in [MAX_FILTER_QUADS, MAX_FILTER_QUADS / 2, MAX_FILTER_QUADS / 4] {
            let filters = self.filters.div_ceil(self.filters.div_ceil(most));
            for quads in (1..=2).filter(|&quads| filters.is_multiple_of(quads)) {
                for chunk in [1, 2, 4].into_iter().filter(|&chunk| chunk <= self.depth) {
                    for shares in [1, 2, 4].into_iter().filter(|&shares| shares <= chunk) {
                        for tile in pixels.iter().map(|&pixels| self.tile(filters, pixels, quads, chunk, shares)) {
                            if self.fits(&tile) && !tiles.contains(&tile) {
                                tiles.push(tile);
                            }
                        }
                    }
                }
            }
        }
        // A thread of one quad of filters leaves registers for more threads. Where there are few taps, though, staged
        // and loaded values should serve more products.
        let taps = |tile: &Tile| (tile.chunk * self.taps).min(4);
        let crowded = |tile: &Tile| self.classes[1] * tile.pixels * tile.quads > PREFERRED_SUMS;
        tiles.sort_by_key(|tile| {
            let (chunk, quads) = if self.taps < 4 { (4 - taps(tile), 2 - tile.quads) } else { (0, tile.quads) };
            (tile.shares, tile.pixels != pixels[0], crowded(tile), chunk, quads)
        });
        tiles
    }

    fn fits(&self, tile: &Tile) -> bool {
        let sums = self.classes[1] * tile.pixels * tile.quads;
        tile.workgroup() <= MAX_THREADS && tile.memory(self) <= WORKGROUP_QUADS && sums <= MAX_SUMS
    }

    fn tile(&self, filters: usize, pixels: usize, quads: usize, chunk: usize, shares: usize) -> Tile {
        let [height, width] = self.out;
        let (images, rows) = if self.rows > height { (self.rows / height, height) } else { (1, self.rows) };
        Tile {
            images,
            rows,
            columns: width.next_multiple_of(pixels),
            pixels,
            quads,
            filter_threads: filters / quads,
            chunk,
            shares,
            classes: self.classes[0],
            sums: self.sums * quads,
        }
    }
}

impl Candidate for Tile {
    type Form = (usize, usize, usize);

    fn form(&self) -> Self::Form {
        (self.pixels, self.quads, self.shares)
    }
}

impl Tile {
    /// Threads of a workgroup.
    fn workgroup(&self) -> usize {
        self.filter_threads * self.classes * self.images * self.rows * self.columns / self.pixels * self.shares
    }

    /// Quads of workgroup memory.
    fn memory(&self, conv: &Tiled) -> usize {
        let [rows, columns] =
            [(self.rows, 0), (self.columns, 1)].map(|(extent, axis)| (extent - 1) * conv.step[axis] + conv.reach[axis]);
        let patch = self.images * rows * (columns | 1);
        let weights = conv.taps * 4 * self.filter_threads * self.quads;
        let exchanged = if self.shares > 1 { self.workgroup() } else { 0 };
        (self.chunk * patch).max(self.sums * self.workgroup()).max(exchanged) + self.chunk * weights
    }

    /// Workgroups for a result of `rows` rows in all images, for one member and group.
    pub fn workgroups(&self, conv: &Tiled, rows: usize) -> usize {
        rows.div_ceil(self.images * self.rows) * conv.filters.div_ceil(self.filter_threads * self.quads)
    }

    /// Adds the sizes to a launch.
    pub fn describe_to(&self, launch: Launch) -> Launch {
        launch
            .size("TI", self.images)
            .size("TR", self.rows)
            .size("TC", self.columns)
            .size("TP", self.pixels)
            .size("TK", self.quads)
            .size("FILTER_THREADS", self.filter_threads)
            .size("CQ", self.chunk)
            .size("SHARES", self.shares)
            .size("SUMS", self.sums)
            .size("WORKGROUP", self.workgroup())
    }
}

/// Sizes of a tile of the gradient of weights, under the names that its shader has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeightTile {
    /// TR: rows of the output's gradient that are staged at a time.
    rows: usize,
    /// TC: columns that are staged.
    columns: usize,
    /// TP: pixels of a row that a thread takes at once.
    pixels: usize,
    /// TK: quads of filters of a thread.
    quads: usize,
    filter_threads: usize,
    /// CT: quads of channels.
    channels: usize,
    /// SPLIT: threads that share a sum.
    split: usize,
    /// R.
    kernel_rows: usize,
}

/// Workgroups that fill a large GPU.
const ENOUGH_WORKGROUPS: usize = 160;

impl Candidate for WeightTile {
    type Form = (usize, usize);

    fn form(&self) -> Self::Form {
        (self.pixels, self.quads)
    }
}

impl WeightTile {
    /// The tiles that fit for a sum in `parts` parts, the one to take first; none where a row is too long to be staged.
    pub fn all(g: &ConvGeometry, parts: usize) -> Vec<Self> {
        let [height, width] = g.output_extent();
        let [r, s] = g.kernel;
        let (channel_quads, filter_quads) = (g.group_channels() / 4, g.group_filters() / 4);
        let mut tiles: Vec<Self> = Vec::new();
        for (quads, pixels) in [((4 / s).max(1), 4), ((2 / s).max(1), 4), (1, 4), (1, 8), (2, 4), (2, 8)] {
            if !filter_quads.is_multiple_of(quads) || pixels > width.max(4) {
                continue;
            }
            let columns = width.next_multiple_of(pixels);
            let threads = filter_quads / quads;
            let filter_threads = threads.div_ceil(threads.div_ceil(MAX_FILTER_QUADS));
            for channels in (1..=channel_quads.min(8)).rev().filter(|&n| channel_quads.is_multiple_of(n) || n == 8) {
                let threads = r * channels * filter_threads;
                for rows in [8, 4, 2, 1].into_iter().filter(|&rows| rows <= height) {
                    let blocks = rows * columns / pixels;
                    let split = (PREFERRED_THREADS / threads).clamp(1, blocks);
                    let tile = Self { rows, columns, pixels, quads, filter_threads, channels, split, kernel_rows: r };
                    if tile.workgroup() <= MAX_THREADS && tile.memory(g) <= WORKGROUP_QUADS && !tiles.contains(&tile) {
                        tiles.push(tile);
                    }
                }
            }
        }
        // The largest tile that leaves enough workgroups; with few taps, smaller tiles cost too much.
        let few = |tile: &Self| parts * g.members * g.groups * tile.workgroups(g) < ENOUGH_WORKGROUPS;
        tiles.sort_by_key(|tile| r * s >= 4 && few(tile));
        tiles
    }

    fn workgroup(&self) -> usize {
        self.split * self.kernel_rows * self.channels * self.filter_threads
    }

    fn memory(&self, g: &ConvGeometry) -> usize {
        let [rows, columns] =
            [(self.rows, 0), (self.columns, 1)].map(|(extent, axis)| (extent - 1) * g.stride[axis] + g.kernel[axis]);
        let staged = rows * columns * self.channels + self.rows * self.columns * self.filter_threads * self.quads;
        let sums = self.workgroup() / self.split * g.kernel[1] * 4 * self.quads;
        staged.max(if self.split > 1 { sums } else { 0 })
    }

    /// Workgroups for one part, member and group.
    pub fn workgroups(&self, g: &ConvGeometry) -> usize {
        let filters = (g.group_filters() / 4).div_ceil(self.filter_threads * self.quads);
        filters * (g.group_channels() / 4).div_ceil(self.channels)
    }

    /// Adds the sizes to a launch.
    pub fn describe_to(&self, launch: Launch) -> Launch {
        launch
            .size("TR", self.rows)
            .size("TC", self.columns)
            .size("TP", self.pixels)
            .size("TK", self.quads)
            .size("FILTER_THREADS", self.filter_threads)
            .size("CT", self.channels)
            .size("SPLIT", self.split)
            .size("WORKGROUP", self.workgroup())
    }
}

/// Rows of pixels, counted through all images of `height` rows, that a tile holds and statistics are summed over: about
/// as many as make 256 pixels, or 128 where there are more channels.
pub(crate) fn tile_chunk(height: usize, width: usize, channels: usize) -> usize {
    let pixels = if channels <= 16 { 256 } else { 128 };
    let rows = (pixels / width.next_multiple_of(8)).max(1);
    if rows >= height {
        return height * (rows / height);
    }
    (1..=rows).rev().find(|&n| height.is_multiple_of(n)).unwrap_or(1)
}
