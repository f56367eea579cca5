//! Images that are not a dataset: files and folders of files, JPEG and PNG, of any sizes and without labels.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::decode;
use crate::error::Result;
use crate::folder::{entries, is_image};
use crate::pictures::contents;
use crate::view::View;

/// The files that `path` stands for: itself or, if it is a folder, all images in it and in its folders, by name.
/// Hidden files are left out, and links to folders are not followed.
///
/// # Errors
///
/// A folder cannot be read.
pub fn find_images(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut images = Vec::new();
    for entry in entries(path)? {
        if entry.is_dir() && !entry.is_symlink() {
            images.extend(find_images(&entry)?);
        } else if is_image(&entry) {
            images.push(entry);
        }
    }
    Ok(images)
}

/// Conversion of an image into a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Square {
    /// Height and width.
    pub size: usize,
    /// Black pixels on every side of the square.
    pub border: usize,
    /// The part of the image that is resized.
    pub view: View,
}

/// Decodes images on all threads. For one that cannot be used, the reason, phrased to follow its name.
pub fn read_images(paths: &[PathBuf], square: Square) -> Vec<std::result::Result<Vec<u32>, String>> {
    let Square { size, border, view } = square;
    let inner = size - 2 * border;
    let read = |path: &PathBuf| {
        let mut image = vec![0; inner * inner];
        decode::square(&contents(path)?, view, inner, &mut image)?;
        if border == 0 {
            return Ok(image);
        }
        let mut pixels = vec![0; size * size];
        let rows = pixels.chunks_exact_mut(size).skip(border);
        for (row, source) in rows.zip(image.chunks_exact(inner)) {
            row[border..border + inner].copy_from_slice(source);
        }
        Ok(pixels)
    };
    paths.par_iter().map(read).collect()
}
