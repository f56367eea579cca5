//! The command line's options, as clap reads them. What they default to stands in [`crate::options::config`].

use std::ops::Not;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, RangedU64ValueParser};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::{Serialize, Serializer};

use crate::options::config::{self, Config};
use crate::options::schedule::Schedule;
pub use crate::options::values::{
    Augmentation, Branches, Decay, Format, Method, Precision, SaveEvery, SavedState, Shortcut, Streaming, Ui,
};

/// Train image classifiers by on-the-fly native ensemble distillation; without a subcommand, a network is trained.
#[derive(Debug, Parser)]
#[command(
    name = "train",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub train: TrainArgs,
}

/// Commands other than training.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure the test errors of a checkpoint, of each branch and of the ensemble
    Eval(Box<EvalArgs>),
    /// Train many runs from one file, several at once if asked for, and report on them; goes on where it stopped
    Sweep(SweepArgs),
    /// Make a page of one or several runs: curves, tables, confusion, calibration, configuration
    Report(ReportArgs),
    /// Say what is on images
    Predict(PredictArgs),
    /// Write a trained network for use elsewhere: as PyTorch names it, or as an ONNX model
    Export(ExportArgs),
    /// Get a dataset
    Fetch(FetchArgs),
    /// Print a network's parameters, FLOPs and memory
    Info(InfoArgs),
    /// Print where a training step spends its time, against what this device can do
    Profile(Box<ProfileArgs>),
    /// Measure the variants of a network's kernels on this adapter, and keep the fastest for later runs on it
    Tune(Box<TuneArgs>),
    /// Measure images per second, in training and evaluation, of a list of networks on this device
    Bench(BenchArgs),
    /// Check every kernel on a device, in every variant, against its reference; and whole training steps
    Selftest(SelftestArgs),
    /// List the devices of this machine
    Devices,
    /// Say whether this machine is ready: devices, drivers, disk, data, and a short test with its speed
    Doctor(DoctorArgs),
    /// Print the completions of a shell
    Completions {
        /// For this shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Options of a network.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Network", mut_args(with_defaults))]
pub struct NetworkArgs {
    /// resnet20, 32, 44, 56, 110 (basic blocks), resnet164 (bottlenecks), resnext29-8x64d, densenet-bc-190-40; for
    /// ImageNet resnet18, resnet34, resnet50, resnext50-32x4d; or other valid depths and widths [default: {}]
    #[arg(long, value_name = "NAME")]
    pub net: Option<String>,
    /// Shortcuts of residual networks where shapes change [default: {}]
    #[arg(long, value_enum)]
    pub shortcut: Option<Shortcut>,
    /// Branches, the target network counted; of --method dml and ensemble, whole networks [default: {}; dml {dml}]
    #[arg(long, value_name = "K", value_parser = count(one::MAX_BRANCHES as u64))]
    pub branches: Option<usize>,
    /// Stage at which branches begin, by its name or number; `input` shares nothing [default: the last stage]
    #[arg(long, value_name = "STAGE")]
    pub fan_out: Option<String>,
}

/// Options of a dataset's test split, and of where and how it is read.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Data", mut_args(with_defaults))]
pub struct DataArgs {
    /// cifar10, cifar100, svhn, fashion-mnist, imagenet, shapes; or a folder of images, with train/CLASS/* and
    /// val/CLASS/* in it, JPEG or PNG [default: {}]
    #[arg(long, value_name = "NAME|DIR", value_parser = dataset)]
    pub data: Option<String>,
    /// Folder that holds one folder per dataset [default: datasets]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Number of classes, where the dataset has a choice: cifar100's coarse ones are 20, shapes has 2 to 1000 [default:
    /// 100, 10]
    #[arg(long, value_name = "C", value_parser = count(1_000_000))]
    pub classes: Option<usize>,
    /// Height and width that the images of a folder are brought to [default: what the network is made for, 32 or 224]
    #[arg(long, value_name = "S", value_parser = count(4096))]
    pub image_size: Option<usize>,
    /// Stop at the first image of a folder that cannot be decoded, instead of skipping it
    #[arg(long)]
    #[serde(skip_serializing_if = "Not::not")]
    pub strict: bool,
    /// Stream images to the device batch by batch, prepared ahead of it, or upload all before the first step [default:
    /// {}]
    #[arg(long, value_enum)]
    pub stream: Option<Streaming>,
    /// Threads that prepare batches; 0 prepares each within its step [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    pub workers: Option<usize>,
    /// Measure on the first N test images only
    #[arg(long, value_name = "N", value_parser = count(u32::MAX.into()))]
    pub limit_test: Option<usize>,
    /// Mean of the channels, for pixels in 0 to 1 [default: the dataset's]
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    pub mean: Option<[f64; 3]>,
    /// Standard deviation of the channels [default: the dataset's]
    #[arg(long, value_name = "R,G,B", value_parser = positive_channels)]
    pub std: Option<[f64; 3]>,
}

/// Options of training. As a table, it holds the settings that were given, under the names that they have in
/// [`Config`].
#[derive(Debug, Args, Serialize)]
#[command(mut_args(with_defaults))]
pub struct TrainArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub dataset: DataArgs,
    /// Train on the first N images only
    #[arg(long, value_name = "N", value_parser = count(u32::MAX.into()), help_heading = "Data")]
    pub limit_train: Option<usize>,
    /// Hold N of the training images out, of each class its share; they then decide which epoch is the best
    #[arg(long, value_name = "N", value_parser = count(u32::MAX.into()), help_heading = "Data")]
    pub validation: Option<usize>,
    /// Activations in 16 bits take half the memory and its bandwidth; the loss is scaled so that gradients do not
    /// vanish [default: {}]
    #[arg(long, value_enum, help_heading = "Training")]
    pub precision: Option<Precision>,
    /// Augmentation of training images, anew in each epoch [default: none for svhn and shapes, imagenet for folders of
    /// images larger than 64, else standard]
    #[arg(long, value_enum, help_heading = "Data")]
    pub augment: Option<Augmentation>,

    /// Training method [default: one with several branches, vanilla with one]
    #[arg(long, value_enum, help_heading = "Method")]
    pub method: Option<Method>,
    /// The trained network that --method kd distils from: a checkpoint, or weights as PyTorch names them
    #[arg(long, value_name = "FILE", help_heading = "Method")]
    pub teacher: Option<PathBuf>,
    /// Network of the teacher, if its file does not say
    #[arg(long, value_name = "NAME", help_heading = "Method", requires = "teacher")]
    pub teacher_net: Option<String>,
    /// Do not distil the ensemble into the branches
    #[arg(long, help_heading = "Method")]
    #[serde(rename = "distill", serialize_with = "inverted", skip_serializing_if = "Not::not")]
    pub no_distill: bool,
    /// Take the plain mean of the branches as the ensemble, instead of the gate's
    #[arg(long, help_heading = "Method")]
    #[serde(rename = "gate", serialize_with = "inverted", skip_serializing_if = "Not::not")]
    pub no_gate: bool,
    /// Cycles of the learning rate, for --method snapshot and --schedule cyclic [default: {}]
    #[arg(long, value_name = "N", value_parser = count(one::MAX_BRANCHES as u64), help_heading = "Method")]
    pub cycles: Option<usize>,
    /// Weight of the distillation term [default: {}]
    #[arg(long, value_name = "W", value_parser = not_negative, help_heading = "Method")]
    pub distillation_weight: Option<f64>,
    /// Weight of the cross-entropy terms [default: {}]
    #[arg(long, value_name = "W", value_parser = not_negative, help_heading = "Method")]
    pub cross_entropy_weight: Option<f64>,
    /// Temperature of the distillation [default: {}; dml {dml}]
    #[arg(long, value_name = "T", value_parser = positive, help_heading = "Method")]
    pub temperature: Option<f64>,
    /// Epochs over which the distillation term grows to its full weight; 0 for none [default: none]
    #[arg(long, value_name = "EPOCHS", help_heading = "Method")]
    pub kl_ramp: Option<usize>,

    /// Options of Method and Optimiser under one name: paper, authors, strong, or a TOML file such as those in
    /// crates/train/recipes; options on the command line override it [default: {recipe}]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Optimiser")]
    #[serde(skip)]
    pub recipe: Option<String>,
    /// Epochs [default: {}]
    #[arg(long, value_name = "N", value_parser = count(1_000_000), help_heading = "Optimiser")]
    pub epochs: Option<usize>,
    /// Images in a step; of several ranks, of all of them together [default: {}]
    #[arg(long, value_name = "N", value_parser = count(1 << 20), help_heading = "Optimiser")]
    pub batch: Option<usize>,
    /// Initial learning rate [default: {}]
    #[arg(long, value_name = "RATE", value_parser = positive, help_heading = "Optimiser")]
    pub lr: Option<f64>,
    /// Take --lr as the rate for a batch of {usual}: it is multiplied by --batch / {usual}, after a warm-up of
    /// {warmup} epochs
    #[arg(long, help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Not::not")]
    pub scale_lr: bool,
    /// Epochs over which the learning rate grows to its value, step by step [default: 0; with --scale-lr
    /// {warmup}]
    #[arg(long, value_name = "EPOCHS", help_heading = "Optimiser")]
    pub warmup: Option<usize>,
    /// Momentum [default: {}]
    #[arg(long, value_name = "M", value_parser = fraction, help_heading = "Optimiser")]
    pub momentum: Option<f64>,
    /// Nesterov's momentum, or plain [default: {}]
    #[arg(long, value_name = "BOOL", help_heading = "Optimiser")]
    pub nesterov: Option<bool>,
    /// Weight decay [default: {}]
    #[arg(long, value_name = "W", value_parser = not_negative, help_heading = "Optimiser")]
    pub weight_decay: Option<f64>,
    /// Parameters that it applies to: all, or the weights of convolutions and linear layers [default: {}]
    #[arg(long, value_enum, help_heading = "Optimiser")]
    pub decay: Option<Decay>,
    /// Schedule of the learning rate [default: {}; snapshot {snapshot}]
    #[arg(long, value_enum, help_heading = "Optimiser")]
    pub schedule: Option<Schedule>,

    /// Images in a step of each rank, instead of --batch
    #[arg(
        long,
        value_name = "N",
        value_parser = count(1 << 20),
        help_heading = "Ranks (mpirun)",
        conflicts_with = "batch"
    )]
    #[serde(skip)]
    pub batch_per_rank: Option<usize>,
    /// Normalise over the batches of all ranks together, as one process would [default: each rank over its own]
    #[arg(long, help_heading = "Ranks (mpirun)")]
    #[serde(skip_serializing_if = "Not::not")]
    pub sync_bn: bool,
    /// Parts in which gradients are summed over the ranks, each as soon as it is there [default: {}]
    #[arg(long, value_name = "N", value_parser = count(256), help_heading = "Ranks (mpirun)")]
    pub gradient_parts: Option<usize>,
    /// Time that a rank may keep the others waiting before the run is ended [default: {timeout}]
    #[arg(long, value_name = "SECONDS", value_parser = count(1 << 20), help_heading = "Ranks (mpirun)")]
    #[serde(skip)]
    pub rank_timeout: Option<usize>,

    /// auto (a hardware GPU, else the CPU), gpu, cpu, or a part of an adapter's name; several, separated by commas, are
    /// those of a host's ranks in turn [default: {}]
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub device: Option<String>,
    /// Run the variants of kernels that a static rule takes, whatever was found on this adapter, and measure none
    #[arg(long, help_heading = "Run")]
    #[serde(skip)]
    pub untuned: bool,
    /// Determines initial weights, order and augmentation [default: {}]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64),
        help_heading = "Run"
    )]
    pub seed: Option<u64>,
    /// Begin with these weights: all of the very same network, or one network, which becomes the shared stages and
    /// branch 0
    #[arg(long, value_name = "FILE", help_heading = "Run", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Images in an evaluation step [default: as --batch]
    #[arg(long, value_name = "N", value_parser = count(1 << 20), help_heading = "Run")]
    pub eval_batch: Option<usize>,
    /// Directory of the run; it must not hold one [default: runs/NET[-METHOD]-BRANCHES-DATA-seedSEED, numbered]
    #[arg(long, value_name = "DIR", help_heading = "Run", conflicts_with = "resume")]
    #[serde(skip)]
    pub out: Option<PathBuf>,
    /// Save within epochs, too: every N steps, as 500, or minutes, as 10m
    #[arg(long, value_name = "WHEN", help_heading = "Run")]
    pub save_every: Option<SaveEvery>,
    /// Display of the run: a bar or lines now and then; a screen with curves and keys, on a terminal; nothing but
    /// the table [default: plain]
    #[arg(long, value_enum, value_name = "UI", help_heading = "Run")]
    #[serde(skip)]
    pub ui: Option<Ui>,
    /// Go on with the run in this directory; only {free} may differ, and the number of ranks
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Stop after this many steps, as Ctrl-C would
    #[arg(long, value_name = "STEPS", value_parser = count(u32::MAX.into()), help_heading = "Run")]
    #[serde(skip)]
    pub stop_after: Option<usize>,
    /// Look at every value that every kernel writes, and stop at the first that is not finite; memory begins as NaN.
    /// The same result, many times slower
    #[arg(long, help_heading = "Run", conflicts_with = "profile")]
    #[serde(skip)]
    pub checks: bool,
    /// As `train profile`: print where a training step spends its time, and end
    #[arg(long, help_heading = "Run", conflicts_with_all = ["resume", "out"])]
    #[serde(skip)]
    pub profile: bool,
}

/// Options of `profile`: those of the training that is meant, and what to print.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// A line for each kernel and shape, instead of one for each kernel
    #[arg(long, help_heading = "Profile")]
    pub by_shape: bool,
    /// Print one JSON object, in seconds, operations and bytes
    #[arg(long, help_heading = "Profile")]
    pub json: bool,
}

/// Options of `tune`: those of the training that is meant, and where to write what is measured.
#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// Write what is measured of each candidate, in seconds, as one JSON object
    #[arg(long, value_name = "FILE", help_heading = "Tune")]
    pub json: Option<PathBuf>,
}

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// auto, gpu, cpu, or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: String,
    /// Networks, separated by commas: a name, or name:branches
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = benched, default_value = BENCHED)]
    pub nets: Vec<(String, usize)>,
    /// Images in a step, training and evaluation alike, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = count(1 << 20), default_value = BATCHES)]
    pub batches: Vec<usize>,
    /// Precisions of the activations, separated by commas
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "f32,f16")]
    pub precision: Vec<Precision>,
    /// Time to measure each row of the table, about, in seconds; on slow devices at least three steps
    #[arg(long, value_name = "S", default_value = "2", value_parser = positive)]
    pub seconds: f64,
    /// Run the variants of kernels that a static rule takes, whatever was found on this adapter
    #[arg(long)]
    pub untuned: bool,
    /// Write what is measured to this file, too, as one JSON object; it is whole after each row
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Batches and networks that `bench` measures.
const BATCHES: &str = "128,512,1024";
const BENCHED: &str = "resnet20:1,resnet20:3,resnet32:1,resnet32:3,resnet110:1,resnet110:3,resnet18:3,\
                       densenet-bc-100-12:3,resnext29-8x64d:3";

/// Options of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A run's last.safetensors or best.safetensors, or a network's state as PyTorch names it (then give --net)
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// Network, for weights that do not say
    #[arg(long, value_name = "NAME")]
    pub net: Option<String>,
    /// Shortcuts, for weights that do not say [default: b]
    #[arg(long, value_enum)]
    pub shortcut: Option<Shortcut>,
    #[command(flatten)]
    pub dataset: DataArgs,
    /// Write the logits of every image, its label and the gate's shares to this safetensors file
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// auto, gpu, cpu, or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: String,
    /// Images in a step
    #[arg(long, visible_alias = "eval-batch", value_name = "N", default_value = "128", value_parser = count(1 << 20))]
    pub batch: usize,
    #[command(flatten)]
    pub perturbation: PerturbArgs,
}

/// Options of `eval --perturb`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Width of the optimum")]
pub struct PerturbArgs {
    /// Measure how fast errors grow along random directions from branch 0's trained parameters, on both splits; makes
    /// a table, a plot, and the table as CSV beside it
    #[arg(long)]
    pub perturb: bool,
    /// Directions, of unit length over all trained parameters
    #[arg(long, value_name = "N", default_value = "5", value_parser = count(10_000), requires = "perturb")]
    pub directions: usize,
    /// Largest distance along a direction
    #[arg(long, value_name = "D", default_value = "5", value_parser = positive, requires = "perturb")]
    pub distance: f64,
    /// Distances, evenly spaced from 0 on
    #[arg(
        long,
        value_name = "N",
        default_value = "11",
        requires = "perturb",
        value_parser = RangedU64ValueParser::<usize>::new().range(2..=10_000)
    )]
    pub points: usize,
    /// Determines the directions
    #[arg(long, value_name = "N", default_value = "0", requires = "perturb")]
    pub perturb_seed: u64,
    /// Measure on the first N training images only
    #[arg(long, value_name = "N", value_parser = count(u32::MAX.into()), requires = "perturb")]
    pub limit_train: Option<usize>,
    /// The plot; the CSV gets the same stem [default: perturb.svg beside the weights]
    #[arg(long, value_name = "FILE.svg", requires = "perturb")]
    pub to: Option<PathBuf>,
}

/// Options of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Directory of the run
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    pub run: Option<PathBuf>,
    /// Or a file that a run or `export` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "checkpoint"])]
    pub model: Option<PathBuf>,
    /// Branch to write as a network of its own; or all, with the gate (ONE-E)
    #[arg(long, value_name = "BRANCH", default_value = "0")]
    pub branch: Branches,
    /// File to write; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Kind of file [default: onnx if --to ends in .onnx, else safetensors]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Fold batch-norms into the layers before them, where there are such
    #[arg(long)]
    pub fold: bool,
    /// Build the normalisation into the ONNX model: its images are then of pixels in 0 to 1
    #[arg(long)]
    pub normalise: bool,
    /// State of the run
    #[arg(long, value_enum, default_value = "last")]
    pub checkpoint: SavedState,
}

/// Options of `sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The file, such as those in recipes/; docs/sweeps.md tells what it says
    #[arg(value_name = "FILE.toml")]
    pub file: PathBuf,
    /// Runs at once
    #[arg(long, value_name = "N", default_value = "1", value_parser = count(1024))]
    pub jobs: usize,
    /// Directory of the runs and of the report [default: as the file says]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// List the runs, how they stand and what they are trained with, and end
    #[arg(long)]
    pub dry_run: bool,
    /// Train nothing: write the report of what is there
    #[arg(long, conflicts_with = "dry_run")]
    pub report_only: bool,
    /// Do not measure weights for the report
    #[arg(long)]
    pub no_eval: bool,
    /// Folder that holds one folder per dataset, for all runs [default: as the file says]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Device for all runs: auto, gpu, cpu, or a part of an adapter's name [default: as the file says]
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Directories of runs; those that differ in their seed only are gathered
    #[arg(value_name = "DIR", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page [default: report.html in the run's directory, of several runs in the current one]
    #[arg(long, value_name = "FILE.html")]
    pub to: Option<PathBuf>,
    /// Do not measure the weights on the test images: leaves out confusion, calibration and the gate by class
    #[arg(long)]
    pub no_eval: bool,
    /// Folder that holds one folder per dataset [default: as the run had it]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// auto, gpu, cpu, or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: String,
}

/// Options of `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// A run's best.safetensors or last.safetensors, or what `export` wrote as safetensors
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Images, JPEG or PNG, of any size; and folders, of which all images are taken
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// Branch that predicts; or all, as an ensemble (ONE-E)
    #[arg(long, value_name = "BRANCH", default_value = "0")]
    pub branch: Branches,
    /// Classes to name for each image, the most probable first
    #[arg(long, value_name = "K", default_value = "3", value_parser = count(1_000_000))]
    pub top: usize,
    /// Write an object of JSON per image, one a line
    #[arg(long)]
    pub json: bool,
    /// auto, gpu, cpu, or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: String,
    /// Images in a step
    #[arg(long, value_name = "N", default_value = "64", value_parser = count(1 << 20))]
    pub batch: usize,
}

/// Options of `selftest`.
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Device to check: auto, gpu, cpu, or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: String,
    /// Take a few cases of each kernel: shapes that networks use, and awkward ones
    #[arg(long)]
    pub quick: bool,
    /// Take only cases whose name contains this, and no whole steps
    #[arg(long, value_name = "TEXT")]
    pub case: Option<String>,
    /// Write what was found as an object of JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Folder that holds one folder per dataset [default: datasets]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Device of the test: auto, gpu, cpu, or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: String,
    /// Leave the test out
    #[arg(long)]
    pub quick: bool,
}

/// Options of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Dataset
    #[arg(value_name = "NAME", default_value = "cifar10", value_parser = PossibleValuesParser::new(data::DATASETS))]
    pub data: String,
    /// Folder that holds one folder per dataset [default: datasets]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Get nothing: check the files that are there
    #[arg(long)]
    pub verify: bool,
}

/// Options of `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Number of classes
    #[arg(
        long,
        value_name = "C",
        default_value = "10",
        value_parser = RangedU64ValueParser::<usize>::new().range(2..=1_000_000)
    )]
    pub classes: usize,
    /// Height and width of the images [default: what the network is made for, 32 or 224]
    #[arg(long, value_name = "S", value_parser = count(4096))]
    pub image: Option<usize>,
    /// Images in a step, for the memory
    #[arg(long, value_name = "N", default_value = "128", value_parser = count(1 << 20))]
    pub batch: usize,
}

/// A switch that turns a setting off.
fn inverted<S: Serializer>(switch: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    (!switch).serialize(serializer)
}

/// Fills the default into the help of an option: `{}` stands for the default, `{METHOD}` for that of a method.
fn with_defaults(option: Arg) -> Arg {
    let Some(help) = option.get_help().map(ToString::to_string) else { return option };
    let mut text = help.clone();
    let default_of = |method: Method| {
        let defaults = toml::Table::try_from(Config::of_method(method)).unwrap_or_default();
        defaults.get(option.get_id().as_str()).map_or_else(String::new, shown)
    };
    let constants = [
        ("{recipe}", config::RECIPE.to_owned()),
        ("{usual}", config::USUAL_BATCH.to_string()),
        ("{warmup}", config::SCALED_WARMUP.to_string()),
        ("{timeout}", config::RANK_TIMEOUT.to_string()),
        ("{free}", config::free_options()),
        ("{}", default_of(Method::One)),
    ];
    for (place, value) in constants {
        text = text.replace(place, &value);
    }
    for method in Method::value_variants() {
        text = text.replace(&format!("{{{}}}", method.name()), &default_of(*method));
    }
    if text == help { option } else { option.help(text) }
}

/// A value as it can be typed, in as few digits as tell it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(number) => {
            let (plain, scientific) = (number.to_string(), format!("{number:e}"));
            if scientific.len() < plain.len() { scientific } else { plain }
        }
        other => other.to_string(),
    }
}

fn count(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

fn dataset(text: &str) -> Result<String, String> {
    if data::DATASETS.contains(&text) || Path::new(text).is_dir() {
        return Ok(text.to_owned());
    }
    let meant = nets::closest(text, data::DATASETS).map_or_else(String::new, |name| format!("did you mean {name}? "));
    Err(format!("{meant}give one of {}, or a folder of images that is there", data::DATASETS.join(", ")))
}

/// A network's name and its branches.
fn benched(text: &str) -> Result<(String, usize), String> {
    let (name, branches) = text.trim().split_once(':').unwrap_or((text.trim(), "1"));
    let branches = branches.parse().ok().filter(|branches| (1..=one::MAX_BRANCHES).contains(branches));
    match branches {
        Some(branches) if !name.is_empty() => Ok((name.to_owned(), branches)),
        _ => Err(format!("give NAME or NAME:BRANCHES, with 1 to {} branches", one::MAX_BRANCHES)),
    }
}

fn number(text: &str, admitted: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    text.trim().parse().ok().filter(|&x: &f64| x.is_finite() && admitted(x)).ok_or_else(|| format!("give {what}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number that is not negative")
}

fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "a number from 0 to below 1")
}

fn triple(text: &str, parse: impl Fn(&str) -> Result<f64, String>) -> Result<[f64; 3], String> {
    let values = text.split(',').map(parse).collect::<Result<Vec<f64>, String>>()?;
    values.try_into().map_err(|_| "give three numbers separated by commas".to_owned())
}

fn channels(text: &str) -> Result<[f64; 3], String> {
    triple(text, |part| number(part, |_| true, "three numbers separated by commas"))
}

fn positive_channels(text: &str) -> Result<[f64; 3], String> {
    triple(text, |part| number(part, |x| x > 0.0, "three numbers above 0, separated by commas"))
}
