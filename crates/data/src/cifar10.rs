//! CIFAR-10 in its binary version (Krizhevsky, 2009): files of 10,000 records, each the label byte, then 1024 red,
//! 1024 green and 1024 blue bytes, row by row.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::dataset::{Dataset, Images, LoadOptions, find_folder, pack_rgb};
use crate::error::{DataError, Result};
use crate::sampler::Augmentation;

/// The dataset's name, and that of its folder.
pub const NAME: &str = "cifar10";

/// The folder inside the authors' archive.
pub const AUTHORS_FOLDER: &str = "cifar-10-batches-bin";

/// Names of the classes, by label.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The training files, in order.
pub const TRAIN_FILES: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];

/// The test file.
pub const TEST_FILE: &str = "test_batch.bin";

/// Records in each file.
pub const RECORDS: usize = 10_000;

/// Height and width of an image.
pub const SIZE: usize = 32;

/// Bytes of one channel of one image.
pub(crate) const PLANE: usize = SIZE * SIZE;

/// Bytes of one record.
pub const RECORD: usize = 1 + 3 * PLANE;

const MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const STD: [f32; 3] = [0.2470, 0.2435, 0.2616];

/// Layout of the records in both CIFARs: label bytes, then 1024 red, 1024 green and 1024 blue bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// The dataset's name.
    pub dataset: &'static str,
    /// Number of classes of each label byte.
    pub labels: &'static [usize],
    /// Index of the label byte in use.
    pub taken: usize,
}

const LAYOUT: Layout = Layout { dataset: NAME, labels: &[CLASSES.len()], taken: 0 };

impl Layout {
    fn record(&self) -> usize {
        self.labels.len() + 3 * PLANE
    }
}

/// Loads both splits. Files are looked for in `cifar10/` under the data directory, in the authors' folder inside it
/// or beside it, and in the data directory itself. Only files that the limits require are opened.
///
/// # Errors
///
/// A file is absent, has not exactly 10,000 records, or holds a label that is not a class.
pub fn load(options: &LoadOptions) -> Result<Dataset> {
    if let Some(asked) = options.classes.filter(|&classes| classes != CLASSES.len()) {
        return Err(DataError::Classes { dataset: NAME.to_owned(), offered: CLASSES.len().to_string(), asked });
    }
    let folder = find(options.root()).ok_or_else(|| options.missing(NAME, TRAIN_FILES[0]))?;
    let train = read(&TRAIN_FILES.map(|file| folder.join(file)), RECORDS, options.limit_train)?;
    let test = read(&[folder.join(TEST_FILE)], RECORDS, options.limit_test)?;
    Ok(Dataset {
        name: NAME.to_owned(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        train,
        test,
        mean: MEAN,
        std: STD,
        augment: Augmentation::Padded,
        notes: Vec::new(),
    })
}

/// The folder of the files under the data directory `root`.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    let names: Vec<&str> = TRAIN_FILES.into_iter().chain([TEST_FILE]).collect();
    find_folder(root, &[NAME, &format!("{NAME}/{AUTHORS_FOLDER}"), AUTHORS_FOLDER, ""], &names)
}

/// Reads the first `limit` images (all by default) of files that hold `records` records each.
///
/// # Errors
///
/// A file that is needed is absent or unreadable, has another size, or holds a label that is not a class.
pub fn read(files: &[PathBuf], records: usize, limit: Option<usize>) -> Result<Images> {
    read_records(LAYOUT, files, records, limit)
}

/// Works as [`read`], for records of any layout.
pub(crate) fn read_records(layout: Layout, files: &[PathBuf], records: usize, limit: Option<usize>) -> Result<Images> {
    let wanted = limit.unwrap_or(usize::MAX).min(files.len() * records);
    let mut images = Images { size: SIZE, pixels: Vec::new(), labels: Vec::new() };
    for file in files {
        let take = (wanted - images.len()).min(records);
        if take == 0 {
            break;
        }
        append(layout, file, records, take, &mut images)?;
    }
    Ok(images)
}

/// Appends the first `take` records of a file.
fn append(layout: Layout, path: &Path, records: usize, take: usize, images: &mut Images) -> Result<()> {
    let Layout { dataset, labels, taken } = layout;
    let mut file = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::Missing {
            dataset,
            file: path.to_owned(),
            folder: path.parent().unwrap_or(path).to_owned(),
            data_dir: None,
        },
        _ => DataError::Io { action: "read", path: path.to_owned(), source },
    })?;
    let record_bytes = layout.record();
    let bytes = file.metadata().map_err(DataError::io("read", path))?.len();
    let expected = (records * record_bytes) as u64;
    if bytes != expected {
        let file = path.to_owned();
        return Err(DataError::Size { dataset, file, bytes, expected, records, record: record_bytes });
    }
    let mut buffer = vec![0; take * record_bytes];
    file.read_exact(&mut buffer).map_err(DataError::io("read", path))?;
    images.labels.reserve_exact(take);
    for (record, bytes) in buffer.chunks_exact(record_bytes).enumerate() {
        let wrong = bytes.iter().zip(labels).find(|&(&label, &classes)| usize::from(label) >= classes);
        if let Some((&label, &classes)) = wrong {
            return Err(DataError::Label { dataset, file: path.to_owned(), record, label, classes });
        }
        images.labels.push(u32::from(bytes[taken]));
    }
    let start = images.pixels.len();
    images.pixels.reserve_exact(take * PLANE);
    images.pixels.resize(start + take * PLANE, 0);
    images.pixels[start..].par_chunks_exact_mut(PLANE).zip(buffer.par_chunks_exact(record_bytes)).for_each(
        |(pixels, record)| {
            let (red, rest) = record[labels.len()..].split_at(PLANE);
            let (green, blue) = rest.split_at(PLANE);
            for (pixel, ((&r, &g), &b)) in pixels.iter_mut().zip(red.iter().zip(green).zip(blue)) {
                *pixel = pack_rgb([r, g, b]);
            }
        },
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file of records whose bytes identify their position.
    fn records(count: usize, first_label: usize) -> Vec<u8> {
        let record = |i: usize| {
            let label = ((first_label + i) % 10) as u8;
            std::iter::once(label).chain((0..3 * PLANE).map(move |j| (i * 31 + j * 7 + j / PLANE) as u8))
        };
        (0..count).flat_map(record).collect()
    }

    fn folder_with(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("made.bin");
        fs::write(&path, bytes).expect("written");
        (folder, path)
    }

    #[test]
    fn records_become_pixels_in_file_order() {
        let (_first, a) = folder_with(&records(3, 0));
        let (_second, b) = folder_with(&records(3, 5));
        let images = read(&[a.clone(), b.clone()], 3, None).expect("valid");
        assert_eq!(images.labels, [0, 1, 2, 5, 6, 7]);
        let bytes = records(3, 0);
        for (i, j) in [(0, 0), (1, 33), (2, 1023)] {
            let at = |channel: usize| u32::from(bytes[i * RECORD + 1 + channel * PLANE + j]);
            assert_eq!(images.image(i)[j], at(0) | at(1) << 8 | at(2) << 16);
        }
        let limited = read(&[a.clone(), b], 3, Some(4)).expect("valid");
        assert_eq!(limited.labels, [0, 1, 2, 5]);
        assert_eq!(limited.pixels, images.pixels[..4 * PLANE]);
        let absent = a.with_file_name("absent.bin");
        assert_eq!(read(&[a, absent], 3, Some(2)).expect("the second is not needed").len(), 2);
    }

    #[test]
    fn hostile_files_are_errors_that_name_the_file_and_the_sizes() {
        let valid = records(3, 0);
        let truncated = &valid[..valid.len() - 1];
        let oversized = [&valid[..], &[0]].concat();
        let one_less = records(2, 0);
        for bytes in [&[][..], truncated, &oversized, &one_less] {
            let (_folder, path) = folder_with(bytes);
            let error = read(&[path], 3, Some(1)).expect_err("wrong size").to_string();
            let sizes = format!("made.bin has {} bytes instead of 9219 (3 records of 3073 bytes)", bytes.len());
            assert!(error.contains(&sizes) && error.contains("train fetch cifar10"), "{error}");
        }
        let mut wrong = valid;
        wrong[2 * RECORD] = 10;
        let (_folder, path) = folder_with(&wrong);
        let error = read(&[path], 3, None).expect_err("wrong label").to_string();
        assert!(error.starts_with("record 2 of ") && error.contains("the label 10"), "{error}");
    }

    #[test]
    fn a_missing_dataset_and_a_folder_in_place_of_a_file_are_errors() {
        let root = tempfile::tempdir().expect("temporary folder");
        let options = LoadOptions { data_dir: Some(root.path().to_owned()), ..LoadOptions::default() };
        let error = load(&options).expect_err("nothing there").to_string();
        assert!(error.contains("data_batch_1.bin is not there: run `train fetch cifar10 --data-dir "), "{error}");
        fs::create_dir_all(root.path().join(NAME).join(TRAIN_FILES[0])).expect("made");
        load(&options).expect_err("a folder is not a file");
        let error = load(&LoadOptions { classes: Some(7), ..options }).expect_err("ten").to_string();
        assert_eq!(error, "dataset cifar10 has 10 classes, not 7");
    }

    #[test]
    fn the_authors_folder_is_found() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = root.path().join(NAME).join(AUTHORS_FOLDER);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(TEST_FILE), []).expect("written");
        assert_eq!(find(root.path()), Some(folder));
    }
}
