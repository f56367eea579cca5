//! The table of datasets: their names, and the reader of each.

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
        _ => match folder::find(name, options) {
            Some(folder) => folder::load(name, &folder, options),
            None => Err(DataError::Unknown { name: name.to_owned(), known: DATASETS.join(", ") }),
        },
    }
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
