//! Numeric arrays in MATLAB 5 files (level 5 MAT-files), compressed or not, as streams: their content is never in
//! memory as a whole.
//!
//! A file is a header of 128 bytes and elements: a tag (type, number of bytes) and that many bytes. A variable is an
//! element of type *matrix*, or a *compressed* one whose zlib stream holds that. A matrix contains flags with the
//! array's class, dimensions, name, and the values in column-major order, each an element padded to eight bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::error::{DataError, Result};
use crate::stream;

const HEADER: u64 = 128;
const TAG: u64 = 8;

/// Types of elements.
const INT8: u32 = 1;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;

/// Classes of arrays that hold numbers.
const NUMERIC: std::ops::RangeInclusive<u8> = 6..=15;
const COMPLEX: u8 = 0x08;

/// Bytes of the dimensions' element; far more than any array here has.
const MAX_DIMENSIONS: u32 = 4 * 8;
const MAX_NAME: u32 = 63;

/// Storage of one value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    /// One byte.
    U8,
    /// Any other type: its size in bytes, and the function that reads it.
    Other(usize, fn(&[u8]) -> f64),
}

impl Number {
    fn of(kind: u32) -> Option<Self> {
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            std::array::from_fn(|i| bytes[i])
        }
        Some(match kind {
            1 => Self::Other(1, |b| f64::from(b[0] as i8)),
            2 => Self::U8,
            3 => Self::Other(2, |b| f64::from(i16::from_le_bytes(array(b)))),
            4 => Self::Other(2, |b| f64::from(u16::from_le_bytes(array(b)))),
            5 => Self::Other(4, |b| f64::from(i32::from_le_bytes(array(b)))),
            6 => Self::Other(4, |b| f64::from(u32::from_le_bytes(array(b)))),
            7 => Self::Other(4, |b| f64::from(f32::from_le_bytes(array(b)))),
            9 => Self::Other(8, |b| f64::from_le_bytes(array(b))),
            _ => return None,
        })
    }

    /// Bytes of a value.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Other(width, _) => width,
        }
    }

    /// Reads a value from its [`Number::width`] bytes.
    pub(crate) fn read(self, bytes: &[u8]) -> f64 {
        match self {
            Self::U8 => f64::from(bytes[0]),
            Self::Other(_, read) => read(bytes),
        }
    }
}

/// An array, of which all but the values has been read.
pub(crate) struct Variable<'a> {
    pub name: String,
    pub dimensions: Vec<usize>,
    pub number: Number,
    /// The product of the dimensions.
    pub count: usize,
    /// `count` values, possibly followed by a few bytes of padding.
    pub source: Box<dyn Read + 'a>,
}

/// Fault of a file, phrased to follow the file's name.
pub(crate) type Problem = String;

/// Calls `visit` with each numeric array of a file in turn; `visit` may read its values or leave them.
///
/// # Errors
///
/// The file cannot be read or is not a MATLAB 5 file, it claims the impossible, or `visit` fails. `dataset` is the
/// dataset that it belongs to.
pub(crate) fn visit(
    dataset: &str,
    path: &Path,
    mut visit: impl FnMut(Variable<'_>) -> std::result::Result<(), Problem>,
) -> Result<()> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let bytes = file.metadata().map_err(DataError::io("read", path))?.len();
    let mut file = BufReader::with_capacity(1 << 16, file);
    elements(&mut file, bytes, &mut visit).map_err(|problem| DataError::damaged(dataset, path, problem))
}

fn elements(
    file: &mut BufReader<File>,
    bytes: u64,
    visit: &mut dyn FnMut(Variable<'_>) -> std::result::Result<(), Problem>,
) -> std::result::Result<(), Problem> {
    check_header(&stream::bytes(file).map_err(|error| why(&error))?)?;
    let mut position = HEADER;
    while position < bytes {
        let [kind, length] = words(file)?;
        let end = position + TAG + u64::from(length);
        if end > bytes {
            return Err(format!("breaks off in the element at byte {position}"));
        }
        let mut element = file.by_ref().take(u64::from(length));
        match kind {
            MATRIX => matrix(Box::new(element), u64::from(length), visit)?,
            COMPRESSED => {
                let mut unpacked = ZlibDecoder::new(&mut element);
                let [kind, inner] = words(&mut unpacked)?;
                if kind != MATRIX || u64::from(inner) > stream::most_unpacked(u64::from(length)) {
                    return Err(format!(
                        "claims {inner} bytes of type {kind} in the {length} compressed bytes at byte {position}"
                    ));
                }
                matrix(Box::new(unpacked), u64::from(inner), visit)?;
            }
            _ => return Err(format!("has an element of type {kind} at byte {position} instead of a variable")),
        }
        file.seek(SeekFrom::Start(end)).map_err(|error| why(&error))?;
        position = end;
    }
    Ok(())
}

fn why(error: &io::Error) -> Problem {
    stream::reason(error)
}

fn check_header(header: &[u8; HEADER as usize]) -> std::result::Result<(), Problem> {
    if header.starts_with(b"MATLAB 7.3") {
        return Err("is a MATLAB 7.3 file, and version 5 is read".to_owned());
    }
    match &header[124..] {
        [_, 1, b'I', b'M'] => Ok(()),
        [1, _, b'M', b'I'] => Err("is a big-endian MATLAB file, and little-endian ones are read".to_owned()),
        _ => Err("is no MATLAB 5 file".to_owned()),
    }
}

fn words<const N: usize>(source: &mut dyn Read) -> std::result::Result<[u32; N], Problem> {
    let mut words = [0; N];
    for word in &mut words {
        *word = u32::from_le_bytes(stream::bytes(source).map_err(|error| why(&error))?);
    }
    Ok(words)
}

/// The tag of an element in a matrix: type, number of bytes, and number of bytes that follow, with padding. Up to
/// four bytes may stand in the tag itself.
fn tag(source: &mut dyn Read) -> std::result::Result<(u32, u32, u32), Problem> {
    let [first] = words(source)?;
    if first >> 16 != 0 {
        return Ok((first & 0xffff, (first >> 16).min(4), 4));
    }
    let [length] = words(source)?;
    Ok((first, length, length.checked_next_multiple_of(8).unwrap_or(u32::MAX)))
}

/// A small element's bytes, without padding.
fn small(source: &mut dyn Read, what: &str, kinds: &[u32], most: u32) -> std::result::Result<Vec<u8>, Problem> {
    let (kind, length, padded) = tag(source)?;
    if !kinds.contains(&kind) || length > most {
        return Err(format!("has {length} bytes of type {kind} as the {what} of a variable"));
    }
    let mut bytes = vec![0; padded as usize];
    source.read_exact(&mut bytes).map_err(|error| why(&error))?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

fn matrix<'a>(
    mut source: Box<dyn Read + 'a>,
    bytes: u64,
    visit: &mut dyn FnMut(Variable<'_>) -> std::result::Result<(), Problem>,
) -> std::result::Result<(), Problem> {
    let flags = small(&mut source, "flags", &[UINT32], 8)?;
    let (&class, &bits) = flags.first().zip(flags.get(1)).ok_or("has no flags of a variable")?;
    if !NUMERIC.contains(&class) {
        return Ok(());
    }
    let dimensions = small(&mut source, "dimensions", &[INT32], MAX_DIMENSIONS)?;
    let name = small(&mut source, "name", &[INT8, UTF8], MAX_NAME)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    let dimensions: Vec<usize> = dimensions
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    let (kind, length, _) = tag(&mut source)?;
    let number = Number::of(kind).filter(|_| bits & COMPLEX == 0);
    let Some(number) = number else {
        return Err(format!("has a variable {name:?} that is not of real numbers (type {kind})"));
    };
    let count = dimensions.iter().try_fold(1_usize, |product, &d| product.checked_mul(d));
    let fits = count.and_then(|count| count.checked_mul(number.width())).is_some_and(|size| size == length as usize);
    match count {
        Some(count) if fits && u64::from(length) <= bytes => {
            visit(Variable { name, dimensions, number, count, source })
        }
        _ => Err(format!("has a variable {name:?} of dimensions {dimensions:?} in {length} of {bytes} bytes")),
    }
}
