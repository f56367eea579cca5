//! Check that a device computes what it should: every kernel against its reference, and whole training steps.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use cases::steps::{self, Check, Reference};
use cases::verify::{Failure, Opened, Outcome, Reach, verify_all};
use cases::{Case, Mismatch};
use serde_json::{Value, json};
use tensor::device::{GpuOptions, open_with};
use tensor::{DType, Device, Target};

use crate::failure::usage;
use crate::interrupt;
use crate::machine::{about, calendar};
use crate::options::args::SelftestArgs;
use crate::output::line;
use crate::run::files::{check_target, write_atomically};
use crate::show::progress::Measurement;
use crate::show::words::{describe_device, grouped};

/// Failures that are printed at most.
const MOST_LINES: usize = 20;

/// Checks a device, prints what was found, and writes it if asked to.
///
/// # Errors
/// When something is wrong, or the check was interrupted; when the device is not there or cannot be opened; and when
/// the file cannot be written.
pub fn run(args: &SelftestArgs) -> Result<()> {
    let cases = selected(args)?;
    if let Some(file) = &args.json {
        check_target("--json", file)?;
    }
    interrupt::catch()?;
    let device = open(args, false, None)?;
    line(format!("{:<12} {}", "device", describe_device(&device)))?;
    line(format!("{:<12} {}", "kernels", kernels_in_words(&device, &cases, args.quick)))?;
    let found = find(args, device, &cases)?;
    if let Some(file) = &args.json {
        write_atomically(file, format!("{:#}\n", found.as_json(args)).as_bytes())?;
    }
    found.print()?;
    found.conclude()
}

/// The cases that were asked for.
fn selected(args: &SelftestArgs) -> Result<Vec<Case>> {
    let named = |case: &Case| args.case.as_ref().is_none_or(|text| case.name.contains(text));
    let cases: Vec<Case> = cases::all().into_iter().filter(|case| named(case) && (case.quick || !args.quick)).collect();
    match &args.case {
        Some(text) if cases.is_empty() => {
            let few = if args.quick { ", of those that --quick takes" } else { "" };
            Err(usage(format!(
                "no case's name contains \"{text}\"{few}; they begin with a kernel's, as in conv2d_forward/"
            )))
        }
        _ => Ok(cases),
    }
}

fn kernels_in_words(device: &Device, cases: &[Case], quick: bool) -> String {
    let variants = match quick {
        _ if !device.is_gpu() => "as the CPU device computes them",
        true => "in every variant that the device may choose, and with naga's checks in the one that it takes untuned",
        false => "in every variant that the device can run, with naga's checks and without",
    };
    format!("{} cases, {variants}", grouped(cases.len()))
}

/// Opens the device that is meant, with naga's checks or without, as what it is or for a target.
fn open(args: &SelftestArgs, checked: bool, target: Option<Target>) -> tensor::Result<Device> {
    open_with(&args.device, GpuOptions { checked, target })
}

/// Findings.
struct Found {
    device: Device,
    outcomes: Vec<Outcome>,
    steps: Vec<Check>,
    /// Cases that were to be run.
    cases: usize,
    interrupted: bool,
    seconds: f64,
}

/// Runs everything that was asked for.
fn find(args: &SelftestArgs, device: Device, cases: &[Case]) -> Result<Found> {
    let started = Instant::now();
    let runs = if args.case.is_none() { step_runs(&device, args.quick) } else { Vec::new() };
    let progress = Mutex::new(Measurement::of("checking", cases.len() + runs.len()));
    let advance = || progress.lock().unwrap_or_else(PoisonError::into_inner).advance();
    let watch = |_: &Outcome| {
        advance();
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let opened = |checked| {
        let reach = match (args.quick, checked) {
            (false, _) => Reach::All,
            (true, false) => Reach::Own,
            (true, true) => Reach::Rule,
        };
        open(args, checked, None).map(|device| Opened { checked, device, reach })
    };
    // Shaders alone have checks.
    let checks: &[bool] = if device.is_gpu() { &[true, false] } else { &[false] };
    let all = || -> tensor::Result<Vec<Opened>> { checks.iter().copied().map(opened).collect() };
    let outcomes = verify_all(cases, &all, &watch)?;
    let mut steps = Vec::new();
    for run in runs {
        if interrupt::requested() {
            break;
        }
        steps.extend(run.check(args)?);
        advance();
    }
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    let (cases, interrupted, seconds) = (cases.len(), interrupt::requested(), started.elapsed().as_secs_f64());
    Ok(Found { device, outcomes, steps, cases, interrupted, seconds })
}

/// Whole steps to be run.
struct StepRun {
    name: &'static str,
    precision: DType,
    /// Target that the device is taken for, if not its own.
    target: Option<Target>,
    /// True if there is something to compare with.
    compared: bool,
}

/// Steps in 32 bits, and, unless it is to be quick, in 16 bits in each way to store them that the device can.
fn step_runs(device: &Device, quick: bool) -> Vec<StepRun> {
    let run = |name, precision| StepRun { name, precision, target: None, compared: device.is_gpu() };
    let mut runs = vec![run("32 bits", DType::F32), run("16 bits", DType::F16)];
    if let Some(target) = device.target().filter(|target| target.shader_f16) {
        let packed = Some(Target { shader_f16: false, ..target });
        runs.push(StepRun { target: packed, ..run("16 bits packed into words", DType::F16) });
    }
    // Compiling them is half of the time of a quick check on a software adapter.
    runs.truncate(if quick { 1 } else { runs.len() });
    runs
}

impl StepRun {
    fn check(&self, args: &SelftestArgs) -> Result<Vec<Check>> {
        let reference = self.compared.then(|| Reference::new(self.precision)).transpose();
        let reference = reference.map_err(|error| anyhow!("cannot take steps on the CPU device: {error}"))?;
        Ok(match open(args, false, self.target) {
            Ok(device) => steps::check(&device, self.precision, self.name, reference.as_ref()),
            Err(error) => {
                vec![Check { what: format!("steps in {}", self.name), worst: None, problem: Some(error.to_string()) }]
            }
        })
    }
}

/// All cases of a kernel.
struct Row {
    kernel: &'static str,
    cases: usize,
    candidates: usize,
    runs: usize,
    failed: usize,
    worst: f64,
    seconds: f64,
}

impl Found {
    /// A row for each kernel, in the order of the table of cases.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for outcome in &self.outcomes {
            let kernel = outcome.kernel;
            let known = rows.iter().position(|row| row.kernel == kernel);
            let index = known.unwrap_or_else(|| {
                rows.push(Row { kernel, cases: 0, candidates: 0, runs: 0, failed: 0, worst: 0.0, seconds: 0.0 });
                rows.len() - 1
            });
            let row = &mut rows[index];
            row.cases += 1;
            row.candidates += outcome.candidates;
            row.runs += outcome.runs;
            row.failed += outcome.failures.len();
            row.worst = row.worst.max(outcome.worst);
            row.seconds += outcome.time.as_secs_f64();
        }
        rows
    }

    fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.outcomes.iter().flat_map(|outcome| &outcome.failures)
    }

    fn runs(&self) -> usize {
        self.outcomes.iter().map(|outcome| outcome.runs).sum()
    }

    /// Checks of whole steps in which something is wrong.
    fn wrong_steps(&self) -> usize {
        self.steps.iter().filter(|check| check.problem.is_some()).count()
    }

    fn passed(&self) -> bool {
        !self.interrupted && self.failures().next().is_none() && self.wrong_steps() == 0
    }

    fn as_json(&self, args: &SelftestArgs) -> Value {
        let kernel = |row: Row| {
            json!({
                "kernel": row.kernel,
                "cases": row.cases,
                "candidates": row.candidates,
                "runs": row.runs,
                "failed": row.failed,
                // Null where a value is not finite, or an integer differs.
                "worst": row.worst,
                "seconds": row.seconds,
            })
        };
        json!({
            "program": about::program(),
            "device": about::device(&self.device),
            "date": calendar::today(),
            "quick": args.quick,
            "case": args.case,
            "complete": !self.interrupted,
            "passed": self.passed(),
            "seconds": self.seconds,
            "cases": self.outcomes.len(),
            "runs": self.runs(),
            "kernels": self.rows().into_iter().map(kernel).collect::<Vec<_>>(),
            "failures": self.failures().map(failure).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }

    fn print(&self) -> Result<()> {
        if !self.outcomes.is_empty() {
            line(format!(
                "\n{:>6} {:>10} {:>6} {:>6} {:>14} {:>9}  kernel",
                "cases", "candidates", "runs", "wrong", "of tolerance", "seconds"
            ))?;
        }
        for row in self.rows() {
            let Row { kernel, cases, candidates, runs, failed, worst, seconds } = row;
            let worst = 100.0 * worst;
            line(format!(
                "{cases:>6} {candidates:>10} {runs:>6} {failed:>6} {worst:>12.1} % {seconds:>9.2}  {kernel}"
            ))?;
        }
        if !self.steps.is_empty() {
            line("")?;
        }
        for Check { what, worst, problem } in &self.steps {
            let worst = worst.map_or_else(String::new, |worst| format!(", within {:.1} % of tolerance", 100.0 * worst));
            match problem {
                None => line(format!("right        {what}{worst}"))?,
                Some(problem) => line(format!("wrong        {what}: {problem}"))?,
            }
        }
        let count = self.failures().count();
        if count > 0 {
            line("")?;
        }
        for failure in self.failures().take(MOST_LINES) {
            line(format!("wrong        {failure}"))?;
        }
        if count > MOST_LINES {
            line(format!("and {} more, which --json FILE writes", grouped(count - MOST_LINES)))?;
        }
        Ok(())
    }

    /// Says what it comes to.
    fn conclude(&self) -> Result<()> {
        let (runs, steps) = (grouped(self.runs()), self.steps.len());
        let (wrong, wrong_steps) = (self.failures().count(), self.wrong_steps());
        let counts =
            format!("{} of {runs} runs of kernels and {wrong_steps} of {steps} checks of whole steps", grouped(wrong));
        let name = self.device.name();
        if self.interrupted {
            let (done, all) = (grouped(self.outcomes.len()), grouped(self.cases));
            bail!("interrupted after {done} of {all} cases: until then, {counts} were wrong on {name}");
        }
        if !self.passed() {
            bail!("{counts} are wrong on {name}: do not trust what it trains; --device cpu takes the CPU instead");
        }
        line(format!(
            "\nall is right on {name}: {runs} runs of kernels, {steps} checks of whole steps, in {:.1} s",
            self.seconds
        ))
    }
}

fn failure(failure: &Failure) -> Value {
    let Failure { case, candidate, checked, mismatch, problem } = failure;
    let of = |value: fn(&Mismatch) -> Value| mismatch.as_ref().map(value);
    json!({
        "case": case,
        "candidate": candidate,
        "checked": checked,
        "output": of(|mismatch| json!(mismatch.output)),
        "index": of(|mismatch| json!(mismatch.index)),
        "expected": of(|mismatch| number(mismatch.expected)),
        "got": of(|mismatch| number(mismatch.got)),
        "problem": problem,
    })
}

fn step(check: &Check) -> Value {
    let Check { what, worst, problem } = check;
    json!({ "what": what, "worst": worst, "passed": problem.is_none(), "problem": problem })
}

/// A number, for which JSON has no form where it is not finite: then its name.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}
