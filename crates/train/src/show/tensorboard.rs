//! Event files as TensorBoard reads them: scalars, histograms of the gate's shares, and the hyper-parameters.
//!
//! A file is a sequence of records: the length of the data (eight bytes), a checksum of these, the data, a checksum of
//! them; the data are a message `Event` of `event.proto`. A checksum is CRC-32C, turned by 15 bits and shifted by a
//! constant.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::formats::protobuf::Message;
use crate::options::config::Config;

/// Buckets of a histogram of shares, from 0 to 1.
const BUCKETS: usize = 40;
/// The plugin that shows hyper-parameters.
const HPARAMS: &str = "hparams";
/// The value of `SessionLog.status` that has TensorBoard forget the step of its event and what comes after it.
const START: i64 = 1;
/// The value of `SessionEndInfo.status`.
const SUCCESS: i64 = 1;

/// The events of one process that trains a run.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// CRC-32C (Castagnoli), as in RFC 3720.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A record of these data.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend_from_slice(data);
    record.extend(masked(crc32c(data)).to_le_bytes());
    record
}

/// An event of this moment.
fn event(step: usize) -> Message {
    Message::new().double(1, now()).int(2, step as i64)
}

/// A value of a summary.
fn scalar(tag: &str, value: f64) -> Message {
    Message::new().text(1, tag).float(2, value as f32)
}

/// Histogram of values between 0 and 1, in buckets of equal width.
fn histogram(tag: &str, values: &[f64]) -> Message {
    let mut counts = [0.0; BUCKETS];
    for value in values {
        counts[((value * BUCKETS as f64) as usize).min(BUCKETS - 1)] += 1.0;
    }
    let limits: Vec<f64> = (1..=BUCKETS).map(|i| i as f64 / BUCKETS as f64).collect();
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &value| (l.min(value), h.max(value)));
    let histogram = Message::new()
        .double(1, low)
        .double(2, high)
        .double(3, values.len() as f64)
        .double(4, values.iter().sum())
        .double(5, values.iter().map(|value| value * value).sum())
        .doubles(6, &limits)
        .doubles(7, &counts);
    Message::new().text(1, tag).message(5, &histogram)
}

/// The numbers of a record of the metrics by their names: `test/top1_error/branch0`.
fn scalars(prefix: &str, value: &Value, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => found.extend(number.as_f64().map(|number| (prefix.to_owned(), number))),
        Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                // Ways to fuse the branches have names.
                let name =
                    value.get("fusion").and_then(Value::as_str).map_or_else(|| format!("branch{i}"), str::to_owned);
                scalars(&format!("{prefix}/{name}"), value, found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !["epoch", "step"].contains(&name.as_str())) {
                scalars(&format!("{prefix}/{name}"), value, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// A hyper-parameter as the plugin has it.
fn hyper_parameter(name: &str, value: &toml::Value) -> Message {
    let value = match value {
        toml::Value::Integer(number) => Message::new().double(2, *number as f64),
        toml::Value::Float(number) => Message::new().double(2, *number),
        toml::Value::Boolean(truth) => Message::new().int(4, i64::from(*truth)),
        toml::Value::String(text) => Message::new().text(3, text),
        other => Message::new().text(3, &other.to_string()),
    };
    Message::new().text(1, name).message(2, &value)
}

/// A value of a summary that is for the plugin of hyper-parameters alone.
fn for_plugin(tag: &str, field: u32, content: &Message) -> Message {
    let content = Message::new().int(1, 0).message(field, content).finish();
    let plugin = Message::new().text(1, HPARAMS).bytes(2, &content);
    Message::new().text(1, tag).message(9, &Message::new().message(1, &plugin))
}

impl Events {
    /// The events of a process that begins at `step`, in a file of its own in the run's directory. What other files
    /// have of later steps no longer counts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(dir: &Path, config: &Config, step: usize) -> Result<Self> {
        let seconds = now() as u64;
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.{}.onfly", std::process::id()));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Self { path, file };
        events.add(Message::new().double(1, now()).text(3, "brain.Event:2"))?;
        // The step's own events stay.
        events.add(event(step + 1).message(7, &Message::new().int(1, START)))?;
        let parameters: Vec<Message> =
            toml::Table::try_from(config)?.iter().map(|(name, value)| hyper_parameter(name, value)).collect();
        let session = Message::new().messages(1, &parameters).double(5, now());
        let value = for_plugin("_hparams_/session_start_info", 3, &session);
        events.add(event(step).message(5, &Message::new().message(1, &value)))?;
        Ok(events)
    }

    /// Adds the records of an epoch that ends with `step`, and the branches' shares in the ensemble, image by image.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn epoch<'a>(
        &mut self,
        step: usize,
        records: &[impl Serialize],
        shares: impl Iterator<Item = &'a [f32]>,
    ) -> Result<()> {
        let mut values = Vec::new();
        for record in records {
            let record = serde_json::to_value(record)?;
            let split = record.get("split").and_then(Value::as_str).unwrap_or_default();
            let mut found = Vec::new();
            scalars(split, &record, &mut found);
            values.extend(found.iter().map(|(tag, value)| scalar(tag, *value)));
        }
        let mut branches: Vec<Vec<f64>> = Vec::new();
        for image in shares {
            branches.resize(image.len(), Vec::new());
            branches.iter_mut().zip(image).for_each(|(branch, &share)| branch.push(f64::from(share)));
        }
        values.extend(branches.iter().enumerate().map(|(i, shares)| histogram(&format!("gate/branch{i}"), shares)));
        self.add(event(step).message(5, &Message::new().messages(1, &values)))
    }

    /// Says that the run is complete.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&mut self, step: usize) -> Result<()> {
        let session = Message::new().int(1, SUCCESS).double(2, now());
        let value = for_plugin("_hparams_/session_end_info", 4, &session);
        self.add(event(step).message(5, &Message::new().message(1, &value)))
    }

    fn add(&mut self, event: Message) -> Result<()> {
        let write = |file: &mut File| -> io::Result<()> { file.write_all(&record(&event.finish())) };
        write(&mut self.file).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // The constant of TensorFlow's `crc32c::Mask`, of a checksum of 0 and of one that is turned.
        assert_eq!([0, 1 << 15].map(masked), [0xa282_ead8, 0xa282_ead9]);
    }

    #[test]
    fn a_record_is_framed_by_lengths_and_checksums() {
        let bytes = record(b"abc");
        assert_eq!((bytes.len(), &bytes[..8], &bytes[12..15]), (19, &[3, 0, 0, 0, 0, 0, 0, 0][..], &b"abc"[..]));
        assert_eq!(bytes[15..], masked(crc32c(b"abc")).to_le_bytes());
    }

    #[test]
    fn every_number_of_a_record_has_a_name() {
        let record = serde_json::json!({
            "epoch": 3, "step": 50, "split": "test", "loss": 1.5, "top1_error": [10.0, 20.0], "device": "cpu",
            "ensembles": [{"fusion": "gated", "top1_error": 9.0}],
        });
        let mut found = Vec::new();
        scalars("test", &record, &mut found);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let named = |tag: &str, value| (tag.to_owned(), value);
        assert_eq!(
            found,
            [
                named("test/ensembles/gated/top1_error", 9.0),
                named("test/loss", 1.5),
                named("test/top1_error/branch0", 10.0),
                named("test/top1_error/branch1", 20.0),
            ]
        );
    }
}
