//! The lines that every run begins with.

use anyhow::Result;
use tensor::Device;

use crate::options::args::Method;
use crate::options::config::Config;
use crate::show::words::{byte_size, describe, describe_device, devices, flops, grouped, mebibytes, workers};
use crate::step::cost::{Cost, cost};
use crate::step::programs::{EvaluationProgram, TrainingProgram};

/// The method in words.
fn describe_method(config: &Config) -> String {
    let temperature = config.temperature;
    let without = |given: bool, what: &str| if given { String::new() } else { format!(", without {what}") };
    let name = config.method.name();
    match config.method {
        Method::One => {
            let ablations = without(config.gate, "gate") + &without(config.distill, "distillation");
            format!("{name}: the branches' ensemble is distilled into them at T = {temperature}{ablations}")
        }
        Method::Dml => format!("{name}: the networks learn from each other at T = {temperature}"),
        Method::Kd => {
            let teacher = config.teacher.as_ref().map_or_else(String::new, |file| file.display().to_string());
            format!("{name}: {teacher} is distilled at T = {temperature}")
        }
        Method::Ensemble => format!("{name}: the networks learn each on its own"),
        Method::Snapshot => format!("{name}: an ensemble of the states after each of {} cycles", config.cycles),
        Method::Vanilla => name,
    }
}

/// Describes how ranks share a run; nothing where there is one.
pub fn describe_ranks(config: &Config, names: &[String]) -> Option<String> {
    if names.len() == 1 {
        return None;
    }
    let statistics = if config.sync_bn { "over all ranks" } else { "within each rank" };
    let batch = config.own_batch();
    Some(format!("{}: {}; batch {batch} each, batch-norm {statistics}", config.ranks, devices(names)))
}

/// The images of a run.
#[derive(Debug, Clone, Copy)]
pub struct ImageCounts {
    /// Images to train on.
    pub train: usize,
    /// Training images held out.
    pub validation: usize,
    /// Images to test on.
    pub test: usize,
    /// Their height and width.
    pub size: usize,
}

/// The lines that a run begins with; `need` is all the memory it takes.
///
/// # Errors
/// When there is no such network.
pub fn overview(
    device: &Device,
    config: &Config,
    images: ImageCounts,
    (training, evaluation): (&TrainingProgram, &EvaluationProgram),
    need: u64,
) -> Result<String> {
    let method = config.method_config(config.classes.unwrap_or_default())?;
    let cost = cost(&config.network, &method, images.size)?;
    let mut lines = vec![
        ("device", describe_device(device)),
        ("network", describe(&config.network)),
        ("method", describe_method(config)),
        ("parameters", describe_parameters(&cost)),
        (
            "FLOPs",
            format!("{} deployed, {} in training (one image, forward)", flops(cost.deployed), flops(cost.training)),
        ),
        ("data", describe_data(config, images)),
    ];
    lines.extend(describe_place(training, evaluation, config).map(|place| ("images", place)));
    lines.push(("step", describe_step(config, images, training, evaluation)));
    lines.push(("memory", describe_memory(training, need)));
    Ok(lines.iter().map(|(what, is)| format!("{what:<12} {is}")).collect::<Vec<_>>().join("\n"))
}

fn describe_parameters(cost: &Cost) -> String {
    let training = cost.training_parameters + cost.gate_parameters;
    format!("{} deployed, {} in training", grouped(cost.deployed_parameters), grouped(training))
}

fn describe_data(config: &Config, images: ImageCounts) -> String {
    let ImageCounts { train, validation, test, size } = images;
    let held_out = if validation == 0 { String::new() } else { format!(", {} validation", grouped(validation)) };
    format!(
        "{}: {} training{held_out} and {} test images of {size}x{size}, {} classes",
        config.data,
        grouped(train),
        grouped(test),
        config.classes.unwrap_or_default()
    )
}

fn describe_step(
    config: &Config,
    images: ImageCounts,
    training: &TrainingProgram,
    evaluation: &EvaluationProgram,
) -> String {
    format!(
        "batch {}, {} steps per epoch, {} epochs, {} dispatches ({} in evaluation)",
        config.batch,
        images.train / config.batch,
        config.epochs,
        training.program.dispatches(),
        evaluation.program.dispatches()
    )
}

fn describe_memory(training: &TrainingProgram, need: u64) -> String {
    let activations = training.program.memory();
    format!(
        "{}, of which {} are the training step's activations ({} without sharing)",
        byte_size(need),
        mebibytes(activations.planned),
        mebibytes(activations.unshared)
    )
}

/// Describes how images come to the device, where that is not before the first step.
fn describe_place(training: &TrainingProgram, evaluation: &EvaluationProgram, config: &Config) -> Option<String> {
    let what = match (training.stream.is_some(), evaluation.stream.is_some()) {
        (false, false) => return None,
        (true, true) => "all are streamed to the device",
        (true, false) => "those of training are streamed to the device",
        (false, true) => "those of the test are streamed to the device",
    };
    Some(format!("{what}, prepared by {}", workers(config.worker_threads())))
}
