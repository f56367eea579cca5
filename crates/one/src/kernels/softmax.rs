//! Softmax in double precision, and ranks, for the references.

/// Single-precision values in double precision.
pub(crate) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// `log softmax(z / t)`.
pub(crate) fn log_softmax(z: &[f64], t: f64) -> Vec<f64> {
    let peak = z.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = z.iter().map(|z| ((z - peak) / t).exp()).sum();
    let log_sum = sum.ln();
    z.iter().map(|z| (z - peak) / t - log_sum).collect()
}

/// Number of classes in front of the label's: those of a larger score, of an equal score and smaller index, or of a
/// score that is no number; all of them if the label's own is no number.
pub(crate) fn rank(scores: &[f64], label: usize) -> usize {
    let own = scores[label];
    if own.is_nan() {
        return scores.len();
    }
    let in_front = |(class, &score): (usize, &f64)| {
        class != label && (score.is_nan() || score > own || (score == own && class < label))
    };
    scores.iter().enumerate().filter(|&entry| in_front(entry)).count()
}
