//! Evaluation of a whole split.

use anyhow::Result;
use one::{LossWeights, Metrics, Network, Predictions};

use crate::interrupt;
use crate::programs::EvaluationProgram;

/// What was found on a split.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The terms of the loss.
    pub metrics: Metrics,
    /// What each network, and each way to fuse them, says of each image.
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

/// Measures the whole split; `None` when the end was asked for meanwhile. `advance` is told the steps done. The weights
/// are those of the reported loss.
///
/// # Errors
/// When the device fails.
pub fn evaluate(
    program: &mut EvaluationProgram,
    weights: LossWeights,
    mut advance: impl FnMut(usize),
) -> Result<Option<Evaluated>> {
    let mut images = 0;
    for index in 0..program.steps() {
        if interrupt::requested() {
            program.take(images)?;
            return Ok(None);
        }
        images += program.run(index, images, weights)?;
        advance(index + 1);
    }
    program.take(images).map(Some)
}
