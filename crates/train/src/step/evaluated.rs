//! The result of an evaluation.

use one::{Metrics, Network, Predictions};

/// Results on a split.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The terms of the loss.
    pub metrics: Metrics,
    /// Predictions of each network, and of each way to fuse them, for each image.
    pub predictions: Predictions,
    /// The one that the method means by its ensemble.
    pub ensemble: Network,
}

impl Evaluated {
    /// Top-1 errors of the members, per cent.
    pub fn top1_errors(&self) -> Vec<f64> {
        self.members(|network| self.predictions.top_k_error(network, 1))
    }

    /// A figure of every member.
    pub fn members(&self, figure: impl Fn(Network) -> f64) -> Vec<f64> {
        (0..self.predictions.members()).map(|i| figure(Network::Member(i))).collect()
    }
}
