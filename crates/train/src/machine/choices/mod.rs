//! The choices among kernels' variants that were measured on an adapter: a file in the user's cache directory, which
//! runs on that adapter read, and a table in the configuration of a run, which goes on with them.

mod recorded;

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tensor::device::{Adapter, GpuOptions};
use tensor::tuning::Measured;
use tensor::{Choices, Device, Target};

use crate::machine::calendar;
use crate::output;
use crate::run::files::write_atomically;

pub use recorded::{Recorded, Tuning};

/// Names the directory to keep choices in, instead of the user's cache directory. Tests set it.
const DIRECTORY: &str = "ONFLY_CACHE_DIR";
/// Set to `hardware`, has software adapters run the variants of kernels that are for hardware: slower there, and how
/// tuning is tested.
const VARIANTS: &str = "ONFLY_VARIANTS";
/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 2;
/// Choices are of one version of the engine, whose kernels they are among.
const ENGINE: &str = env!("CARGO_PKG_VERSION");

/// Contents of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    format: u32,
    adapter: String,
    backend: String,
    driver: String,
    engine: String,
    /// The day of the last measurement, as 2026-11-24.
    date: String,
    /// Kernels that were measured, also those of which the static rule's variant is the fastest.
    #[serde(default)]
    kernel: Vec<Entry>,
}

/// A kernel's choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// Hash of the candidates, in hexadecimal digits.
    key: String,
    /// The variant to run; 0 is the static rule's.
    variant: usize,
    /// The kernel in words, for people.
    kernel: String,
    /// Median times that were measured, of the static rule's variant and of this one.
    rule_ms: f64,
    chosen_ms: f64,
    /// A variant that is faster alone, and did not make a step faster: the static rule's stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    withdrawn: Option<usize>,
}

/// Choices by their keys in hexadecimal digits.
fn choices<'a>(variants: impl Iterator<Item = (&'a String, usize)>) -> Choices {
    let mut choices = Choices::default();
    for (key, variant) in variants {
        if let Ok(key) = u64::from_str_radix(key, 16) {
            choices.choose(key, variant);
        }
    }
    choices
}

/// The choices for one adapter, and their file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    path: PathBuf,
    stored: Stored,
}

impl Tuned {
    /// None yet.
    ///
    /// # Errors
    /// When there is no directory to keep them in.
    pub fn new(adapter: &Adapter) -> Result<Self> {
        let stored = Stored {
            format: FORMAT,
            adapter: adapter.name.clone(),
            backend: adapter.backend.clone(),
            driver: adapter.driver.clone(),
            engine: ENGINE.to_owned(),
            date: calendar::today(),
            kernel: Vec::new(),
        };
        let directory = directory().with_context(|| {
            format!("there is no cache directory to keep choices in: set {DIRECTORY} to a directory of yours")
        })?;
        Ok(Self { path: file(&directory, adapter), stored })
    }

    /// Reads the choices for this adapter, its driver and this engine, if there are any; what is there and is not to be
    /// used is told in a sentence.
    pub fn read(adapter: &Adapter) -> Option<Self> {
        let path = file(&directory()?, adapter);
        if !path.exists() {
            return None;
        }
        match read(&path, adapter) {
            Ok(stored) => Some(Self { path, stored }),
            Err(problem) => {
                output::note(format!(
                    "kernels are not tuned: {} {problem}; it is ignored, and replaced when they are measured anew",
                    path.display()
                ));
                None
            }
        }
    }

    /// The choices that a device is given.
    pub fn choices(&self) -> Choices {
        choices(self.stored.kernel.iter().map(|entry| (&entry.key, entry.variant)))
    }

    /// Tells whether the kernel whose candidates have this key was measured.
    pub fn knows(&self, key: u64) -> bool {
        let key = format!("{key:016x}");
        self.stored.kernel.iter().any(|entry| entry.key == key)
    }

    /// Takes up what was measured of a kernel, and drops what was known of it.
    pub fn take(&mut self, kernel: String, measured: &Measured) {
        let key = format!("{:016x}", measured.key);
        self.stored.kernel.retain(|entry| entry.key != key);
        let [rule_ms, chosen_ms] = [measured.before(), measured.after()].map(|seconds| 1e3 * seconds);
        self.stored.kernel.push(Entry { key, variant: measured.choice, kernel, rule_ms, chosen_ms, withdrawn: None });
        self.stored.date = calendar::today();
    }

    /// Goes back to the static rule's variant of the kernels with these keys.
    pub fn withdraw(&mut self, keys: &[u64]) {
        let keys: Vec<String> = keys.iter().map(|key| format!("{key:016x}")).collect();
        for entry in self.stored.kernel.iter_mut().filter(|entry| entry.variant > 0 && keys.contains(&entry.key)) {
            entry.withdrawn = Some(std::mem::take(&mut entry.variant));
        }
    }

    /// Writes the file. What another process has measured of other kernels meanwhile is kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self) -> Result<()> {
        let Stored { adapter: name, backend, driver, .. } = self.stored.clone();
        if let Ok(there) = read(&self.path, &Adapter { name, backend, driver }) {
            let own = |entry: &Entry| self.stored.kernel.iter().any(|own| own.key == entry.key);
            let others: Vec<Entry> = there.kernel.into_iter().filter(|entry| !own(entry)).collect();
            self.stored.kernel.extend(others);
        }
        let text = toml::to_string(&self.stored).context("cannot put the choices into TOML")?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        write_atomically(&self.path, text.as_bytes())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tuned for this adapter on {}", self.stored.date)
    }
}

/// The file's contents, or why it is not to be used, to stand after its name.
fn read(path: &Path, adapter: &Adapter) -> Result<Stored, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read ({error})"))?;
    let stored: Stored = toml::from_str(&text).map_err(|error| format!("is damaged ({})", error.message()))?;
    let other = [
        ("format", stored.format.to_string(), FORMAT.to_string()),
        ("engine", stored.engine.clone(), ENGINE.to_owned()),
        ("adapter", stored.adapter.clone(), adapter.name.clone()),
        ("backend", stored.backend.clone(), adapter.backend.clone()),
        ("driver", stored.driver.clone(), adapter.driver.clone()),
    ]
    .into_iter()
    .find(|(_, stored, here)| stored != here);
    match other {
        Some((what, stored, here)) => Err(format!("is for another {what} (\"{stored}\", and here it is \"{here}\")")),
        None => Ok(stored),
    }
}

/// Opens the device that `wanted` names. A software adapter runs the variants of hardware where [`VARIANTS`] asks for
/// it.
///
/// # Errors
/// When there is no such device, or it cannot be opened.
pub fn open_untuned(wanted: &str) -> Result<Device> {
    open_one_of(wanted, 0)
}

/// Opens a device like [`open_untuned`], for process `index` of those on this machine that train together.
fn open_one_of(wanted: &str, index: usize) -> Result<Device> {
    let device = tensor::device::open_one_of(wanted, index, GpuOptions::default())?;
    match device.target() {
        Some(target) if target.software && env::var_os(VARIANTS).is_some_and(|value| value == "hardware") => {
            let target = Some(Target { software: false, ..target });
            Ok(tensor::device::open_one_of(wanted, index, GpuOptions { target, ..GpuOptions::default() })?)
        }
        _ => Ok(device),
    }
}

/// Variants of kernels that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The variants of the static rule.
    Rule,
    /// The variants that were found to be faster on this adapter.
    Known,
    /// The variants of a resumed run, or where it ran on another adapter, those that are known of this one.
    OfRun(&'a Recorded),
}

/// Origin of a device's choices.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// The static rule made them all.
    Rule,
    /// The file of the adapter.
    File(Tuned),
    /// The run that goes on.
    Run(Choices),
}

impl Origin {
    /// The choices that the device was given.
    pub fn choices(&self) -> Choices {
        match self {
            Self::Rule => Choices::default(),
            Self::File(tuned) => tuned.choices(),
            Self::Run(choices) => choices.clone(),
        }
    }
}

/// Opens a device with the choices that are wanted. Of several processes on this machine that train together, process
/// `index` takes the next device in turn: of a list, or of those that fit.
///
/// # Errors
/// When there is no such device, or it cannot be opened.
pub fn open(wanted: &str, variants: Wanted<'_>, index: usize) -> Result<(Device, Origin)> {
    let names: Vec<&str> = wanted.split(',').map(str::trim).collect();
    let device = match names.as_slice() {
        [name] => open_one_of(name, index)?,
        several => open_one_of(several[index % several.len()], index / several.len())?,
    };
    let known = |adapter| Tuned::read(adapter).map(Origin::File);
    let origin = match (device.adapter(), variants) {
        (None, _) | (_, Wanted::Rule) => None,
        (Some(adapter), Wanted::Known) => known(adapter),
        (Some(adapter), Wanted::OfRun(run)) => run.choices(adapter).map(Origin::Run).or_else(|| known(adapter)),
    };
    let origin = origin.unwrap_or(Origin::Rule);
    Ok((device.tuned(origin.choices()), origin))
}

/// The user's directory for what can be made again.
fn directory() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || {
        if cfg!(windows) {
            return variable("LOCALAPPDATA");
        }
        if cfg!(target_os = "macos") {
            return variable("HOME").map(|home| home.join("Library/Caches"));
        }
        // The specification has relative paths ignored.
        let given = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        given.or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    variable(DIRECTORY).or_else(|| user().map(|user| user.join("onfly")))
}

/// One file for an adapter and backend; what else it depends on stands in it.
fn file(directory: &Path, adapter: &Adapter) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = format!("{} {}", adapter.name, adapter.backend).chars().map(plain).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    directory.join(format!("tuned-{}.toml", words.join("-")))
}

#[cfg(test)]
mod tests {
    use tensor::tuning::Candidate;

    use super::*;

    fn adapter() -> Adapter {
        Adapter { name: "GPU (X) 9".to_owned(), backend: "Vulkan".to_owned(), driver: "some 1.2".to_owned() }
    }

    fn measured(key: u64, choice: usize) -> Measured {
        let timed = |median| Candidate::Timed { lower: median, median, upper: median };
        Measured { key, candidates: vec![timed(2e-3), timed(1e-3)], choice }
    }

    fn tuned(directory: &Path) -> Tuned {
        Tuned { path: file(directory, &adapter()), ..Tuned::new(&adapter()).expect("this machine has a home") }
    }

    #[test]
    fn what_is_saved_is_read_and_what_was_measured_again_replaces_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut tuned = tuned(&folder.path().join("new"));
        tuned.take("a 1".to_owned(), &measured(u64::MAX, 1));
        tuned.take("b 2".to_owned(), &measured(7, 1));
        tuned.take("b 2".to_owned(), &measured(7, 0));
        tuned.take("c 3".to_owned(), &measured(8, 0));
        tuned.save().expect("writable");
        assert!(tuned.path().ends_with("new/tuned-gpu-x-9-vulkan.toml"), "{}", tuned.path().display());
        let stored = read(tuned.path(), &adapter()).expect("it was just written");
        assert_eq!(stored, tuned.stored);
        let mut choices = Choices::default();
        choices.choose(u64::MAX, 1);
        assert_eq!(tuned.choices(), choices);
        assert_eq!((stored.kernel[0].rule_ms, stored.kernel[0].chosen_ms), (2.0, 1.0));
        assert_eq!([u64::MAX, 7, 8, 9].map(|key| tuned.knows(key)), [true, true, true, false]);
        tuned.withdraw(&[u64::MAX, 8]);
        assert!(tuned.choices().is_empty() && tuned.knows(u64::MAX));
    }

    #[test]
    fn what_two_processes_measure_at_once_is_kept() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (mut one, mut other) = (tuned(folder.path()), tuned(folder.path()));
        one.take("a 1".to_owned(), &measured(1, 1));
        one.take("b 2".to_owned(), &measured(2, 1));
        one.save().expect("writable");
        other.take("b 2".to_owned(), &measured(2, 0));
        other.take("c 3".to_owned(), &measured(3, 1));
        other.save().expect("writable");
        let stored = read(other.path(), &adapter()).expect("it was just written");
        let found: Vec<(&str, usize)> = stored.kernel.iter().map(|it| (it.kernel.as_str(), it.variant)).collect();
        assert_eq!(found, [("b 2", 0), ("c 3", 1), ("a 1", 1)]);
    }

    #[test]
    fn damaged_and_foreign_files_are_told_in_a_sentence() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut tuned = tuned(folder.path());
        tuned.save().expect("writable");
        let newer = Adapter { driver: "some 1.3".to_owned(), ..adapter() };
        let problem = read(tuned.path(), &newer).expect_err("of another driver");
        assert_eq!(problem, "is for another driver (\"some 1.2\", and here it is \"some 1.3\")");
        let whole = fs::read_to_string(tuned.path()).expect("written");
        for (damage, problem) in [
            (whole[..whole.len() / 2].to_owned(), "is damaged"),
            (String::new(), "is damaged"),
            (whole.replace(ENGINE, "0.0.1"), "is for another engine (\"0.0.1\""),
            (whole.replace("format = 2", "format = 1"), "is for another format (\"1\""),
        ] {
            fs::write(tuned.path(), damage).expect("writable");
            let found = read(tuned.path(), &adapter()).expect_err("it is damaged");
            assert!(found.starts_with(problem) && !found.contains('\n'), "{found}");
        }
        fs::write(tuned.path(), [0xff, 0xfe, 0]).expect("writable");
        assert!(read(tuned.path(), &adapter()).expect_err("no text").starts_with("cannot be read"));
    }
}
