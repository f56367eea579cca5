//! A sum that was begun.

#[cfg(feature = "mpi")]
use std::sync::mpsc::Receiver;

#[cfg(feature = "mpi")]
use crate::Error;
use crate::Result;

/// A sum over the ranks that was begun ([`crate::Communicator::start_all_reduce`]).
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
    /// One that is there already.
    pub(crate) fn ready(sum: Vec<f32>) -> Self {
        Self(State::Ready(sum))
    }

    /// One that MPI's thread sends.
    #[cfg(feature = "mpi")]
    pub(crate) fn coming(sum: Receiver<Result<Vec<f32>>>) -> Self {
        Self(State::Coming(sum))
    }

    /// Waits until it is there.
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
