//! A folder of results: the files that `run.sh` left there, complete or not.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::formats::{Bench, Head, Profile, Pytorch, Selftest, Training};

/// A file that may be missing or damaged.
#[derive(Debug)]
pub enum Part<T> {
    /// The file is missing.
    Missing,
    /// The file cannot be read; holds the reason.
    Damaged(String),
    /// The file's content.
    Is(T),
}

impl<T> Part<T> {
    /// The content, if the file is present and intact.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Missing | Self::Damaged(_) => None,
        }
    }
}

/// Outcome of a step of `run.sh`.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Start of the `run.sh` call that the step belongs to, which names the call.
    pub call: String,
    /// Its name.
    pub name: String,
    /// Wall time in seconds.
    pub seconds: Option<f64>,
    /// Time limit in seconds.
    pub limit: Option<f64>,
    /// `ok`, `failed`, `cut`, `skipped` or `stopped`.
    pub outcome: String,
    /// Exit status of its program.
    pub status: String,
    /// The last line of its output, or the reason why it was skipped.
    pub note: String,
}

/// A call of `run.sh`.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Start of the call, in UTC.
    pub date: String,
    /// `measure` or `train`.
    pub kind: String,
    /// Time limit in seconds.
    pub seconds: Option<f64>,
    /// The argument of `--device`.
    pub device: String,
    /// The Vulkan loader in use.
    pub loader: String,
    /// Kernel and machine.
    pub system: String,
    /// The packed program: commit and date.
    pub program: String,
    /// The planned steps, in order.
    pub plan: Vec<String>,
}

/// Everything in the folder.
#[derive(Debug)]
pub struct Results {
    /// Calls of `run.sh`, in order.
    pub calls: Vec<Call>,
    /// Steps that have ended, in order.
    pub steps: Vec<Step>,
    /// The step in progress when `run.sh` was last active.
    pub running: Option<String>,
    /// `selftest-quick.json`.
    pub quick: Part<Selftest>,
    /// `selftest.json`.
    pub selftest: Part<Selftest>,
    /// `bench-untuned.json`.
    pub untuned: Part<Bench>,
    /// `bench.json`.
    pub bench: Part<Bench>,
    /// `bench-before.json`, just before PyTorch ran.
    pub before: Part<Bench>,
    /// `bench-after.json`, just after PyTorch ran.
    pub after: Part<Bench>,
    /// `bench-training.json`, just before the trainings.
    pub for_training: Part<Bench>,
    /// `pytorch.json`.
    pub pytorch: Part<Pytorch>,
    /// `pytorch-compile.json`.
    pub pytorch_compile: Part<Pytorch>,
    /// `pytorch-more.json`.
    pub pytorch_more: Part<Pytorch>,
    /// `profile-*.json`, by name.
    pub profiles: Vec<(String, Part<Profile>)>,
    /// `training.json`.
    pub training: Part<Training>,
    /// `notes.md`, in which the person who measured may add remarks to the figures.
    pub notes: Option<String>,
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Part<T> {
    let bytes = match fs::read(folder.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Part::Missing,
        Err(error) => return Part::Damaged(format!("{name} cannot be read: {error}")),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Part::Is(value),
        Err(error) => Part::Damaged(format!("{name} is damaged: {error}")),
    }
}

/// The rows of a tab-separated table; none if there is no such file. Invalid UTF-8 is replaced.
fn rows(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let bytes = fs::read(folder.join(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn call(mut cells: Vec<String>) -> Call {
    cells.resize(8, String::new());
    let [date, kind, seconds, device, loader, system, program, plan] =
        <[String; 8]>::try_from(cells).unwrap_or_default();
    let plan = plan.split_whitespace().map(str::to_owned).collect();
    Call { date, kind, seconds: seconds.parse().ok(), device, loader, system, program, plan }
}

fn step(mut cells: Vec<String>) -> Step {
    cells.resize(7, String::new());
    let [call, name, seconds, limit, outcome, status, note] = <[String; 7]>::try_from(cells).unwrap_or_default();
    Step { call, name, seconds: seconds.parse().ok(), limit: limit.parse().ok(), outcome, status, note }
}

/// The names of the profiles in the folder, in order.
fn profiles(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|file| file.file_name().into_string().ok())
        .filter(|name| name.starts_with("profile-") && name.ends_with(".json"))
        .collect();
    // By kernel first, then by shape.
    names.sort_by(|one, other| one.trim_end_matches(".json").cmp(other.trim_end_matches(".json")));
    names
}

impl Results {
    /// Reads a folder. A file that is absent is missing in the result; a damaged one has its reason there.
    pub fn read(folder: &Path) -> Self {
        Self {
            calls: rows(folder, "calls.tsv").into_iter().map(call).collect(),
            steps: rows(folder, "steps.tsv").into_iter().map(step).collect(),
            running: fs::read_to_string(folder.join("running")).ok().map(|text| text.trim().to_owned()),
            quick: read(folder, "selftest-quick.json"),
            selftest: read(folder, "selftest.json"),
            untuned: read(folder, "bench-untuned.json"),
            bench: read(folder, "bench.json"),
            before: read(folder, "bench-before.json"),
            after: read(folder, "bench-after.json"),
            for_training: read(folder, "bench-training.json"),
            pytorch: read(folder, "pytorch.json"),
            pytorch_compile: read(folder, "pytorch-compile.json"),
            pytorch_more: read(folder, "pytorch-more.json"),
            profiles: profiles(folder).into_iter().map(|name| (name.clone(), read(folder, &name))).collect(),
            training: read(folder, "training.json"),
            notes: fs::read_to_string(folder.join("notes.md")).ok().filter(|text| !text.trim().is_empty()),
        }
    }

    /// The files of PyTorch, in the order in which they were written.
    pub fn pytorches(&self) -> [&Part<Pytorch>; 3] {
        [&self.pytorch, &self.pytorch_compile, &self.pytorch_more]
    }

    /// Adapter, program and date, from the first file that has them.
    pub fn head(&self) -> Option<Head> {
        let benches = [&self.bench, &self.untuned, &self.before, &self.for_training];
        let selftests = [&self.quick, &self.selftest];
        let heads = benches.into_iter().filter_map(|bench| bench.get().map(|bench| &bench.head));
        let more = selftests.into_iter().filter_map(|test| test.get().map(|test| &test.head));
        heads.chain(more).next().cloned().or_else(|| self.head_of_profile())
    }

    fn head_of_profile(&self) -> Option<Head> {
        let profile = self.profiles.iter().find_map(|(_, profile)| profile.get())?;
        let mut head = Head::default();
        head.device.name.clone_from(&profile.device);
        head.device.backend.clone_from(&profile.backend);
        head.device.driver.clone_from(&profile.driver);
        Some(head)
    }

    /// The sentences about damaged files.
    pub fn damage(&self) -> Vec<&str> {
        fn of<T>(part: &Part<T>) -> Option<&str> {
            if let Part::Damaged(problem) = part { Some(problem) } else { None }
        }
        let benches = [&self.untuned, &self.bench, &self.before, &self.after, &self.for_training];
        let mut found: Vec<&str> = [&self.quick, &self.selftest].into_iter().filter_map(of).collect();
        found.extend(benches.into_iter().filter_map(of));
        found.extend(self.pytorches().into_iter().filter_map(of));
        found.extend(self.profiles.iter().filter_map(|(_, profile)| of(profile)));
        found.extend(of(&self.training));
        found
    }
}

/// The files of a result folder that are kept beside a page, apart from the profiles.
const KEPT: [&str; 14] = [
    "notes.md",
    "calls.tsv",
    "steps.tsv",
    "devices.txt",
    "selftest-quick.json",
    "selftest.json",
    "bench-untuned.json",
    "bench.json",
    "bench-before.json",
    "bench-after.json",
    "bench-training.json",
    "pytorch.json",
    "pytorch-compile.json",
    "pytorch-more.json",
];

/// Tells whether a folder holds results.
pub fn is_results(folder: &Path) -> bool {
    !kept(folder).is_empty()
}

/// The files of a folder that are kept beside a page.
pub fn kept(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<String> = KEPT.iter().map(|&name| name.to_owned()).collect();
    names.extend(profiles(folder));
    names.push("training.json".to_owned());
    names.into_iter().map(PathBuf::from).filter(|name| folder.join(name).is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_rows_are_read() {
        let short = step(vec!["a".to_owned(), "bench".to_owned()]);
        assert_eq!((short.name.as_str(), short.seconds, short.note.as_str()), ("bench", None, ""));
        let long = step((0..9).map(|i| i.to_string()).collect());
        assert_eq!((long.call.as_str(), long.seconds, long.note.as_str()), ("0", Some(2.0), "6"));
        assert_eq!(call(vec![String::new(); 3]).plan, Vec::<String>::new());
    }

    #[test]
    fn nothing_is_read_of_what_is_not_there() {
        let results = Results::read(Path::new("no/such/folder"));
        assert!(results.head().is_none() && results.damage().is_empty() && results.steps.is_empty());
    }
}
