//! The table of datasets: their names, and the reader of each.

use std::path::PathBuf;

use crate::dataset::{Dataset, LoadOptions};
use crate::error::{DataError, Result};
use crate::{cifar10, cifar100, fashion_mnist, folder, shapes, svhn};

/// Names that [`load`] knows.
pub const DATASETS: [&str; 6] =
    [cifar10::NAME, cifar100::NAME, svhn::NAME, fashion_mnist::NAME, folder::NAME, shapes::NAME];

/// Loads a dataset: one of [`DATASETS`], or a folder of images, by its path.
///
/// # Errors
///
/// The name is unknown, a file is absent or damaged, or the dataset does not offer what the options ask for.
pub fn load(name: &str, options: &LoadOptions) -> Result<Dataset> {
    match name {
        cifar10::NAME => cifar10::load(options),
        cifar100::NAME => cifar100::load(options),
        svhn::NAME => svhn::load(options),
        fashion_mnist::NAME => fashion_mnist::load(options),
        shapes::NAME => shapes::load(options),
        _ => match find(name, options) {
            Some(folder) => folder::load(name, &folder, options),
            None => Err(DataError::Unknown { name: name.to_owned(), known: DATASETS.join(", ") }),
        },
    }
}

/// The folder of a dataset that is a folder: for ImageNet, `imagenet/` under the data directory or that directory
/// itself; else the dataset's name, if it is the path of a folder.
pub fn find(name: &str, options: &LoadOptions) -> Option<PathBuf> {
    if name != folder::NAME {
        if DATASETS.contains(&name) {
            return None;
        }
        return Some(PathBuf::from(name)).filter(|folder| folder.is_dir());
    }
    let root = options.root();
    let folder = root.join(folder::NAME);
    Some(if !folder.is_dir() && root.join("train").is_dir() { root.to_owned() } else { folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let error = load("cifar", &LoadOptions::default()).expect_err("no such dataset").to_string();
        let known = "cifar10, cifar100, svhn, fashion-mnist, imagenet, shapes";
        assert_eq!(
            error,
            format!(
                "there is no dataset and no folder \"cifar\": choose one of {known}, or the path of a folder of images"
            )
        );
    }
}
