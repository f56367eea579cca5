//! A sum that was begun.

use crate::Result;

/// A sum over the ranks that was begun ([`crate::Communicator::start_all_reduce`]).
#[derive(Debug)]
pub struct Pending(Vec<f32>);

impl Pending {
    /// One that there is already.
    pub(crate) fn ready(sum: Vec<f32>) -> Self {
        Self(sum)
    }

    /// Waits until it is there.
    ///
    /// # Errors
    ///
    /// Those of [`crate::Communicator::all_reduce`].
    pub fn wait(self) -> Result<Vec<f32>> {
        Ok(self.0)
    }
}
