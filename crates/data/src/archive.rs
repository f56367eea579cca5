//! Archives: taking named files out of a `.tar.gz`.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::{DataError, Result};

/// The greatest unpacked size of an archive: more than any dataset here needs, and small enough for any disk.
const MAX_UNPACKED: u64 = 1 << 30;

/// A file to take out of an archive.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Its exact path in the archive.
    pub entry: String,
    /// Path to write it to. Must not exist.
    pub target: PathBuf,
    /// The greatest size allowed.
    pub max_bytes: u64,
}

/// Takes the wanted files out of a `.tar.gz`. Every other entry is skipped, whatever its name: links, absolute paths
/// and paths with `..` are never followed, since only paths equal to a wanted one are written, and only to its
/// target.
///
/// # Errors
///
/// The archive is damaged; or a wanted file is not a plain file, is too large, occurs twice or not at all, or cannot
/// be written.
pub(crate) fn extract(archive: &Path, wanted: &[Wanted]) -> Result<()> {
    extract_within(archive, wanted, MAX_UNPACKED)
}

/// Works as [`extract`], but reads at most `most` unpacked bytes.
fn extract_within(archive: &Path, wanted: &[Wanted], most: u64) -> Result<()> {
    let file = File::open(archive).map_err(DataError::io("read", archive))?;
    let name = archive.file_name().unwrap_or(archive.as_os_str()).to_string_lossy().into_owned();
    let damaged = |problem: String| DataError::Damaged { what: name.clone(), problem };
    let broken = |error: io::Error| damaged(format!("is no readable .tar.gz: {error}"));
    let mut tar = tar::Archive::new(GzDecoder::new(BufReader::new(file)).take(most));
    let mut found = vec![false; wanted.len()];
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let Some(index) = wanted.iter().position(|file| file.entry.as_bytes() == &*entry.path_bytes()) else {
            continue;
        };
        let Wanted { entry: path, target, max_bytes } = &wanted[index];
        if found[index] {
            return Err(damaged(format!("holds {path} twice")));
        }
        if !entry.header().entry_type().is_file() {
            return Err(damaged(format!("holds a {path} that is not a plain file")));
        }
        if entry.size() > *max_bytes {
            return Err(damaged(format!("holds a {path} of {} bytes, more than {max_bytes}", entry.size())));
        }
        let expected = entry.size();
        let mut out = File::create_new(target).map_err(DataError::io("write", target))?;
        let copied = io::copy(&mut entry, &mut out).map_err(DataError::io("unpack to", target))?;
        if copied != expected {
            return Err(damaged(format!("breaks off in {path}")));
        }
        found[index] = true;
    }
    match found.iter().position(|&found| !found) {
        Some(index) => Err(damaged(format!("does not hold {}", wanted[index].entry))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    use super::*;

    type Entry<'a> = (&'a str, EntryType, &'a [u8]);

    /// An archive of entries (path, type, content); paths are written as they are, even those that a builder refuses.
    fn archive(folder: &Path, entries: &[Entry<'_>]) -> PathBuf {
        let path = folder.join("made.tar.gz");
        let mut builder = Builder::new(GzEncoder::new(File::create(&path).expect("created"), Compression::fast()));
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_gnu_mut().expect("a GNU header").name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc/hostname").expect("link");
            }
            header.set_cksum();
            builder.append(&header, *content).expect("appended");
        }
        builder.into_inner().expect("finished").finish().expect("compressed");
        path
    }

    fn take(entries: &[Entry<'_>]) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = archive(folder.path(), entries);
        let target = folder.path().join("out");
        let result = extract(&path, &[Wanted { entry: "in/wanted".to_owned(), target, max_bytes: 5 }]);
        (folder, result)
    }

    #[test]
    fn only_wanted_files_are_written_whatever_else_there_is() {
        let (folder, result) = take(&[
            ("/absolute", EntryType::Regular, b"a"),
            ("../up", EntryType::Regular, b"b"),
            ("in/../in/wanted", EntryType::Regular, b"c"),
            ("in/link", EntryType::Symlink, b""),
            ("in/wanted", EntryType::Regular, b"right"),
        ]);
        result.expect("there");
        assert_eq!(fs::read(folder.path().join("out")).expect("written"), b"right");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 2, "the archive and one file");
    }

    #[test]
    fn links_large_double_and_absent_files_are_errors() {
        let cases: [(&[Entry<'_>], &str); 4] = [
            (&[("in/wanted", EntryType::Symlink, b"")], "not a plain file"),
            (&[("in/wanted", EntryType::Regular, b"123456")], "of 6 bytes, more than 5"),
            (&[("in/wanted", EntryType::Regular, b"1"), ("in/wanted", EntryType::Regular, b"2")], "twice"),
            (&[("wanted", EntryType::Regular, b"1")], "does not hold in/wanted"),
        ];
        for (entries, part) in cases {
            let error = take(entries).1.expect_err(part).to_string();
            assert!(error.starts_with("made.tar.gz ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn cut_archives_are_errors() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = archive(folder.path(), &[("in/wanted", EntryType::Regular, b"right")]);
        let whole = fs::read(&path).expect("read");
        for length in [0, 5, whole.len() / 2] {
            fs::write(&path, &whole[..length]).expect("cut");
            let target = folder.path().join(format!("out{length}"));
            extract(&path, &[Wanted { entry: "in/wanted".to_owned(), target, max_bytes: 5 }]).expect_err("cut off");
        }
    }

    #[test]
    fn damaged_archives_are_errors_or_give_what_was_asked_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = archive(
            folder.path(),
            &[
                ("in/link", EntryType::Symlink, b""),
                ("in/wanted", EntryType::Regular, b"right"),
                ("x", EntryType::Regular, &[7; 900]),
            ],
        );
        let whole = fs::read(&path).expect("read");
        let mut plain = Vec::new();
        GzDecoder::new(&whole[..]).read_to_end(&mut plain).expect("unpacked");
        let mut rng = tensor::Rng::new(&[5]);
        for case in 0..600 {
            let target = folder.path().join(format!("out{case}"));
            let mut bytes = if case % 2 == 0 { whole.clone() } else { plain.clone() };
            for _ in 0..=rng.below(3) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.below(256) as u8;
            }
            if case % 2 == 1 {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                io::copy(&mut &bytes[..], &mut encoder).expect("in memory");
                bytes = encoder.finish().expect("in memory");
            }
            fs::write(&path, bytes).expect("written");
            // A file taken out is never larger than allowed; the caller verifies its checksum.
            let _ = extract(&path, &[Wanted { entry: "in/wanted".to_owned(), target: target.clone(), max_bytes: 5 }]);
            assert!(fs::metadata(&target).map_or(0, |metadata| metadata.len()) <= 5, "case {case}");
        }
        let outside = fs::read_dir(folder.path()).expect("listed").flatten();
        assert!(
            outside
                .map(|entry| entry.file_name())
                .all(|name| name == "made.tar.gz" || name.to_string_lossy().starts_with("out"))
        );
    }

    #[test]
    fn a_bomb_is_not_unpacked_beyond_the_limit() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let zeros = vec![0; 1 << 20];
        let path = archive(
            folder.path(),
            &[("bomb", EntryType::Regular, &zeros), ("in/wanted", EntryType::Regular, b"right")],
        );
        assert!(fs::metadata(&path).expect("there").len() < 1 << 14);
        let wanted = [Wanted { entry: "in/wanted".to_owned(), target: folder.path().join("out"), max_bytes: 5 }];
        extract_within(&path, &wanted, 1 << 19).expect_err("twice as large");
        assert!(!folder.path().join("out").exists());
        extract_within(&path, &wanted, 2 << 20).expect("not larger");
    }
}
