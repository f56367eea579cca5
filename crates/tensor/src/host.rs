//! What the host does in the middle of a program: the device's part before it is finished, the operands are copied to the
//! host and back, and the device goes on. A program without such work is submitted as a whole.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;
use crate::target::Target;

/// Work of the host between two parts of a program, on tensors of 32-bit floats.
pub trait HostWork: Any + Debug + Send + Sync {
    /// Its name, for profiles and errors.
    fn name(&self) -> &'static str;

    /// Operands that are only read.
    fn inputs(&self) -> Vec<Spec>;

    /// Operands that are written.
    fn outputs(&self) -> Vec<Spec>;

    /// Whether the outputs are read and modified. They must then be state.
    fn updates(&self) -> bool {
        false
    }

    /// Does it. Outputs have their length, and what they held before where they are updated.
    ///
    /// # Errors
    /// Whatever keeps it from being done.
    fn run(&self, inputs: &[Vec<f32>], outputs: &mut [Vec<f32>]) -> Result<()>;
}

/// Host work in its place among a program's kernels. No device runs it.
#[derive(Debug, Clone)]
pub(crate) struct OnHost(pub Arc<dyn HostWork>);

impl Kernel for OnHost {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn inputs(&self) -> Vec<Spec> {
        self.0.inputs()
    }

    fn outputs(&self) -> Vec<Spec> {
        self.0.outputs()
    }

    fn updates(&self, _: usize) -> bool {
        self.0.updates()
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn host_work(&self) -> Option<&dyn HostWork> {
        Some(&*self.0)
    }

    fn reference(&self, _: &[Slice<'_>], _: &mut [SliceMut<'_>]) {
        unreachable!("programs give what the host does to the host");
    }

    fn launch(&self, _: &Target) -> Launch {
        unreachable!("programs give what the host does to the host");
    }

    fn candidates(&self, _: &Target) -> Vec<Launch> {
        Vec::new()
    }
}

impl Graph {
    /// Records work of the host; `outputs` as in [`Graph::launch_into`]. It is done whether or not anything needs it.
    ///
    /// # Errors
    /// When the operands are not what the work declares.
    pub fn host(&mut self, work: impl HostWork + 'static, inputs: &[Var], outputs: &[Option<Var>]) -> Result<Vec<Var>> {
        self.launch_into(OnHost(Arc::new(work)), inputs, outputs)
    }
}
