//! Operands of a kernel that is measured alone.

use half::f16;

use crate::device::{Device, Dispatch, Executable, View};
use crate::error::Result;
use crate::graph::work::Work;
use crate::kernel::{Form, Launch};
use crate::rng::Rng;
use crate::shape::{DType, Spec};

/// A kernel with operands of its own: random floats, zeros where it takes integers.
pub(crate) struct Operands<'a> {
    device: &'a Device,
    kernel: &'a Form,
    inputs: Vec<View>,
    outputs: Vec<View>,
}

impl<'a> Operands<'a> {
    pub(crate) fn new(device: &'a Device, kernel: &'a Form) -> Result<Self> {
        let mut id = 0;
        let mut view = |spec: &Spec, filled: bool| -> Result<View> {
            let words = spec.words();
            let buffer = device.alloc(words, "operand to measure with")?;
            if filled && spec.dtype != DType::U32 {
                device.write(&buffer, 0, &random(spec))?;
            }
            id += 1;
            Ok(View { buffer, buffer_id: id, offset: 0, words, dtype: spec.dtype })
        };
        let inputs = kernel.inputs().iter().map(|spec| view(spec, true)).collect::<Result<_>>()?;
        let outputs = kernel.outputs().iter().map(|spec| view(spec, false)).collect::<Result<_>>()?;
        Ok(Self { device, kernel, inputs, outputs })
    }

    /// `kernel`, which takes the same operands, on these.
    pub(crate) fn dispatch(&self, kernel: Form) -> Dispatch {
        Dispatch { work: Work::Kernel(kernel), inputs: self.inputs.clone(), outputs: self.outputs.clone() }
    }

    /// So many runs of `kernel`, launched as `launch`, ready to run.
    pub(crate) fn prepare(&self, launch: &Launch, runs: usize) -> Result<Executable> {
        let variant = self.kernel.clone().launched_as(launch.clone());
        self.device.prepare(vec![self.dispatch(variant); runs])
    }

    /// The kernel's outputs, as floats.
    pub(crate) fn read(&self) -> Result<Vec<Vec<f32>>> {
        let read = |view: &View| Ok(floats(&self.device.read(&view.buffer, 0, view.words)?, view.dtype));
        self.outputs.iter().map(read).collect()
    }

    /// The difference of the last outputs from `expected`, beyond that of another order of additions. What a kernel
    /// updates is not compared, since it has run more than once.
    pub(crate) fn differs(&self, expected: &[Vec<f32>]) -> Result<Option<String>> {
        for (output, (got, want)) in self.read()?.iter().zip(expected).enumerate() {
            let square: f64 = want.iter().map(|&want| f64::from(want).powi(2)).sum();
            let scale = (square / want.len().max(1) as f64).sqrt();
            let near = |(&got, &want): (&f32, &f32)| {
                got.to_bits() == want.to_bits()
                    || f64::from((got - want).abs()) <= TOLERANCE * (f64::from(want.abs()) + scale)
            };
            if !self.kernel.updates(output) && !got.iter().zip(want).all(near) {
                return Ok(Some(format!("its output {output} differs from that of the variant it should replace")));
            }
        }
        Ok(None)
    }
}

/// Difference of a candidate's results, relative to their magnitude: far above rounding, also to 16 bits.
const TOLERANCE: f64 = 0.01;

/// Floats of a part of the operands that is repeated: what they are hardly matters to the time.
const PATTERN: usize = 1 << 16;

fn random(spec: &Spec) -> Vec<u32> {
    let mut rng = Rng::new(&[0x7e5e]);
    let mut value = || rng.uniform() as f32 * 2.0 - 1.0;
    let half = |value: f32| u32::from(f16::from_f32(value).to_bits());
    let word = |_| match spec.dtype {
        DType::F16 => half(value()) | half(value()) << 16,
        DType::F32 | DType::U32 => value().to_bits(),
    };
    let pattern: Vec<u32> = (0..spec.words().min(PATTERN)).map(word).collect();
    pattern.iter().copied().cycle().take(spec.words()).collect()
}

fn floats(words: &[u32], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => bytemuck::cast_slice(words).iter().map(|half: &f16| half.to_f32()).collect(),
        DType::F32 | DType::U32 => words.iter().map(|&word| f32::from_bits(word)).collect(),
    }
}
