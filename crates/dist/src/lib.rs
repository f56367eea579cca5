//! Layer between the trainer and MPI for data-parallel training: a few collectives, with sums in a fixed order, and
//! with the names of ranks that keep the others waiting.
//!
//! Without the feature `mpi` there is only [`Single`], and no system library is needed.

#[cfg(feature = "mpi")]
mod collectives;
mod error;
#[cfg(feature = "mpi")]
mod exchange;
mod launcher;
#[cfg(feature = "mpi")]
mod patience;
mod pending;
mod single;
#[cfg(any(test, feature = "mpi"))]
mod slices;
#[cfg(feature = "mpi")]
mod world;

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Error, Result};
pub use pending::Pending;
pub use single::Single;

/// Processes that train together, each known by its rank.
///
/// All ranks call the same functions in the same order. Errors are not recoverable: only [`Communicator::abort`] is
/// left, and every later call returns the same error.
pub trait Communicator: fmt::Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// Name of the host this rank runs on.
    fn host(&self) -> &str;

    /// Copies rank 0's bytes to all ranks; `data` is read on rank 0 only.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`], [`Error::Order`], [`Error::Mpi`].
    fn broadcast(&self, data: Vec<u8>) -> Result<Vec<u8>>;

    /// Gathers the blocks of all ranks, by rank; they may differ in length.
    ///
    /// # Errors
    ///
    /// [`Error::Silent`], [`Error::Order`], [`Error::Mpi`].
    fn all_gather(&self, block: Vec<u8>) -> Result<Vec<Vec<u8>>>;

    /// Replaces `data`, of equal length on all ranks, by its sum over them. Every element is added in the order of
    /// the ranks, ((r0 + r1) + r2) + …, so the same values give the same bits, and all ranks get the same bits.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if the lengths differ; [`Error::Silent`], [`Error::Order`], [`Error::Mpi`].
    fn all_reduce(&self, data: Vec<f32>) -> Result<Vec<f32>>;

    /// Starts a sum, as [`Communicator::all_reduce`], that proceeds while the caller computes. Sums are made in the
    /// order in which they were started, and are best waited for in that order.
    ///
    /// # Errors
    ///
    /// Those that are known already; the rest comes from [`Pending::wait`].
    fn start_all_reduce(&self, data: Vec<f32>) -> Result<Pending>;

    /// Sets the time that a rank may keep the others waiting from now on. At first it is `None`, without limit: at
    /// the start, a rank may load data for long.
    fn set_time_limit(&self, limit: Option<Duration>);

    /// Ends all ranks at once with this exit status. Any thread may call it at any time.
    fn abort(&self, status: i32) -> !;
}

/// Connects to the processes that were started together with this one: through MPI if the feature `mpi` is enabled,
/// and as [`Single`] if this process is alone.
///
/// # Errors
///
/// [`Error::NoMpi`] without the feature `mpi`, if a launcher (mpirun, srun) started several of these processes: each
/// would train alone and overwrite the others' files. With it, [`Error::OtherMpi`] and [`Error::Mpi`].
pub fn start() -> Result<Arc<dyn Communicator>> {
    // If no launcher names others, there are none. MPI alone would take a quarter of a second to find that out.
    launcher::launch(|variable| env::var(variable).ok()).map_or_else(|| Ok(Arc::new(Single) as Arc<_>), join)
}

#[cfg(feature = "mpi")]
fn join(launch: launcher::Launch) -> Result<Arc<dyn Communicator>> {
    let launcher::Launch { processes, variable } = launch;
    match world::World::start()? {
        Some(world) => Ok(Arc::new(world)),
        None if processes > 1 => Err(Error::OtherMpi { processes, variable }),
        None => Ok(Arc::new(Single)),
    }
}

#[cfg(not(feature = "mpi"))]
fn join(launch: launcher::Launch) -> Result<Arc<dyn Communicator>> {
    let launcher::Launch { processes, variable } = launch;
    if processes > 1 { Err(Error::NoMpi { processes, variable }) } else { Ok(Arc::new(Single)) }
}

#[cfg(all(test, not(feature = "mpi")))]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_processes_is_refused_where_there_is_no_mpi() {
        let join = |processes| join(launcher::Launch { processes, variable: "PMI_SIZE" });
        assert!(join(1).is_ok_and(|alone| alone.size() == 1));
        let Err(error) = join(3) else { panic!("three processes that know nothing of each other") };
        assert!(error.to_string().starts_with("3 of these processes were started together (PMI_SIZE), but"), "{error}");
    }
}
