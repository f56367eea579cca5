//! A kernel in the form in which it is run.
//!
//! Mixed precision: activations may lie in memory as floats of 16 bits. Arithmetic stays in 32 bits, and so do weights,
//! their gradients, statistics and losses. A kernel names the operands that may be halved ([`Kernel::activations`]);
//! its shader reads and writes them through `unpack` and `pack`.

use std::any::Any;
use std::sync::Arc;

use half::f16;
use rayon::prelude::*;

use super::{Activations, Cost, Kernel, Launch, Slice, SliceMut, Target, describe};
use crate::error::{Result, shape_error};
use crate::shape::{DType, Spec};

/// A kernel, how memory stores its activations, and the variant that a GPU runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Form {
    kernel: Arc<dyn Kernel>,
    /// True if activations are stored in 16 bits.
    halves: bool,
    /// The variant, if it is fixed; else the target chooses one.
    launch: Option<Arc<Launch>>,
}

impl<K: Kernel> From<K> for Form {
    /// Activations in 32 bits, the variant that suits the target.
    fn from(kernel: K) -> Self {
        Self { kernel: Arc::new(kernel), halves: false, launch: None }
    }
}

impl Form {
    /// The same kernel with all its activations in 16 bits: inputs are widened, outputs rounded.
    ///
    /// # Errors
    /// The kernel has no activations, or does not read and write them in fours.
    pub fn in_halves(self) -> Result<Self> {
        if self.kernel.activations() == Activations::default() {
            return shape_error("mixed precision", format!("{} has no form in 16 bits", self.name()));
        }
        if self.kernel.launch(&Target::HARDWARE).in_halves(&Target::HARDWARE).is_none() {
            return shape_error(
                "mixed precision",
                format!("in 16 bits channels must come in fours, which those of {} do not", self.describe()),
            );
        }
        Ok(Self { halves: true, ..self })
    }

    /// The same kernel, launched as `launch` on every adapter.
    #[must_use]
    pub fn launched_as(self, launch: Launch) -> Self {
        Self { launch: Some(Arc::new(launch)), ..self }
    }

    /// The kernel, if it is a `K`.
    pub fn kernel<K: Kernel>(&self) -> Option<&K> {
        let kernel: &dyn Any = &*self.kernel;
        kernel.downcast_ref()
    }

    /// The kernel's name.
    pub fn name(&self) -> &'static str {
        self.kernel.name()
    }

    /// Operands that are only read.
    pub fn inputs(&self) -> Vec<Spec> {
        self.stored(self.kernel.inputs(), |activations| activations.inputs)
    }

    /// Operands that are written.
    pub fn outputs(&self) -> Vec<Spec> {
        self.stored(self.kernel.outputs(), |activations| activations.outputs)
    }

    /// Tells whether output `index` is read and modified.
    pub fn updates(&self, index: usize) -> bool {
        self.kernel.updates(index)
    }

    /// Indices of the operands that memory may hold in 16 bits.
    pub fn activations(&self) -> Activations {
        self.kernel.activations()
    }

    /// Arithmetic, and the traffic of the operands as they are stored.
    pub fn cost(&self) -> Cost {
        let cost = self.kernel.cost();
        if !self.halves {
            return cost;
        }
        Cost::of_operands(cost.flops, &self.inputs(), &self.outputs(), |index| self.updates(index))
    }

    /// Name and shapes in one line.
    pub fn describe(&self) -> String {
        describe(self.name(), &self.inputs(), &self.outputs())
    }

    /// The WGSL, in the variant for an adapter like `target`.
    pub fn launch(&self, target: &Target) -> Launch {
        if self.halves || self.launch.is_some() {
            return self.candidates(target).swap_remove(0);
        }
        self.kernel.launch(target)
    }

    /// The variants that may be the fastest on an adapter like `target`, that of [`Form::launch`] first.
    pub fn candidates(&self, target: &Target) -> Vec<Launch> {
        if let Some(launch) = &self.launch {
            return vec![Launch::clone(launch)];
        }
        let candidates = self.kernel.candidates(target);
        if !self.halves {
            return candidates;
        }
        let in_halves = |launch: Launch| launch.in_halves(target).expect("`in_halves` has checked it");
        candidates.into_iter().map(in_halves).collect()
    }

    fn stored(&self, mut specs: Vec<Spec>, which: impl Fn(Activations) -> Vec<usize>) -> Vec<Spec> {
        if self.halves {
            for index in which(self.kernel.activations()) {
                if let Some(spec) = specs.get_mut(index) {
                    spec.dtype = DType::F16;
                }
            }
        }
        specs
    }

    /// Computes the outputs as the CPU device does. Operands in 16 bits are widened before, and rounded after.
    pub fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        in_floats(inputs, outputs, |inputs, outputs| self.kernel.compute(inputs, outputs));
    }

    /// Computes the outputs by the reference. Operands in 16 bits are widened before, and rounded after.
    pub fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        in_floats(inputs, outputs, |inputs, outputs| self.kernel.reference(inputs, outputs));
    }
}

/// Calls `work` with the operands in 32 bits.
fn in_floats(inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>], work: impl FnOnce(&[Slice<'_>], &mut [SliceMut<'_>])) {
    let halves = |slice: &SliceMut<'_>| matches!(slice, SliceMut::F16(_));
    if !inputs.iter().any(|slice| matches!(slice, Slice::F16(_))) && !outputs.iter().any(halves) {
        return work(inputs, outputs);
    }
    let widened: Vec<Option<Vec<f32>>> = inputs
        .iter()
        .map(|slice| match slice {
            Slice::F16(halves) => Some(halves.par_iter().map(|half| half.to_f32()).collect()),
            _ => None,
        })
        .collect();
    let wide: Vec<Slice<'_>> = inputs
        .iter()
        .zip(&widened)
        .map(|(slice, widened)| widened.as_ref().map_or(*slice, |widened| Slice::F32(widened)))
        .collect();
    let mut sums: Vec<Vec<f32>> = outputs
        .iter()
        .map(|slice| match slice {
            SliceMut::F16(halves) => vec![f32::NAN; halves.len()],
            _ => Vec::new(),
        })
        .collect();
    let mut written: Vec<SliceMut<'_>> = outputs
        .iter_mut()
        .zip(&mut sums)
        .map(|(slice, sums)| match slice {
            SliceMut::F16(_) => SliceMut::F32(sums),
            SliceMut::F32(slice) => SliceMut::F32(slice),
            SliceMut::U32(slice) => SliceMut::U32(slice),
        })
        .collect();
    work(&wide, &mut written);
    for (slice, sums) in outputs.iter_mut().zip(&sums) {
        if let SliceMut::F16(halves) = slice {
            halves.par_iter_mut().zip(sums).for_each(|(half, sum)| *half = f16::from_f32(*sum));
        }
    }
}
