//! Types of datasets in memory, and of the options of their readers.

use std::path::{Path, PathBuf};

use tensor::Rng;

use crate::error::{DataError, Result};
use crate::sampler::Augmentation;

/// The default folder of datasets.
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

    /// Tells whether there are none.
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

    /// Keeps the first `n` images, or all if there are fewer.
    pub fn truncate(&mut self, n: usize) {
        self.pixels.truncate(n.saturating_mul(self.pixels_per_image()));
        self.labels.truncate(n);
    }

    /// Takes `n` images out and returns them: the same share of each of `classes` classes, as nearly as whole images
    /// allow. The choice is a pure function of the labels and `n`; both parts keep their order.
    ///
    /// # Errors
    ///
    /// `n` is 0, or would leave no image.
    pub fn hold_out(&mut self, n: usize, classes: usize) -> Result<Self> {
        let held = held_out(&self.labels, n, classes)?;
        let pixels = self.pixels_per_image();
        let mut out = Self { size: self.size, pixels: Vec::with_capacity(n * pixels), labels: Vec::with_capacity(n) };
        let mut kept = 0;
        for (image, held) in held.into_iter().enumerate() {
            if held {
                out.pixels.extend_from_slice(self.image(image));
                out.labels.push(self.labels[image]);
            } else {
                self.pixels.copy_within(image * pixels..(image + 1) * pixels, kept * pixels);
                self.labels[kept] = self.labels[image];
                kept += 1;
            }
        }
        self.truncate(kept);
        Ok(out)
    }
}

/// Marks the `n` images that are held out, each of `classes` classes by its share: a pure function of the labels and
/// `n`.
///
/// # Errors
///
/// `n` is 0, or would leave no image.
pub(crate) fn held_out(labels: &[u32], n: usize, classes: usize) -> Result<Vec<bool>> {
    let count = labels.len();
    if n == 0 || n >= count {
        return Err(DataError::HoldOut { asked: n, count });
    }
    let mut counts = vec![0; classes];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    let mut wanted = shares(&counts, n);
    let mut held = vec![false; count];
    for image in Rng::named("validation", &[count as u64, n as u64]).permutation(count) {
        let left = &mut wanted[labels[image as usize] as usize];
        if *left > 0 {
            *left -= 1;
            held[image as usize] = true;
        }
    }
    Ok(held)
}

/// Distributes `n` in proportion to `counts`: whole numbers, the largest remainders rounded up. `n` is at most the sum.
fn shares(counts: &[usize], n: usize) -> Vec<usize> {
    let total: usize = counts.iter().sum();
    let mut shares: Vec<usize> = counts.iter().map(|&count| count * n / total).collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&class| std::cmp::Reverse(counts[class] * n % total));
    let missing = n - shares.iter().sum::<usize>();
    order[..missing].iter().for_each(|&class| shares[class] += 1);
    shares
}

/// A pixel as [`Images`] holds it.
pub(crate) fn pack_rgb([r, g, b]: [u8; 3]) -> u32 {
    u32::from(r) | u32::from(g) << 8 | u32::from(b) << 16
}

/// A dataset; the type of its splits says where their images are.
#[derive(Debug, Clone)]
pub struct Dataset<S = Images> {
    /// The name that [`load`](crate::load) was given.
    pub name: String,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// Images to learn from.
    pub train: S,
    /// Images to measure the error on.
    pub test: S,
    /// Mean of each channel over the training set, for pixels in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// The usual augmentation of this dataset's training images.
    pub augment: Augmentation,
    /// Notes to the user on the loading, one sentence each: images that were skipped, how long decoding took.
    pub notes: Vec<String>,
}

impl<S> Dataset<S> {
    /// Replaces each split by the result of its function.
    ///
    /// # Errors
    ///
    /// Those of `train` and `test`.
    pub fn try_map<T, E>(
        self,
        train: impl FnOnce(S) -> std::result::Result<T, E>,
        test: impl FnOnce(S) -> std::result::Result<T, E>,
    ) -> std::result::Result<Dataset<T>, E> {
        Ok(Dataset {
            name: self.name,
            classes: self.classes,
            train: train(self.train)?,
            test: test(self.test)?,
            mean: self.mean,
            std: self.std,
            augment: self.augment,
            notes: self.notes,
        })
    }
}

/// Options of [`load`](crate::load).
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The folder that holds one folder per dataset; [`DEFAULT_DIR`] by default.
    pub data_dir: Option<PathBuf>,
    /// Number of training images to take (the first ones, in file order) or to generate; 0 loads none.
    pub limit_train: Option<usize>,
    /// The same for the test images.
    pub limit_test: Option<usize>,
    /// Seed of datasets that are generated.
    pub seed: u64,
    /// Number of classes, for datasets that offer a choice.
    pub classes: Option<usize>,
    /// Height and width that a folder's images are resized to; 32 by default.
    pub image_size: Option<usize>,
    /// The most bytes that the pixels of a split may take, at four bytes a pixel; no limit by default.
    pub max_bytes: Option<u64>,
    /// True if the first image that cannot be decoded is an error. If false, such images are skipped.
    pub strict: bool,
}

impl LoadOptions {
    /// The folder that holds one folder per dataset.
    pub(crate) fn root(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DIR))
    }

    /// The error that `file` of a dataset, which must be fetched, is missing.
    pub(crate) fn missing(&self, dataset: &'static str, file: &str) -> DataError {
        let folder = self.root().join(dataset);
        DataError::Missing { dataset, file: folder.join(file), folder, data_dir: self.data_dir.clone() }
    }

    /// Checks that a split of `images` images of `size` by `size` pixels may be held in memory.
    ///
    /// # Errors
    ///
    /// It would take more than [`LoadOptions::max_bytes`].
    pub fn check_fits(&self, images: usize, size: usize) -> Result<()> {
        let bytes = images as u64 * (4 * size * size) as u64;
        match self.max_bytes.filter(|&most| bytes > most) {
            Some(most) => Err(DataError::Memory { images, size, bytes, most }),
            None => Ok(()),
        }
    }
}

/// The first of the folders under `root` (paths relative to it) that holds any of the files.
pub(crate) fn find_folder(root: &Path, folders: &[&str], files: &[&str]) -> Option<PathBuf> {
    let candidates = folders.iter().map(|folder| root.join(folder));
    candidates.into_iter().find(|candidate| files.iter().any(|file| candidate.join(file).exists()))
}

#[cfg(test)]
mod tests {
    use super::Images;

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
    fn a_held_out_part_has_its_share_of_every_class_and_the_rest_stays_in_order() {
        let labels: Vec<u32> = (0..90).map(|i| [0, 0, 0, 0, 1, 1, 1, 2, 2][i % 9]).collect();
        let full = Images { size: 1, pixels: (0..90).collect(), labels };
        let split = |n| {
            let mut rest = full.clone();
            rest.hold_out(n, 4).map(|held| (rest, held))
        };
        let (rest, held) = split(27).expect("fewer than there are");
        let of_class = |images: &Images, class| images.labels.iter().filter(|&&label| label == class).count();
        assert_eq!([0, 1, 2, 3].map(|class| of_class(&held, class)), [12, 9, 6, 0]);
        assert_eq!((rest.len(), rest.pixels.len()), (63, 63));
        for part in [&rest, &held] {
            assert!(
                part.pixels.is_sorted()
                    && part.pixels.iter().zip(&part.labels).all(|(&p, &label)| full.labels[p as usize] == label)
            );
        }
        assert!(held.pixels.iter().all(|pixel| !rest.pixels.contains(pixel)));
        assert_eq!(split(27).expect("again"), (rest, held));
        assert_eq!(split(10).expect("remainders").1.len(), 10);
        assert_eq!(split(89).expect("all but one").0.len(), 1);
        for n in [0, 90, usize::MAX] {
            let error = split(n).expect_err("too few or too many").to_string();
            assert!(error.ends_with("choose from 1 to 89"), "{error}");
        }
    }
}
