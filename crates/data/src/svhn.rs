//! Street View House Numbers, cropped digits (Netzer et al., 2011), from the authors' MATLAB files.
//!
//! `X` is 32 x 32 x 3 x N bytes in column-major order: a pixel is at `row + 32 column + 1024 channel + 3072 image`.
//! `y` is N x 1, and the digit 0 is labelled 10. The training set is the standard one followed by the extra one, as
//! is usual; with a limit of 73,257 or less, only the standard one is read, and the extra file may be missing.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::dataset::{Dataset, Images, LoadOptions, find_folder, pack_rgb};
use crate::error::{DataError, Result};
use crate::mat::{self, Number, Problem, Variable};
use crate::sampler::Augmentation;
use crate::stream;

/// The dataset's name, and that of its folder.
pub const NAME: &str = "svhn";

/// The training files, in order: the standard set and the extra one.
pub const TRAIN_FILES: [&str; 2] = ["train_32x32.mat", "extra_32x32.mat"];

/// The test file.
pub const TEST_FILE: &str = "test_32x32.mat";

/// Images of the largest file, the extra one: no file may hold more.
pub const MAX_IMAGES: usize = 531_131;

const SIZE: usize = 32;
const PLANE: usize = SIZE * SIZE;
/// Bytes of an image.
const IMAGE: usize = 3 * PLANE;
/// Images that are unpacked at a time.
const BLOCK: usize = 256;
const DIGITS: usize = 10;

const MEAN: [f32; 3] = [0.4377, 0.4438, 0.4728];
const STD: [f32; 3] = [0.1980, 0.2010, 0.1970];

/// Loads both splits. Files are looked for in `svhn/` under the data directory, and in the data directory itself.
/// Only files that the limits require are opened.
///
/// # Errors
///
/// A file is absent or damaged, or holds a label that is not a digit's.
pub fn load(options: &LoadOptions) -> Result<Dataset> {
    if let Some(asked) = options.classes.filter(|&classes| classes != DIGITS) {
        return Err(DataError::Classes { dataset: NAME.to_owned(), offered: DIGITS.to_string(), asked });
    }
    let folder = find(options.root()).ok_or_else(|| options.missing(NAME, TRAIN_FILES[0]))?;
    let read = |files: &[&str], limit: Option<usize>| {
        let mut images = Images { size: SIZE, ..Images::default() };
        for file in files {
            let left = limit.map(|limit| limit - images.len());
            if left == Some(0) {
                break;
            }
            let path = folder.join(file);
            if !path.exists() {
                let data_dir = options.data_dir.clone();
                return Err(DataError::Missing { dataset: NAME, file: path, folder: folder.clone(), data_dir });
            }
            append(&path, left, options, &mut images)?;
        }
        Ok(images)
    };
    Ok(Dataset {
        name: NAME.to_owned(),
        classes: (0..DIGITS).map(|digit| digit.to_string()).collect(),
        train: read(&TRAIN_FILES, options.limit_train)?,
        test: read(&[TEST_FILE], options.limit_test)?,
        mean: MEAN,
        std: STD,
        augment: Augmentation::None,
        notes: Vec::new(),
    })
}

/// The folder of the files under the data directory `root`.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    find_folder(root, &[NAME, ""], &[TRAIN_FILES[0], TRAIN_FILES[1], TEST_FILE])
}

/// Reads the first `limit` images (all by default) of a file.
///
/// # Errors
///
/// The file cannot be read or is not a MATLAB 5 file, lacks `X` or `y`, these do not match, or a label is not a
/// digit's.
pub fn read(path: &Path, limit: Option<usize>) -> Result<Images> {
    let mut images = Images { size: SIZE, ..Images::default() };
    append(path, limit, &LoadOptions::default(), &mut images)?;
    Ok(images)
}

/// Appends the first `limit` images of a file. Beside them, little is in memory at any time.
fn append(path: &Path, limit: Option<usize>, options: &LoadOptions, images: &mut Images) -> Result<()> {
    let before = images.len();
    let mut found = [None, None];
    let mut too_large = None;
    let visited = mat::visit(NAME, path, |variable| {
        let (which, count) = match variable.name.as_str() {
            "X" => (0, check_images(&variable)?),
            "y" => (1, check_labels(&variable)?),
            _ => return Ok(()),
        };
        if found[which].replace(count).is_some() {
            return Err(format!("holds {} twice", variable.name));
        }
        if count > MAX_IMAGES {
            return Err(format!("claims to hold {count} images, more than the {MAX_IMAGES} of the extra set"));
        }
        let taken = limit.unwrap_or(count).min(count);
        if which == 1 {
            return append_labels(variable, taken, &mut images.labels);
        }
        if let Err(error) = options.check_fits(before + taken, SIZE) {
            too_large = Some(error);
            return Err(String::new());
        }
        append_pixels(variable, taken, &mut images.pixels)
    });
    if let Some(error) = too_large {
        return Err(error);
    }
    visited?;
    match found {
        [Some(images), Some(labels)] if images == labels => Ok(()),
        [Some(images), Some(labels)] => {
            Err(DataError::damaged(NAME, path, format!("holds {images} images and {labels} labels")))
        }
        [None, _] => Err(DataError::damaged(NAME, path, "holds no variable X")),
        [_, None] => Err(DataError::damaged(NAME, path, "holds no variable y")),
    }
}

/// Checks the dimensions of `X`, and returns the number of images. A last dimension of one is not written.
fn check_images(variable: &Variable<'_>) -> std::result::Result<usize, Problem> {
    match variable.dimensions[..] {
        [SIZE, SIZE, 3] if matches!(variable.number, Number::U8) => Ok(1),
        [SIZE, SIZE, 3, count] if matches!(variable.number, Number::U8) => Ok(count),
        _ => Err(format!("holds an X of dimensions {:?} instead of bytes of 32 x 32 x 3 x N", variable.dimensions)),
    }
}

fn check_labels(variable: &Variable<'_>) -> std::result::Result<usize, Problem> {
    match variable.dimensions[..] {
        [count, 1] | [1, count] => Ok(count),
        _ => Err(format!("holds a y of dimensions {:?} instead of N x 1", variable.dimensions)),
    }
}

fn append_labels(mut variable: Variable<'_>, taken: usize, labels: &mut Vec<u32>) -> std::result::Result<(), Problem> {
    let number = variable.number;
    let mut bytes = vec![0; variable.count * number.width()];
    variable.source.read_exact(&mut bytes).map_err(|error| stream::reason(&error))?;
    finish(variable)?;
    for (index, bytes) in bytes.chunks_exact(number.width()).enumerate() {
        let value = number.read(bytes);
        let Some(digit) = (1..=DIGITS).find(|&digit| value == digit as f64) else {
            return Err(format!("has the label {value} at image {index}, and labels are 1 to 10"));
        };
        if index < taken {
            labels.push((digit % DIGITS) as u32);
        }
    }
    Ok(())
}

fn append_pixels(mut variable: Variable<'_>, taken: usize, pixels: &mut Vec<u32>) -> std::result::Result<(), Problem> {
    stream::reserve(pixels, taken * PLANE)?;
    let mut buffer = vec![0; taken.min(BLOCK) * IMAGE];
    let mut done = 0;
    while done < taken {
        let block = (taken - done).min(BLOCK);
        let bytes = &mut buffer[..block * IMAGE];
        variable.source.read_exact(bytes).map_err(|error| format!("{} after image {done}", stream::reason(&error)))?;
        let start = pixels.len();
        pixels.resize(start + block * PLANE, 0);
        pixels[start..].par_chunks_exact_mut(PLANE).zip(bytes.par_chunks_exact(IMAGE)).for_each(|(pixels, image)| {
            for (i, pixel) in pixels.iter_mut().enumerate() {
                let at = i / SIZE + SIZE * (i % SIZE);
                *pixel = pack_rgb([image[at], image[at + PLANE], image[at + 2 * PLANE]]);
            }
        });
        done += block;
    }
    if IMAGE * taken == variable.count { finish(variable) } else { Ok(()) }
}

/// Reads the padding after the last value, and thereby the checksum of a compressed variable.
fn finish(mut variable: Variable<'_>) -> std::result::Result<(), Problem> {
    const PADDING: u64 = 7;
    match stream::finish(&mut variable.source, PADDING + 1).map_err(|error| stream::reason(&error))? {
        0..=PADDING => Ok(()),
        _ => Err(format!("goes on after the last value of {}", variable.name)),
    }
}
