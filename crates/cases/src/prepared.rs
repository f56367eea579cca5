//! The operands of a case, the outputs of its reference, and those of a device.

use tensor::device::{Dispatch, Executable, View};
use tensor::{DType, Device, Form, Slice, SliceMut, Spec, Work};

use crate::Case;

/// Words before and after every output that no kernel may touch; a multiple of the alignment.
const GUARD: usize = 64;
/// Initial contents of outputs and guards: a NaN that no kernel computes.
const POISON: u32 = 0x7fc0_dead;

/// The operands of a case on a device, with guarded and poisoned outputs.
#[derive(Debug)]
pub struct Prepared {
    device: Device,
    executable: Executable,
    outputs: Vec<View>,
}

/// The words of every input, and of every output before the kernel runs.
#[derive(Debug, Clone)]
pub struct Operands {
    /// Of the inputs, in the kernel's order.
    pub inputs: Vec<Vec<u32>>,
    /// Of the outputs: poison, but where the kernel updates them.
    pub outputs: Vec<Vec<u32>>,
}

/// The words of an operand as the kernel sees it.
fn slice<'a>(spec: &Spec, words: &'a [u32]) -> Slice<'a> {
    match spec.dtype {
        DType::F16 => Slice::F16(bytemuck::cast_slice(words)),
        _ => Slice::U32(words),
    }
}

impl Case {
    /// The words of every input, and of every output before the kernel runs.
    pub fn operands(&self) -> Operands {
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
        Operands { inputs, outputs: outputs.collect() }
    }

    /// The outputs of the reference, computed without any device.
    pub fn reference(&self) -> Vec<Vec<u32>> {
        self.operands().reference(&self.kernel)
    }

    /// Uploads the operands and prepares the kernel.
    ///
    /// # Errors
    /// When the device cannot hold the operands, or cannot run the kernel.
    pub fn prepare(self, device: &Device) -> Result<Prepared, tensor::Error> {
        self.prepare_repeated(device, 1)
    }

    /// As [`Case::prepare`], for a run that executes the kernel `repeats` times.
    ///
    /// # Errors
    /// As [`Case::prepare`].
    pub fn prepare_repeated(self, device: &Device, repeats: usize) -> Result<Prepared, tensor::Error> {
        let operands = self.operands();
        operands.prepare(self.kernel, device, repeats)
    }
}

impl Operands {
    /// Outputs of `kernel`'s reference for them.
    pub fn reference(&self, kernel: &Form) -> Vec<Vec<u32>> {
        let mut outputs = self.outputs.clone();
        let (input_specs, output_specs) = (kernel.inputs(), kernel.outputs());
        let inputs: Vec<Slice<'_>> =
            input_specs.iter().zip(&self.inputs).map(|(spec, words)| slice(spec, words)).collect();
        let mut slices: Vec<SliceMut<'_>> = output_specs
            .iter()
            .zip(&mut outputs)
            .map(|(spec, words)| match spec.dtype {
                DType::F16 => SliceMut::F16(bytemuck::cast_slice_mut(words)),
                _ => SliceMut::U32(words),
            })
            .collect();
        kernel.reference(&inputs, &mut slices);
        outputs
    }

    /// Uploads them for a run that executes `kernel` `repeats` times.
    ///
    /// # Errors
    /// As [`Case::prepare`].
    pub fn prepare(&self, kernel: Form, device: &Device, repeats: usize) -> Result<Prepared, tensor::Error> {
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
        let (input_specs, output_specs) = (kernel.inputs(), kernel.outputs());
        let inputs = self.inputs.iter().zip(&input_specs).map(|(words, spec)| view(words, spec, 0));
        let inputs = inputs.collect::<Result<Vec<_>, tensor::Error>>()?;
        let outputs = self.outputs.iter().zip(&output_specs).map(|(words, spec)| view(words, spec, GUARD));
        let outputs = outputs.collect::<Result<Vec<_>, tensor::Error>>()?;
        let dispatch = Dispatch { work: Work::Kernel(kernel), inputs, outputs: outputs.clone() };
        let executable = device.prepare(vec![dispatch; repeats])?;
        Ok(Prepared { device: device.clone(), executable, outputs })
    }
}

impl Prepared {
    /// Runs the kernel; on a GPU, returns when it is submitted.
    ///
    /// # Errors
    /// When the device fails.
    pub fn launch(&mut self) -> Result<(), tensor::Error> {
        self.executable.run()
    }

    /// Runs the kernel and waits for it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self) -> Result<(), tensor::Error> {
        self.launch()?;
        self.device.synchronize()
    }

    /// Runs the kernel once and returns the words of every output.
    ///
    /// # Errors
    /// When the device fails, or a guard word changed.
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
