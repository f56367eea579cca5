//! The commands of the program, one file each.

pub mod bench;
pub mod devices;
pub mod doctor;
pub mod eval;
mod eval_input;
pub mod export;
pub mod fetch;
pub mod info;
pub mod manual;
pub mod perturb;
pub mod predict;
pub mod profile;
pub mod report;
pub mod selftest;
pub mod sweep;
pub mod train;
pub mod tune;

use anyhow::Result;

use crate::failure::usage;
use crate::options::args::TrainArgs;

/// Refuses the options of training that mean nothing to a command which only measures its steps.
///
/// # Errors
/// Wrong usage, when one of them is given.
pub fn refuse_options_of_runs(args: &TrainArgs, command: &str) -> Result<()> {
    let given = [
        ("--resume", args.resume.is_some()),
        ("--out", args.out.is_some()),
        ("--save-every", args.save_every.is_some()),
        ("--stop-after", args.stop_after.is_some()),
        ("--checks", args.checks),
        ("--profile", args.profile),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(usage(format!("{option} is for training, and means nothing to `train {command}`"))),
        None => Ok(()),
    }
}
