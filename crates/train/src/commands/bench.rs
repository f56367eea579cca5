//! Images per second of a list of networks on one device.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tensor::{Choices, Device, Peaks};

use crate::commands::profile::print_peaks;
use crate::machine::about;
use crate::machine::calendar::today;
use crate::machine::choices::{self, Origin, Wanted};
use crate::machine::timing::{Spent, block, median};
use crate::options::args::{BenchArgs, Cli, Precision};
use crate::options::config::Config;
use crate::ranks::Ranks;
use crate::run::files::{check_target, write_atomically};
use crate::show::progress::Measurement;
use crate::show::words::{byte_size, describe_device};
use crate::step::programs::StepSettings;
use crate::training::setup::build;
use crate::{interrupt, output};

/// Shares of the time for a row: of training steps, of evaluation steps, and of what the device and the host do for
/// one.
const TRAINING: f64 = 0.5;
const EVALUATION: f64 = 0.25;
const PARTS: f64 = 0.25;
/// Blocks that the time is divided into, and the fewest that a median is taken of.
const BLOCKS: f64 = 10.0;
const FEWEST_BLOCKS: usize = 3;
/// Most steps of a block: enough for the device never to wait for the host.
const MOST_STEPS: f64 = 200.0;
/// Most runs by which time on the device, and time of the host, are measured.
const MOST_RUNS: f64 = 10.0;

/// A row of the table that is to be measured.
#[derive(Debug, Clone)]
struct Row {
    net: String,
    branches: usize,
    precision: Precision,
    batch: usize,
}

/// Steps of one kind, in seconds for a step.
#[derive(Debug, Clone, PartialEq)]
struct Blocks {
    seconds: Vec<f64>,
    /// Steps of all blocks.
    steps: usize,
}

/// Measurements of a row.
#[derive(Debug)]
struct Found {
    training: Blocks,
    evaluation: Blocks,
    /// Images of an evaluation step.
    images: usize,
    device: Spent,
    host: f64,
    memory: u64,
    /// The fingerprint of the variants that its kernels run, where they are not all the static rule's.
    tuning: Option<String>,
}

/// Measures every network at every batch in every precision, on synthetic data, and prints a line for each.
///
/// # Errors
/// When the device cannot be had, the file cannot be written, or the end was asked for. What cannot be measured is
/// skipped.
pub fn run(args: &BenchArgs) -> Result<()> {
    if let Some(path) = &args.json {
        check_target("--json", path)?;
    }
    // A name that means nothing is wrong usage, before anything is measured.
    for (net, _) in &args.nets {
        nets::architecture(net, nets::resnet::Shortcut::B)?;
    }
    interrupt::catch()?;
    let wanted = if args.untuned { Wanted::Rule } else { Wanted::Known };
    let open = || choices::open(&args.device, wanted, 0);
    let (mut device, origin) = open()?;
    let choices = origin.choices();
    let tuned = match &origin {
        Origin::File(tuned) => Some(format!("{tuned}")),
        Origin::Rule | Origin::Run(_) => None,
    };
    output::line(format!("{:<12} {}", "device", describe_device(&device)))?;
    output::line(format!("{:<12} {}", "kernels", tuned.as_deref().unwrap_or("the static rule's variants")))?;
    let peaks = Peaks::measure(&device).context("cannot measure what the device can do")?;
    print_peaks(&peaks)?;
    let head = json!({
        "program": about::program(),
        "device": about::device(&device),
        "date": today(),
        "peaks": about::peaks(&peaks),
        "tuned": tuned,
        "seconds_per_row": args.seconds,
    });
    let wanted = rows(args);
    let mut progress = Measurement::new(wanted.len());
    progress.line(&heading());
    let mut done: Vec<Value> = Vec::with_capacity(wanted.len());
    save(args.json.as_deref(), &head, &done, false)?;
    for row in &wanted {
        let found = measure(row, (&device, &choices), &peaks, args.seconds);
        if interrupt::requested() {
            progress.finish();
            bail!("interrupted after {} of {} rows{}", done.len(), wanted.len(), kept(args.json.as_deref()));
        }
        let line = match &found {
            Ok(found) => line(row, found, &peaks),
            Err(error) => format!("{} skipped: {}", name(row), sentence(error)),
        };
        progress.line(&line);
        done.push(as_json(row, &found));
        save(args.json.as_deref(), &head, &done, false)?;
        if found.is_err() && device.is_gpu() {
            // A device that was lost fails for good.
            device = open()?.0;
        }
        progress.advance();
    }
    progress.finish();
    save(args.json.as_deref(), &head, &done, true)
}

/// The rows, the networks one after another.
fn rows(args: &BenchArgs) -> Vec<Row> {
    let mut rows = Vec::new();
    for (net, branches) in &args.nets {
        for &precision in &args.precision {
            for &batch in &args.batches {
                rows.push(Row { net: net.clone(), branches: *branches, precision, batch });
            }
        }
    }
    rows
}

/// An error in one line.
fn sentence(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Names the file of the rows that were measured.
fn kept(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(": {} holds them", path.display()))
}

/// Writes the file, if one is wanted.
fn save(path: Option<&Path>, head: &Value, rows: &[Value], complete: bool) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut all = head.clone();
    all["complete"] = complete.into();
    all["rows"] = rows.into();
    write_atomically(path, format!("{}\n", serde_json::to_string_pretty(&all)?).as_bytes())
}

impl Row {
    /// The training of a few synthetic images that has such steps.
    fn config(&self) -> Result<Config> {
        let Self { net, branches, precision, batch } = self;
        let precision = bits(*precision);
        let options = format!(
            "train --data shapes --augment standard --net {net} --branches {branches} --precision {precision} \
             --batch {batch} --limit-train {batch} --limit-test {batch}"
        );
        let cli = <Cli as clap::Parser>::try_parse_from(options.split(' ')).map_err(|error| anyhow!("{error}"))?;
        Config::new(&cli.train)
    }
}

/// Measures a row; what is left out since the end was asked for, the caller does not look at.
fn measure(row: &Row, (device, choices): (&Device, &Choices), peaks: &Peaks, seconds: f64) -> Result<Found> {
    let mut trainer = build(row.config()?, device.clone(), false, false, &Ranks::alone())?;
    let order = trainer.sampler.epoch(0);
    // Weights that stay as they are keep all values in their usual range, however long it takes.
    let settings = StepSettings { rate: 0.0, ..trainer.settings(0) };
    let training = blocks(device, TRAINING * seconds, || trainer.training.run(&order, 0, settings))?;
    if interrupt::requested() {
        bail!("interrupted");
    }
    let host =
        host(device, PARTS * seconds / 2.0, median(&training.seconds), || trainer.training.run(&order, 0, settings))?;
    let runs = (PARTS * seconds / 2.0 / median(&training.seconds).max(1e-9)).clamp(1.0, MOST_RUNS) as u32;
    let spent = Spent::of_step(&mut trainer.training.program, runs, peaks)?;
    let mut images = 0;
    let evaluation = blocks(device, EVALUATION * seconds, || {
        images = trainer.evaluation.run(0, 0, settings.weights)?;
        Ok(())
    })?;
    let chosen = trainer.device.target().map(|target| choices.among(trainer.kernels(), &target)).unwrap_or_default();
    let tuning = (!chosen.is_empty()).then(|| format!("{:016x}", chosen.fingerprint()));
    Ok(Found { training, evaluation, images, device: spent, host, memory: trainer.need, tuning })
}

/// Times steps, after some that warm up, in blocks within which nothing waits for the device, for about so long.
fn blocks(device: &Device, seconds: f64, mut step: impl FnMut() -> Result<()>) -> Result<Blocks> {
    block(device, 1, &mut step)?;
    let once = block(device, 1, &mut step)?;
    let steps = (seconds / BLOCKS / once.max(1e-9)).clamp(1.0, MOST_STEPS) as usize;
    let mut found = Blocks { seconds: Vec::new(), steps: 0 };
    let begun = Instant::now();
    while !interrupt::requested()
        && (found.seconds.len() < FEWEST_BLOCKS || begun.elapsed().as_secs_f64() + once * steps as f64 <= seconds)
    {
        found.seconds.push(block(device, steps, &mut step)?);
        found.steps += steps;
    }
    Ok(found)
}

/// The median time until a step is submitted, with the device idle before.
fn host(device: &Device, seconds: f64, step_seconds: f64, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    let runs = (seconds / step_seconds.max(1e-9)).clamp(1.0, MOST_RUNS) as usize;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        device.synchronize()?;
        let begun = Instant::now();
        step()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    device.synchronize()?;
    Ok(median(&times))
}

impl Blocks {
    fn median(&self) -> f64 {
        median(&self.seconds)
    }

    fn fastest(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }
}

fn name(row: &Row) -> String {
    format!("{:<22} {} {:>5}", format!("{}:{}", row.net, row.branches), bits(row.precision), row.batch)
}

fn bits(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::F16 => "f16",
    }
}

fn heading() -> String {
    format!(
        "\n{:<22} {:<3} {:>5} {:>9} {:>8} {:>14} {:>8} {:>7} {:>5} {:>5} {:>5} {:>9} {:>9}",
        "network:branches",
        "in",
        "batch",
        "images/s",
        "ms",
        "range",
        "device",
        "host",
        "FLOP",
        "bytes",
        "roof",
        "eval im/s",
        "memory"
    )
}

/// A line of the table. Shares are of the device's peaks, and of the least time by them.
fn line(row: &Row, found: &Found, peaks: &Peaks) -> String {
    let Found { training, evaluation, images, device, host, memory, .. } = found;
    let step = training.median().max(1e-12);
    let ms = |seconds: f64| digits(1e3 * seconds);
    format!(
        "{} {:>9.0} {:>8} {:>14} {:>8} {:>7} {:>4.0}% {:>4.0}% {:>4.0}% {:>9.0} {:>9}",
        name(row),
        row.batch as f64 / step,
        ms(step),
        format!("{}-{}", ms(training.fastest()), ms(training.slowest())),
        ms(device.seconds),
        ms(*host),
        100.0 * device.cost.flops as f64 / step / peaks.flops,
        100.0 * device.cost.bytes as f64 / step / peaks.bytes,
        100.0 * device.least / step,
        *images as f64 / evaluation.median().max(1e-12),
        byte_size(*memory),
    )
}

/// Four digits of a number, or three and the point.
fn digits(value: f64) -> String {
    let places = if value < 10.0 {
        3
    } else if value < 100.0 {
        2
    } else if value < 1000.0 {
        1
    } else {
        0
    };
    format!("{value:.places$}")
}

fn as_json(row: &Row, found: &Result<Found>) -> Value {
    let Row { net, branches, precision, batch } = row;
    let mut all = json!({ "net": net, "branches": branches, "precision": precision, "batch": batch });
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            all["skipped"] = sentence(error).into();
            return all;
        }
    };
    let Found { training, evaluation, images, device, host, memory, tuning } = found;
    all["training"] = json!({
        "images_per_second": *batch as f64 / training.median(),
        "median_seconds": training.median(),
        "fastest_seconds": training.fastest(),
        "slowest_seconds": training.slowest(),
        "blocks": training.seconds.len(),
        "steps": training.steps,
        "device_seconds": device.seconds,
        "host_seconds": host,
        "least_seconds": device.least,
        "flops": device.cost.flops,
        "bytes": device.cost.bytes,
    });
    all["evaluation"] = json!({
        "images_per_second": *images as f64 / evaluation.median(),
        "median_seconds": evaluation.median(),
        "fastest_seconds": evaluation.fastest(),
        "slowest_seconds": evaluation.slowest(),
        "images": images,
    });
    all["memory_bytes"] = (*memory).into();
    all["tuning"] = tuning.as_deref().into();
    all
}
