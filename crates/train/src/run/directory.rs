//! A run's directory: `config.toml`, `metrics.jsonl`, `last.safetensors` and `best.safetensors`, of these two the one
//! before as well, and the `lock` of the process that trains there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::options::args::Method;
use crate::options::config::Config;
use crate::run::files::{Kept, append, cannot_write, folder, read_lines, remove_leftovers, write_atomically};
use crate::run::sessions::SessionRecord;

/// The split under which the ensemble of snapshots is recorded: it is not measured by epochs.
pub const SNAPSHOTS: &str = "snapshots";

/// The plot of an optimum's width, in a run's directory.
pub const PERTURBED: &str = "perturb.svg";

/// Folder of runs unless `--out` says otherwise.
const RUNS: &str = "runs";
const CONFIG: &str = "config.toml";
const LOCK: &str = "lock";

/// The directory of one run.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The lock that keeps other processes from training here; the system releases it when this one ends in any way.
    _lock: Option<File>,
    /// True if this process is one that writes here.
    writes: bool,
}

/// Takes the lock of a run's directory.
fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| cannot_write(&name, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another process trains in {}: wait until it has ended, or give another --out", path.display())
        }
        // A file system that has no locks is no reason not to train.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", name.display())),
    }
}

fn no_run(path: &Path) -> anyhow::Error {
    anyhow!("{} is no run's directory: it has no {CONFIG}", path.display())
}

impl RunDir {
    /// Makes the directory of a new run: `out`, which must not hold one, or one with a name that tells what is run.
    ///
    /// # Errors
    /// When `out` holds a run, or the directory cannot be made or written.
    pub fn create(out: Option<&Path>, config: &Config) -> Result<Self> {
        let path = match out {
            Some(out) => {
                fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
                out.to_owned()
            }
            None => make_numbered(config)?,
        };
        let run = Self { _lock: Some(lock(&path)?), path, writes: true };
        if [run.config(), run.last(), run.metrics()].iter().any(|file| file.exists()) {
            let dir = run.path.display();
            bail!("{dir} holds a run already: give another --out, or go on with it by --resume {dir}");
        }
        run.save_config(config)?;
        Ok(run)
    }

    /// The directory of a run that there is, and what it does.
    ///
    /// # Errors
    /// When there is no run, its configuration cannot be read, or another process trains there.
    pub fn open(path: &Path) -> Result<(Self, Config)> {
        let mut run = Self { path: path.to_owned(), _lock: None, writes: true };
        let config = run.read_config()?;
        run._lock = Some(lock(path)?);
        remove_leftovers(path);
        Ok((run, config))
    }

    /// Reads the run's configuration.
    ///
    /// # Errors
    /// When there is no run, or its configuration cannot be read.
    pub fn read_config(&self) -> Result<Config> {
        let file = self.config();
        let text = fs::read_to_string(&file).map_err(|error| match error.kind() {
            ErrorKind::NotFound => no_run(&self.path),
            _ => anyhow!("cannot read {}: {error}", file.display()),
        })?;
        toml::from_str(&text)
            .map_err(|error| anyhow!("{} is not what a run writes: {}", file.display(), error.message()))
    }

    /// The directory of a run that there is, maybe one under way, to read from.
    ///
    /// # Errors
    /// When there is no run.
    pub fn find(path: &Path) -> Result<Self> {
        let run = Self { path: path.to_owned(), _lock: None, writes: true };
        if run.config().is_file() { Ok(run) } else { Err(no_run(path)) }
    }

    /// The directory of a run in which another process writes: this one leaves it alone.
    pub fn of_another(path: PathBuf) -> Self {
        Self { path, _lock: None, writes: false }
    }

    /// Tells whether this process is one that writes here.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Tells whether a file of the run itself lies under `path`.
    pub fn owns(&self, path: &Path) -> bool {
        let Kept { current: last, previous: last_but_one } = self.last_saves();
        let Kept { current: best, previous: best_before } = self.best_saves();
        let files = [
            self.config(),
            self.metrics(),
            self.sessions(),
            self.path.join(LOCK),
            last,
            last_but_one,
            best,
            best_before,
        ];
        let inside = || folder(path).canonicalize().ok().zip(self.path.canonicalize().ok());
        files.iter().any(|file| file.file_name() == path.file_name()) && inside().is_some_and(|(a, b)| a == b)
    }

    /// Writes what the run does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_config(&self, config: &Config) -> Result<()> {
        write_atomically(&self.config(), toml::to_string(config)?.as_bytes())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The complete state after the last save.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// The complete state after the last save, and after the one before.
    pub fn last_saves(&self) -> Kept {
        Kept { current: self.last(), previous: self.path.join("last.previous.safetensors") }
    }

    /// Moves a file of the complete state aside that is of no use. Returns its new name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn set_aside_last(&self) -> Result<PathBuf> {
        let aside = self.path.join("last.unusable.safetensors");
        fs::rename(self.last(), &aside).with_context(|| format!("cannot rename {}", self.last().display()))?;
        Ok(aside)
    }

    /// The weights with the lowest test error of branch 0.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// Removes files, if they are there.
    ///
    /// # Errors
    /// When one is there and cannot be removed.
    pub fn remove(&self, files: &[&Path]) -> Result<()> {
        for file in files {
            match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The best weights, and the best before them.
    pub fn best_saves(&self) -> Kept {
        Kept { current: self.best(), previous: self.path.join("best.previous.safetensors") }
    }

    fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Appends lines to the metrics, and has them on the disk when it returns, if this process is one that writes here.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append_metrics(&self, lines: &[impl Serialize]) -> Result<()> {
        if !self.writes {
            return Ok(());
        }
        append(&self.metrics(), lines)
    }

    /// The file with a line of each process that trained the run.
    fn sessions(&self) -> PathBuf {
        self.path.join("sessions.jsonl")
    }

    /// Adds the process that trains the run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append_session(&self, session: &SessionRecord) -> Result<()> {
        append(&self.sessions(), &[session])
    }

    /// The processes that trained the run, as far as they can be read.
    pub fn read_sessions(&self) -> Vec<SessionRecord> {
        read_lines(&self.sessions())
    }

    /// The metrics, as far as they can be read.
    pub fn read_metrics<T: DeserializeOwned>(&self) -> Vec<T> {
        read_lines(&self.metrics())
    }

    /// Drops the metrics of epochs after `epoch`: the run was ended between writing them and saving its state.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn trim_metrics(&self, epoch: usize) -> Result<()> {
        self.keep_metrics(|record| record.get("epoch").and_then(Value::as_u64).is_some_and(|e| e <= epoch as u64))
    }

    /// Drops the metrics of a split.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn trim_split(&self, split: &str) -> Result<()> {
        self.keep_metrics(|record| record.get("split").and_then(Value::as_str) != Some(split))
    }

    fn keep_metrics(&self, keep: impl Fn(&Value) -> bool) -> Result<()> {
        let path = self.metrics();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        // A line that is no record was cut off when the run was killed.
        let kept = |line: &&str| serde_json::from_str(line).is_ok_and(|record: Value| keep(&record));
        let kept: String = text.lines().filter(kept).flat_map(|line| [line, "\n"]).collect();
        if kept == text { Ok(()) } else { write_atomically(&path, kept.as_bytes()) }
    }
}

/// Makes `runs/NET[-METHOD]-BRANCHES-DATA-seedSEED`, with a number behind it where that is taken.
fn make_numbered(config: &Config) -> Result<PathBuf> {
    fs::create_dir_all(RUNS).with_context(|| format!("cannot make the directory {RUNS}"))?;
    let Config { network, method, data, seed, .. } = config;
    let method = match method {
        Method::One | Method::Vanilla => String::new(),
        other => format!("-{}", other.name()),
    };
    // A folder of images goes by its name.
    let data = Path::new(data).file_name().map_or_else(|| "folder".into(), |name| name.to_string_lossy());
    let name = format!("{}{method}-{}-{data}-seed{seed}", network.net, network.branches);
    let mut path = Path::new(RUNS).join(&name);
    let mut number = 1;
    loop {
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                number += 1;
                path = Path::new(RUNS).join(format!("{name}-{number}"));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot make the directory {}", path.display())),
        }
    }
}
