//! Files in the formats of the datasets' authors, but small.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// A folder that is removed at the end, and the path of a file in it.
pub fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("written");
    (folder, path)
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// An IDX file of bytes.
pub fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|dimension| file.extend(dimension.to_be_bytes()));
    file.extend(values);
    file
}

/// An element of a MATLAB file; a small one stands in its tag.
pub fn element(kind: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    let mut bytes = Vec::new();
    if (1..=4).contains(&length) {
        bytes.extend((length << 16 | kind).to_le_bytes());
        bytes.extend(data);
        bytes.resize(8, 0);
    } else {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// A variable of a MATLAB file; class and element type have MATLAB's numbers.
pub fn variable(name: &str, class: u8, dimensions: &[u32], kind: u32, data: &[u8]) -> Vec<u8> {
    let dimensions: Vec<u8> = dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()).collect();
    let parts = [
        element(6, &[class, 0, 0, 0, 0, 0, 0, 0]),
        element(5, &dimensions),
        element(1, name.as_bytes()),
        element(kind, data),
    ];
    element(14, &parts.concat())
}

/// The same element, compressed.
pub fn compressed(variable: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(variable).expect("in memory");
    let data = encoder.finish().expect("in memory");
    [&15_u32.to_le_bytes()[..], &(data.len() as u32).to_le_bytes(), &data].concat()
}

/// A MATLAB 5 file of variables.
pub fn mat(variables: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"MATLAB 5.0 MAT-file, made for a test".to_vec();
    file.resize(124, b' ');
    file.extend([0, 1, b'I', b'M']);
    variables.iter().for_each(|variable| file.extend(variable));
    file
}

/// Pixel bytes of SVHN's `X`; each value identifies its position.
pub fn digits(count: usize) -> Vec<u8> {
    (0..count * 3072).map(|i| (i * 7 + i / 3072 * 31) as u8).collect()
}

/// `X` of `count` images.
pub fn x(count: u32) -> Vec<u8> {
    variable("X", 9, &[32, 32, 3, count], 2, &digits(count as usize))
}

/// `y` of these labels, in MATLAB's storage of small integers of class double.
pub fn y(labels: &[u8]) -> Vec<u8> {
    variable("y", 6, &[labels.len() as u32, 1], 2, labels)
}

/// A PNG of one colour.
pub fn png(width: u32, height: u32, rgb: [u8; 3]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let data = rgb.repeat((width * height) as usize);
    encoder.write_header().expect("header").write_image_data(&data).expect("data");
    file
}

/// A JPEG that Pillow wrote, of the given `kind`: 24 x 16 pixels, the left half (200, 30, 60), the right half (20,
/// 160, 220).
pub fn jpeg(kind: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{kind}.jpg"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A PNG in which every pixel differs from its neighbours.
pub fn slope(width: u32, height: u32, seed: u8) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixel = |x: u32, y: u32| [(x * 9) as u8 ^ seed, (y * 7) as u8, seed.wrapping_add((x * y) as u8)];
    let data: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    encoder.write_header().expect("header").write_image_data(&data).expect("data");
    file
}
