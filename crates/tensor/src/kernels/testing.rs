//! Helpers of the kernels' tests.

use crate::kernel::{Kernel, Slice, SliceMut};
use crate::rng::Rng;

/// Normal numbers that depend on `key` only.
pub fn normal(words: usize, mean: f64, deviation: f64, key: u64) -> Vec<f32> {
    let mut rng = Rng::new(&[key]);
    (0..words).map(|_| (mean + deviation * rng.normal()) as f32).collect()
}

/// Runs a kernel as the CPU device does, one whose operands are all floats. Overwritten outputs start as NaN, updated
/// ones as `updates`, in their order.
pub fn run(kernel: &dyn Kernel, inputs: &[&[f32]], updates: &[&[f32]]) -> Vec<Vec<f32>> {
    let specs = kernel.inputs();
    assert_eq!(specs.len(), inputs.len(), "number of inputs");
    for (spec, input) in specs.iter().zip(inputs) {
        assert_eq!(spec.words(), input.len(), "length of {spec}");
    }
    let mut updates = updates.iter();
    let mut outputs: Vec<Vec<f32>> = (kernel.outputs().iter().enumerate())
        .map(|(index, spec)| {
            if kernel.updates(index) {
                updates.next().expect("every updated output has a value").to_vec()
            } else {
                vec![f32::NAN; spec.words()]
            }
        })
        .collect();
    let inputs: Vec<Slice<'_>> = inputs.iter().map(|input| Slice::F32(input)).collect();
    let mut slices: Vec<SliceMut<'_>> = outputs.iter_mut().map(|output| SliceMut::F32(output)).collect();
    kernel.compute(&inputs, &mut slices);
    outputs
}

/// Asserts that `got` is `want` but for `tolerance`, relative to 1 or to `want` if that is larger.
#[track_caller]
pub fn assert_close(got: f32, want: f64, tolerance: f64) {
    let error = (f64::from(got) - want).abs();
    assert!(error <= tolerance * want.abs().max(1.0), "got {got}, want {want}");
}
