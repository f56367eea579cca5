//! Reading of values from a stream that may end anywhere, and whose header may claim anything.

use std::io::{self, ErrorKind, Read};

/// Greatest factor by which a compressed stream may grow: DEFLATE's limit is 1032.
const MOST_GROWTH: u64 = 1032;

/// The most bytes that `compressed` bytes can become, with an allowance for a header.
pub(crate) fn most_unpacked(compressed: u64) -> u64 {
    compressed.saturating_mul(MOST_GROWTH).saturating_add(64)
}

/// Reads the next `N` bytes.
pub(crate) fn bytes<const N: usize>(source: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reason why reading failed, phrased to follow a file's name.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "breaks off".to_owned(),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => format!("is damaged ({error})"),
        _ => format!("cannot be read ({error})"),
    }
}

/// Reads the rest, at most `most` bytes, so that a checksum at the stream's end is checked; returns its number of
/// bytes.
pub(crate) fn finish(source: &mut dyn Read, most: u64) -> io::Result<u64> {
    io::copy(&mut source.take(most), &mut io::sink())
}

/// Reserves room for exactly `more` values.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) -> Result<(), String> {
    let bytes = (more * size_of::<T>()) >> 20;
    values.try_reserve_exact(more).map_err(|_| format!("needs {bytes} MiB of memory, which there are not"))
}
