//! The table of kernel cases: one description each, used by the correctness tests (GPU against reference, outputs
//! poisoned first), by the shader translation test and by `cargo bench`.
//!
//! A new kernel family is one file here with a `cases()` function, and one line in [`all`].

use tensor::{Kernel, Rng, Spec};

/// One kernel on one set of shapes.
pub struct Case {
    /// Filter string, printed so that it can be pasted back: `family/what`.
    pub name: String,
    /// The kernel itself.
    pub kernel: Box<dyn Kernel>,
    /// How each input is filled.
    pub inputs: Vec<Fill>,
    /// What each updated output (see `Kernel::updates`) holds beforehand, in order.
    pub updates: Vec<Fill>,
    /// Allowed error of an element, relative to its magnitude plus the output's root mean square.
    pub tolerance: f64,
}

/// How an operand is filled. Random fills are asymmetric on purpose: a transposed or shifted read must fail.
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
        let n = spec.words();
        match self {
            Fill::Normal(mean, std) => (0..n).map(|_| (mean + std * rng.normal() as f32).to_bits()).collect(),
            Fill::Uniform(low, high) => {
                (0..n).map(|_| (low + (high - low) * rng.uniform() as f32).to_bits()).collect()
            }
            Fill::Below(bound) => (0..n).map(|_| rng.below(*bound as usize) as u32).collect(),
            Fill::Words(words) => {
                assert_eq!(words.len(), n, "a fixed fill must have the operand's length");
                words.clone()
            }
        }
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
            kernel: Box::new(kernel),
            tolerance: f64::from(f32::EPSILON) * (8.0 + 4.0 * (reduction as f64).sqrt()),
        }
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
}

/// Every case of every kernel.
pub fn all() -> Vec<Case> {
    let families: Vec<Vec<Case>> = vec![];
    families.into_iter().flatten().collect()
}
