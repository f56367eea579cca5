//! The table of kernel cases: one description each, used by the correctness tests (GPU against reference, outputs
//! poisoned first), by the shader translation test and by `cargo bench`.
//!
//! A new kernel family is one file here with a `cases()` function, and one line in [`all`].

mod augment;
mod batch_norm;
mod conv2d;
mod distillation_loss;
mod gemm;
mod layers;
mod optimizer;
mod peaks;
mod pointwise;
mod pooling;
mod predictions;
mod reduction;

use std::sync::Arc;

use half::f16;
pub use layers::layers;
use tensor::device::{Dispatch, Executable, View};
use tensor::halves::InHalves;
use tensor::kernel::compute;
use tensor::{DType, Device, Kernel, Rng, Slice, SliceMut, Spec};

/// One kernel on one set of shapes.
#[derive(Clone)]
pub struct Case {
    /// Filter string, printed so that it can be pasted back: `family/what`.
    pub name: String,
    /// The kernel itself.
    pub kernel: Arc<dyn Kernel>,
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

/// The words of an operand as the kernel sees it.
fn slice<'a>(spec: &Spec, words: &'a [u32]) -> Slice<'a> {
    match spec.dtype {
        DType::F16 => Slice::F16(bytemuck::cast_slice(words)),
        _ => Slice::U32(words),
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
            kernel: Arc::new(kernel),
            tolerance: f64::from(f32::EPSILON) * (8.0 + 4.0 * (reduction as f64).sqrt()),
        }
    }

    /// The same case with activations of 16 bits, if the kernel has that form, and its inputs are random.
    fn in_halves(&self) -> Option<Self> {
        let kernel = InHalves::new(Arc::clone(&self.kernel)).ok()?;
        if self.inputs.iter().any(|fill| matches!(fill, Fill::Words(_))) {
            return None;
        }
        let halves = kernel.outputs().iter().any(|spec| spec.dtype == DType::F16);
        // Both sides round what they store.
        let rounding = if halves { f64::from(f16::EPSILON) } else { 0.0 };
        let (name, tolerance) = (format!("{}/f16", self.name), self.tolerance + rounding);
        Some(Self { name, kernel: Arc::new(kernel), tolerance, ..self.clone() })
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
    let families: Vec<Vec<Case>> = vec![
        augment::cases(),
        batch_norm::cases(),
        conv2d::cases(),
        distillation_loss::cases(),
        gemm::cases(),
        optimizer::cases(),
        peaks::cases(),
        pointwise::cases(),
        pooling::cases(),
        predictions::cases(),
        reduction::cases(),
    ];
    let cases: Vec<Case> = families.into_iter().flatten().collect();
    let halves: Vec<Case> = cases.iter().filter_map(Case::in_halves).step_by(2).collect();
    cases.into_iter().chain(halves).collect()
}

/// Words before and after every output that no kernel may touch; a multiple of the alignment.
const GUARD: usize = 64;
/// What outputs and guards hold beforehand: a NaN that no kernel computes.
const POISON: u32 = 0x7fc0_dead;

/// The operands of a case on a device, with guarded and poisoned outputs.
pub struct Prepared {
    device: Device,
    executable: Executable,
    outputs: Vec<View>,
}

impl Case {
    /// The words of every input, and of every output before the kernel runs.
    pub fn operands(&self) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let specs = self.kernel.inputs();
        assert_eq!(specs.len(), self.inputs.len(), "{}: one fill per input", self.name);
        let inputs = specs.iter().zip(&self.inputs).enumerate();
        let inputs = inputs.map(|(i, (spec, fill))| fill.words(spec, i as u64)).collect();
        let mut updates = self.updates.iter().zip(100..);
        let specs = self.kernel.outputs();
        let outputs = specs.iter().enumerate().map(|(i, spec)| {
            if self.kernel.updates(i) {
                let (fill, key) = updates.next().expect("one fill per updated output");
                fill.words(spec, key)
            } else {
                vec![POISON; spec.words()]
            }
        });
        (inputs, outputs.collect())
    }

    /// The outputs of the reference, computed without any device.
    pub fn reference(&self) -> Vec<Vec<u32>> {
        let (inputs, mut outputs) = self.operands();
        let (input_specs, output_specs) = (self.kernel.inputs(), self.kernel.outputs());
        let inputs: Vec<Slice<'_>> = input_specs.iter().zip(&inputs).map(|(spec, words)| slice(spec, words)).collect();
        let mut slices: Vec<SliceMut<'_>> = output_specs
            .iter()
            .zip(&mut outputs)
            .map(|(spec, words)| match spec.dtype {
                DType::F16 => SliceMut::F16(bytemuck::cast_slice_mut(words)),
                _ => SliceMut::U32(words),
            })
            .collect();
        compute(self.kernel.as_ref(), &inputs, &mut slices);
        outputs
    }

    /// Uploads the operands and prepares the kernel.
    pub fn prepare(self, device: &Device) -> Result<Prepared, tensor::Error> {
        self.prepare_repeated(device, 1)
    }

    /// As [`Case::prepare`], for a run that executes the kernel `repeats` times.
    pub fn prepare_repeated(self, device: &Device, repeats: usize) -> Result<Prepared, tensor::Error> {
        let (inputs, outputs) = self.operands();
        let mut id = 0;
        let mut view = |words: &[u32], spec: &Spec, guard: usize| {
            let mut padded = vec![POISON; guard];
            padded.extend_from_slice(words);
            padded.resize(words.len() + 2 * guard, POISON);
            let buffer = device.alloc(padded.len(), "operand")?;
            device.write(&buffer, 0, &padded)?;
            id += 1;
            Ok(View { buffer, buffer_id: id, offset: guard, words: words.len(), dtype: spec.dtype })
        };
        let (input_specs, output_specs) = (self.kernel.inputs(), self.kernel.outputs());
        let input_views = inputs.iter().zip(&input_specs).map(|(words, spec)| view(words, spec, 0));
        let input_views = input_views.collect::<Result<Vec<_>, tensor::Error>>()?;
        let output_views = outputs.iter().zip(&output_specs).map(|(words, spec)| view(words, spec, GUARD));
        let output_views = output_views.collect::<Result<Vec<_>, tensor::Error>>()?;
        let dispatch = Dispatch { kernel: self.kernel, inputs: input_views, outputs: output_views.clone() };
        let executable = device.prepare(vec![dispatch; repeats])?;
        Ok(Prepared { device: device.clone(), executable, outputs: output_views })
    }
}

impl Prepared {
    /// Runs the kernel; on a GPU, returns when it is submitted.
    pub fn launch(&mut self) -> Result<(), tensor::Error> {
        self.executable.run()
    }

    /// Runs the kernel and waits for it.
    pub fn run(&mut self) -> Result<(), tensor::Error> {
        self.launch()?;
        self.device.synchronize()
    }

    /// Runs the kernel once and returns the words of every output.
    ///
    /// Fails when a guard word changed.
    pub fn outputs(&mut self) -> Result<Vec<Vec<u32>>, String> {
        self.run().map_err(|error| error.to_string())?;
        let mut outputs = Vec::new();
        for (i, view) in self.outputs.iter().enumerate() {
            let words = self.device.read(&view.buffer, 0, view.words + 2 * GUARD).map_err(|error| error.to_string())?;
            let (before, rest) = words.split_at(GUARD);
            let (inside, after) = rest.split_at(view.words);
            if before.iter().chain(after).any(|&word| word != POISON) {
                return Err(format!("output {i}: wrote outside its bounds"));
            }
            outputs.push(inside.to_vec());
        }
        Ok(outputs)
    }
}

/// The largest error of `got` against `want`, as a multiple of the case's tolerance, or what differs.
pub fn compare(got: &[u32], want: &[u32], spec: &Spec, tolerance: f64) -> Result<(), String> {
    if spec.dtype == DType::U32 {
        return match got.iter().zip(want).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(i) => Err(format!("element {i}: got {}, reference {}", got[i], want[i])),
        };
    }
    let floats = |words: &[u32]| -> Vec<f64> {
        match spec.dtype {
            DType::F16 => {
                bytemuck::cast_slice(words).iter().take(spec.elements()).map(|&half: &f16| half.into()).collect()
            }
            _ => words.iter().map(|&word| f64::from(f32::from_bits(word))).collect(),
        }
    };
    let (got, want) = (floats(got), floats(want));
    let square: f64 = want.iter().map(|w| w * w).sum();
    let rms = (square / want.len().max(1) as f64).sqrt();
    for (i, (&g, &w)) in got.iter().zip(&want).enumerate() {
        if !w.is_finite() {
            return Err(format!("element {i}: the reference itself is {w}"));
        }
        let allowed = tolerance * (w.abs() + rms);
        if g.is_nan() || (g - w).abs() > allowed {
            return Err(format!("element {i} of {}: got {g}, reference {w}, allowed error {allowed:.3e}", got.len()));
        }
    }
    Ok(())
}
