//! Time of a training step, kernel by kernel, against what the device can do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tensor::{Device, Peaks, Program};

use crate::commands::refuse_options_of_runs;
use crate::machine::about;
use crate::machine::choices::Tuning;
use crate::machine::timing::Spent;
use crate::options::args::{ProfileArgs, TrainArgs};
use crate::output;
use crate::ranks::Ranks;
use crate::show::words::workers;
use crate::training::{Trainer, setup};

/// Approximate time to measure for, and the most steps.
const TIME: Duration = Duration::from_secs(3);
const MOST_RUNS: u32 = 50;
/// Fewest steps that a median is taken of.
const FEWEST_RUNS: usize = 5;

/// Form of the output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Form {
    /// A line for each kernel and shape, instead of one for each kernel.
    pub by_shape: bool,
    /// JSON instead of a table.
    pub json: bool,
}

/// Profiles the steps of a training that is not run.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done.
pub fn run(args: &ProfileArgs) -> Result<()> {
    refuse_options_of_runs(&args.train, "profile")?;
    measure(&args.train, Form { by_shape: args.by_shape, json: args.json })
}

/// Measures the device's peaks, each kernel of a training step, and whole steps of training and evaluation, and prints
/// them.
///
/// # Errors
/// As [`run`].
pub fn measure(args: &TrainArgs, form: Form) -> Result<()> {
    let mut trainer = setup::new_trainer(args, !form.json, &Ranks::alone())?;
    let peaks = Peaks::measure(&trainer.device).context("cannot measure what the device can do")?;
    let steps = step_times(&mut trainer)?;
    let runs = (TIME.as_secs_f64() / steps.training.as_secs_f64().max(1e-6)).clamp(1.0, MOST_RUNS.into()) as u32;
    let rows = rows(&mut trainer.training.program, runs, form.by_shape, &peaks)?;
    if form.json {
        return output::line(as_json(&trainer, &peaks, &rows, steps));
    }
    print_peaks(&peaks)?;
    print_rows(&rows, &peaks)?;
    print_fusion(&trainer.training.program)?;
    print_steps(&rows, steps, trainer.config.batch, &peaks)?;
    let workers = workers(trainer.config.worker_threads());
    let order = trainer.sampler.epoch(0);
    if let Some(stream) = &mut trainer.training.stream {
        let rate = stream.measure(&order, TIME)?;
        output::line(format!("preparing images         {rate:>24.1} images/s by {workers}, alone"))?;
    }
    Ok(())
}

/// All dispatches of a kernel, or of a kernel on one set of shapes, in a step.
#[derive(Debug)]
struct Row {
    kernel: &'static str,
    /// With its shapes, where rows are told apart by them.
    name: String,
    count: usize,
    spent: Spent,
}

impl Row {
    fn new(kernel: &'static str, name: String) -> Self {
        Self { kernel, name, count: 0, spent: Spent::default() }
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.spent.add(&other.spent);
    }

    /// Tells whether it is a matrix product, as convolutions are.
    fn is_product(&self) -> bool {
        self.kernel == "gemm" || self.kernel.starts_with("conv2d")
    }
}

/// The kernels of a step, the longest first.
fn rows(program: &mut Program, runs: u32, by_shape: bool, peaks: &Peaks) -> Result<Vec<Row>> {
    let times = program.time_kernels(runs)?;
    let mut rows: Vec<Row> = Vec::new();
    for (work, time) in program.work().iter().zip(times) {
        let name = if by_shape { work.describe() } else { work.name().to_owned() };
        let spent = Spent::new(time, work.cost(), peaks);
        let one = Row { count: 1, spent, ..Row::new(work.name(), name) };
        match rows.iter_mut().find(|row| row.name == one.name) {
            Some(row) => row.add(&one),
            None => rows.push(one),
        }
    }
    rows.sort_by(|a, b| b.spent.seconds.total_cmp(&a.spent.seconds));
    Ok(rows)
}

fn sum<'a>(rows: impl IntoIterator<Item = &'a Row>, name: &str) -> Row {
    let mut all = Row::new("", name.to_owned());
    rows.into_iter().for_each(|row| all.add(row));
    all
}

pub(super) fn print_peaks(peaks: &Peaks) -> Result<()> {
    let workgroup = peaks
        .workgroup_bytes
        .map_or_else(String::new, |bytes| format!(", {:.1} GB/s of workgroup memory in reads", bytes / 1e9));
    output::line(format!(
        "{:<12} {:.1} GFLOP/s in multiply-adds, {:.1} GB/s of memory in copies{workgroup}",
        "peaks",
        peaks.flops / 1e9,
        peaks.bytes / 1e9
    ))
}

/// Prints how often each rule of fusion has changed the step as it was recorded.
fn print_fusion(program: &Program) -> Result<()> {
    output::line("\n fused times  by the rule".to_owned())?;
    for (rule, times) in program.fired() {
        output::line(format!("{times:>12}  {rule}"))?;
    }
    Ok(())
}

fn print_rows(rows: &[Row], peaks: &Peaks) -> Result<()> {
    let all = sum(rows, "all, one by one");
    output::line(format!(
        "\n{:>6} {:>10} {:>7} {:>9} {:>7} {:>8} {:>7} {:>9}  kernel",
        "count", "ms", "share", "GFLOP/s", "of peak", "GB/s", "of peak", "roofline"
    ))?;
    for row in rows.iter().chain([&all]) {
        output::line(format!(
            "{:>6} {:>10.3} {:>5.1} % {:>9.1} {:>5.1} % {:>8.1} {:>5.1} % {:>7.1} %  {}",
            row.count,
            1e3 * row.spent.seconds,
            100.0 * row.spent.seconds / all.spent.seconds.max(1e-12),
            row.spent.flops() / 1e9,
            100.0 * row.spent.flops() / peaks.flops,
            row.spent.bytes() / 1e9,
            100.0 * row.spent.bytes() / peaks.bytes,
            100.0 * row.spent.least / row.spent.seconds.max(1e-12),
            row.name
        ))?;
    }
    Ok(())
}

fn print_steps(rows: &[Row], steps: StepTimes, batch: usize, peaks: &Peaks) -> Result<()> {
    let products = sum(rows.iter().filter(|row| row.is_product()), "products").spent;
    let all = sum(rows, "all").spent;
    output::line(format!(
        "\nmatrix products, convolutions among them: {:.1} % of the time, at {:.1} GFLOP/s, {:.1} % of the peak",
        100.0 * products.seconds / all.seconds.max(1e-12),
        products.flops() / 1e9,
        100.0 * products.flops() / peaks.flops
    ))?;
    output::line(format!(
        "roofline of the step: {:.3} ms, which is {:.1} % of what it takes",
        1e3 * all.least,
        100.0 * all.least / steps.training.as_secs_f64().max(1e-12)
    ))?;
    for (what, time, images) in
        [("a training step", steps.training, batch), ("an evaluation step", steps.evaluation, steps.images)]
    {
        let seconds = time.as_secs_f64();
        output::line(format!("{what:<24} {:>10.3} ms   {:.1} images/s", 1e3 * seconds, images as f64 / seconds))?;
    }
    Ok(())
}

fn as_json(trainer: &Trainer, peaks: &Peaks, rows: &[Row], steps: StepTimes) -> serde_json::Value {
    let config = &trainer.config;
    let all = sum(rows, "all").spent;
    let kernels: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "kernel": row.name,
                "matrix_product": row.is_product(),
                "count": row.count,
                "seconds": row.spent.seconds,
                "flops": row.spent.cost.flops,
                "bytes": row.spent.cost.bytes,
                "least_seconds": row.spent.least,
            })
        })
        .collect();
    let adapter = trainer.device.adapter();
    json!({
        "device": trainer.device.name(),
        "backend": adapter.map(|adapter| &adapter.backend),
        "driver": adapter.map(|adapter| &adapter.driver),
        "net": config.network.net,
        "branches": config.network.branches,
        "method": config.method.name(),
        "precision": config.precision,
        "batch": config.batch,
        "tuning": config.tuning.as_ref().map(Tuning::fingerprint),
        "peaks": about::peaks(peaks),
        "training": {
            "images": config.batch,
            "seconds": steps.training.as_secs_f64(),
            "seconds_one_by_one": all.seconds,
            "least_seconds": all.least,
            "flops": all.cost.flops,
            "bytes": all.cost.bytes,
            "kernels": kernels,
            "fused": trainer.training.program.fired(),
        },
        "evaluation": { "images": steps.images, "seconds": steps.evaluation.as_secs_f64() },
    })
}

/// Median times of whole steps.
#[derive(Debug, Clone, Copy)]
pub struct StepTimes {
    /// Time of a training step.
    pub training: Duration,
    /// Time of an evaluation step.
    pub evaluation: Duration,
    /// Images of an evaluation step.
    pub images: usize,
}

/// Times steps of training and evaluation, each after one that warms up.
///
/// # Errors
/// When the device fails.
pub fn step_times(trainer: &mut Trainer) -> Result<StepTimes> {
    let order = trainer.sampler.epoch(0);
    let settings = trainer.settings(0);
    let device = trainer.device.clone();
    trainer.training.run(&order, 0, settings)?;
    let training = median(&device, || trainer.training.run_fed(settings))?;
    let mut images = trainer.evaluation.run(0, 0, settings.weights)?;
    let evaluation = median(&device, || {
        images = trainer.evaluation.run(0, 0, settings.weights)?;
        Ok(())
    })?;
    Ok(StepTimes { training, evaluation, images })
}

/// The median time of a step, over some seconds.
pub(super) fn median(device: &Device, mut step: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::new();
    let begun = Instant::now();
    while times.len() < FEWEST_RUNS || (begun.elapsed() < TIME && times.len() < MOST_RUNS as usize) {
        device.synchronize()?;
        let started = Instant::now();
        step()?;
        device.synchronize()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
