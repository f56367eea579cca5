//! Files of a result folder, as written by the program and by `pytorch.py`. A field that a page can do without is
//! optional.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The adapter that was measured.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Device {
    /// Name given by the driver.
    pub name: String,
    /// The interface: `Vulkan`, `Metal`, `Dx12`; nothing for the CPU device.
    pub backend: Option<String>,
    /// The driver and its version.
    pub driver: Option<String>,
}

/// The program that measured.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Program {
    /// Version of the workspace.
    pub version: Option<String>,
    /// The commit that it was built from, if known at build time.
    pub commit: Option<String>,
}

/// Common head of the program's files.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Head {
    /// The adapter.
    pub device: Device,
    /// The program.
    #[serde(default)]
    pub program: Program,
    /// Time of the measurement.
    pub date: Option<Value>,
}

/// `train selftest --json`.
#[derive(Debug, Deserialize)]
pub struct Selftest {
    /// Adapter, program, date.
    #[serde(flatten)]
    pub head: Head,
    /// True if everything was correct.
    pub passed: bool,
    /// Wall time.
    pub seconds: Option<f64>,
    /// Cases of the table.
    pub cases: u64,
    /// Runs of candidates, by storage and checks.
    pub runs: Option<u64>,
    /// By kernel.
    pub kernels: Vec<SelftestKernel>,
    /// Wrong elements.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// Whole steps against the CPU device.
    #[serde(default)]
    pub steps: Vec<SelftestStep>,
}

/// A kernel's line of the selftest.
#[derive(Debug, Deserialize)]
pub struct SelftestKernel {
    /// Its name.
    pub kernel: String,
    /// Cases of the table.
    pub cases: u64,
    /// Candidates of all cases.
    pub candidates: Option<u64>,
    /// Runs.
    pub runs: Option<u64>,
    /// Runs with a wrong element.
    pub failed: u64,
    /// The worst error as a share of its tolerance.
    pub worst: Option<f64>,
    /// Wall time.
    pub seconds: Option<f64>,
}

/// The first wrong element of a run.
#[derive(Debug, Deserialize)]
pub struct Failure {
    /// The case's name.
    pub case: String,
    /// The candidate, counted from 0.
    pub candidate: Option<Value>,
    /// Its index.
    pub index: Option<Value>,
    /// Value of the reference.
    pub expected: Option<Value>,
    /// Value of the adapter.
    pub got: Option<Value>,
    /// The fault in words.
    pub problem: Option<String>,
}

/// A whole step against the CPU device.
#[derive(Debug, Deserialize)]
pub struct SelftestStep {
    /// Network and storage.
    pub what: String,
    /// The worst error as a share of its tolerance.
    pub worst: Option<f64>,
    /// True if the error was within the tolerance.
    pub passed: bool,
    /// The fault in words.
    pub problem: Option<String>,
}

/// Peaks of the adapter, as measured.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Peaks {
    /// Multiply-adds, counted as two operations, per second.
    pub flops_per_second: f64,
    /// Bytes of memory in copies, read or written, per second.
    pub bytes_per_second: f64,
}

/// `train bench --json`.
#[derive(Debug, Deserialize)]
pub struct Bench {
    /// Adapter, program, date.
    #[serde(flatten)]
    pub head: Head,
    /// True if the bench was completed.
    pub complete: bool,
    /// The adapter's peaks.
    pub peaks: Option<Peaks>,
    /// The tuning in use.
    pub tuned: Option<Value>,
    /// Rows by network, branches, precision and batch.
    pub rows: Vec<BenchRow>,
}

/// A network's line of the bench.
#[derive(Debug, Clone, Deserialize)]
pub struct BenchRow {
    /// The network.
    pub net: String,
    /// Its branches in training.
    pub branches: u64,
    /// `f32` or `f16`.
    pub precision: String,
    /// Images in a step.
    pub batch: u64,
    /// Training steps.
    pub training: Option<BenchTraining>,
    /// Evaluation steps.
    pub evaluation: Option<BenchEvaluation>,
    /// Planned memory.
    pub memory_bytes: Option<f64>,
    /// The reason why it was left out.
    pub skipped: Option<String>,
}

/// Training steps of a bench; times in seconds per step.
#[derive(Debug, Clone, Deserialize)]
pub struct BenchTraining {
    /// Rate by the median step.
    pub images_per_second: f64,
    /// The median step.
    pub median_seconds: f64,
    /// The fastest step.
    pub fastest_seconds: Option<f64>,
    /// The slowest step.
    pub slowest_seconds: Option<f64>,
    /// Busy time of the device.
    pub device_seconds: Option<f64>,
    /// Busy time of the host.
    pub host_seconds: Option<f64>,
    /// The roofline of the step: the least time by the peaks.
    pub least_seconds: Option<f64>,
    /// Operations of a step.
    pub flops: Option<f64>,
    /// Bytes that a step must move.
    pub bytes: Option<f64>,
}

/// Evaluation steps of a bench.
#[derive(Debug, Clone, Deserialize)]
pub struct BenchEvaluation {
    /// Rate by the median step.
    pub images_per_second: f64,
}

/// `pytorch.py --json`.
#[derive(Debug, Deserialize)]
pub struct Pytorch {
    /// PyTorch's version.
    pub torch: String,
    /// PyTorch's name of the accelerator.
    pub device: String,
    /// Rows by mode, network and batch.
    pub rows: Vec<PytorchRow>,
}

/// A network's line of PyTorch.
#[derive(Debug, Clone, Deserialize)]
pub struct PytorchRow {
    /// The network.
    pub net: String,
    /// Its branches.
    pub branches: u64,
    /// Images in a step.
    pub batch: u64,
    /// Execution and precision: `eager`, `graph-tf32`, `compile-f16`.
    pub mode: String,
    /// Rate by the median block of steps.
    pub images_per_second: Option<f64>,
    /// The reason why there is no rate.
    pub failed: Option<String>,
}

/// `train profile --json`.
#[derive(Debug, Deserialize)]
pub struct Profile {
    /// The adapter's name.
    pub device: String,
    /// The interface.
    pub backend: Option<String>,
    /// The driver and its version.
    pub driver: Option<String>,
    /// The network.
    pub net: String,
    /// Its branches in training.
    pub branches: u64,
    /// `f32` or `f16`.
    pub precision: String,
    /// Images in a step.
    pub batch: u64,
    /// The adapter's peaks.
    pub peaks: Peaks,
    /// The training step.
    pub training: ProfileTraining,
}

/// The training step of a profile.
#[derive(Debug, Deserialize)]
pub struct ProfileTraining {
    /// The median step.
    pub seconds: f64,
    /// Rows by kernel, or by kernel and shape, the longest first.
    pub kernels: Vec<ProfileKernel>,
}

/// A kernel's line of a profile: all its dispatches in a step.
#[derive(Debug, Deserialize)]
pub struct ProfileKernel {
    /// Its name, and its shapes if rows are by shape.
    pub kernel: String,
    /// Dispatches.
    pub count: u64,
    /// Time of all dispatches.
    pub seconds: f64,
    /// Operations of all dispatches.
    pub flops: f64,
    /// Bytes that all dispatches must move.
    pub bytes: f64,
    /// The least time by the peaks.
    pub least_seconds: f64,
}

/// `training.json`: the runs of `run.sh --train`, made by this tool from their directories.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Training {
    /// Runs, in the order of training.
    pub runs: Vec<Trained>,
}

/// One run. Errors are in per cent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Trained {
    /// The run directory's name.
    pub name: String,
    /// The network.
    pub net: String,
    /// Its branches in training.
    pub branches: u64,
    /// The method.
    pub method: String,
    /// The data set.
    pub data: String,
    /// Images in a step.
    pub batch: u64,
    /// The precision of activations.
    pub precision: String,
    /// Epochs of the schedule.
    pub epochs: u64,
    /// Epochs that were trained.
    pub trained: u64,
    /// The median epoch's rate in training.
    pub images_per_second: f64,
    /// Wall time of an epoch with its evaluation and its saving; nothing after a single epoch.
    pub epoch_seconds: Option<f64>,
    /// Test errors of the branches after the last epoch.
    pub last: Vec<f64>,
    /// The ensemble's test error, if there is an ensemble.
    pub ensemble: Option<f64>,
    /// The lowest test error of branch 0 in any epoch.
    pub best: f64,
    /// The test error of branch 0, by epoch.
    pub curve: Vec<f64>,
}
