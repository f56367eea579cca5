//! Valid files with random damage: a reader returns images or a one-sentence error, never panics, and never takes
//! much memory.
//!
//! `ONFLY_HOSTILE_CASES` sets the number of damaged files for each property.

use std::fs;
use std::path::Path;
use std::slice::from_ref;

use data::cifar100::Labels;
use data::{Images, LoadOptions, cifar10, cifar100, fashion_mnist, folder, svhn};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::made::{compressed, gzip, idx, jpeg, mat, png, variable, x, y};

/// Default number of damaged files for each property.
const CASES: u32 = 400;

/// Limit on memory. No file here decodes to more bytes, and no test takes half of it.
const MOST_MEMORY: u64 = 1 << 30;

/// A position in a file. The numbers are in headers, so every other position is near the beginning.
#[derive(Debug, Clone, Copy)]
struct Place(bool, usize);

impl Place {
    fn in_file(self, length: usize) -> usize {
        let Self(near, number) = self;
        number % if near { length.clamp(1, 256) } else { length.max(1) }
    }
}

/// One act of damage.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Set(Place, u8),
    Flip(Place, u8),
    /// Sets four bytes to a plausible length or count, in either byte order.
    Number(Place, u32, bool),
    Cut(Place),
    Append(u8, u16),
    Remove(Place, u8),
    Repeat(Place, u8),
}

impl Damage {
    fn apply(self, file: &mut Vec<u8>) {
        let length = file.len();
        match self {
            Self::Set(at, value) => file.iter_mut().skip(at.in_file(length)).take(1).for_each(|byte| *byte = value),
            Self::Flip(at, bit) => file.iter_mut().skip(at.in_file(length)).take(1).for_each(|byte| *byte ^= 1 << bit),
            Self::Number(at, value, big) => {
                let bytes = if big { value.to_be_bytes() } else { value.to_le_bytes() };
                // Aligned, since the numbers are.
                let at = at.in_file(length) & !3;
                file.iter_mut().skip(at).zip(bytes).for_each(|(byte, value)| *byte = value);
            }
            Self::Cut(at) => file.truncate(at.in_file(length)),
            Self::Append(value, count) => file.resize(length + usize::from(count), value),
            Self::Remove(at, count) => {
                let at = at.in_file(length);
                file.drain(at..(at + usize::from(count)).min(length));
            }
            Self::Repeat(at, count) => {
                let at = at.in_file(length);
                let part = file[at..(at + usize::from(count)).min(length)].to_vec();
                file.splice(at..at, part);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let place = || (any::<bool>(), any::<usize>()).prop_map(|(near, number)| Place(near, number));
    let number = prop_oneof![
        prop::sample::select(vec![0, 1, 7, 0xffff, 0x1_0000, i32::MAX as u32, 1 << 31, u32::MAX]),
        any::<u32>(),
        0..4096_u32,
    ];
    let one = prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        (place(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (place(), number, any::<bool>()).prop_map(|(at, value, big)| Damage::Number(at, value, big)),
        place().prop_map(Damage::Cut),
        (any::<u8>(), any::<u16>()).prop_map(|(value, count)| Damage::Append(value, count)),
        (place(), any::<u8>()).prop_map(|(at, count)| Damage::Remove(at, count)),
        (place(), any::<u8>()).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ];
    prop::collection::vec(one, 1..4)
}

/// The peak memory of this process, if the system tells it.
fn peak_memory() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Damages each of `files` in turn at random, first inside, then, `wrapped`, outside, and hands it to `read`.
fn try_all(files: &[Vec<u8>], wrap: fn(&[u8]) -> Vec<u8>, read: impl Fn(&Path) -> data::Result<(Images, usize)>) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("damaged");
    let cases = std::env::var("ONFLY_HOSTILE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let strategy = (0..files.len(), any::<bool>(), damage());
    let outcome = runner.run(&strategy, |(file, inside, damage)| {
        let mut bytes = files[file].clone();
        let apply = |bytes: &mut Vec<u8>| damage.iter().for_each(|damage| damage.apply(bytes));
        if inside {
            apply(&mut bytes);
        }
        bytes = wrap(&bytes);
        if !inside {
            apply(&mut bytes);
        }
        fs::write(&path, bytes).expect("written");
        match read(&path) {
            Ok((images, classes)) => {
                prop_assert_eq!(images.pixels.len(), images.len() * images.pixels_per_image());
                prop_assert!(images.labels.iter().all(|&label| (label as usize) < classes));
            }
            Err(error) => {
                let sentence = error.to_string();
                prop_assert!(!sentence.is_empty() && !sentence.contains('\n'), "{}", sentence);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(peak_memory() < MOST_MEMORY, "{} MiB", peak_memory() >> 20);
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

#[test]
fn records_of_cifar() {
    let tens: Vec<u8> = (0..3 * cifar10::RECORD).map(|i| (i / cifar10::RECORD) as u8).collect();
    try_all(&[tens], plain, |path| Ok((cifar10::read(&[path.to_owned()], 3, None)?, 10)));
    let hundreds: Vec<u8> = (0..3 * cifar100::RECORD).map(|i| (i / cifar100::RECORD) as u8).collect();
    for (labels, classes) in [(Labels::Fine, 100), (Labels::Coarse, 20)] {
        try_all(from_ref(&hundreds), plain, |path| Ok((cifar100::read(path, 3, labels, None)?, classes)));
    }
}

#[test]
fn matlab_files() {
    let other = variable("other", 6, &[1, 1], 9, &1.5_f64.to_le_bytes());
    let files = [
        mat(&[x(3), y(&[1, 10, 5])]),
        mat(&[compressed(&x(3)), compressed(&y(&[1, 10, 5]))]),
        mat(&[compressed(&y(&[4])), compressed(&other), x(1)]),
    ];
    for limit in [None, Some(2)] {
        try_all(&files, plain, |path| Ok((svhn::read(path, limit)?, 10)));
    }
}

#[test]
fn variables_of_matlab_files_damaged_before_they_were_compressed() {
    let in_a_file = |bytes: &[u8]| mat(&[compressed(bytes), y(&[1, 10])]);
    try_all(&[x(2)], in_a_file, |path| Ok((svhn::read(path, None)?, 10)));
    let beside_images = |bytes: &[u8]| mat(&[compressed(bytes), compressed(&x(2))]);
    try_all(&[y(&[1, 10])], beside_images, |path| Ok((svhn::read(path, None)?, 10)));
}

#[test]
fn idx_files() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (images, labels) = (idx(&[2, 28, 28], &[200; 1568]), idx(&[2], &[0, 9]));
    let (images_path, labels_path) = (folder.path().join("images"), folder.path().join("labels"));
    fs::write(&images_path, &images).expect("written");
    fs::write(&labels_path, &labels).expect("written");
    for wrap in [plain, gzip] {
        for limit in [None, Some(1)] {
            try_all(from_ref(&images), wrap, |path| Ok((fashion_mnist::read(path, &labels_path, limit)?, 10)));
            try_all(from_ref(&labels), wrap, |path| Ok((fashion_mnist::read(&images_path, path, limit)?, 10)));
        }
    }
}

#[test]
fn images_in_a_folder() {
    let root = tempfile::tempdir().expect("temporary folder");
    for place in ["train/a", "train/b", "val/a"] {
        fs::create_dir_all(root.path().join(place)).expect("made");
    }
    for place in ["train/a/1.png", "train/b/1.png"] {
        fs::write(root.path().join(place), png(3, 3, [1, 2, 3])).expect("written");
    }
    let target = root.path().join("val/a/1.png");
    let files = [png(9, 14, [7, 8, 9]), jpeg("rgb"), jpeg("progressive"), jpeg("cmyk"), jpeg("grey")];
    let options = LoadOptions { image_size: Some(8), limit_train: Some(0), ..LoadOptions::default() };
    try_all(&files, plain, |path| {
        fs::copy(path, &target).expect("copied");
        Ok((folder::load("made", root.path(), &options)?.test, 2))
    });
}
