//! Published checksums of files.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use md5::Md5;
use sha1::{Digest, Sha1};

use crate::error::{DataError, Result};

/// A checksum that a file must have, in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    /// By SHA-1.
    Sha1(&'static str),
    /// By MD5.
    Md5(&'static str),
    /// SHA-1 of a gzip file's content. The compression does not matter, and an uncompressed file has the same
    /// checksum.
    Unpacked(&'static str),
}

impl Sum {
    /// The file's checksum of the same kind.
    pub(crate) fn of(self, path: &Path) -> Result<String> {
        match self {
            Self::Sha1(_) => digest::<Sha1>(path, false),
            Self::Md5(_) => digest::<Md5>(path, false),
            Self::Unpacked(_) => digest::<Sha1>(path, true),
        }
    }

    /// Checks that a file has the checksum.
    ///
    /// # Errors
    ///
    /// It has another one, or cannot be read.
    pub(crate) fn verify(self, path: &Path) -> Result<()> {
        let found = self.of(path)?;
        if found == self.expected() {
            return Ok(());
        }
        let what = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Err(DataError::Damaged {
            what,
            problem: format!("has the {} {found} instead of {}", self.kind(), self.expected()),
        })
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Sha1(sum) | Self::Md5(sum) | Self::Unpacked(sum) => sum,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Sha1(_) => "SHA-1",
            Self::Md5(_) => "MD5",
            Self::Unpacked(_) => "unpacked SHA-1",
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.expected())
    }
}

fn digest<D: Digest + io::Write>(path: &Path, unpack: bool) -> Result<String> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let mut file = BufReader::new(file);
    let zipped = unpack && file.fill_buf().map_err(DataError::io("read", path))?.starts_with(&[0x1f, 0x8b]);
    let mut hash = D::new();
    let read = if zipped { io::copy(&mut GzDecoder::new(file), &mut hash) } else { io::copy(&mut file, &mut hash) };
    read.map_err(DataError::io("read", path))?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::Sum;

    #[test]
    fn checksums_are_those_of_the_standards() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("abc");
        fs::write(&path, "abc").expect("written");
        Sum::Sha1("a9993e364706816aba3e25717850c26c9cd0d89d").verify(&path).expect("equal");
        Sum::Md5("900150983cd24fb0d6963f7d28e17f72").verify(&path).expect("equal");
        let unpacked = Sum::Unpacked("a9993e364706816aba3e25717850c26c9cd0d89d");
        unpacked.verify(&path).expect("equal");
        let mut encoder =
            GzEncoder::new(fs::File::create(path.with_extension("gz")).expect("made"), Compression::best());
        encoder.write_all(b"abc").expect("written");
        encoder.finish().expect("written");
        unpacked.verify(&path.with_extension("gz")).expect("equal when unpacked");
        let error = Sum::Md5("0").verify(&path).expect_err("another").to_string();
        assert_eq!(error, "abc has the MD5 900150983cd24fb0d6963f7d28e17f72 instead of 0");
    }
}
