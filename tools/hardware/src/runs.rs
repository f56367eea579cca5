//! Run directories of `train`, reduced to the figures of a page.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::formats::{Trained, Training};

/// Writes `training.json` of the directories below `runs`, if any of them has an epoch.
///
/// # Errors
/// When the file cannot be written.
pub fn summarise(folder: &Path) -> Result<()> {
    let mut directories: Vec<_> =
        fs::read_dir(folder.join("runs")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    directories.sort();
    let runs: Vec<Trained> = directories.iter().filter_map(|directory| trained(directory)).collect();
    if runs.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string(&Training { runs }).context("cannot put the runs into words")?;
    crate::write(&folder.join("training.json"), &(text + "\n"))
}

/// A setting in a `config.toml`: the first line that gives it, without quotes.
fn setting<'a>(config: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.trim_start().strip_prefix('=');
    config.lines().find_map(value).unwrap_or_default().trim().trim_matches('"')
}

/// Summary of a run directory; nothing before the first epoch has ended.
fn trained(directory: &Path) -> Option<Trained> {
    let config = fs::read_to_string(directory.join("config.toml")).ok()?;
    let metrics = fs::read_to_string(directory.join("metrics.jsonl")).ok()?;
    let lines: Vec<Value> = metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |split: &str| lines.iter().filter(move |line| line["split"] == split).collect::<Vec<_>>();
    let (training, tests) = (of("train"), of("test"));
    let last = tests.last()?;
    let curve: Vec<f64> = tests.iter().filter_map(|line| line["top1_error"][0].as_f64()).map(hundredths).collect();
    let number = |name| setting(&config, name).parse().unwrap_or_default();
    let mut rates: Vec<f64> = training.iter().filter_map(|line| line["images_per_second"].as_f64()).collect();
    rates.sort_by(f64::total_cmp);
    Some(Trained {
        name: directory.file_name()?.to_string_lossy().into_owned(),
        net: setting(&config, "net").to_owned(),
        branches: number("branches"),
        method: setting(&config, "method").to_owned(),
        data: setting(&config, "data").to_owned(),
        batch: number("batch"),
        precision: setting(&config, "precision").to_owned(),
        epochs: number("epochs"),
        trained: tests.len() as u64,
        images_per_second: rates.get(rates.len() / 2).copied().map(f64::round)?,
        epoch_seconds: epoch_seconds(directory),
        last: last["top1_error"].as_array()?.iter().filter_map(Value::as_f64).map(hundredths).collect(),
        ensemble: last["ensemble_top1_error"].as_f64().filter(|_| number("branches") > 1).map(hundredths),
        best: curve.iter().copied().fold(f64::INFINITY, f64::min),
        curve,
    })
}

fn hundredths(value: f64) -> f64 {
    (100.0 * value).round() / 100.0
}

/// Mean wall time in seconds from one epoch's end to the next, from the times in TensorBoard's event files.
fn epoch_seconds(directory: &Path) -> Option<f64> {
    let files = fs::read_dir(directory).ok()?.flatten();
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("events.out.tfevents");
    let file = files.filter(name).map(|entry| entry.path()).max()?;
    let ends = epoch_ends(&fs::read(file).ok()?);
    let (first, last) = (ends.first()?, ends.last()?);
    (ends.len() > 1).then(|| (last.1 - first.1) / (ends.len() - 1) as f64)
}

/// The steps at which epochs ended, and the times in seconds, from the records of an event file.
fn epoch_ends(mut records: &[u8]) -> Vec<(u64, f64)> {
    let mut ends: Vec<(u64, f64)> = Vec::new();
    // A record: the length of its data, a checksum, the data, a checksum.
    while let Some((length, rest)) = records.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some(data) = rest.get(4..).and_then(|rest| rest.get(..length)) else { break };
        records = rest.get(4 + length + 4..).unwrap_or_default();
        if let Some((step, time)) = event(data)
            && step > 0
            && ends.iter().all(|&(other, _)| other != step)
        {
            ends.push((step, time));
        }
    }
    ends
}

/// Step and time of an `Event`: its first two fields, a double and an integer of seven bits per byte.
fn event(data: &[u8]) -> Option<(u64, f64)> {
    let (time, rest) = data.strip_prefix(&[0x09])?.split_first_chunk::<8>()?;
    let mut step = 0;
    for (index, byte) in rest.strip_prefix(&[0x10])?.iter().take(9).enumerate() {
        step |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((step, f64::from_le_bytes(*time)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u8, time: f64) -> Vec<u8> {
        let mut data = vec![0x09];
        data.extend(time.to_le_bytes());
        data.extend([0x10, 0x80 | step, 0x01]);
        let mut record = (data.len() as u64).to_le_bytes().to_vec();
        record.extend([0; 4]);
        record.extend(data);
        record.extend([0; 4]);
        record
    }

    #[test]
    fn ends_of_epochs_are_told_apart_by_their_steps() {
        let mut file: Vec<u8> = [(4, 10.0), (4, 10.1), (8, 12.0), (12, 14.0)]
            .into_iter()
            .flat_map(|(step, time)| record(step, time))
            .collect();
        assert_eq!(epoch_ends(&file), [(132, 10.0), (136, 12.0), (140, 14.0)]);
        file.truncate(file.len() - 10);
        assert_eq!(epoch_ends(&file), [(132, 10.0), (136, 12.0)]);
        assert_eq!(epoch_ends(&[0xff; 40]), []);
    }

    #[test]
    fn settings_are_whole_names() {
        let config = "network = \"x\"\nnet = \"resnet32\"\nepochs = 12\n";
        assert_eq!((setting(config, "net"), setting(config, "epochs"), setting(config, "lr")), ("resnet32", "12", ""));
    }
}
