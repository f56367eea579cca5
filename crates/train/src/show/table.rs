//! Results of an epoch: a line of the table on stdout, and objects of `metrics.jsonl`.

use std::fmt::Write;
use std::time::Duration;

use one::{LossWeights, Metrics, Network};
use serde::Serialize;

use crate::options::args::Method;
use crate::show::words::duration;
use crate::step::evaluated::Evaluated;
use crate::step::feeding::Supply;

/// An object of `metrics.jsonl`: errors in per cent, losses as means per sample. What was not measured is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Record<'a> {
    /// Epochs complete, this one counted.
    pub epoch: usize,
    /// Training steps so far.
    pub step: usize,
    /// `train`, `validation` or `test`; `snapshots` for the test split and the ensemble of snapshots.
    pub split: &'static str,
    loss: f64,
    cross_entropy: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ensemble_cross_entropy: Option<f64>,
    distillation: f64,
    top1_error: Vec<f64>,
    top5_error: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ensemble_top1_error: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ensemble_top5_error: Option<f64>,
    /// Loss of a teacher from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    teacher_top1_error: Option<f64>,
    #[serde(flatten)]
    predictions: Option<Figures>,
    learning_rate: f64,
    /// In training, this epoch.
    images_per_second: f64,
    /// In training, this epoch, where images are streamed.
    #[serde(flatten)]
    supply: Option<Supplied>,
    device: &'a str,
}

/// The host's part in training steps.
#[derive(Debug, Clone, Copy, Serialize)]
struct Supplied {
    /// Share of the time in which the device waited for images.
    data_wait_share: f64,
    /// Images that the workers prepare while they do nothing else.
    prepared_images_per_second: f64,
}

/// Additional fields of a record of the test split.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    /// Over the members, as is the deviation.
    mean_top1_error: f64,
    std_top1_error: f64,
    /// Per cent.
    calibration_error: Vec<f64>,
    ensemble_calibration_error: f64,
    /// Every way to fuse the members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ensembles: Vec<Fused>,
    /// Mean shares of the branches in the gated ensemble.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gate: Vec<f64>,
}

#[derive(Debug, Clone, Serialize)]
struct Fused {
    fusion: &'static str,
    top1_error: f64,
    top5_error: f64,
    cross_entropy: f64,
    calibration_error: f64,
}

impl Figures {
    fn new(found: &Evaluated) -> Self {
        let predictions = &found.predictions;
        let top1 = |network| predictions.top_k_error(network, 1);
        let (mean, std) = predictions.over_members(top1);
        let fused = predictions.networks().into_iter().filter_map(|network| {
            Some(Fused {
                fusion: match network {
                    Network::Member(_) => return None,
                    Network::MeanLogits => "mean_logits",
                    Network::MeanProbabilities => "mean_probabilities",
                    Network::Gated => "gated",
                },
                top1_error: rounded(top1(network)),
                top5_error: rounded(predictions.top_k_error(network, 5)),
                cross_entropy: predictions.cross_entropy(network),
                calibration_error: predictions.calibration_error(network),
            })
        });
        Self {
            mean_top1_error: rounded(mean),
            std_top1_error: rounded(std),
            calibration_error: found.members(|network| predictions.calibration_error(network)),
            ensemble_calibration_error: predictions.calibration_error(found.ensemble),
            ensembles: fused.collect(),
            gate: predictions.mean_shares(),
        }
    }
}

/// Circumstances of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Epochs complete, of how many.
    pub epoch: usize,
    pub epochs: usize,
    /// Training steps so far.
    pub step: usize,
    /// At the epoch's first step.
    pub learning_rate: f64,
    pub weights: LossWeights,
    /// In training.
    pub images_per_second: f64,
    pub device: &'a str,
}

/// Results of an epoch.
#[derive(Debug)]
pub struct Epoch<'a> {
    pub moment: Moment<'a>,
    pub train: &'a Metrics,
    /// On the images held out, where there are any.
    pub validation: Option<&'a Evaluated>,
    pub test: &'a Evaluated,
    /// The host's part in the training steps and the time that those took, where images are streamed.
    pub supply: Option<(Supply, Duration)>,
    pub time: Duration,
}

/// The line above the table.
pub fn heading(branches: usize, method: Method, validated: bool, streamed: bool) -> String {
    let validation = if validated { format!(" {:>7}", "valid 0") } else { String::new() };
    let tests: String = (0..branches).map(|i| format!(" {:>7}", format!("test {i}"))).collect();
    let waiting = if streamed { format!("  {:>7}", "waits %") } else { String::new() };
    let ensemble = match (branches, method) {
        (1, _) => "",
        (_, Method::One) => "    ONE-E",
        _ => "   fused",
    };
    format!(
        "{:>9}  {:>8}  {:>8}  {:>7} {validation}{tests}{ensemble}  {:>8}{waiting}  {:>7}",
        "epoch", "rate", "loss", "error", "images/s", "time"
    )
}

/// Results on a split, as a table: each member, their mean and standard deviation, the method's ensemble, and the other
/// ways to fuse the members.
pub fn evaluation(found: &Evaluated) -> String {
    let predictions = &found.predictions;
    let figure = |network: Network, column: usize| match column {
        0 => predictions.top_k_error(network, 1),
        1 => predictions.top_k_error(network, 5),
        2 => predictions.cross_entropy(network),
        _ => predictions.calibration_error(network),
    };
    let cell = |text: String, column: usize| if column == 2 { text } else { text + " %" };
    let number = |value: f64, column: usize| format!("{value:.*}", if column == 2 { 4 } else { 2 });
    let cells = |network| std::array::from_fn(|column| cell(number(figure(network, column), column), column));
    let mut text = String::new();
    let mut row = |name: &str, cells: [String; 4]| {
        let [top1, top5, loss, calibration] = cells;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<32} {top1:>15} {top5:>15} {loss:>17} {calibration:>17}");
    };
    row("", ["top-1 error", "top-5 error", "cross-entropy", "calibration error"].map(str::to_owned));
    for i in 0..predictions.members() {
        row(&format!("branch {i}"), cells(Network::Member(i)));
    }
    if predictions.members() > 1 {
        let over = |column| predictions.over_members(|network| figure(network, column));
        let mean =
            |column| cell(format!("{} ± {}", number(over(column).0, column), number(over(column).1, column)), column);
        row("mean ± deviation", std::array::from_fn(mean));
        let fused = predictions.networks().split_off(predictions.members());
        let others = fused.into_iter().filter(|&network| network != found.ensemble);
        for network in std::iter::once(found.ensemble).chain(others) {
            let how = match network {
                Network::Member(_) => "",
                Network::MeanLogits => "ensemble (mean of logits)",
                Network::MeanProbabilities => "ensemble (mean of probabilities)",
                Network::Gated => "ensemble (gated: ONE-E)",
            };
            row(how, cells(network));
        }
    }
    text.trim_end().to_owned()
}

/// Without the last digits of a division, which say nothing: counts of errors are whole numbers.
fn rounded(percent: f64) -> f64 {
    (percent * 1e6).round() / 1e6
}

impl Epoch<'_> {
    /// The line of the table: epoch, learning rate, training loss and error (branch 0), validation error (branch 0)
    /// where images are held out, test errors of each branch and of the ensemble, training speed, how long the device
    /// waited for images where these are streamed, and the time of training and evaluation.
    pub fn line(&self) -> String {
        let error = |found: &Evaluated| format!(" {:>7.2}", found.top1_errors()[0]);
        let validation = self.validation.map_or_else(String::new, error);
        let tests: String = self.test.top1_errors().iter().map(|error| format!(" {error:>7.2}")).collect();
        let ensemble = match self.test.predictions.members() {
            1 => String::new(),
            _ => format!("  {:>7.2}", self.test.predictions.top_k_error(self.test.ensemble, 1)),
        };
        let waiting = |(supply, time): (Supply, Duration)| format!("  {:>7.1}", 100.0 * supply.share(time));
        let waiting = self.supply.map_or_else(String::new, waiting);
        format!(
            "{:>9}  {:>8.6}  {:>8.4}  {:>7.2} {validation}{tests}{ensemble}  {:>8.0}{waiting}  {:>7}",
            format!("{}/{}", self.moment.epoch, self.moment.epochs),
            self.moment.learning_rate,
            self.train.loss(self.moment.weights),
            self.train.top1_errors()[0],
            self.moment.images_per_second,
            duration(self.time),
        )
    }

    /// The objects of `metrics.jsonl`.
    pub fn records(&self) -> Vec<Record<'_>> {
        let validation = self.validation.map(|found| self.moment.evaluation("validation", found));
        let (mut train, test) = (self.moment.training(self.train), self.moment.evaluation("test", self.test));
        train.supply = self.supply.map(|(supply, time)| Supplied {
            data_wait_share: supply.share(time),
            prepared_images_per_second: supply.images_per_second(),
        });
        [Some(train), validation, Some(test)].into_iter().flatten().collect()
    }
}

impl<'a> Moment<'a> {
    fn training(&self, metrics: &Metrics) -> Record<'a> {
        Record {
            epoch: self.epoch,
            step: self.step,
            split: "train",
            loss: metrics.loss(self.weights),
            cross_entropy: (0..metrics.branches()).map(|i| metrics.cross_entropy(i)).collect(),
            ensemble_cross_entropy: metrics.ensemble_cross_entropy(),
            distillation: metrics.distillation(),
            top1_error: metrics.top1_errors().into_iter().map(rounded).collect(),
            top5_error: metrics.top5_errors().into_iter().map(rounded).collect(),
            ensemble_top1_error: metrics.ensemble_top1_error().map(rounded),
            ensemble_top5_error: metrics.ensemble_top5_error().map(rounded),
            teacher_top1_error: metrics.teacher_top1_error().map(rounded),
            predictions: None,
            learning_rate: self.learning_rate,
            images_per_second: self.images_per_second,
            supply: None,
            device: self.device,
        }
    }

    /// Results on a split, as an object of `metrics.jsonl`.
    pub fn evaluation(&self, split: &'static str, found: &Evaluated) -> Record<'a> {
        let (predictions, ensemble) = (&found.predictions, found.ensemble);
        let error = |network, k| rounded(predictions.top_k_error(network, k));
        Record {
            epoch: self.epoch,
            step: self.step,
            split,
            loss: found.metrics.loss(self.weights),
            cross_entropy: found.members(|network| predictions.cross_entropy(network)),
            ensemble_cross_entropy: Some(predictions.cross_entropy(ensemble)),
            distillation: found.metrics.distillation(),
            top1_error: found.members(|network| error(network, 1)),
            top5_error: found.members(|network| error(network, 5)),
            ensemble_top1_error: Some(error(ensemble, 1)),
            ensemble_top5_error: Some(error(ensemble, 5)),
            teacher_top1_error: None,
            predictions: Some(Figures::new(found)),
            learning_rate: self.learning_rate,
            images_per_second: self.images_per_second,
            supply: None,
            device: self.device,
        }
    }
}
