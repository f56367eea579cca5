//! The work of a node: a kernel for the device, or work of the host between kernels.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::kernel::{Cost, Form, describe};
use crate::shape::Spec;

/// The work of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Work {
    /// The device runs a kernel.
    Kernel(Form),
    /// The host does something, with the device at rest.
    Host(Arc<dyn HostWork>),
}

impl Work {
    /// Its name, for profiles and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel(form) => form.name(),
            Self::Host(work) => work.name(),
        }
    }

    /// Operands that are only read.
    pub fn inputs(&self) -> Vec<Spec> {
        match self {
            Self::Kernel(form) => form.inputs(),
            Self::Host(work) => work.inputs(),
        }
    }

    /// Operands that are written.
    pub fn outputs(&self) -> Vec<Spec> {
        match self {
            Self::Kernel(form) => form.outputs(),
            Self::Host(work) => work.outputs(),
        }
    }

    /// Tells whether output `index` is read and modified, and must be state.
    pub fn updates(&self, index: usize) -> bool {
        match self {
            Self::Kernel(form) => form.updates(index),
            Self::Host(work) => work.updates(),
        }
    }

    /// Arithmetic and traffic; of the host's work, the traffic of its operands.
    pub fn cost(&self) -> Cost {
        match self {
            Self::Kernel(form) => form.cost(),
            Self::Host(work) => Cost::of_operands(0, &work.inputs(), &work.outputs(), |_| work.updates()),
        }
    }

    /// Name and shapes in one line.
    pub fn describe(&self) -> String {
        describe(self.name(), &self.inputs(), &self.outputs())
    }

    /// The kernel, if it is one for the device.
    pub fn kernel(&self) -> Option<&Form> {
        match self {
            Self::Kernel(form) => Some(form),
            Self::Host(_) => None,
        }
    }

    /// The host's work, if it is that.
    pub fn host(&self) -> Option<&dyn HostWork> {
        match self {
            Self::Kernel(_) => None,
            Self::Host(work) => Some(&**work),
        }
    }
}

/// Work of the host between two parts of a program, on tensors of 32-bit floats.
pub trait HostWork: Any + Debug + Send + Sync {
    /// Its name, for profiles and errors.
    fn name(&self) -> &'static str;

    /// Operands that are only read.
    fn inputs(&self) -> Vec<Spec>;

    /// Operands that are written.
    fn outputs(&self) -> Vec<Spec>;

    /// Tells whether the outputs are read and modified. They must then be state.
    fn updates(&self) -> bool {
        false
    }

    /// Does it. Outputs have their length, and what they held before where they are updated.
    ///
    /// # Errors
    /// Whatever keeps it from being done.
    fn run(&self, inputs: &[Vec<f32>], outputs: &mut [Vec<f32>]) -> Result<()>;
}
