//! Where a training step spends its time.

use std::time::{Duration, Instant};

use anyhow::Result;
use tensor::Device;

use crate::output;
use crate::training::{Trainer, workers};

/// How long to measure, about, and how many steps at most.
const TIME: Duration = Duration::from_secs(3);
const MOST_RUNS: u32 = 50;
/// Fewest steps that a median is taken of.
const FEWEST_RUNS: usize = 5;

/// Prints the time, speed, count and share of each kernel of a training step, and the median time of whole steps of
/// training and evaluation, after two steps that warm up.
///
/// # Errors
/// When the device fails.
pub fn run(trainer: &mut Trainer) -> Result<()> {
    let order = trainer.sampler.epoch(0);
    let settings = trainer.settings(0);
    let device = trainer.device.clone();
    trainer.training.run(&order, 0, settings)?;
    let step = median(&device, || trainer.training.run_fed(settings))?;
    let weights = settings.weights;
    let mut images = trainer.evaluation.run(0, 0, weights)?;
    let evaluation = median(&device, || {
        images = trainer.evaluation.run(0, 0, weights)?;
        Ok(())
    })?;
    let runs = (TIME.as_secs_f64() / step.as_secs_f64().max(1e-6)).clamp(1.0, MOST_RUNS.into()) as u32;
    let rows = trainer.training.program.profile(runs)?;
    let total: Duration = rows.iter().map(|row| row.time).sum();
    let share = |time: Duration| 100.0 * time.as_secs_f64() / total.as_secs_f64().max(1e-12);
    let milliseconds = |time: Duration| 1e3 * time.as_secs_f64();
    output::line(format!(
        "\n{:<24} {:>6} {:>10} {:>7} {:>9} {:>8}",
        "kernel", "count", "ms", "share", "GFLOP/s", "GB/s"
    ))?;
    for row in &rows {
        let (time, flops, bytes) = (milliseconds(row.time), row.gflops(), row.gigabytes());
        output::line(format!(
            "{:<24} {:>6} {time:>10.3} {:>5.1} % {flops:>9.1} {bytes:>8.1}",
            row.kernel,
            row.count,
            share(row.time)
        ))?;
    }
    let count: usize = rows.iter().map(|row| row.count).sum();
    let flops: u64 = rows.iter().map(|row| row.cost.flops).sum();
    let rate = flops as f64 / total.as_secs_f64().max(1e-12) / 1e9;
    output::line(format!(
        "{:<24} {count:>6} {:>10.3} {:>5.1} % {rate:>9.1}",
        "all, one by one",
        milliseconds(total),
        100.0
    ))?;
    for (what, time, images) in
        [("a training step", step, trainer.config.batch), ("an evaluation step", evaluation, images)]
    {
        let rate = images as f64 / time.as_secs_f64();
        output::line(format!("{what:<24} {:>6} {:>10.3}   {rate:.1} images/s", "", milliseconds(time)))?;
    }
    let workers = workers(trainer.config.worker_threads());
    if let Some(stream) = &mut trainer.training.stream {
        let rate = stream.measure(&order, TIME)?;
        output::line(format!("preparing images         {rate:>24.1} images/s by {workers}, alone"))?;
    }
    Ok(())
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
