//! Errors between processes, each one sentence: the ranks, the fault, and the remedy.

use std::time::Duration;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate. None is recoverable: the ranks are no longer at the same place, and end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Ranks kept the others waiting for longer than allowed.
    #[error(
        "{} not answered for {}: {}, or {} host cannot be reached", has(.ranks), seconds(*.waited),
        if .ranks.len() == 1 { "it hangs" } else { "they hang" }, if .ranks.len() == 1 { "its" } else { "their" }
    )]
    Silent {
        /// The ranks from which something is missing, ascending.
        ranks: Vec<usize>,
        /// Time that the others waited for them.
        waited: Duration,
    },
    /// The ranks add arrays of different lengths.
    #[error(
        "rank {rank} passes {theirs} values to a sum to which rank {own} passes {ours}: this is a fault of the \
         program, please report it"
    )]
    Length {
        /// This rank.
        own: usize,
        /// The length that it passes.
        ours: usize,
        /// The first rank with another length.
        rank: usize,
        /// The length that that rank passes.
        theirs: usize,
    },
    /// The ranks call different collectives.
    #[error(
        "rank {rank} is at a {theirs} where rank {own} is at a {ours}: this is a fault of the program, please report it"
    )]
    Order {
        /// This rank.
        own: usize,
        /// The collective that it calls.
        ours: &'static str,
        /// The first rank that calls another one.
        rank: usize,
        /// The collective that that rank calls.
        theirs: &'static str,
    },
    /// MPI reports an error.
    #[error("MPI: {0}")]
    Mpi(String),
    /// Several processes were started of a program that is built without MPI.
    #[error(
        "{processes} of these processes were started together ({variable}), but the program is built without MPI, \
         and each would \
         train alone: build it by `cargo build -p train --features mpi` (tools/mpi.sh does), or start one"
    )]
    NoMpi {
        /// Number of processes started, at least.
        processes: usize,
        /// The environment variable that says so.
        variable: &'static str,
    },
    /// Several processes were started by the launcher of an MPI other than the linked one.
    #[error(
        "{processes} of these processes were started together ({variable}), but MPI sees one: the launcher belongs \
         to another MPI \
         than the program was built with; start it by that one's mpirun"
    )]
    OtherMpi {
        /// Number of processes started, at least.
        processes: usize,
        /// The environment variable that says so.
        variable: &'static str,
    },
}

#[cfg(feature = "mpi")]
impl Error {
    /// The error that the thread which owns MPI has ended, which only a panic causes.
    pub(crate) fn ended() -> Self {
        Self::Mpi("its thread has ended; please report what it said".to_owned())
    }
}

/// `rank 2 has`, `ranks 1 and 2 have`, `ranks 1, 2 and 3 have`.
fn has(ranks: &[usize]) -> String {
    let names: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [one] => format!("rank {one} has"),
        [first @ .., last] => format!("ranks {} and {last} have", first.join(", ")),
        [] => "no rank has".to_owned(),
    }
}

/// Formats a duration: in whole seconds if there are many.
fn seconds(duration: Duration) -> String {
    if duration >= Duration::from_secs(10) {
        format!("{:.0} s", duration.as_secs_f64())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silent_are_named() {
        let silent = |ranks: &[usize], seconds| {
            Error::Silent { ranks: ranks.to_vec(), waited: Duration::from_secs_f64(seconds) }.to_string()
        };
        assert_eq!(silent(&[2], 300.2), "rank 2 has not answered for 300 s: it hangs, or its host cannot be reached");
        assert_eq!(
            silent(&[1, 2, 5], 1.25),
            "ranks 1, 2 and 5 have not answered for 1.2 s: they hang, or their host cannot be reached"
        );
    }
}
