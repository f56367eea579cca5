//! Runs as their directories describe them, in groups that differ in their seed only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use crate::options::args::Method;
use crate::options::config::{Config, is_free};
use crate::run::directory::{RunDir, SNAPSHOTS};
use crate::run::sessions::SessionRecord;
use crate::show::words::describe;
use crate::step::cost::{Cost, cost};

/// An object of `metrics.jsonl`. What a line does not have is empty.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    pub epoch: usize,
    pub split: String,
    pub loss: f64,
    pub top1_error: Vec<f64>,
    pub top5_error: Vec<f64>,
    pub distillation: f64,
    pub cross_entropy: Vec<f64>,
    pub ensemble_top1_error: Option<f64>,
    #[serde(default)]
    pub calibration_error: Vec<f64>,
    #[serde(default)]
    pub gate: Vec<f64>,
    pub learning_rate: f64,
    pub images_per_second: f64,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    pub path: PathBuf,
    pub config: Config,
    /// The same as `config.toml` has it.
    pub settings: toml::Table,
    pub rows: Vec<Row>,
    pub sessions: Vec<SessionRecord>,
    /// The best weights, or else the last ones, if any are there.
    pub weights: Option<PathBuf>,
    pub cost: Cost,
}

/// Mean and standard deviation (n - 1 in the denominator), and how many values there were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub deviation: f64,
    pub count: usize,
}

impl Spread {
    /// Mean and deviation of values; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (count > 0).then(|| Self { mean, deviation: (squares / (count as f64 - 1.0).max(1.0)).sqrt(), count })
    }

    /// `12.34 ± 0.56`, or one value alone.
    pub fn text(&self, digits: usize) -> String {
        match self.count {
            1 => format!("{:.digits$}", self.mean),
            _ => format!("{:.digits$} ± {:.digits$}", self.mean, self.deviation),
        }
    }
}

impl Run {
    /// Reads a run's directory; it may be one under way.
    ///
    /// # Errors
    /// When there is no run, or its configuration cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let dir = RunDir::find(path)?;
        let config = dir.read_config()?;
        let settings = toml::Table::try_from(&config)?;
        let weights = [dir.best(), dir.last()].into_iter().find(|file| file.is_file());
        let size = config.image_size.unwrap_or(config.network.architecture()?.image_size());
        let cost = cost(&config.network, &config.method_config(config.classes.unwrap_or(10))?, size)?;
        let (rows, sessions) = (dir.read_metrics(), dir.read_sessions());
        Ok(Self { path: path.to_owned(), config, settings, rows, sessions, weights, cost })
    }

    /// Name of the directory.
    pub fn name(&self) -> String {
        let whole = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        whole.file_name().map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The records of a split, epoch by epoch.
    pub fn split<'a>(&'a self, split: &'a str) -> impl DoubleEndedIterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.split == split)
    }

    /// The record of the test split after the last epoch.
    pub fn last(&self) -> Option<&Row> {
        self.split("test").next_back()
    }

    /// The record of the test split after the epoch whose error of branch 0 was the lowest, on the held-out split where
    /// there is one: the first of equals.
    pub fn best(&self) -> Option<&Row> {
        let judge = if self.split("validation").next().is_some() { "validation" } else { "test" };
        let error = |row: &Row| row.top1_error.first().copied().unwrap_or(f64::INFINITY);
        let best = self.split(judge).min_by(|a, b| error(a).total_cmp(&error(b)))?;
        self.split("test").find(|row| row.epoch == best.epoch)
    }

    /// Epochs that are complete.
    pub fn epochs(&self) -> usize {
        self.last().map_or(0, |row| row.epoch)
    }

    /// Tells whether all that was to be trained and measured is.
    pub fn is_complete(&self) -> bool {
        let measured = self.config.method != Method::Snapshot || self.split(SNAPSHOTS).next().is_some();
        self.epochs() >= self.config.epochs && measured
    }

    /// Top-1 error of the method's ensemble, of snapshots that of all of them.
    pub fn ensemble_error(&self) -> Option<f64> {
        let snapshots = self.split(SNAPSHOTS).next_back();
        snapshots.or_else(|| self.last().filter(|row| row.top1_error.len() > 1))?.ensemble_top1_error
    }

    /// Networks that its ensemble runs one after another.
    pub fn snapshots(&self) -> usize {
        if self.config.method == Method::Snapshot { self.config.cycles } else { 1 }
    }

    /// Describes it in words.
    pub fn describe(&self) -> String {
        format!("{}, method {}", describe(&self.config.network), self.config.method.name())
    }

    /// Settings that the runs of a group have in common: all but the seed and those that do not change what is
    /// computed.
    fn key(&self) -> toml::Table {
        let differs = |key: &str| ["seed", "tuning"].contains(&key) || is_free(key);
        self.settings.iter().filter(|(key, _)| !differs(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Runs that differ in their seed only.
#[derive(Debug)]
pub struct Group<'a> {
    pub runs: Vec<&'a Run>,
    /// Label that tells it from the other groups.
    pub label: String,
}

impl Group<'_> {
    /// A figure over the seeds; a run that lacks it does not count.
    pub fn over_seeds(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| figure(run)))
    }

    /// The seeds.
    pub fn seeds(&self) -> String {
        self.runs.iter().map(|run| run.config.seed.to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Gathers runs, in the order in which they came.
pub fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut found: Vec<(toml::Table, Group<'_>)> = Vec::new();
    for run in runs {
        let key = run.key();
        match found.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => group.runs.push(run),
            None => found.push((key, Group { runs: vec![run], label: String::new() })),
        }
    }
    let keys: Vec<toml::Table> = found.iter().map(|(key, _)| key.clone()).collect();
    let differing = differing(&keys);
    for (key, group) in &mut found {
        group.label = match differing.is_empty() {
            true => group.runs[0].describe(),
            false => differing.iter().map(|name| setting(name, key.get(name))).collect::<Vec<_>>().join(", "),
        };
    }
    found.into_iter().map(|(_, group)| group).collect()
}

/// The settings in which tables differ. Of those that follow from others, the ones that come first are enough.
fn differing(keys: &[toml::Table]) -> Vec<String> {
    let names: BTreeSet<&String> = keys.iter().flat_map(toml::Table::keys).collect();
    let differs = |name: &&String| keys.iter().any(|key| key.get(*name) != keys[0].get(*name));
    let mut all: Vec<String> = names.into_iter().filter(differs).cloned().collect();
    let first = ["data", "net", "method", "branches"];
    all.sort_by_key(|name| first.iter().position(|first| first == name).unwrap_or(first.len()));
    let follows = ["distill", "fan_out", "gate", "temperature", "schedule"];
    let tells_apart = |names: &[String]| {
        let values = |key: &toml::Table| names.iter().map(|name| key.get(name).cloned()).collect::<Vec<_>>();
        (0..keys.len()).all(|i| (0..i).all(|j| values(&keys[i]) != values(&keys[j])))
    };
    let fewer: Vec<String> = all.iter().filter(|name| !follows.contains(&name.as_str())).cloned().collect();
    if tells_apart(&fewer) { fewer } else { all }
}

/// A setting in words.
fn setting(name: &str, value: Option<&toml::Value>) -> String {
    match value {
        None => format!("no {name}"),
        Some(toml::Value::String(text)) => format!("{name} {text}"),
        Some(toml::Value::Boolean(true)) => format!("with {name}"),
        Some(toml::Value::Boolean(false)) => format!("without {name}"),
        Some(value) => format!("{name} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().expect("TOML")
    }

    #[test]
    fn groups_are_named_by_what_tells_them_apart() {
        let keys = |texts: &[&str]| texts.iter().map(|text| table(text)).collect::<Vec<_>>();
        let one = "method = 'one'\nbranches = 3\ngate = true\nlr = 0.1";
        let alone = "method = 'vanilla'\nbranches = 1\ngate = false\nlr = 0.1";
        assert_eq!(differing(&keys(&[one, alone])), ["method", "branches"]);
        let ungated = one.replace("gate = true", "gate = false");
        assert_eq!(differing(&keys(&[one, &ungated])), ["gate"], "what else could tell them apart?");
        assert_eq!(
            differing(&keys(&[one, "method = 'one'\nbranches = 3\ngate = true\nlr = 0.1\nkl_ramp = 80"])),
            ["kl_ramp"]
        );
        assert!(differing(&keys(&[one])).is_empty());
        assert_eq!(setting("gate", Some(&toml::Value::Boolean(false))), "without gate");
        assert_eq!(setting("lr", Some(&toml::Value::Float(0.1))), "lr 0.1");
        assert_eq!(setting("method", Some(&toml::Value::String("one".to_owned()))), "method one");
    }

    #[test]
    fn a_spread_is_over_n_minus_one() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([2.0]).map(|spread| spread.text(2)).as_deref(), Some("2.00"));
        let spread = Spread::of([1.0, 2.0, 6.0]).expect("three values");
        assert_eq!(spread.text(2), format!("3.00 ± {:.2}", 7f64.sqrt()));
    }
}
