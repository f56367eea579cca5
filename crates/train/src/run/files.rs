//! Files that are whole at every moment, and files of one JSON object per line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Prefix of temporary files.
const TEMPORARY: &str = ".tmp-";

/// A file that is replaced now and then, and the one that it replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub current: PathBuf,
    pub previous: PathBuf,
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Checks that a file can be written where `option` says: that it is no directory, and lies in one that there is.
///
/// # Errors
/// When it is or does not.
pub fn check_target(option: &str, path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{option} names a file to write, and {} is a directory", path.display());
    }
    if !folder(path).is_dir() {
        bail!("the directory of {option} {} does not exist: make it first", path.display());
    }
    Ok(())
}

/// Writes a file so that under its name there is always a whole one: to a temporary file beside it, which is renamed
/// when it is on the disk.
///
/// # Errors
/// When it cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    place(path, bytes, || Ok(())).map_err(|error| cannot_write(path, &error))
}

/// Writes like [`write_atomically`], and keeps the file that was there: one of the two names has a whole file always.
///
/// # Errors
/// When it cannot be written; what was there is then still under one of the two names.
pub fn replace(file: &Kept, bytes: &[u8]) -> Result<()> {
    let keep = || match fs::rename(&file.current, &file.previous) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    place(&file.current, bytes, keep).map_err(|error| cannot_write(&file.current, &error))
}

/// Gives the file that was replaced its place again.
///
/// # Errors
/// When it cannot be renamed.
pub fn bring_back(file: &Kept) -> Result<()> {
    fs::rename(&file.previous, &file.current).with_context(|| format!("cannot rename {}", file.previous.display()))
}

/// Writes `bytes` beside `path`, and renames that to `path` after `prepare`.
fn place(path: &Path, bytes: &[u8], prepare: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let folder = folder(path);
    let mut file = temporary(folder)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    prepare()?;
    file.persist(path)?;
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// The error of a failed write, with advice.
pub(super) fn cannot_write(path: &Path, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "; make room for it",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; make its directory writable",
        _ => "",
    };
    anyhow!("cannot write {}: {error}{advice}", path.display())
}

/// A temporary file, as readable as any other file of its owner: by default it would be private.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666))
    };
    builder.tempfile_in(folder)
}

/// Removes temporary files of a run that was killed while it wrote one.
pub(super) fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        // A file that cannot be removed only takes up space.
        let _ = fs::remove_file(entry.path());
    }
}

/// Appends an object per line, and has them on the disk when it returns.
pub(super) fn append(path: &Path, lines: &[impl Serialize]) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    let append = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    append().map_err(|error| cannot_write(path, &error))
}

/// The objects of a file with one per line. A line that is no such object was cut off when the run was killed.
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
