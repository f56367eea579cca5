//! Evaluation of a whole split.

use anyhow::Result;
use one::Metrics;

use crate::interrupt;
use crate::programs::EvaluationProgram;

/// Measures the whole split; `None` when the end was asked for meanwhile. `advance` is told the steps done. The loss is
/// reported with weight `distillation` on its distillation term.
///
/// # Errors
/// When the device fails.
pub fn evaluate(
    program: &mut EvaluationProgram,
    distillation: f64,
    mut advance: impl FnMut(usize),
) -> Result<Option<Metrics>> {
    let mut samples = 0;
    for index in 0..program.steps() {
        if interrupt::requested() {
            program.take(samples)?;
            return Ok(None);
        }
        samples += program.run(index, distillation)?;
        advance(index + 1);
    }
    program.take(samples).map(Some)
}
