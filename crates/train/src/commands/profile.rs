//! Where a training step spends its time.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::output;
use crate::training::Trainer;

/// How long to measure, about, and how many steps at most.
const TIME: Duration = Duration::from_secs(3);
const MOST_RUNS: u32 = 50;

/// Prints the time, speed, count and share of each kernel of a training step, after two steps that warm up.
///
/// # Errors
/// When the device fails.
pub fn run(trainer: &mut Trainer) -> Result<()> {
    let picks = trainer.sampler.epoch(0);
    let settings = trainer.settings(0);
    trainer.training.run(picks.step(0), settings)?;
    trainer.device.synchronize()?;
    let started = Instant::now();
    trainer.training.run(picks.step(0), settings)?;
    trainer.device.synchronize()?;
    let step = started.elapsed();
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
    output::line(format!(
        "{:<24} {:>6} {:>10.3}   {:.0} images/s",
        "a whole step",
        "",
        milliseconds(step),
        trainer.config.batch as f64 / step.as_secs_f64()
    ))
}
