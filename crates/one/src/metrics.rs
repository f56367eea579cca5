//! Sums of the loss terms and errors, as they accumulate on the device.

use crate::kernels::ensemble_distillation::TERMS;

/// Sums over samples of the terms of the loss and of the errors. The means are per sample, the errors in per cent.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    totals: Vec<f64>,
    /// Number of samples summed.
    pub samples: usize,
}

impl Metrics {
    /// No samples yet, of `branches` branches.
    pub fn new(branches: usize) -> Self {
        Self { totals: vec![0.0; (branches + 1) * TERMS], samples: 0 }
    }

    /// Adds what accumulated on the device over `samples` samples.
    pub fn add(&mut self, totals: &[f32], samples: usize) {
        for (sum, &value) in self.totals.iter_mut().zip(totals) {
            *sum += f64::from(value);
        }
        self.samples += samples;
    }

    /// Number of branches.
    pub fn branches(&self) -> usize {
        self.totals.len() / TERMS - 1
    }

    fn mean(&self, network: usize, term: usize) -> f64 {
        self.totals[network * TERMS + term] / self.samples.max(1) as f64
    }

    /// Mean cross-entropy of branch `i`.
    pub fn cross_entropy(&self, i: usize) -> f64 {
        self.mean(i, 0)
    }

    /// Mean cross-entropy of the ensemble; 0 where there is none.
    pub fn ensemble_cross_entropy(&self) -> f64 {
        self.mean(self.branches(), 0)
    }

    /// Mean of `T^2 KL(teacher || branch)`, summed over branches.
    pub fn distillation(&self) -> f64 {
        (0..self.branches()).map(|i| self.mean(i, 1)).sum()
    }

    /// The whole loss, with weight `w` on the distillation term.
    pub fn loss(&self, w: f64) -> f64 {
        let branches: f64 = (0..self.branches()).map(|i| self.cross_entropy(i)).sum();
        branches + self.ensemble_cross_entropy() + w * self.distillation()
    }

    /// Top-1 errors of the branches, per cent.
    pub fn top1_errors(&self) -> Vec<f64> {
        (0..self.branches()).map(|i| 100.0 * self.mean(i, 2)).collect()
    }

    /// Top-5 errors of the branches, per cent.
    pub fn top5_errors(&self) -> Vec<f64> {
        (0..self.branches()).map(|i| 100.0 * self.mean(i, 3)).collect()
    }

    /// Top-1 error of the ensemble, per cent; 0 where there is none.
    pub fn ensemble_top1_error(&self) -> f64 {
        100.0 * self.mean(self.branches(), 2)
    }

    /// Top-5 error of the ensemble, per cent; 0 where there is none.
    pub fn ensemble_top5_error(&self) -> f64 {
        100.0 * self.mean(self.branches(), 3)
    }
}
