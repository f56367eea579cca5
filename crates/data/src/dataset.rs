//! What a dataset is once it is in memory, and the table of those that there are.

use std::path::PathBuf;

use crate::error::{DataError, Result};
use crate::{cifar10, shapes};

/// Names that [`load`] knows.
pub const DATASETS: [&str; 2] = [cifar10::NAME, shapes::NAME];

/// The folder under which datasets lie where no other is named.
pub const DEFAULT_DIR: &str = "datasets";

/// Decoded square images, one word per pixel: `r | g << 8 | b << 16`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Images {
    /// Height and width in pixels.
    pub size: usize,
    /// `[n, size, size]`, row-major.
    pub pixels: Vec<u32>,
    /// `[n]`, each below the number of classes.
    pub labels: Vec<u32>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of one image.
    pub fn pixels_per_image(&self) -> usize {
        self.size * self.size
    }

    /// The `size * size` pixels of image `index`.
    pub fn image(&self, index: usize) -> &[u32] {
        let pixels = self.pixels_per_image();
        &self.pixels[index * pixels..][..pixels]
    }

    /// Keeps the first `n` images, or all where there are fewer.
    pub fn truncate(&mut self, n: usize) {
        self.pixels.truncate(n.saturating_mul(self.pixels_per_image()));
        self.labels.truncate(n);
    }
}

/// A dataset in memory.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name that [`load`] was given.
    pub name: String,
    /// What each label means.
    pub classes: Vec<String>,
    /// Images to learn from.
    pub train: Images,
    /// Images to measure the error on.
    pub test: Images,
    /// Mean of each channel over the training set, for pixels in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// Whether random crops and flips are part of the usual protocol on this dataset.
    pub augment: bool,
}

/// What [`load`] may be told.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The folder that holds one folder per dataset; [`DEFAULT_DIR`] where absent.
    pub data_dir: Option<PathBuf>,
    /// Takes the first so many training images (in file order), or makes so many; 0 loads none.
    pub limit_train: Option<usize>,
    /// The same for the test images.
    pub limit_test: Option<usize>,
    /// Determines datasets that are generated.
    pub seed: u64,
    /// Number of classes of datasets that are generated; 10 where absent.
    pub classes: Option<usize>,
}

/// Loads a dataset by its name, one of [`DATASETS`].
///
/// # Errors
///
/// The name is unknown, a file is absent or damaged, or the options ask for what the dataset does not offer.
pub fn load(name: &str, options: &LoadOptions) -> Result<Dataset> {
    match name {
        cifar10::NAME => cifar10::load(options),
        shapes::NAME => shapes::load(options),
        _ => Err(DataError::Unknown { name: name.to_owned(), known: DATASETS.join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Images, LoadOptions, load};

    #[test]
    fn truncate_keeps_the_first_images_and_survives_any_number() {
        let full = Images { size: 2, pixels: (0..12).collect(), labels: vec![0, 1, 2] };
        let mut images = full.clone();
        images.truncate(usize::MAX);
        assert_eq!(images, full);
        images.truncate(2);
        assert_eq!((images.len(), images.image(1)), (2, &[4, 5, 6, 7][..]));
        images.truncate(0);
        assert!(images.is_empty() && images.pixels.is_empty());
    }

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let error = load("cifar", &LoadOptions::default()).expect_err("no such dataset").to_string();
        assert_eq!(error, "there is no dataset \"cifar\": choose one of cifar10, shapes");
    }
}
