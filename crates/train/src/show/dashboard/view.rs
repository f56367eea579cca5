//! Contents of the dashboard: filled in by the training loop, drawn by a separate thread.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use one::Metrics;

use crate::step::evaluated::Evaluated;

/// Speeds that are kept for the line of them.
const SPEEDS: usize = 240;
/// Messages that are kept.
const MESSAGES: usize = 3;

/// A curve over epochs.
pub type Curve = Vec<(f64, f64)>;

/// Everything that is shown.
#[derive(Debug, Clone)]
pub struct View {
    /// Network and method, data, device, directory.
    pub title: [String; 4],
    /// Bytes of memory that the run takes.
    pub memory: u64,
    pub epochs: usize,
    /// The epoch under way, from 1, and its steps.
    pub epoch: usize,
    pub step: usize,
    pub steps: usize,
    /// Steps of the evaluation under way that are done, and all of them.
    pub evaluating: Option<(usize, usize)>,
    pub learning_rate: f64,
    /// Images per second, the last of them last.
    pub speeds: VecDeque<u64>,
    /// Time left: of the epoch, of the run.
    pub left: Option<(Duration, Duration)>,
    pub started: Instant,
    /// Terms of the loss in this epoch so far, by name.
    pub terms: Vec<(String, f64)>,
    /// Training error of branch 0 after each epoch, and test errors of the branches and of the ensemble.
    pub training: Curve,
    pub branches: Vec<Curve>,
    pub ensemble: Curve,
    /// Mean shares of the branches after the last epoch.
    pub gate: Vec<f64>,
    pub best: Option<(f64, usize)>,
    pub messages: VecDeque<String>,
}

impl View {
    /// Before anything is known of the run but what it is.
    pub fn new(title: [String; 4], epochs: usize, memory: u64) -> Self {
        Self {
            title,
            memory,
            epochs,
            epoch: 1,
            step: 0,
            steps: 1,
            evaluating: None,
            learning_rate: 0.0,
            speeds: VecDeque::new(),
            left: None,
            started: Instant::now(),
            terms: Vec::new(),
            training: Vec::new(),
            branches: Vec::new(),
            ensemble: Vec::new(),
            gate: Vec::new(),
            best: None,
            messages: VecDeque::new(),
        }
    }

    /// Takes the means of the epoch so far.
    pub fn losses(&mut self, metrics: &Metrics, loss: f64) {
        let mut terms = vec![("loss".to_owned(), loss)];
        let branches = (0..metrics.branches()).map(|i| (format!("cross-entropy {i}"), metrics.cross_entropy(i)));
        terms.extend(branches);
        terms.extend(metrics.ensemble_cross_entropy().map(|loss| ("teacher".to_owned(), loss)));
        terms.push(("distillation".to_owned(), metrics.distillation()));
        terms.push(("error 0, %".to_owned(), metrics.top1_errors()[0]));
        self.terms = terms;
    }

    /// Adds a speed.
    pub fn speed(&mut self, images_per_second: f64) {
        self.speeds.push_back(images_per_second as u64);
        if self.speeds.len() > SPEEDS {
            self.speeds.pop_front();
        }
    }

    /// Takes what an epoch came to.
    pub fn epoch_done(&mut self, epoch: usize, train: &Metrics, test: &Evaluated) {
        let x = epoch as f64;
        self.training.push((x, train.top1_errors()[0]));
        let errors = test.top1_errors();
        self.branches.resize(errors.len(), Vec::new());
        self.branches.iter_mut().zip(&errors).for_each(|(curve, &error)| curve.push((x, error)));
        if errors.len() > 1 {
            self.ensemble.push((x, test.predictions.top_k_error(test.ensemble, 1)));
        }
        self.gate = test.predictions.mean_shares();
        if self.best.is_none_or(|(best, _)| errors[0] < best) {
            self.best = Some((errors[0], epoch));
        }
        self.evaluating = None;
    }

    /// Adds a message.
    pub fn say(&mut self, message: impl Into<String>) {
        self.messages.push_back(message.into());
        if self.messages.len() > MESSAGES {
            self.messages.pop_front();
        }
    }
}
