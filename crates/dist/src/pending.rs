//! A sum in progress.

#[cfg(feature = "mpi")]
use std::sync::mpsc::Receiver;

#[cfg(feature = "mpi")]
use crate::Error;
use crate::Result;

/// A sum over the ranks in progress ([`crate::Communicator::start_all_reduce`]).
#[derive(Debug)]
#[must_use = "a sum that nobody waits for is lost"]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    Ready(Vec<f32>),
    #[cfg(feature = "mpi")]
    Coming(Receiver<Result<Vec<f32>>>),
}

impl Pending {
    /// A sum that is complete already.
    pub(crate) fn ready(sum: Vec<f32>) -> Self {
        Self(State::Ready(sum))
    }

    /// A sum that MPI's thread will send.
    #[cfg(feature = "mpi")]
    pub(crate) fn coming(sum: Receiver<Result<Vec<f32>>>) -> Self {
        Self(State::Coming(sum))
    }

    /// Waits until the sum is complete.
    ///
    /// # Errors
    ///
    /// Those of [`crate::Communicator::all_reduce`].
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.0 {
            State::Ready(sum) => Ok(sum),
            #[cfg(feature = "mpi")]
            State::Coming(sum) => sum.recv().map_err(|_| Error::ended())?,
        }
    }
}
