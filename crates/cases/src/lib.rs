//! The table of kernel cases: one description each, used by the correctness tests (GPU against reference, outputs
//! poisoned first), by the shader translation test, by `cargo bench`, and by `train selftest`. And what checks a device
//! by it: [`verify`] runs cases, [`steps`] whole training steps.
//!
//! A new kernel family is one file in `table/` with a `cases()` function, and one line in [`all`].

pub mod compare;
mod layers;
mod prepared;
pub mod steps;
mod table;
pub mod verify;

use half::f16;
use tensor::{DType, Form, Kernel, Rng, Spec};

pub use compare::{Comparison, Mismatch, compare};
pub use layers::layers;
pub use prepared::Prepared;
pub use table::all;

/// One kernel on one set of shapes.
#[derive(Debug, Clone)]
pub struct Case {
    /// Filter string, printed so that it can be pasted back: `family/what`.
    pub name: String,
    /// The kernel itself.
    pub kernel: Form,
    /// The fill of each input.
    pub inputs: Vec<Fill>,
    /// Initial contents of each updated output (see `Kernel::updates`), in order.
    pub updates: Vec<Fill>,
    /// Allowed error of an element, relative to its magnitude plus the output's root mean square.
    pub tolerance: f64,
    /// True if it is among the few that a quick check takes: of each kernel a shape that networks use, and an awkward
    /// one.
    pub quick: bool,
}

/// The fill of an operand. Random fills are asymmetric on purpose: a transposed or shifted read must fail.
#[derive(Debug, Clone)]
pub enum Fill {
    /// Normal with this mean and standard deviation.
    Normal(f32, f32),
    /// Uniform between the two.
    Uniform(f32, f32),
    /// Unsigned integers below the bound.
    Below(u32),
    /// Exactly these words (float bits or integers).
    Words(Vec<u32>),
}

impl Fill {
    /// The words of an operand of this shape; the same for the same `key`.
    pub fn words(&self, spec: &Spec, key: u64) -> Vec<u32> {
        let mut rng = Rng::new(&[0xca5e, key]);
        let n = spec.elements();
        match self {
            Fill::Normal(mean, std) => stored(spec, (0..n).map(|_| mean + std * rng.normal() as f32).collect()),
            Fill::Uniform(low, high) => {
                stored(spec, (0..n).map(|_| low + (high - low) * rng.uniform() as f32).collect())
            }
            Fill::Below(bound) => (0..n).map(|_| rng.below(*bound as usize) as u32).collect(),
            Fill::Words(words) => {
                assert_eq!(words.len(), spec.words(), "a fixed fill must have the operand's length");
                words.clone()
            }
        }
    }
}

/// Floats as a tensor of this type holds them.
fn stored(spec: &Spec, values: Vec<f32>) -> Vec<u32> {
    match spec.dtype {
        DType::F16 => {
            let halves: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            halves
                .chunks(2)
                .map(|pair| pair.iter().rev().fold(0, |word, half| word << 16 | u32::from(half.to_bits())))
                .collect()
        }
        _ => values.into_iter().map(f32::to_bits).collect(),
    }
}

impl Case {
    /// A case with normal inputs and updates, whose tolerance follows from the length of its longest reduction.
    pub fn new(name: impl Into<String>, kernel: impl Kernel + 'static, reduction: usize) -> Self {
        let updates = (0..kernel.outputs().len()).filter(|&i| kernel.updates(i)).count();
        Self {
            name: name.into(),
            inputs: vec![Fill::Normal(0.1, 1.0); kernel.inputs().len()],
            updates: vec![Fill::Normal(0.1, 1.0); updates],
            kernel: kernel.into(),
            tolerance: f64::from(f32::EPSILON) * (8.0 + 4.0 * (reduction as f64).sqrt()),
            quick: false,
        }
    }

    /// The same case with activations of 16 bits, if the kernel has that form, and its inputs are random.
    fn in_halves(&self) -> Option<Self> {
        let kernel = self.kernel.clone().in_halves().ok()?;
        if self.inputs.iter().any(|fill| matches!(fill, Fill::Words(_))) {
            return None;
        }
        let halves = kernel.outputs().iter().any(|spec| spec.dtype == DType::F16);
        // Both sides round what they store.
        let rounding = if halves { f64::from(f16::EPSILON) } else { 0.0 };
        let (name, tolerance) = (format!("{}/f16", self.name), self.tolerance + rounding);
        Some(Self { name, kernel, tolerance, ..self.clone() })
    }

    /// Replaces the fill of one input.
    #[must_use]
    pub fn input(mut self, index: usize, fill: Fill) -> Self {
        self.inputs[index] = fill;
        self
    }

    /// Replaces the fill of one updated output (counted among the updated ones).
    #[must_use]
    pub fn update(mut self, index: usize, fill: Fill) -> Self {
        self.updates[index] = fill;
        self
    }

    /// Puts the case among those of a quick check, or does not.
    #[must_use]
    pub fn quick(self, quick: bool) -> Self {
        Self { quick, ..self }
    }
}
