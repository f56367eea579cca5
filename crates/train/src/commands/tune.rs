//! Choosing among the variants of kernels by measuring them on this adapter.

use std::sync::Arc;

use anyhow::{Context, Result};
use tensor::tuning::{self, Candidate, Measured};
use tensor::{Device, Kernel, Target};

use crate::args::TrainArgs;
use crate::commands::profile::{StepTimes, step_times};
use crate::commands::{refuse_options_of_runs, train};
use crate::config::Config;
use crate::output;
use crate::ranks::Ranks;
use crate::tuned::{self, Tuned};

/// Measures the candidates of every kernel of a training step and an evaluation step, and keeps what is faster than the
/// static rule's variant, for later runs on this adapter.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done.
pub fn run(args: &TrainArgs) -> Result<()> {
    refuse_options_of_runs(args, "tune")?;
    let config = Config::new(args)?;
    let device = tuned::open_untuned(&config.device)?;
    let target = device.target().filter(|target| !target.software);
    let (Some(adapter), Some(target)) = (device.adapter(), target) else {
        let what = if device.is_gpu() { "a software adapter" } else { "the CPU device" };
        return output::line(format!(
            "{}: there is nothing to tune, since every kernel has one variant for {what}; --device gpu takes a GPU",
            device.name()
        ));
    };
    let mut found = match Tuned::read(adapter) {
        Some(tuned) => tuned,
        None => Tuned::new(adapter)?,
    };
    let mut trainer = train::build(config.clone(), device.clone(), false, true, &Ranks::alone())?;
    let before = step_times(&mut trainer)?;
    let (training, evaluation) = (trainer.training.program.kernels(), trainer.evaluation.program.kernels());
    let counts = |key| {
        let count = |kernels: &[Arc<dyn Kernel>]| {
            kernels.iter().filter(|kernel| tuning::key(&kernel.candidates(&target)) == key).count()
        };
        (count(training), count(evaluation))
    };
    let tunable = tuning::tunable(training.iter().chain(evaluation), &target);
    let counts: Vec<(usize, usize)> = tunable.iter().map(|&(key, _)| counts(key)).collect();
    // The steps' memory goes before the kernels' operands come.
    drop(trainer);
    output::line(format!(
        "\n{:>5} {:>5} {:>10} {:>9} {:>9} {:>6}  kernel",
        "train", "eval", "candidates", "rule ms", "best ms", "gain"
    ))?;
    let mut changed = 0;
    for ((key, kernel), counts) in tunable.iter().zip(counts) {
        let measured = tune(&device, &target, *key, kernel, counts)?;
        changed += usize::from(measured.choice > 0);
        found.take(kernel.describe(), &measured);
    }
    found.save()?;
    output::line(format!(
        "\n{changed} of {} kernels have a faster variant: {}",
        tunable.len(),
        found.path().display()
    ))?;
    if changed == 0 {
        return output::line("so nothing changes: the static rule's variants are the fastest here");
    }
    let mut trainer = train::build(config, device.tuned(found.choices()), false, false, &Ranks::alone())?;
    let after = step_times(&mut trainer)?;
    report(before, after)?;
    output::line("later runs on this adapter use them, and say so; --untuned does not")
}

/// Measures a kernel, and prints its line.
fn tune(
    device: &Device,
    target: &Target,
    key: u64,
    kernel: &Arc<dyn Kernel>,
    (training, evaluation): (usize, usize),
) -> Result<Measured> {
    let what = kernel.describe();
    let measured = tuning::measure(device, target, key, kernel).with_context(|| format!("cannot measure {what}"))?;
    for (index, candidate) in measured.candidates.iter().enumerate() {
        if let Candidate::Refused(problem) = candidate {
            output::note(format!("variant {index} of {what} is left out: {problem}"));
        }
    }
    let (before, after) = (1e3 * measured.before(), 1e3 * measured.after());
    output::line(format!(
        "{training:>5} {evaluation:>5} {:>10} {before:>9.4} {after:>9.4} {:>4.0} %  {what}",
        measured.candidates.len(),
        100.0 * (1.0 - after / before)
    ))?;
    Ok(measured)
}

/// What whole steps gained.
fn report(before: StepTimes, after: StepTimes) -> Result<()> {
    for (what, before, after) in
        [("training", before.training, after.training), ("evaluation", before.evaluation, after.evaluation)]
    {
        let [before, after] = [before, after].map(|time| 1e3 * time.as_secs_f64());
        let change = 100.0 * (after / before - 1.0);
        output::line(format!("{what} step: {before:.3} ms before, {after:.3} ms with them ({change:+.1} %)"))?;
    }
    Ok(())
}
