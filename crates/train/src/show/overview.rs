//! What runs: the lines that every run begins with.

use std::fmt::Write;

use anyhow::Result;
use tensor::Device;

use crate::options::args::Method;
use crate::options::config::Config;
use crate::show::words::{byte_size, describe, describe_device, devices, flops, grouped, mebibytes, workers};
use crate::step::cost::cost;
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

/// How ranks share a run, in words.
pub fn describe_ranks(config: &Config, names: &[String]) -> String {
    let statistics = if config.sync_bn { "over all ranks" } else { "within each rank" };
    format!("{}: {}; batch {} each, batch-norm {statistics}", config.ranks, devices(names), config.own_batch())
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
    ImageCounts { train, validation, test, size }: ImageCounts,
    (training, evaluation): (&TrainingProgram, &EvaluationProgram),
    need: u64,
) -> Result<String> {
    let classes = config.classes.unwrap_or_default();
    let method = config.method_config(classes)?;
    let cost = cost(&config.network, &method, size)?;
    let activations = training.program.memory();
    let mut text = String::new();
    let mut line = |what: &str, is: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<12} {is}");
    };
    line("device", describe_device(device));
    line("network", describe(&config.network));
    line("method", describe_method(config));
    line(
        "parameters",
        format!(
            "{} deployed, {} in training",
            grouped(cost.deployed_parameters),
            grouped(cost.training_parameters + cost.gate_parameters)
        ),
    );
    line(
        "FLOPs",
        format!("{} deployed, {} in training (one image, forward)", flops(cost.deployed), flops(cost.training)),
    );
    let held_out = if validation == 0 { String::new() } else { format!(", {} validation", grouped(validation)) };
    line(
        "data",
        format!(
            "{}: {} training{held_out} and {} test images of {size}x{size}, {classes} classes",
            config.data,
            grouped(train),
            grouped(test)
        ),
    );
    if let Some(place) = describe_place(training, evaluation, config) {
        line("images", place);
    }
    line(
        "step",
        format!(
            "batch {}, {} steps per epoch, {} epochs, {} dispatches ({} in evaluation)",
            config.batch,
            train / config.batch,
            config.epochs,
            training.program.dispatches(),
            evaluation.program.dispatches()
        ),
    );
    line(
        "memory",
        format!(
            "{}, of which {} are the training step's activations ({} without sharing)",
            byte_size(need),
            mebibytes(activations.planned),
            mebibytes(activations.unshared)
        ),
    );
    Ok(text.trim_end().to_owned())
}

/// How images come to the device, where that is not before the first step.
fn describe_place(training: &TrainingProgram, evaluation: &EvaluationProgram, config: &Config) -> Option<String> {
    let what = match (training.stream.is_some(), evaluation.stream.is_some()) {
        (false, false) => return None,
        (true, true) => "all are streamed to the device",
        (true, false) => "those of training are streamed to the device",
        (false, true) => "those of the test are streamed to the device",
    };
    Some(format!("{what}, prepared by {}", workers(config.worker_threads())))
}
