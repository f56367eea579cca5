//! What runs: the lines that every run begins with.

use std::fmt::Write;

use anyhow::Result;
use nets::{Macs, Mode, Model};
use tensor::{Device, Graph, Spec};

use crate::args::Method;
use crate::config::{Config, Network};
use crate::memory;
use crate::programs::{EvaluationProgram, TrainingProgram};
use crate::training::workers;

/// Parameters and operations of a network, deployed and in training.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Trained values of the target network alone.
    pub deployed_parameters: usize,
    /// Trained values of all branches, without the gate's.
    pub training_parameters: usize,
    /// Trained values of the gate.
    pub gate_parameters: usize,
    /// Of one image, forward.
    pub deployed: Macs,
    /// Of one image, forward, all branches.
    pub training: Macs,
}

/// Counts a network's parameters, and its operations on an image of `size` by `size` pixels.
///
/// # Errors
/// When there is no such network, or the image is too small for it.
pub fn cost(network: &Network, method: &one::Config, size: usize) -> Result<Cost> {
    let architecture = network.architecture()?;
    let count = |method: &one::Config| -> Result<(Model, Macs)> {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, 1, size, size, 4]));
        let heads = one::record(&mut graph, &mut model, &*architecture, Mode::Inference, image, method)?;
        Ok((model, heads.macs))
    };
    let single = one::Config { branches: 1, teacher: one::Teacher::None, distill: false, ..*method };
    let ((alone, deployed), (all, training)) = (count(&single)?, count(method)?);
    let gate_parameters = gate_parameters(&all);
    Ok(Cost {
        deployed_parameters: alone.parameters(None),
        training_parameters: all.parameters(None) - gate_parameters,
        gate_parameters,
        deployed,
        training,
    })
}

/// Trained values of the gate.
fn gate_parameters(model: &Model) -> usize {
    let trained = |kind| matches!(kind, tensor::Kind::Trained { .. });
    let entries = model.params().entries().iter();
    entries.filter(|param| trained(param.kind) && param.name.starts_with("gate.")).map(|param| param.spec.words()).sum()
}

/// 10^8 floating-point operations, as the paper counts them.
pub fn flops(macs: Macs) -> String {
    format!("{:.4}e8", macs.flops() as f64 / 1e8)
}

/// Digits in groups of three.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// MiB.
pub fn mebibytes(bytes: usize) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The network in words.
pub fn describe(network: &Network) -> String {
    match (network.branches, network.fan_out.as_str()) {
        (1, _) => network.net.clone(),
        (k, "input") => format!("{}, {k} whole networks", network.net),
        (k, stage) => format!("{}, {k} branches from {stage} on", network.net),
    }
}

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

/// The device, its driver and kind.
pub fn describe_device(device: &Device) -> String {
    let adapter = || tensor::device::adapters().into_iter().find(|adapter| adapter.name == device.name());
    match device.is_gpu().then(adapter).flatten() {
        Some(adapter) => format!("{} ({}, {}, driver {})", adapter.name, adapter.kind, adapter.backend, adapter.driver),
        None => device.name().to_owned(),
    }
}

/// Devices in words, those alike together.
pub fn devices(names: &[String]) -> String {
    let mut kinds: Vec<(&String, usize)> = Vec::new();
    for name in names {
        match kinds.iter_mut().find(|(kind, _)| *kind == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    let kinds =
        kinds.into_iter().map(|(kind, count)| if count == 1 { kind.clone() } else { format!("{count} x {kind}") });
    kinds.collect::<Vec<_>>().join(", ")
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
            memory::size(need),
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

/// Memory of the activations of a training step and of an evaluation step on `batch` images of `size` by `size` pixels,
/// in bytes, without a device.
///
/// # Errors
/// When there is no such network, or the images are too small for it.
pub fn activation_memory(network: &Network, method: &one::Config, batch: usize, size: usize) -> Result<(usize, usize)> {
    let architecture = network.architecture()?;
    let record = |training: bool| -> Result<usize> {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, batch, size, size, 4]));
        let sample = (image, graph.input("labels", Spec::u32([batch])));
        if training {
            let optimizer = one::Optimizer { nesterov: true };
            one::training(&mut graph, &mut model, &*architecture, sample, method, optimizer)?;
        } else {
            one::evaluation(&mut graph, &mut model, &*architecture, sample, method, batch)?;
        }
        Ok(graph.footprint()?.activations() as usize)
    };
    Ok((record(true)?, record(false)?))
}
