//! Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017) from its IDX files, gzipped or not: 28x28 grey images, here repeated in
//! three channels and padded with two black pixels on every side.
//!
//! An IDX file is two zero bytes, the element type (8: unsigned byte), the number of dimensions, each dimension as a
//! big-endian word, and the values, row-major. Other sets in the same four files (MNIST) are read alike.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::dataset::{Dataset, Images, LoadOptions, find_folder, pack_rgb};
use crate::error::{DataError, Result};
use crate::sampler::Augmentation;
use crate::stream;

/// The dataset's name, and that of its folder.
pub const NAME: &str = "fashion-mnist";

/// Names of the classes, by label.
pub const CLASSES: [&str; 10] =
    ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"];

/// Images and labels of the training set; names without `.gz`.
pub const TRAIN_FILES: [&str; 2] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];

/// Images and labels of the test set.
pub const TEST_FILES: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// Height and width in the file, and in memory.
const FILE_SIZE: usize = 28;
const SIZE: usize = 32;
/// Black pixels on every side.
pub const BORDER: usize = (SIZE - FILE_SIZE) / 2;

/// More images than any file has, and few enough to fit in memory.
const MAX_IMAGES: usize = 1_000_000;

/// Images that are read at a time.
const BLOCK: usize = 256;

/// Mean and standard deviation of the padded training images.
const MEAN: [f32; 3] = [0.2190; 3];
const STD: [f32; 3] = [0.3318; 3];

/// Loads both splits. Files, with or without `.gz`, are looked for in `fashion-mnist/` under the data directory, in
/// `FashionMNIST/raw/`, and in the data directory itself.
///
/// # Errors
///
/// A file is absent or damaged, or holds a label that is not a class.
pub fn load(options: &LoadOptions) -> Result<Dataset> {
    if let Some(asked) = options.classes.filter(|&classes| classes != CLASSES.len()) {
        return Err(DataError::Classes { dataset: NAME.to_owned(), offered: CLASSES.len().to_string(), asked });
    }
    let folder = find(options.root()).ok_or_else(|| options.missing(NAME, &format!("{}.gz", TRAIN_FILES[0])))?;
    let read = |files: [&str; 2], limit| {
        let mut paths = Vec::with_capacity(files.len());
        for file in files {
            let present = [format!("{file}.gz"), file.to_owned()].map(|name| folder.join(name));
            let path = present.into_iter().find(|path| path.exists());
            paths.push(path.ok_or_else(|| DataError::Missing {
                dataset: NAME,
                file: folder.join(format!("{file}.gz")),
                folder: folder.clone(),
                data_dir: options.data_dir.clone(),
            })?);
        }
        read(&paths[0], &paths[1], limit)
    };
    Ok(Dataset {
        name: NAME.to_owned(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        train: read(TRAIN_FILES, options.limit_train)?,
        test: read(TEST_FILES, options.limit_test)?,
        mean: MEAN,
        std: STD,
        augment: Augmentation::Padded,
        notes: Vec::new(),
    })
}

/// The folder of the files under the data directory `root`.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    let files = TRAIN_FILES.iter().chain(&TEST_FILES);
    let names: Vec<String> = files.flat_map(|file| [format!("{file}.gz"), (*file).to_owned()]).collect();
    find_folder(root, &[NAME, "FashionMNIST/raw", ""], &names.iter().map(String::as_str).collect::<Vec<&str>>())
}

/// Reads the first `limit` images (all by default) of a file of images and one of labels.
///
/// # Errors
///
/// A file cannot be read, is not an IDX file of 28x28 images or of labels, is longer or shorter than its header says,
/// or has a label that is not a class; or the two differ in number.
pub fn read(images: &Path, labels: &Path, limit: Option<usize>) -> Result<Images> {
    if limit == Some(0) {
        return Ok(Images { size: SIZE, ..Images::default() });
    }
    let (mut image_file, [count, height, width]) = Idx::open(images)?;
    if [height, width] != [FILE_SIZE; 2] {
        let problem = format!("holds images of {height} x {width} instead of {FILE_SIZE} x {FILE_SIZE}");
        return Err(DataError::damaged(NAME, images, problem));
    }
    let (mut label_file, [labelled]) = Idx::open(labels)?;
    if labelled != count {
        let problem = format!("holds {labelled} labels, and {} {count} images", images.display());
        return Err(DataError::damaged(NAME, labels, problem));
    }
    let wanted = limit.unwrap_or(usize::MAX).min(count);
    let bytes = label_file.values(wanted, wanted == count)?;
    if let Some(record) = bytes.iter().position(|&label| usize::from(label) >= CLASSES.len()) {
        let (file, label) = (labels.to_owned(), bytes[record]);
        return Err(DataError::Label { dataset: NAME, file, record, label, classes: CLASSES.len() });
    }
    let mut pixels = Vec::new();
    stream::reserve(&mut pixels, wanted * SIZE * SIZE).map_err(|problem| image_file.damaged(problem))?;
    while pixels.len() < wanted * SIZE * SIZE {
        let left = wanted - pixels.len() / (SIZE * SIZE);
        let block = left.min(BLOCK);
        let grey = image_file.values(block * FILE_SIZE * FILE_SIZE, left == block && wanted == count)?;
        grey.chunks_exact(FILE_SIZE * FILE_SIZE).for_each(|image| append_padded(image, &mut pixels));
    }
    Ok(Images { size: SIZE, pixels, labels: bytes.into_iter().map(u32::from).collect() })
}

fn append_padded(grey: &[u8], pixels: &mut Vec<u32>) {
    let end = pixels.len() + SIZE * SIZE;
    pixels.resize(pixels.len() + BORDER * SIZE, 0);
    for row in grey.chunks_exact(FILE_SIZE) {
        pixels.extend([0; BORDER]);
        pixels.extend(row.iter().map(|&value| pack_rgb([value; 3])));
        pixels.extend([0; BORDER]);
    }
    pixels.resize(end, 0);
}

/// An IDX file of bytes, its header read.
struct Idx<'a> {
    path: &'a Path,
    source: Box<dyn Read>,
}

impl<'a> Idx<'a> {
    /// Opens a file of `D` dimensions, and returns them.
    fn open<const D: usize>(path: &'a Path) -> Result<(Self, [usize; D])> {
        let mut file = File::open(path).map_err(DataError::io("read", path))?;
        let bytes = file.metadata().map_err(DataError::io("read", path))?.len();
        let mut start = Vec::with_capacity(2);
        file.by_ref().take(2).read_to_end(&mut start).map_err(DataError::io("read", path))?;
        file.seek(SeekFrom::Start(0)).map_err(DataError::io("read", path))?;
        let zipped = start == [0x1f, 0x8b];
        let file = BufReader::new(file);
        let source: Box<dyn Read> = if zipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
        let mut idx = Self { path, source };
        let magic: [u8; 4] = idx.header()?;
        if magic != [0, 0, 8, D as u8] {
            let kind = if D == 1 { "labels" } else { "images" };
            return Err(idx.damaged(format!("is no IDX file of {kind}: it begins with the bytes {magic:?}")));
        }
        let mut dimensions = [0; D];
        for dimension in &mut dimensions {
            *dimension = u32::from_be_bytes(idx.header()?) as usize;
        }
        let header = (4 + 4 * D) as u64;
        let values = dimensions.iter().try_fold(1_u64, |product, &d| product.checked_mul(d as u64));
        let most = if zipped { stream::most_unpacked(bytes) } else { bytes };
        let whole = values.and_then(|values| values.checked_add(header));
        if dimensions[0] == 0 || dimensions[0] > MAX_IMAGES || whole.is_none_or(|whole| whole > most) {
            let problem = format!("claims to hold {dimensions:?} values, which its {bytes} bytes cannot be");
            return Err(idx.damaged(problem));
        }
        Ok((idx, dimensions))
    }

    fn damaged(&self, problem: impl std::fmt::Display) -> DataError {
        DataError::damaged(NAME, self.path, problem)
    }

    fn header<const N: usize>(&mut self) -> Result<[u8; N]> {
        stream::bytes(&mut self.source).map_err(|error| self.damaged(stream::reason(&error)))
    }

    /// Reads the next `count` values, at most as many as the header promises; after the `last` ones, the file must
    /// end.
    fn values(&mut self, count: usize, last: bool) -> Result<Vec<u8>> {
        let mut values = vec![0; count];
        self.source.read_exact(&mut values).map_err(|error| self.damaged(stream::reason(&error)))?;
        if last {
            let more = stream::finish(&mut self.source, 1).map_err(|error| self.damaged(stream::reason(&error)))?;
            if more > 0 {
                return Err(self.damaged("goes on after its last value"));
            }
        }
        Ok(values)
    }
}
