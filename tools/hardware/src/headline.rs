//! Headline figures: of a page's top, of the terminal, and of the index.

use crate::folder::{Part, Results};
use crate::formats::{Bench, BenchRow, BenchTraining, PytorchRow, Selftest, Trained};
use crate::table::{large, percent, ratio};

/// The network of the headline figures, with its branches and batch.
pub const NET: (&str, u64, u64) = ("resnet32", 3, 128);

/// A network, its branches, a batch and a precision: the key that rows of two files must share to be compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key<'a> {
    /// The network.
    pub net: &'a str,
    /// Its branches.
    pub branches: u64,
    /// Images in a step.
    pub batch: u64,
    /// `f32` or `f16`.
    pub precision: &'a str,
}

impl<'a> Key<'a> {
    /// The key of one of our rows.
    pub fn of(row: &'a BenchRow) -> Self {
        Self { net: &row.net, branches: row.branches, batch: row.batch, precision: &row.precision }
    }

    /// The key of our row that PyTorch's row is compared with: TF32 is compared with f32, since there is no TF32
    /// here.
    pub fn of_pytorch(row: &'a PytorchRow) -> Self {
        let precision = if row.mode.ends_with("-f16") { "f16" } else { "f32" };
        Self { net: &row.net, branches: row.branches, batch: row.batch, precision }
    }
}

/// The training steps of a bench with this key.
pub fn training<'a>(bench: &'a Part<Bench>, key: Key<'_>) -> Option<&'a BenchTraining> {
    bench.get()?.rows.iter().find(|row| Key::of(row) == key && row.training.is_some())?.training.as_ref()
}

/// Source of the rate of ours that stands beside PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum From {
    /// Just before and just after PyTorch, with both rates.
    Around(f64, f64),
    /// Just before PyTorch.
    Before,
    /// In the bench.
    Bench,
}

/// Our rate in images/s for a comparison with PyTorch: the mean of those just before and after it, if present.
pub fn ours(results: &Results, key: Key<'_>) -> Option<(f64, From)> {
    let rate = |bench| training(bench, key).map(|training| training.images_per_second);
    match (rate(&results.before), rate(&results.after)) {
        (Some(before), Some(after)) => Some(((before + after) / 2.0, From::Around(before, after))),
        (Some(before), None) => Some((before, From::Before)),
        _ => rate(&results.bench).map(|rate| (rate, From::Bench)),
    }
}

/// The rows of all PyTorch files.
pub fn pytorch(results: &Results) -> impl Iterator<Item = &PytorchRow> {
    let files = results.pytorches().into_iter().filter_map(Part::get);
    files.flat_map(|file| &file.rows)
}

/// PyTorch's rate for the first network in a mode.
fn theirs(results: &Results, mode: &str) -> Option<f64> {
    let (net, branches, batch) = NET;
    pytorch(results)
        .find(|row| (row.net.as_str(), row.branches, row.batch, row.mode.as_str()) == (net, branches, batch, mode))?
        .images_per_second
}

/// The figures of one adapter.
#[derive(Debug, Default, PartialEq)]
pub struct Headline {
    /// Outcome of the selftest, in words.
    pub selftest: Option<String>,
    /// Images/s in training, f32.
    pub rate: Option<f64>,
    /// Images/s in training, f16.
    pub half: Option<f64>,
    /// Speed relative to PyTorch in eager mode.
    pub eager: Option<f64>,
    /// Speed relative to PyTorch with CUDA graphs.
    pub graph: Option<f64>,
    /// Share of the step's roofline, f32.
    pub roofline: Option<f64>,
    /// Images/s in training before anything was tuned, f32.
    pub untuned: Option<f64>,
    /// Share of the step's roofline before anything was tuned, f32.
    pub untuned_roofline: Option<f64>,
    /// The trainings, in words.
    pub trained: Vec<String>,
}

/// Outcome of a training, in words.
fn trained(run: &Trained) -> String {
    let Trained { net, branches, method, trained, .. } = run;
    let branches = if *branches == 1 { "alone".to_owned() } else { format!("with {branches} branches") };
    let error = run.last.first().map(|error| format!(", test error {error:.2} %")).unwrap_or_default();
    format!("Trained {net} {branches} ({method}): {trained} epochs, {} images/s{error}.", large(run.images_per_second))
}

fn selftest(results: &Results) -> Option<String> {
    let whole = results.selftest.get().map(|test| (test, "whole"));
    let (test, which) = whole.or_else(|| results.quick.get().map(|test| (test, "quick")))?;
    Some(format!("{} ({which})", verdict(test)))
}

/// Outcome of a selftest, in words.
pub fn verdict(test: &Selftest) -> String {
    let wrong = test.kernels.iter().filter(|kernel| kernel.failed > 0).count();
    let steps = test.steps.iter().filter(|step| !step.passed).count();
    match (test.passed, wrong, steps) {
        (true, ..) => format!("all {} cases right", test.cases),
        (false, 0, 0) => "not passed".to_owned(),
        (false, 0, steps) => format!("{} cases right, {steps} whole steps wrong", test.cases),
        (false, wrong, 0) => format!("{wrong} of {} kernels wrong", test.kernels.len()),
        (false, wrong, steps) => format!("{wrong} of {} kernels and {steps} whole steps wrong", test.kernels.len()),
    }
}

impl Headline {
    /// Collects the figures from a folder's files.
    pub fn new(results: &Results) -> Self {
        let (net, branches, batch) = NET;
        let key = |precision| Key { net, branches, batch, precision };
        let rate = |precision| ours(results, key(precision)).map(|(rate, _)| rate);
        let against = |mode| Some(rate("f32")? / theirs(results, mode)?);
        let found = [&results.bench, &results.before].into_iter().find_map(|bench| training(bench, key("f32")));
        let untuned = training(&results.untuned, key("f32"));
        let roofline = |training: &BenchTraining| Some(training.least_seconds? / training.median_seconds);
        Self {
            selftest: selftest(results),
            rate: rate("f32"),
            half: rate("f16"),
            eager: against("eager"),
            graph: against("graph"),
            roofline: found.and_then(roofline),
            untuned: untuned.map(|training| training.images_per_second),
            untuned_roofline: untuned.and_then(roofline),
            trained: results.training.get().iter().flat_map(|training| &training.runs).map(trained).collect(),
        }
    }

    /// The available figures as sentences.
    pub fn sentences(&self) -> Vec<String> {
        let (net, branches, batch) = NET;
        let mut text = Vec::new();
        text.extend(self.selftest.as_ref().map(|verdict| format!("Selftest: {verdict}.")));
        if let Some(rate) = self.rate {
            let half = self.half.map(|half| format!(", {} in f16 ({} times)", large(half), ratio(half / rate)));
            let half = half.unwrap_or_default();
            text.push(format!(
                "{net} with {branches} branches, batch {batch}, training: {} images/s in f32{half}.",
                large(rate)
            ));
        }
        text.extend(self.roofline.map(|share| format!("Share of the step's roofline, f32: {}.", percent(share))));
        if let Some(rate) = self.untuned {
            let share = self.untuned_roofline.map(|share| format!(", {} of the roofline", percent(share)));
            text.push(format!("Before tuning: {} images/s in f32{}.", large(rate), share.unwrap_or_default()));
        }
        let peers = [(self.eager, "in eager mode"), (self.graph, "by CUDA graphs")];
        text.extend(peers.iter().filter_map(|(times, how)| {
            times.map(|times| format!("Against PyTorch {how}, f32: {} times its images/s.", ratio(times)))
        }));
        text.extend_from_slice(&self.trained);
        text
    }
}
