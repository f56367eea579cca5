//! Sums of the loss terms and errors, which accumulate on the device during training.

use crate::kernels::distillation_loss::{TERMS, Teacher};
use crate::network::Config;

/// The weights of the loss terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossWeights {
    /// Weight of the cross-entropies.
    pub cross_entropy: f64,
    /// Weight of the distillation, which also has the factor T^2.
    pub distillation: f64,
}

impl Default for LossWeights {
    /// All weights 1, as in the paper.
    fn default() -> Self {
        Self { cross_entropy: 1.0, distillation: 1.0 }
    }
}

/// Sums over samples of the terms of the loss and of the errors. The means are per sample, the errors in per cent.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    totals: Vec<f64>,
    branches: usize,
    teacher: Teacher,
    /// Number of samples summed.
    pub samples: usize,
}

impl Metrics {
    /// Sums over no samples.
    pub fn new(config: &Config) -> Self {
        let &Config { branches, teacher, .. } = config;
        Self { totals: vec![0.0; (branches + 1) * TERMS], branches, teacher, samples: 0 }
    }

    /// Adds the sums that the device accumulated over `samples` samples.
    pub fn add(&mut self, totals: &[f32], samples: usize) {
        for (sum, &value) in self.totals.iter_mut().zip(totals) {
            *sum += f64::from(value);
        }
        self.samples += samples;
    }

    /// The sums.
    pub fn totals(&self) -> &[f64] {
        &self.totals
    }

    /// Adds the sums of other samples.
    pub fn add_totals(&mut self, totals: &[f64], samples: usize) {
        for (sum, value) in self.totals.iter_mut().zip(totals) {
            *sum += value;
        }
        self.samples += samples;
    }

    /// Number of branches.
    pub fn branches(&self) -> usize {
        self.branches
    }

    fn mean(&self, network: usize, term: usize) -> f64 {
        self.totals[network * TERMS + term] / self.samples.max(1) as f64
    }

    /// Mean cross-entropy of branch `i`.
    pub fn cross_entropy(&self, i: usize) -> f64 {
        self.mean(i, 0)
    }

    /// Mean cross-entropy of the ensemble that teaches the branches and learns with them; `None` where there is none.
    pub fn ensemble_cross_entropy(&self) -> Option<f64> {
        self.teacher.is_ensemble().then(|| self.mean(self.branches, 0))
    }

    /// Mean of `T^2 KL(teacher || branch)`, summed over branches.
    pub fn distillation(&self) -> f64 {
        (0..self.branches).map(|i| self.mean(i, 1)).sum()
    }

    /// The whole loss.
    pub fn loss(&self, weights: LossWeights) -> f64 {
        let branches: f64 = (0..self.branches).map(|i| self.cross_entropy(i)).sum();
        let cross_entropy = branches + self.ensemble_cross_entropy().unwrap_or(0.0);
        weights.cross_entropy * cross_entropy + weights.distillation * self.distillation()
    }

    /// Top-1 errors of the branches, per cent.
    pub fn top1_errors(&self) -> Vec<f64> {
        (0..self.branches).map(|i| 100.0 * self.mean(i, 2)).collect()
    }

    /// Top-5 errors of the branches, per cent.
    pub fn top5_errors(&self) -> Vec<f64> {
        (0..self.branches).map(|i| 100.0 * self.mean(i, 3)).collect()
    }

    /// Top-1 error of the ensemble that teaches the branches, per cent; `None` where there is none.
    pub fn ensemble_top1_error(&self) -> Option<f64> {
        self.teacher.is_ensemble().then(|| 100.0 * self.mean(self.branches, 2))
    }

    /// Top-5 error of the ensemble that teaches the branches, per cent; `None` where there is none.
    pub fn ensemble_top5_error(&self) -> Option<f64> {
        self.teacher.is_ensemble().then(|| 100.0 * self.mean(self.branches, 3))
    }

    /// Top-1 error of a teacher from outside, per cent; `None` where there is none.
    pub fn teacher_top1_error(&self) -> Option<f64> {
        (self.teacher == Teacher::Given).then(|| 100.0 * self.mean(self.branches, 2))
    }
}
