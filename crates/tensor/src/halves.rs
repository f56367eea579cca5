//! Mixed precision: kernels whose activations lie in memory as floats of 16 bits.
//!
//! Arithmetic stays in 32 bits, and so do weights, their gradients, statistics and losses. A kernel names the operands that
//! may be halved ([`Kernel::activations`]); its shader reads and writes them through `unpack` and `pack`.

use std::any::Any;
use std::sync::Arc;

use crate::error::{Result, shape_error};
use crate::kernel::{Activations, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::{DType, Spec};
use crate::target::Target;

/// A kernel with all its activations in 16 bits: what it reads is widened, what it writes rounded.
#[derive(Debug)]
pub struct InHalves {
    kernel: Arc<dyn Kernel>,
}

impl InHalves {
    /// `kernel` in halves.
    ///
    /// # Errors
    /// When it has no activations, or does not read and write them in fours.
    pub fn new(kernel: Arc<dyn Kernel>) -> Result<Self> {
        let activations = kernel.activations();
        if activations == Activations::default() {
            return shape_error("mixed precision", format!("{} has no form in 16 bits", kernel.name()));
        }
        if kernel.launch(&Target::HARDWARE).in_halves(&Target::HARDWARE).is_none() {
            return shape_error(
                "mixed precision",
                format!("in 16 bits channels must come in fours, which those of {} do not", kernel.describe()),
            );
        }
        Ok(Self { kernel })
    }

    /// The kernel that is run so.
    pub(crate) fn inside(&self) -> &dyn Any {
        &*self.kernel
    }

    fn halve(mut specs: Vec<Spec>, which: &[usize]) -> Vec<Spec> {
        for (index, spec) in specs.iter_mut().enumerate() {
            if which.contains(&index) {
                spec.dtype = DType::F16;
            }
        }
        specs
    }
}

impl Kernel for InHalves {
    fn name(&self) -> &'static str {
        self.kernel.name()
    }

    fn inputs(&self) -> Vec<Spec> {
        Self::halve(self.kernel.inputs(), &self.kernel.activations().inputs)
    }

    fn outputs(&self) -> Vec<Spec> {
        Self::halve(self.kernel.outputs(), &self.kernel.activations().outputs)
    }

    fn updates(&self, index: usize) -> bool {
        self.kernel.updates(index)
    }

    fn cost(&self) -> Cost {
        let flops = self.kernel.cost().flops;
        Cost { flops, ..Cost::new(self, 0) }
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.kernel.reference(inputs, outputs);
    }

    fn launch(&self, target: &Target) -> Launch {
        self.candidates(target).swap_remove(0)
    }

    fn candidates(&self, target: &Target) -> Vec<Launch> {
        let launches = self.kernel.candidates(target).into_iter();
        launches.map(|launch| launch.in_halves(target).expect("channels come in fours: `new` has checked it")).collect()
    }
}
