//! Work of the host in the middle of a program: the device's part before it is finished, the operands are copied to
//! the host and back, and the device goes on. A program without such work is submitted as a whole.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::graph::work::Work;
use crate::graph::{Graph, Var};
use crate::shape::Spec;

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

impl Graph {
    /// Records work of the host; `outputs` as in [`Graph::launch_into`]. It is done whether or not anything needs it.
    ///
    /// # Errors
    /// When the operands are not what the work declares.
    pub fn host(&mut self, work: impl HostWork + 'static, inputs: &[Var], outputs: &[Option<Var>]) -> Result<Vec<Var>> {
        self.record(Work::Host(Arc::new(work)), inputs, outputs)
    }
}
