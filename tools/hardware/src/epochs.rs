//! Estimates of the time that a training will take.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::formats::{Bench, BenchRow};

/// Images of CIFAR-10: for training, and for testing after each epoch.
const IMAGES: (f64, f64) = (50_000.0, 10_000.0);
/// Epochs of the paper, the most of any run.
const MOST: u64 = 300;
/// The share of the time that is planned; the rest is for saving and for variation of the rate.
const PLANNED: f64 = 0.85;
/// Speed of evaluation relative to training, where it was not measured: at least this, since it has only the forward
/// pass.
const EVALUATION: f64 = 2.0;

/// Number of epochs for which the networks can be trained, one after another, within these seconds.
///
/// # Errors
/// When the file lacks the rate of one of them, or when not one epoch fits.
pub fn fitting(path: &Path, nets: &[String], seconds: f64) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bench: Bench = serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    let mut each = 0.0;
    for net in nets {
        let row = bench.rows.iter().find(|row| is_of(row, net));
        let row = row.with_context(|| format!("{} has no rate of {net} in f32 at batch 128", path.display()))?;
        each += epoch(row).with_context(|| format!("{} has no usable rate of {net}", path.display()))?;
    }
    let fitting = (PLANNED * seconds / each) as u64;
    ensure!(
        fitting > 0,
        "not one epoch fits: {} take {each:.0} s for it, and there are {seconds:.0} s; give more minutes",
        nets.join(" and ")
    );
    Ok(fitting.min(MOST))
}

fn is_of(row: &BenchRow, net: &str) -> bool {
    format!("{}:{}", row.net, row.branches) == net && row.precision == "f32" && row.batch == 128
}

/// Seconds of an epoch, its evaluation included.
fn epoch(row: &BenchRow) -> Option<f64> {
    let training = row.training.as_ref()?.images_per_second;
    let evaluation = row.evaluation.as_ref().map_or(EVALUATION * training, |evaluation| evaluation.images_per_second);
    let seconds = IMAGES.0 / training + IMAGES.1 / evaluation;
    (seconds.is_finite() && seconds > 0.0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BENCH: &str = r#"{"device":{"name":"x"},"complete":true,"rows":[
        {"net":"resnet32","branches":1,"precision":"f32","batch":128,
         "training":{"images_per_second":10000,"median_seconds":0.0128},"evaluation":{"images_per_second":10000}},
        {"net":"resnet32","branches":3,"precision":"f32","batch":128,
         "training":{"images_per_second":5000,"median_seconds":0.0256}}]}"#;

    fn epochs(nets: &[&str], seconds: f64) -> Result<u64> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("bench.json");
        fs::write(&path, BENCH)?;
        fitting(&path, &nets.iter().map(|&net| net.to_owned()).collect::<Vec<_>>(), seconds)
    }

    #[test]
    fn as_many_as_fit() {
        // 6 s per epoch alone, 11 s with three branches: 17 s for both.
        assert_eq!(epochs(&["resnet32:1", "resnet32:3"], 200.0).expect("epochs"), 10);
        assert_eq!(epochs(&["resnet32:1", "resnet32:3"], 1e6).expect("epochs"), MOST);
        let problem = epochs(&["resnet32:1", "resnet32:3"], 19.0).expect_err("no time").to_string();
        assert!(problem.contains("not one epoch fits") && problem.contains("17 s"), "{problem}");
        let problem = epochs(&["resnet20:1"], 100.0).expect_err("no rate").to_string();
        assert!(problem.contains("no rate of resnet20:1"), "{problem}");
    }
}
