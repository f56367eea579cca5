//! A folder of one's own images, `train/CLASS/*` and `val/CLASS/*` (or `test/CLASS/*`), JPEG and PNG, of any sizes. The
//! classes are the folders' names in order. ImageNet is such a folder, too.
//!
//! Images are decoded and resized once, on all threads, when the dataset is loaded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use rayon::prelude::*;

use crate::dataset::{Dataset, Images, LoadOptions};
use crate::decode;
use crate::error::{DataError, Result};
use crate::fetch::style;
use crate::stream;

/// The name, and the folder under the data directory, of ImageNet.
pub const NAME: &str = "imagenet";

/// Height and width where none are asked for.
const SIZE: usize = 32;

/// ImageNet's, which are taken for any folder.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What names of images end in, in small letters.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// The largest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// Images that are decoded before the next look at what failed.
const BLOCK: usize = 512;

/// Images that failed which are named one by one.
const NAMED: usize = 20;

/// Loads ImageNet from `imagenet/` under the data directory, or from the data directory itself.
///
/// # Errors
///
/// As [`load`].
pub fn load_imagenet(options: &LoadOptions) -> Result<Dataset> {
    let root = options.root();
    let folder = root.join(NAME);
    let folder = if !folder.is_dir() && root.join("train").is_dir() { root.to_owned() } else { folder };
    load(NAME, &folder, options)
}

/// Loads a folder of images, each brought to [`LoadOptions::image_size`]: the shorter side is resized to it, and what the
/// longer one has more is cut off on both sides. Images of the classes take turns, so that a limit takes as many of each
/// as there are.
///
/// # Errors
///
/// The folder is not laid out as it must be or cannot be read, its images do not fit, or none can be decoded; with
/// [`LoadOptions::strict`], as soon as one cannot.
pub fn load(name: &str, folder: &Path, options: &LoadOptions) -> Result<Dataset> {
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
    let train = list(&train, &classes, options.limit_train)?;
    let test = list(test, &classes, options.limit_test)?;
    options.check_fits(train.len(), size)?;
    options.check_fits(test.len(), size)?;
    let mut notes = Vec::new();
    Ok(Dataset {
        name: name.to_owned(),
        train: read(folder, &train, size, options.strict, &mut notes)?,
        test: read(folder, &test, size, options.strict, &mut notes)?,
        classes,
        mean: MEAN,
        std: STD,
        augment: true,
        notes,
    })
}

/// An image's file, and its class.
type Listed = (PathBuf, u32);

/// Entries of a folder, by name, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
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
fn list(split: &Path, classes: &[String], limit: Option<usize>) -> Result<Vec<Listed>> {
    let is_image = |path: &PathBuf| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    let mut images = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = split.join(class);
        if folder.is_dir() {
            let files = entries(&folder)?.into_iter().filter(is_image).enumerate();
            images.extend(files.map(|(turn, path)| (turn, label as u32, path)));
        }
    }
    images.sort_by_key(|&(turn, label, _)| (turn, label));
    images.truncate(limit.unwrap_or(usize::MAX));
    Ok(images.into_iter().map(|(_, label, path)| (path, label)).collect())
}

/// Decodes images; says in `notes` how many could not be, and which, and how long it took.
fn read(folder: &Path, listed: &[Listed], size: usize, strict: bool, notes: &mut Vec<String>) -> Result<Images> {
    let start = Instant::now();
    let mut images = Images { size, ..Images::default() };
    let room = stream::reserve(&mut images.pixels, listed.len() * size * size);
    room.map_err(|problem| DataError::Folder { folder: folder.to_owned(), problem })?;
    let mut failed = Vec::new();
    let bar = ProgressBar::new(listed.len() as u64);
    bar.set_style(style("decoding {bar:40} {pos}/{len} {per_sec} {eta}"));
    for block in listed.chunks(BLOCK) {
        let first = images.pixels.len();
        images.pixels.resize(first + block.len() * size * size, 0);
        let results: Vec<std::result::Result<(), String>> = images.pixels[first..]
            .par_chunks_exact_mut(size * size)
            .zip(block)
            .map(|(pixels, (path, _))| decode::square(&contents(path)?, size, pixels))
            .collect();
        let mut kept = images.labels.len();
        for (i, ((path, label), result)) in block.iter().zip(results).enumerate() {
            match result {
                Ok(()) => {
                    let from = first + i * size * size;
                    images.pixels.copy_within(from..from + size * size, kept * size * size);
                    images.labels.push(*label);
                    kept += 1;
                }
                Err(reason) if strict => return Err(DataError::Image { path: path.clone(), reason }),
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
    if !listed.is_empty() {
        let (count, speed) = (images.len(), listed.len() as f64 / seconds.max(1e-9));
        notes.push(format!("decoded {count} images in {seconds:.1} s, {speed:.0} images/s"));
    }
    if !failed.is_empty() {
        let (count, of) = (failed.len(), listed.len());
        notes.extend(failed.iter().take(NAMED).map(|failed| format!("skipped: {failed}")));
        notes.push(format!(
            "{count} of {of} images were skipped since they cannot be decoded (--strict stops at the first)"
        ));
    }
    Ok(images)
}

fn contents(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read ({error})");
    // A pipe or a device would never end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("has more than {} MiB", MAX_FILE >> 20));
    }
    Ok(bytes)
}
