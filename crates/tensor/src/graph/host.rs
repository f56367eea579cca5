//! Recording of work of the host in the middle of a program: the device's part before it is finished, the operands are
//! copied to the host and back, and the device goes on. A program without such work is submitted as a whole.

use std::sync::Arc;

use crate::error::Result;
use crate::graph::work::{HostWork, Work};
use crate::graph::{Graph, Var};

impl Graph {
    /// Records work of the host; `outputs` as in [`Graph::launch_into`]. It is done whether or not anything needs it.
    ///
    /// # Errors
    /// When the operands are not what the work declares.
    pub fn host(&mut self, work: impl HostWork + 'static, inputs: &[Var], outputs: &[Option<Var>]) -> Result<Vec<Var>> {
        self.record(Work::Host(Arc::new(work)), inputs, outputs)
    }
}
