//! Check whether this machine is ready to train, and what is missing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};
use data::dataset::DEFAULT_DIR;
use data::{DATASETS, DataError, LoadOptions};
use tensor::device::AdapterSummary;

use crate::commands::profile::median;
use crate::machine::drivers::{System, Vendor, gpus};
use crate::machine::processors;
use crate::options::args::{Cli, DoctorArgs};
use crate::output::line;
use crate::ranks::Ranks;
use crate::show::words::{byte_size, describe, describe_device, duration, grouped};
use crate::step::memory;
use crate::training::setup::new_trainer;

/// The paper's run on CIFAR-10: epochs, and images of each for training and for testing.
const EPOCHS: f64 = 300.0;
const IMAGES: (f64, f64) = (50_000.0, 10_000.0);

/// Prints what is there, what is not and how to get it, and how fast it trains.
///
/// # Errors
/// When the device of the test cannot be had, or fails.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let entry = |what: &str, is: &str| line(format!("{what:<12} {is}"));
    entry(
        "program",
        &format!("train {}, {} {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH),
    )?;
    entry("toolchain", &toolchain())?;
    let memory = memory::free()
        .map_or_else(|| "memory not known here".to_owned(), |free| format!("{} of memory free", byte_size(free)));
    entry("machine", &format!("{} processors, {memory}", processors()))?;
    let adapters = tensor::device::adapters();
    for text in devices(&adapters, &gpus(), System::this()) {
        entry("devices", &text)?;
    }
    for folder in ["runs", args.data_dir.as_deref().and_then(Path::to_str).unwrap_or(DEFAULT_DIR)] {
        entry("disk", &disk(Path::new(folder)))?;
    }
    for name in DATASETS {
        entry("data", &dataset(name, args.data_dir.as_deref()))?;
    }
    if args.quick { Ok(()) } else { test(&args.device) }
}

/// The compiler, which only building needs.
fn toolchain() -> String {
    let version = |program: &str| -> Option<String> {
        let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    };
    match (version("rustc"), version("cargo")) {
        (Some(rustc), Some(cargo)) => format!("{rustc}, {cargo} (1.90 or later builds this program)"),
        _ => "no rustc and cargo on the path: this program runs, and building it needs them (https://rustup.rs)"
            .to_owned(),
    }
}

/// The adapters, and how to get what is missing.
fn devices(adapters: &[AdapterSummary], gpus: &[Vendor], system: System) -> Vec<String> {
    let mut lines: Vec<String> = adapters
        .iter()
        .map(|adapter| format!("{} ({}, {}, driver {})", adapter.name, adapter.kind, adapter.backend, adapter.driver))
        .collect();
    if adapters.iter().any(|adapter| adapter.automatic) {
        return lines;
    }
    for vendor in gpus {
        let how = system.driver(*vendor).unwrap_or(system.otherwise());
        lines.push(format!("a GPU of {} has no driver that this program can use: {how}", vendor.name()));
    }
    if gpus.is_empty() {
        lines.push("no GPU was found: training runs on the CPU device".to_owned());
    }
    if adapters.is_empty() {
        let how = system.software().unwrap_or(system.otherwise());
        lines.push(format!("nothing runs shaders here, which only their tests need: {how}"));
    }
    lines
}

/// Room in a folder, or, where it is not there yet, in the one that it would be made in.
fn disk(folder: &Path) -> String {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    match fs4::available_space(there) {
        Ok(bytes) => format!("{}: {} free", folder.display(), byte_size(bytes)),
        Err(error) => format!("{}: how much is free is not known ({error})", folder.display()),
    }
}

/// Tells whether a dataset is there.
fn dataset(name: &str, data_dir: Option<&Path>) -> String {
    if name == data::shapes::NAME {
        return format!("{name}: needs no files");
    }
    let options = LoadOptions {
        data_dir: data_dir.map(Path::to_owned),
        limit_train: Some(1),
        limit_test: Some(1),
        ..LoadOptions::default()
    };
    let found = match data::catalog::find(name, &options) {
        Some(folder) => data::folder::list(name, &folder, &options).map(|_| ()),
        None => data::load(name, &options).map(|_| ()),
    };
    match found {
        Ok(()) => format!("{name}: here"),
        Err(DataError::Missing { .. }) => {
            format!("{name}: not here; `train fetch {name}` gets it, and so does the first run")
        }
        Err(_) if name == data::folder::NAME => {
            format!("{name}: not here; put it there yourself, as {name}/train/CLASS/* and {name}/val/CLASS/*")
        }
        Err(error) => format!("{name}: {error}"),
    }
}

/// Trains and evaluates for some seconds, and says how long the paper's run would take.
fn test(device: &str) -> Result<()> {
    let options = ["train", "--data", "shapes", "--limit-train", "1024", "--limit-test", "256", "--device", device];
    let cli = <Cli as clap::Parser>::try_parse_from(options).map_err(|error| anyhow!("{error}"))?;
    let mut trainer = new_trainer(&cli.train, false, &Ranks::alone())?;
    let (order, settings, device) = (trainer.sampler.epoch(0), trainer.settings(0), trainer.device.clone());
    trainer.training.run(&order, 0, settings)?;
    let step = median(&device, || trainer.training.run_fed(settings))?;
    let mut images = trainer.evaluation.run(0, 0, settings.weights)?;
    let evaluation = median(&device, || {
        images = trainer.evaluation.run(0, 0, settings.weights)?;
        Ok(())
    })?;
    let rate = |time: Duration, images: usize| images as f64 / time.as_secs_f64();
    let (train, test) = (rate(step, trainer.config.batch), rate(evaluation, images));
    line(format!(
        "{:<12} {} on {}: {} images/s in training, {} in evaluation",
        "test",
        describe(&trainer.config.network),
        describe_device(&device),
        grouped(train as usize),
        grouped(test as usize)
    ))?;
    let whole = Duration::from_secs_f64(EPOCHS * (IMAGES.0 / train + IMAGES.1 / test));
    line(format!(
        "{:<12} the paper's run on CIFAR-10, 300 epochs of 50,000 images, would take {}",
        "estimate",
        duration(whole)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(software: bool) -> AdapterSummary {
        AdapterSummary {
            name: "Some adapter".to_owned(),
            backend: "Vulkan".to_owned(),
            driver: "mesa".to_owned(),
            kind: if software { "software" } else { "integrated GPU" },
            software,
            f16: false,
            max_binding_bytes: 1 << 27,
            max_buffer_bytes: 1 << 28,
            workgroup_bytes: 1 << 14,
            automatic: !software,
        }
    }

    #[test]
    fn what_is_missing_comes_with_the_command_for_it() {
        let told = devices(&[], &[Vendor::Amd], System::Fedora).join("\n");
        assert!(
            told.contains("a GPU of AMD has no driver") && told.contains("sudo dnf install mesa-vulkan-drivers"),
            "{told}"
        );
        let told = devices(&[adapter(true)], &[], System::Debian);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("Some adapter (software, Vulkan") && told[1].contains("the CPU device"),
            "{told:?}"
        );
        let told = devices(&[], &[], System::Arch).join("\n");
        assert!(told.contains("sudo pacman -S vulkan-swrast"), "{told}");
        assert_eq!(devices(&[adapter(false)], &[Vendor::Nvidia], System::Debian).len(), 1);
        assert!(devices(&[], &[], System::Windows).join("\n").contains("DirectX 12"));
    }
}
