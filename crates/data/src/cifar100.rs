//! CIFAR-100 in its binary version (Krizhevsky, 2009): records of two label bytes, coarse and fine, then 1024 red, 1024
//! green and 1024 blue bytes, row by row.
//!
//! The 100 fine labels are learned, unless 20 classes are asked for: those are the coarse ones.

use std::path::{Path, PathBuf};

use crate::cifar10::{Layout, read_records};
use crate::dataset::{Dataset, Images, LoadOptions, find_folder};
use crate::error::{DataError, Result};
use crate::sampler::Augmentation;

/// The dataset's name, and that of its folder.
pub const NAME: &str = "cifar100";

/// The folder inside the authors' archive.
pub const AUTHORS_FOLDER: &str = "cifar-100-binary";

/// Names of the 20 coarse classes, by label.
pub const COARSE: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];

/// Names of the 100 fine classes, by label.
#[rustfmt::skip]
pub const FINE: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

/// The training file and its number of records.
pub const TRAIN: (&str, usize) = ("train.bin", 50_000);

/// The test file and its number of records.
pub const TEST: (&str, usize) = ("test.bin", 10_000);

/// Bytes of one record.
pub const RECORD: usize = 2 + 3 * 32 * 32;

const MEAN: [f32; 3] = [0.5071, 0.4865, 0.4409];
const STD: [f32; 3] = [0.2673, 0.2564, 0.2762];

/// Choice of the label that is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// 20 classes.
    Coarse,
    /// 100 classes.
    Fine,
}

/// Loads both splits, with coarse labels if 20 classes are asked for. Files are looked for in `cifar100/` under the
/// data directory, in the authors' folder inside it or beside it, and in the data directory itself.
///
/// # Errors
///
/// A file is absent, has not exactly its number of records, or holds a label that is not a class; or neither 20 nor 100
/// classes were asked for.
pub fn load(options: &LoadOptions) -> Result<Dataset> {
    let (labels, classes) = match options.classes {
        None | Some(100) => (Labels::Fine, &FINE[..]),
        Some(20) => (Labels::Coarse, &COARSE[..]),
        Some(asked) => {
            return Err(DataError::Classes { dataset: NAME.to_owned(), offered: "100 or 20".to_owned(), asked });
        }
    };
    let folder = find(options.root()).ok_or_else(|| options.missing(NAME, TRAIN.0))?;
    let read = |(file, records): (&str, usize), limit| read(&folder.join(file), records, labels, limit);
    Ok(Dataset {
        name: NAME.to_owned(),
        classes: classes.iter().map(|&class| class.to_owned()).collect(),
        train: read(TRAIN, options.limit_train)?,
        test: read(TEST, options.limit_test)?,
        mean: MEAN,
        std: STD,
        augment: Augmentation::Padded,
        notes: Vec::new(),
    })
}

/// The folder of the files under the data directory `root`.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    let folders = [NAME, &format!("{NAME}/{AUTHORS_FOLDER}"), AUTHORS_FOLDER, ""];
    find_folder(root, &folders, &[TRAIN.0, TEST.0])
}

/// Reads the first `limit` images (all by default) of a file that holds `records` records.
///
/// # Errors
///
/// The file is absent or unreadable, has another size, or holds a label, of either kind, that is not a class.
pub fn read(file: &Path, records: usize, labels: Labels, limit: Option<usize>) -> Result<Images> {
    const CLASSES: [usize; 2] = [COARSE.len(), FINE.len()];
    let layout = Layout { dataset: NAME, labels: &CLASSES, taken: usize::from(labels == Labels::Fine) };
    read_records(layout, &[file.to_owned()], records, limit)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file of records with these coarse and fine labels; the pixels identify the record.
    fn folder_with(labels: &[[u8; 2]]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("made.bin");
        let record =
            |(i, labels): (usize, &[u8; 2])| [&labels[..], &[i as u8; 1024], &[20; 1024], &[30; 1024]].concat();
        fs::write(&path, labels.iter().enumerate().flat_map(record).collect::<Vec<u8>>()).expect("written");
        (folder, path)
    }

    #[test]
    fn either_label_is_read() {
        let (_folder, path) = folder_with(&[[4, 0], [1, 1], [19, 99]]);
        let fine = read(&path, 3, Labels::Fine, None).expect("valid");
        assert_eq!(fine.labels, [0, 1, 99]);
        assert!(fine.image(2).iter().all(|&pixel| pixel == 2 | 20 << 8 | 30 << 16));
        let coarse = read(&path, 3, Labels::Coarse, Some(2)).expect("valid");
        assert_eq!((coarse.labels, coarse.pixels), (vec![4, 1], fine.pixels[..2048].to_vec()));
    }

    #[test]
    fn wrong_labels_of_either_kind_and_wrong_sizes_are_errors() {
        for (labels, part) in [([20, 0], "the label 20, but there are only 20"), ([0, 100], "the label 100, but")] {
            let (_folder, path) = folder_with(&[[0, 0], labels]);
            for kind in [Labels::Fine, Labels::Coarse] {
                let error = read(&path, 2, kind, None).expect_err("no class").to_string();
                assert!(error.starts_with("record 1 of ") && error.contains(part), "{error}");
            }
        }
        let (_folder, path) = folder_with(&[[0, 0]]);
        let error = read(&path, 2, Labels::Fine, None).expect_err("one record").to_string();
        assert!(error.contains("3074 bytes instead of 6148") && error.contains("train fetch cifar100"), "{error}");
    }

    #[test]
    fn names_are_in_order_and_other_numbers_of_classes_are_refused() {
        assert!(FINE.is_sorted() && COARSE.is_sorted());
        let error = load(&LoadOptions { classes: Some(10), ..LoadOptions::default() }).expect_err("ten").to_string();
        assert_eq!(error, "dataset cifar100 has 100 or 20 classes, not 10");
    }

    #[test]
    fn the_authors_folder_is_found() {
        let root = tempfile::tempdir().expect("temporary folder");
        let options = LoadOptions { data_dir: Some(root.path().to_owned()), ..LoadOptions::default() };
        let error = load(&options).expect_err("nothing there").to_string();
        assert!(error.contains("train.bin is not there: run `train fetch cifar100 --data-dir "), "{error}");
        let folder = root.path().join(AUTHORS_FOLDER);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(TEST.0), []).expect("written");
        assert_eq!(find(root.path()), Some(folder));
    }
}
