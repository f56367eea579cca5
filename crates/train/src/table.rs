//! What an epoch came to: a line of the table on stdout, and objects of `metrics.jsonl`.

use std::time::Duration;

use one::Metrics;
use serde::Serialize;

use crate::progress::duration;

/// An object of `metrics.jsonl`: errors in per cent, losses as means per sample.
#[derive(Debug, Clone, Serialize)]
pub struct Record<'a> {
    /// Epochs complete, this one counted.
    pub epoch: usize,
    /// Training steps so far.
    pub step: usize,
    /// `train` or `test`.
    pub split: &'static str,
    loss: f64,
    cross_entropy: Vec<f64>,
    ensemble_cross_entropy: f64,
    distillation: f64,
    top1_error: Vec<f64>,
    top5_error: Vec<f64>,
    ensemble_top1_error: f64,
    ensemble_top5_error: f64,
    learning_rate: f64,
    /// In training, this epoch.
    images_per_second: f64,
    device: &'a str,
}

/// What an epoch came to.
#[derive(Debug)]
pub struct Epoch<'a> {
    /// Which, from 1, of how many.
    pub epoch: usize,
    pub epochs: usize,
    /// Training steps so far.
    pub step: usize,
    /// At the epoch's first step.
    pub learning_rate: f64,
    /// Weight of the distillation term.
    pub distillation: f64,
    pub train: &'a Metrics,
    pub test: &'a Metrics,
    pub images_per_second: f64,
    pub time: Duration,
    pub device: &'a str,
}

/// Errors of the ensemble, top 1 and top 5; a single branch is its own.
pub fn ensemble_errors(metrics: &Metrics) -> (f64, f64) {
    if metrics.branches() == 1 {
        (metrics.top1_errors()[0], metrics.top5_errors()[0])
    } else {
        (metrics.ensemble_top1_error(), metrics.ensemble_top5_error())
    }
}

/// The line above the table.
pub fn heading(branches: usize) -> String {
    let tests: String = (0..branches).map(|i| format!(" {:>7}", format!("test {i}"))).collect();
    let ensemble = if branches > 1 { "    ONE-E" } else { "" };
    format!(
        "{:>9}  {:>8}  {:>8}  {:>7} {tests}{ensemble}  {:>8}  {:>7}",
        "epoch", "rate", "loss", "error", "images/s", "time"
    )
}

/// Without the last digits of a division, which say nothing: counts of errors are whole numbers.
fn rounded(percent: f64) -> f64 {
    (percent * 1e6).round() / 1e6
}

impl Epoch<'_> {
    /// The line of the table: epoch, learning rate, training loss and error (branch 0), test errors of each branch and
    /// of the ensemble, training speed, and the time of training and evaluation.
    pub fn line(&self) -> String {
        let tests: String = self.test.top1_errors().iter().map(|error| format!(" {error:>7.2}")).collect();
        let ensemble = match self.test.branches() {
            1 => String::new(),
            _ => format!("  {:>7.2}", self.test.ensemble_top1_error()),
        };
        format!(
            "{:>9}  {:>8.6}  {:>8.4}  {:>7.2} {tests}{ensemble}  {:>8.0}  {:>7}",
            format!("{}/{}", self.epoch, self.epochs),
            self.learning_rate,
            self.train.loss(self.distillation),
            self.train.top1_errors()[0],
            self.images_per_second,
            duration(self.time),
        )
    }

    /// The objects of `metrics.jsonl`.
    pub fn records(&self) -> [Record<'_>; 2] {
        [self.record("train", self.train), self.record("test", self.test)]
    }

    fn record(&self, split: &'static str, metrics: &Metrics) -> Record<'_> {
        let branches = metrics.branches();
        let cross_entropy: Vec<f64> = (0..branches).map(|i| metrics.cross_entropy(i)).collect();
        let ensemble = ensemble_errors(metrics);
        Record {
            epoch: self.epoch,
            step: self.step,
            split,
            loss: metrics.loss(self.distillation),
            ensemble_cross_entropy: if branches > 1 { metrics.ensemble_cross_entropy() } else { cross_entropy[0] },
            cross_entropy,
            distillation: metrics.distillation(),
            top1_error: metrics.top1_errors().into_iter().map(rounded).collect(),
            top5_error: metrics.top5_errors().into_iter().map(rounded).collect(),
            ensemble_top1_error: rounded(ensemble.0),
            ensemble_top5_error: rounded(ensemble.1),
            learning_rate: self.learning_rate,
            images_per_second: self.images_per_second,
            device: self.device,
        }
    }
}
