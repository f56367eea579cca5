//! One process alone.

use std::process;
use std::time::Duration;

use crate::{Communicator, Pending, Result};

/// The only process: all collectives are no-ops.
#[derive(Clone, Copy, Debug)]
pub struct Single;

impl Communicator for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn host(&self) -> &str {
        "localhost"
    }

    fn broadcast(&self, data: Vec<u8>) -> Result<Vec<u8>> {
        Ok(data)
    }

    fn all_gather(&self, block: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        Ok(vec![block])
    }

    fn all_reduce(&self, data: Vec<f32>) -> Result<Vec<f32>> {
        Ok(data)
    }

    fn start_all_reduce(&self, data: Vec<f32>) -> Result<Pending> {
        Ok(Pending::ready(data))
    }

    fn set_time_limit(&self, _limit: Option<Duration>) {}

    fn abort(&self, status: i32) -> ! {
        process::exit(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_is_all_ranks() -> Result<()> {
        assert_eq!((Single.rank(), Single.size()), (0, 1));
        assert_eq!(Single.broadcast(vec![1, 2])?, [1, 2]);
        assert_eq!(Single.all_gather(vec![3])?, [[3]]);
        let sum = Single.all_reduce(vec![0.1, -0.0])?;
        assert_eq!(sum.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0.1f32.to_bits(), (-0.0f32).to_bits()]);
        assert_eq!(Single.start_all_reduce(vec![0.5])?.wait()?, [0.5]);
        Ok(())
    }
}
