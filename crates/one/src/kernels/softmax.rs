//! What the references share: softmax in double precision.

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
