//! A trained network for use elsewhere: named tensors as PyTorch has them, or an ONNX model.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use crate::failure::usage;
use crate::formats::{fold, onnx};
use crate::options::args::{ExportArgs, Format, SavedState};
use crate::output::line;
use crate::run::checkpoint;
use crate::run::directory::RunDir;
use crate::run::files::{check_target, write_atomically};
use crate::show::words::grouped;
use crate::step::pretrained::Pretrained;

/// Writes one branch as a separate network, or all of them with the gate.
///
/// # Errors
/// When there is no such run, state or branch, or the file cannot be written.
pub fn run(args: &ExportArgs) -> Result<()> {
    let format = format(args)?;
    check_target("--to", &args.to)?;
    let file = source(args)?;
    let network = Pretrained::read(&file, args.branch)?;
    match format {
        Format::Safetensors => write_tensors(&args.to, &network, args.fold)?,
        Format::Onnx => {
            let options = onnx::Options { fold: args.fold, normalise: args.normalise };
            write_atomically(&args.to, &onnx::model(&network, options)?)?;
        }
    }
    let folded = if args.fold { ", batch-norms folded" } else { "" };
    let normalised = if args.normalise { ", which normalises its images" } else { "" };
    let what = network.describe();
    let step = grouped(network.header.position.step);
    line(format!("{}: {what}, after step {step}{folded}{normalised}", args.to.display()))
}

/// The format that is asked for.
fn format(args: &ExportArgs) -> Result<Format> {
    let by_name = || match args.to.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx")) {
        true => Format::Onnx,
        false => Format::Safetensors,
    };
    let format = args.format.unwrap_or_else(by_name);
    if args.normalise && format == Format::Safetensors {
        return Err(usage(
            "--normalise is for --format onnx: in safetensors mean and standard deviation stand in the metadata, and \
             borders of zeros keep them from being folded into the weights",
        ));
    }
    Ok(format)
}

/// The file that the network is taken from.
fn source(args: &ExportArgs) -> Result<PathBuf> {
    let refuse = || usage(format!("--to {} is what is exported: give another name", args.to.display()));
    let Some(dir) = &args.run else {
        let file = args.model.clone().ok_or_else(|| usage("give --run DIR or --model FILE"))?;
        let same = |other: &Path| file.canonicalize().is_ok_and(|file| other.canonicalize().is_ok_and(|to| to == file));
        return if same(&args.to) { Err(refuse()) } else { Ok(file) };
    };
    let run = RunDir::find(dir)?;
    if run.owns(&args.to) {
        return Err(usage(format!("--to {} is a file of the run itself: give another name", args.to.display())));
    }
    let file = match args.checkpoint {
        SavedState::Last => run.last(),
        SavedState::Best => run.best(),
    };
    if !file.exists() {
        bail!("the run has not saved {} yet: train on with --resume {}", file.display(), dir.display());
    }
    Ok(file)
}

fn write_tensors(to: &Path, network: &Pretrained, folded: bool) -> Result<()> {
    if !folded {
        return checkpoint::export(to, &network.header, &network.state);
    }
    let state = fold::fold(&network.header.layers()?, network.state.clone());
    let state = state.map_err(|what| anyhow!("the network cannot be folded: {what}"))?;
    let mut header = network.header.clone();
    header.folded = true;
    checkpoint::export(to, &header, &state)
}
