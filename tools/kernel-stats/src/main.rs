//! Statistics of AMD's shader compiler on the kernels, without a GPU: Mesa's compiler for RDNA 2, 3 and 4 runs on any
//! Linux machine, and reports registers, occupancy, instructions and cycles of each shader. See
//! `docs/kernel-stats.md`.

mod flow;
mod listing;
mod measure;
mod mesa;
mod predict;
mod specialisations;
mod spirv;
mod table;
mod texts;
mod vulkan;

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use one::MAX_BRANCHES;
use tensor::DType;

use crate::measure::Row;
use crate::mesa::Mesa;
use crate::specialisations::{Job, Selection, Steps};
use crate::table::Table;

/// Statistics of AMD's shader compiler on the kernels of the training and evaluation steps.
#[derive(Debug, Parser)]
struct Args {
    /// Only kernels whose name contains all of these
    filters: Vec<String>,
    /// GPUs by Mesa's names
    #[arg(long, value_delimiter = ',', default_value = "navi21,navi31,gfx1201")]
    gpu: Vec<String>,
    /// Networks whose steps are examined
    #[arg(long, value_delimiter = ',', default_value = "resnet32,resnet110")]
    net: Vec<String>,
    /// Branches of the ensemble
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MAX_BRANCHES as i64))]
    branches: u16,
    /// Images per step
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Storage of activations and their gradients
    #[arg(long, value_delimiter = ',', default_value = "f32,f16")]
    precision: Vec<Precision>,
    /// Examine the table of test cases instead of networks; names are `family/what`
    #[arg(long)]
    cases: bool,
    /// Examine all variants that `tune` chooses from; they are numbered after the one that is launched without it
    #[arg(long)]
    candidates: bool,
    /// The folder that tools/kernel-stats/mesa.sh unpacked a newer Mesa into, or `installed` [default: that folder, if
    /// it is there]
    #[arg(long)]
    mesa: Option<PathBuf>,
    /// Print JSON
    #[arg(long, conflicts_with = "isa")]
    json: bool,
    /// Print the machine code instead, of all kernels that match the filters
    #[arg(long)]
    isa: bool,
    /// Print the compiler's listing instead, with its cycles
    #[arg(long, conflicts_with = "isa")]
    listing: bool,
    /// Compare with docs/kernel-stats.tsv; fail if a kernel has become worse
    #[arg(long, conflicts_with_all = ["isa", "listing", "cases", "candidates"])]
    check: bool,
    /// Predict the speed of training steps on GPUs by their published peaks
    #[arg(long, conflicts_with_all = ["isa", "listing", "cases", "candidates", "check", "update", "filters", "json"])]
    predict: bool,
    /// Write the text of every shader of the networks and the cases into this folder, all candidates and passes, and
    /// compile nothing
    #[arg(long, value_name = "FOLDER")]
    #[arg(conflicts_with_all = ["filters", "isa", "listing", "check", "predict", "update"])]
    wgsl: Option<PathBuf>,
    /// Write docs/kernel-stats.tsv
    #[arg(long, conflicts_with_all = ["isa", "listing", "cases", "candidates", "check", "filters"])]
    update: bool,
}

/// Floats of 32 or of 16 bits.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
        }
    }
}

/// Measurements on one GPU.
#[derive(Debug)]
struct Measured {
    gpu: String,
    driver: String,
    rows: Vec<Row>,
}

/// Most lanes whose multiply-add a SIMD starts in a cycle: 32, or 64 with dual issue.
fn rate(gpu: &str) -> f64 {
    let rdna1_or_2 = gpu.starts_with("navi1") || gpu.starts_with("navi2") || gpu.starts_with("gfx10");
    if rdna1_or_2 { 32.0 } else { 64.0 }
}

/// The workspace's folder.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

fn driver(args: &Args) -> Result<Mesa> {
    let unpacked = root().join("target/mesa25");
    let found = match &args.mesa {
        Some(folder) if folder.as_os_str() == "installed" => Mesa::installed(),
        Some(folder) => Mesa::unpacked(folder),
        None => Mesa::unpacked(&unpacked).or_else(Mesa::installed),
    };
    found.context("Mesa's driver for AMD is not there: run tools/kernel-stats/mesa.sh, or install mesa-vulkan-drivers")
}

fn precisions(args: &Args) -> Vec<DType> {
    args.precision.iter().map(|&precision| precision.into()).collect()
}

fn steps<'a>(args: &'a Args, precisions: &'a [DType]) -> Steps<'a> {
    Steps { networks: &args.net, branches: args.branches.into(), batch: args.batch.into(), precisions }
}

fn jobs(args: &Args) -> Result<Vec<Job>> {
    let selection = Selection { filters: &args.filters, candidates: args.candidates };
    let jobs = if args.cases {
        specialisations::of_cases(selection)?
    } else {
        specialisations::of_steps(steps(args, &precisions(args)), selection)?
    };
    ensure!(!jobs.is_empty(), NoSuchKernel(args.filters.clone()));
    Ok(jobs)
}

fn run(args: &Args) -> Result<()> {
    if let Some(folder) = &args.wgsl {
        let kernels = specialisations::kernels(steps(args, &precisions(args)))?;
        println!("{} shaders in {}", texts::write(folder, &kernels)?, folder.display());
        return Ok(());
    }
    let jobs = jobs(args)?;
    let mut measured = Vec::new();
    for (gpu, compiled) in args.gpu.iter().zip(driver(args)?.compile_for_all(&args.gpu, &jobs)) {
        let (driver, compiled) = compiled?;
        let rows = jobs.iter().zip(&compiled).map(|(job, compiled)| {
            if args.isa || args.listing {
                println!("# {} on {gpu}\n{}", job.name, if args.isa { &compiled.isa } else { &compiled.listing });
            }
            measure::read(&job.name, compiled, rate(gpu))
        });
        measured.push(Measured { gpu: gpu.clone(), driver, rows: rows.collect::<Result<_>>()? });
    }
    if args.isa || args.listing {
        return Ok(());
    }
    if args.predict {
        predict::print(&specialisations::training_steps(steps(args, &precisions(args)))?, &measured);
    } else if args.json {
        println!("{}", table::json(&measured)?);
    } else if !args.update {
        measured.iter().for_each(table::print);
    }
    let path = root().join("docs/kernel-stats.tsv");
    if args.update {
        Table::of(&measured).write(&path)?;
    }
    let mut problems: Vec<String> = measured.iter().flat_map(table::spills).collect();
    if args.check {
        problems.extend(Table::read(&path)?.regressions(&measured, args.filters.is_empty()));
    }
    match problems.as_slice() {
        [] => Ok(()),
        [only] => bail!("{only}"),
        [first, ..] => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            bail!("{} problems, the first: {first}", problems.len())
        }
    }
}

/// Error when no kernel has the requested name.
#[derive(Debug)]
struct NoSuchKernel(Vec<String>);

impl fmt::Display for NoSuchKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no kernel has a name with {:?}; without a filter, all are listed", self.0.join(" "))
    }
}

impl Error for NoSuchKernel {}

/// Tells whether an error is one of usage, independent of the machine.
fn is_usage(error: &anyhow::Error) -> bool {
    let unknown_network = matches!(error.downcast_ref(), Some(nets::Error::UnknownNetwork { .. }));
    unknown_network || error.is::<NoSuchKernel>()
}

fn main() -> ExitCode {
    let result = if std::env::args().nth(1).as_deref() == Some(mesa::COMPILE) {
        mesa::compile_from_stdin()
    } else {
        run(&Args::parse())
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("error: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}
