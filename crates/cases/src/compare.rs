//! Outputs of a device against those of the reference, element by element.

use std::fmt;

use half::f16;
use tensor::{DType, Spec};

/// Comparison of an output with its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The largest error of an element as a share of what is allowed: 1 and less is right. Infinite where a value is
    /// not finite, or an integer differs.
    pub worst: f64,
    /// The first element that is wrong, if any is.
    pub mismatch: Option<Mismatch>,
}

/// The first wrong element of an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// Which of the kernel's outputs.
    pub output: usize,
    /// The element, counted row-major.
    pub index: usize,
    /// The reference's value there.
    pub expected: f64,
    /// The device's value there.
    pub got: f64,
    /// The error that is allowed there.
    pub allowed: f64,
    /// Elements of the output that are wrong, and all of them.
    pub wrong: usize,
    /// Elements of the output.
    pub elements: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, index, expected, got, allowed, wrong, elements } = self;
        write!(f, "output {output}, element {index}: expected {expected}, got {got}, ")?;
        if !expected.is_finite() {
            return write!(f, "and a reference must be finite ({wrong} of {elements} elements are wrong)");
        }
        write!(f, "allowed error {allowed:.3e} ({wrong} of {elements} elements are wrong)")
    }
}

/// The elements as numbers; integers are exact.
fn numbers(words: &[u32], spec: &Spec) -> Vec<f64> {
    match spec.dtype {
        DType::U32 => words.iter().map(|&word| f64::from(word)).collect(),
        DType::F32 => words.iter().map(|&word| f64::from(f32::from_bits(word))).collect(),
        DType::F16 => bytemuck::cast_slice(words).iter().take(spec.elements()).map(|&half: &f16| half.into()).collect(),
    }
}

/// Compares output `output` of a kernel, whose words a device gave, with the reference's. An element may err by
/// `tolerance` times its magnitude plus the output's root mean square; integers may not err.
pub fn compare(output: usize, got: &[u32], want: &[u32], spec: &Spec, tolerance: f64) -> Comparison {
    let (got, want) = (numbers(got, spec), numbers(want, spec));
    let square: f64 = want.iter().map(|w| w * w).sum();
    let rms = (square / want.len().max(1) as f64).sqrt();
    let exact = spec.dtype == DType::U32;
    let mut comparison = Comparison { worst: 0.0, mismatch: None };
    for (index, (&got, &expected)) in got.iter().zip(&want).enumerate() {
        let allowed = if exact { 0.0 } else { tolerance * (expected.abs() + rms) };
        let share = share(got, expected, allowed);
        comparison.worst = comparison.worst.max(share);
        if share <= 1.0 {
            continue;
        }
        let elements = want.len();
        let first = Mismatch { output, index, expected, got, allowed, wrong: 0, elements };
        comparison.mismatch.get_or_insert(first).wrong += 1;
    }
    comparison
}

/// The error of an element as a share of what is allowed.
fn share(got: f64, expected: f64, allowed: f64) -> f64 {
    let error = (got - expected).abs();
    if !expected.is_finite() || error.is_nan() {
        return f64::INFINITY;
    }
    if error == 0.0 { 0.0 } else { error / allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn the_first_wrong_element_is_named_and_the_worst_counts() {
        let want = [3.0, 4.0, 0.0, 5.0];
        let compared = |got: &[f32]| compare(2, &floats(got), &floats(&want), &Spec::f32([4]), 0.01);
        // The root mean square is the square root of 50 / 4.
        let rms = 12.5f64.sqrt();
        let right = compared(&[3.0, 4.0, 0.01, 5.0]);
        assert!((right.worst - f64::from(0.01f32) / (0.01 * rms)).abs() < 1e-12 && right.mismatch.is_none());
        let wrong = compared(&[3.0, 4.25, 0.0, 9.0]);
        let mismatch = wrong.mismatch.expect("two elements are wrong");
        assert_eq!((mismatch.output, mismatch.index, mismatch.wrong, mismatch.elements), (2, 1, 2, 4));
        assert_eq!((mismatch.expected, mismatch.got), (4.0, 4.25));
        assert!((wrong.worst - 4.0 / (0.01 * (5.0 + rms))).abs() < 1e-9, "{}", wrong.worst);
        assert!(mismatch.to_string().starts_with("output 2, element 1: expected 4, got 4.25, "), "{mismatch}");
    }

    #[test]
    fn what_is_not_finite_is_wrong_on_either_side() {
        let one = |got: f32, want: f32| compare(0, &floats(&[got]), &floats(&[want]), &Spec::f32([1]), 0.5);
        for (got, want) in [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (1.0, f32::NAN), (f32::INFINITY, f32::INFINITY)] {
            let found = one(got, want);
            assert!(found.worst.is_infinite() && found.mismatch.is_some(), "{got} {want}");
        }
        assert_eq!(one(0.0, 0.0), Comparison { worst: 0.0, mismatch: None });
        assert!(one(1e-30, 0.0).mismatch.is_some());
    }

    #[test]
    fn integers_are_equal_or_wrong() {
        let compared = |got: [u32; 3]| compare(1, &got, &[7, u32::MAX, 0], &Spec::u32([3]), 0.5);
        assert_eq!(compared([7, u32::MAX, 0]).worst, 0.0);
        let mismatch = compared([7, u32::MAX - 1, 0]).mismatch.expect("it differs by one");
        assert_eq!((mismatch.index, mismatch.expected, mismatch.got), (1, 4_294_967_295.0, 4_294_967_294.0));
    }

    #[test]
    fn halves_are_compared_one_by_one() {
        let word = |low: f32, high: f32| {
            u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
        };
        let spec = Spec::new(DType::F16, [3]);
        // The second half of the last word is no element.
        let found = compare(0, &[word(1.0, 2.5), word(3.0, 9.0)], &[word(1.0, 2.0), word(3.0, 0.0)], &spec, 1e-3);
        let mismatch = found.mismatch.expect("the second differs");
        assert_eq!((mismatch.index, mismatch.got, mismatch.wrong, mismatch.elements), (1, 2.5, 1, 3));
    }
}
