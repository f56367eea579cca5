//! Choosing among the variants of kernels by measuring them on this adapter.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tensor::Device;
use tensor::tuning::{Candidate, Measured, Outcome};

use crate::commands::refuse_options_of_runs;
use crate::machine::about;
use crate::machine::calendar::today;
use crate::machine::choices::{self, Tuned};
use crate::options::args::TuneArgs;
use crate::options::config::Config;
use crate::output;
use crate::ranks::Ranks;
use crate::run::files::{check_target, write_atomically};
use crate::show::progress::Measurement;
use crate::training::setup;
use crate::training::variants::{self, SLOWER, Steps, VariedKernel, Verdict};

/// Approximate time in which steps with what was chosen are measured, alternating with the others.
const STEPS: Duration = Duration::from_secs(10);

/// Measures the candidates of every kernel of a training step and an evaluation step, and keeps what is faster than the
/// static rule's variant, for later runs on this adapter.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done.
pub fn run(args: &TuneArgs) -> Result<()> {
    refuse_options_of_runs(&args.train, "tune")?;
    if let Some(path) = &args.json {
        check_target("--json", path)?;
    }
    let config = Config::new(&args.train)?;
    let device = choices::open_untuned(&config.device)?;
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
    let begun = Instant::now();
    let mut trainer = setup::build(config, device.clone(), false, true, &Ranks::alone())?;
    let varied_kernels = variants::varied_kernels(&mut trainer, target)?;
    output::line(format!(
        "\n{:>5} {:>5} {:>10} {:>9} {:>9} {:>6}  kernel",
        "train", "eval", "candidates", "rule ms", "best ms", "gain"
    ))?;
    let mut results: Vec<Result<Measured, String>> = Vec::with_capacity(varied_kernels.len());
    let mut progress = Measurement::new(varied_kernels.len());
    let measured = variants::measure(&trainer, target, &varied_kernels, &mut found, None, |varied, outcome| {
        progress.advance();
        results.push(told(&progress, varied, outcome));
        Ok(())
    });
    progress.finish();
    measured?;
    let new: Vec<u64> = varied_kernels.iter().map(|varied| varied.key).collect();
    let verdict = variants::settle(&mut trainer, &mut found, &new, STEPS, true)?;
    found.save()?;
    let chosen = results.iter().flatten().filter(|measured| measured.choice > 0).count();
    report(&verdict, &varied_kernels, chosen, &found)?;
    let Some(path) = &args.json else { return Ok(()) };
    let rows =
        varied_kernels.iter().zip(&results).map(|(varied, result)| row(varied, result, &verdict)).collect::<Vec<_>>();
    write(path, &as_json(&device, &trainer.config, &found, &verdict, &rows, begun.elapsed()))
}

/// The measurements, for programs.
fn as_json(
    device: &Device,
    config: &Config,
    found: &Tuned,
    verdict: &Verdict,
    rows: &[Value],
    time: Duration,
) -> Value {
    json!({
        "program": about::program(),
        "device": about::device(device),
        "date": today(),
        "net": config.network.net,
        "branches": config.network.branches,
        "method": config.method.name(),
        "precision": config.precision,
        "batch": config.batch,
        "seconds": time.as_secs_f64(),
        "file": found.path(),
        "kept": verdict.kept,
        "steps": verdict.steps.map(steps),
        "kernels": rows,
    })
}

fn write(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, format!("{}\n", serde_json::to_string_pretty(value)?).as_bytes())
}

/// Prints a kernel's line, and returns what was found of it, or why nothing was.
fn told(progress: &Measurement, varied: &VariedKernel, outcome: &Outcome) -> Result<Measured, String> {
    let what = varied.kernel.describe();
    let measured = match outcome {
        Outcome::Measured(measured) => measured,
        Outcome::OutOfTime => return Err("there was no time left".to_owned()),
        Outcome::Failed(error) => {
            progress.note(&format!("{what} is not measured: {error}"));
            return Err(error.to_string());
        }
    };
    for (index, candidate) in measured.candidates.iter().enumerate() {
        if let Candidate::Refused(problem) = candidate {
            progress.note(&format!("variant {index} of {what} is left out: {problem}"));
        }
    }
    let (before, after) = (1e3 * measured.before(), 1e3 * measured.after());
    progress.line(&format!(
        "{:>5} {:>5} {:>10} {before:>9.4} {after:>9.4} {:>4.0} %  {what}",
        varied.training,
        varied.evaluation,
        measured.candidates.len(),
        100.0 * (1.0 - after / before)
    ));
    Ok(measured.clone())
}

/// Prints what became of the choices, and what whole steps gained.
fn report(verdict: &Verdict, varied_kernels: &[VariedKernel], chosen: usize, found: &Tuned) -> Result<()> {
    output::line(format!(
        "\n{chosen} of {} kernels have a faster variant: {}",
        varied_kernels.len(),
        found.path().display()
    ))?;
    let by_key: BTreeMap<u64, &VariedKernel> = varied_kernels.iter().map(|varied| (varied.key, varied)).collect();
    for key in &verdict.dropped {
        if let (Some(varied), Some([before, after])) = (by_key.get(key), verdict.in_steps.get(key)) {
            output::line(format!(
                "within steps it is not faster ({:.4} ms before, {:.4} ms with it), so the rule's stays: {}",
                1e3 * before,
                1e3 * after,
                varied.kernel.describe()
            ))?;
        }
    }
    let Some(steps) = verdict.steps else {
        return output::line("so nothing changes: the static rule's variants are the fastest here");
    };
    for (what, times) in [("training", Some(steps.training)), ("evaluation", steps.evaluation)] {
        if let Some([before, after]) = times {
            let [before_ms, after_ms] = [1e3 * before, 1e3 * after];
            let change = 100.0 * (after / before - 1.0);
            output::line(format!(
                "{what} step: {before_ms:.3} ms before, {after_ms:.3} ms with them ({change:+.1} %)"
            ))?;
        }
    }
    match verdict.kept {
        true => output::line("later runs on this adapter use them, and say so; --untuned does not"),
        false => output::line(format!(
            "a training step is slower with them by more than {:.0} %, so the static rule's variants stay",
            100.0 * SLOWER
        )),
    }
}

fn steps(steps: Steps) -> Value {
    let pair = |[before, after]: [f64; 2]| json!({ "before_seconds": before, "after_seconds": after });
    json!({ "training": pair(steps.training), "evaluation": steps.evaluation.map(pair) })
}

/// Results of a kernel, for programs.
fn row(varied: &VariedKernel, result: &Result<Measured, String>, verdict: &Verdict) -> Value {
    let candidates = |measured: &Measured| -> Vec<Value> {
        let candidate = |(variant, candidate): (usize, &Candidate)| match candidate {
            Candidate::Timed { lower, median, upper } => json!({
                "variant": variant,
                "lower_seconds": lower,
                "median_seconds": median,
                "upper_seconds": upper,
            }),
            Candidate::Slow => json!({ "variant": variant, "left_out": "it is far slower than another" }),
            Candidate::Refused(problem) => json!({ "variant": variant, "left_out": problem }),
        };
        measured.candidates.iter().enumerate().map(candidate).collect()
    };
    let in_steps = verdict.in_steps.get(&varied.key);
    let stays = result.as_ref().is_ok_and(|it| it.choice > 0 && verdict.kept && !verdict.dropped.contains(&varied.key));
    json!({
        "kernel": varied.kernel.describe(),
        "key": format!("{:016x}", varied.key),
        "training": varied.training,
        "evaluation": varied.evaluation,
        "candidates": result.as_ref().ok().map(candidates),
        "left_out": result.as_ref().err(),
        "fastest": result.as_ref().ok().map(|measured| measured.choice),
        "choice": if stays { result.as_ref().map_or(0, |measured| measured.choice) } else { 0 },
        "before_seconds": result.as_ref().ok().map(Measured::before),
        "after_seconds": result.as_ref().ok().map(Measured::after),
        "in_steps": in_steps.map(|[before, after]| json!({ "before_seconds": before, "after_seconds": after })),
    })
}
