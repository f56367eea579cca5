//! Evaluation of a whole split.

use anyhow::Result;
use one::{LossWeights, Metrics};

use crate::interrupt;
use crate::ranks::Ranks;
use crate::step::evaluated::Evaluated;
use crate::step::programs::EvaluationProgram;

/// Measures the split together with other ranks, each its part of it; all get what is found of the whole. Several ranks
/// are not interrupted; one process alone is, as in [`evaluate`].
///
/// # Errors
/// When the device fails, or a rank cannot be reached any more.
pub fn evaluate_together(
    program: &mut EvaluationProgram,
    ranks: &Ranks,
    weights: LossWeights,
    mut advance: impl FnMut(usize),
) -> Result<Option<Evaluated>> {
    if ranks.is_alone() {
        return evaluate(program, weights, advance);
    }
    let mut images = 0;
    for index in 0..program.steps() {
        images += program.run(index, images, weights)?;
        advance(index + 1);
    }
    let Evaluated { metrics: own, predictions, ensemble } = program.take(images)?;
    let mut metrics = Metrics::new(program.method());
    for sums in ranks.gather_words(&halves(own.totals().iter().copied().chain([own.samples as f64])))? {
        let sums: Vec<f64> = sums.as_chunks().0.iter().map(|&[low, high]| whole(low, high)).collect();
        if let Some((samples, totals)) = sums.split_last() {
            metrics.add_totals(totals, *samples as usize);
        }
    }
    let rows: Vec<u32> = predictions.rows().iter().map(|value| value.to_bits()).collect();
    let rows = ranks.gather_words(&rows)?.concat().into_iter().map(f32::from_bits).collect();
    Ok(Some(Evaluated { metrics, predictions: predictions.with_rows(rows), ensemble }))
}

/// Numbers as pairs of words, whatever their bits.
fn halves(values: impl Iterator<Item = f64>) -> Vec<u32> {
    values.map(f64::to_bits).flat_map(|bits| [bits as u32, (bits >> 32) as u32]).collect()
}

fn whole(low: u32, high: u32) -> f64 {
    f64::from_bits(u64::from(low) | u64::from(high) << 32)
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
