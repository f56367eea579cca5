//! A trained network for use elsewhere, under PyTorch's names.

use std::path::Path;

use anyhow::{Result, bail};
use nets::{NamedTensor, deployed};

use crate::args::{Branches, ExportArgs, Saved};
use crate::checkpoint::{self, Header};
use crate::failure::usage;
use crate::output::line;
use crate::overview::{describe, grouped};
use crate::run_dir::{RunDir, check_target};

/// Writes one branch as a network of its own, or all of them with the gate.
///
/// # Errors
/// When there is no such run, state or branch, or the file cannot be written.
pub fn run(args: &ExportArgs) -> Result<()> {
    let run = RunDir::find(&args.run)?;
    check_target("--to", &args.to)?;
    if run.owns(&args.to) {
        return Err(usage(format!("--to {} is a file of the run itself: give another name", args.to.display())));
    }
    let file = match args.checkpoint {
        Saved::Last => run.last(),
        Saved::Best => run.best(),
    };
    if !file.exists() {
        bail!("the run has not saved {} yet: train on with --resume {}", file.display(), args.run.display());
    }
    let checkpoint = checkpoint::read(&file)?;
    let Some(header) = checkpoint.header else { bail!("{} was not written by a run", file.display()) };
    let (what, header, state) = chosen(args.branch, &file, header, checkpoint.state)?;
    checkpoint::export(&args.to, &header, &state)?;
    line(format!("{}: {what}", args.to.display()))
}

/// What is written: in words, and its header and state.
fn chosen(
    branch: Branches,
    file: &Path,
    header: Header,
    state: Vec<NamedTensor>,
) -> Result<(String, Header, Vec<NamedTensor>)> {
    let branches = header.network.branches;
    let step = grouped(header.position.step);
    match branch {
        Branches::One(branch) if branch < branches => {
            let header = header.of_branch(branch);
            let what = format!("branch {branch} of {}, after step {step}", describe(&header.network));
            Ok((what, header, deployed(&state, branch)))
        }
        Branches::One(branch) => {
            let there_are = match branches {
                1 => "branch 0 only".to_owned(),
                _ => format!("branches 0 to {}", branches - 1),
            };
            Err(usage(format!("there is no branch {branch} in {}, which has {there_are}", file.display())))
        }
        Branches::All => {
            let gate = if header.gate && branches > 1 { ", and the gate" } else { "" };
            let what = format!("{}{gate}, after step {step}", describe(&header.network));
            Ok((what, header, state))
        }
    }
}
