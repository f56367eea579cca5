//! A folder of your own images, `train/CLASS/*` and `val/CLASS/*` (or `test/CLASS/*`), JPEG and PNG, of any sizes.
//! The classes are the folders' names in order. ImageNet is such a folder, too.
//!
//! Images are decoded and resized once, on all threads ([`decode`]), or again for every batch ([`crate::Loader`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use rayon::prelude::*;

use crate::bars::style;
use crate::dataset::{Dataset, Images, LoadOptions};
use crate::error::{DataError, Result};
use crate::pictures::Files;
use crate::sampler::Augmentation;
use crate::stream;

/// ImageNet's name, which is also its folder under the data directory.
pub const NAME: &str = "imagenet";

/// Default height and width.
const SIZE: usize = 32;

/// Up to this height and width, the usual augmentation is padding and cropping; larger images are random parts,
/// resized.
const SMALL: usize = 64;

/// ImageNet's mean and standard deviation, used for any folder.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Endings of image names, in lower case.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Images that are decoded before failures are looked at.
const BLOCK: usize = 512;

/// Number of failed images that are named.
const NAMED: usize = 20;

/// Lists a folder's images, to be decoded at [`LoadOptions::image_size`]. Classes alternate, so that a limit takes
/// equal numbers of each as long as they last.
///
/// # Errors
///
/// The folder is not laid out as it must be or cannot be read.
pub fn list(name: &str, folder: &Path, options: &LoadOptions) -> Result<Dataset<Files>> {
    let size = options.image_size.unwrap_or(SIZE);
    let wrong = |problem: String| DataError::Folder { folder: folder.to_owned(), problem };
    let train = folder.join("train");
    if !train.is_dir() {
        return Err(wrong("has no folder train".to_owned()));
    }
    let tests = ["val", "test"].map(|split| folder.join(split));
    let Some(test) = tests.iter().find(|test| test.is_dir()) else {
        return Err(wrong("has no folder val or test".to_owned()));
    };
    let classes = class_names(&train)?;
    if classes.len() < 2 {
        return Err(wrong(format!("has {} folders of a class in train instead of two or more", classes.len())));
    }
    if let Some(asked) = options.classes.filter(|&asked| asked != classes.len()) {
        return Err(DataError::Classes { dataset: name.to_owned(), offered: classes.len().to_string(), asked });
    }
    if let Some(other) = class_names(test)?.into_iter().find(|class| classes.binary_search(class).is_err()) {
        return Err(wrong(format!("has a class {other:?} in {} that train has not", test.display())));
    }
    let files = |split, limit| Ok(Files::new(list_split(split, &classes, limit)?, size, options.strict));
    Ok(Dataset {
        name: name.to_owned(),
        train: files(&train, options.limit_train)?,
        test: files(test, options.limit_test)?,
        classes,
        mean: MEAN,
        std: STD,
        augment: if size <= SMALL { Augmentation::Padded } else { Augmentation::Resized },
        notes: Vec::new(),
    })
}

/// Loads a folder of images, each resized to [`LoadOptions::image_size`]: the shorter side is resized to it, and the
/// longer one is cropped equally at both ends.
///
/// # Errors
///
/// Those of [`list()`]; the images do not fit, or none can be decoded; with [`LoadOptions::strict`], as soon as one
/// cannot.
pub fn load(name: &str, folder: &Path, options: &LoadOptions) -> Result<Dataset> {
    let dataset = list(name, folder, options)?;
    for split in [&dataset.train, &dataset.test] {
        options.check_fits(split.len(), split.size)?;
    }
    let (mut train_notes, mut test_notes) = (Vec::new(), Vec::new());
    let dataset = dataset
        .try_map(|files| decode(&files, folder, &mut train_notes), |files| decode(&files, folder, &mut test_notes))?;
    train_notes.extend(test_notes);
    Ok(Dataset { augment: Augmentation::Padded, notes: train_notes, ..dataset })
}

/// Tells whether a file's name is that of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// An image's file, and its class.
type Listed = (PathBuf, u32);

/// Entries of a folder, by name, without hidden ones.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io("read", folder))? {
        let entry = entry.map_err(DataError::io("read", folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn class_names(split: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in entries(split)?.into_iter().filter(|path| path.is_dir()) {
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => names.push(name.to_owned()),
            None => {
                let problem = format!("has a class whose name is not UTF-8 ({})", path.display());
                return Err(DataError::Folder { folder: split.to_owned(), problem });
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The first `limit` images of a split: the first of each class, the second of each, and so on.
fn list_split(split: &Path, classes: &[String], limit: Option<usize>) -> Result<Vec<Listed>> {
    let mut images = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = split.join(class);
        if folder.is_dir() {
            let files = entries(&folder)?.into_iter().filter(|path| is_image(path)).enumerate();
            images.extend(files.map(|(turn, path)| (turn, label as u32, path)));
        }
    }
    images.sort_by_key(|&(turn, label, _)| (turn, label));
    images.truncate(limit.unwrap_or(usize::MAX));
    Ok(images.into_iter().map(|(_, label, path)| (path, label)).collect())
}

/// Decodes the files of a split of `folder`; notes in `notes` the number and names of those that failed, and the time
/// taken.
///
/// # Errors
///
/// There is too little memory, or no file can be decoded; if the files are strict, as soon as one cannot.
pub fn decode(files: &Files, folder: &Path, notes: &mut Vec<String>) -> Result<Images> {
    let start = Instant::now();
    let (size, count) = (files.size, files.len());
    let mut images = Images { size, ..Images::default() };
    let room = stream::reserve(&mut images.pixels, count * size * size);
    room.map_err(|problem| DataError::Folder { folder: folder.to_owned(), problem })?;
    let mut failed = Vec::new();
    let bar = ProgressBar::new(count as u64);
    bar.set_style(style("decoding {bar:40} {pos}/{len} {per_sec} {eta}"));
    for begin in (0..count).step_by(BLOCK) {
        let block = begin..count.min(begin + BLOCK);
        let first = images.pixels.len();
        images.pixels.resize(first + block.len() * size * size, 0);
        let results: Vec<std::result::Result<(), String>> = images.pixels[first..]
            .par_chunks_exact_mut(size * size)
            .zip(block.clone())
            .map(|(pixels, image)| files.decode(image, files.still, pixels))
            .collect();
        let mut kept = images.labels.len();
        for (i, (image, result)) in block.clone().zip(results).enumerate() {
            let path = &files.paths[image];
            match result {
                Ok(()) => {
                    let from = first + i * size * size;
                    images.pixels.copy_within(from..from + size * size, kept * size * size);
                    images.labels.push(files.labels[image]);
                    kept += 1;
                }
                Err(reason) if files.strict => return Err(DataError::Image { path: path.clone(), reason }),
                Err(reason) => failed.push(format!("{} {reason}", path.display())),
            }
        }
        images.truncate(kept);
        bar.inc(block.len() as u64);
    }
    bar.finish_and_clear();
    if let Some(first) = failed.first().filter(|_| images.is_empty()) {
        let problem = format!("holds no image that can be decoded ({first})");
        return Err(DataError::Folder { folder: folder.to_owned(), problem });
    }
    let seconds = start.elapsed().as_secs_f64();
    if count > 0 {
        let (decoded, speed) = (images.len(), count as f64 / seconds.max(1e-9));
        notes.push(format!("decoded {decoded} images in {seconds:.1} s, {speed:.0} images/s"));
    }
    if !failed.is_empty() {
        let skipped = failed.len();
        notes.extend(failed.iter().take(NAMED).map(|failed| format!("skipped: {failed}")));
        notes.push(format!(
            "{skipped} of {count} images were skipped since they cannot be decoded (--strict stops at the first)"
        ));
    }
    Ok(images)
}
