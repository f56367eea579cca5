//! What AMD's shader compiler makes of the kernels, without a GPU: Mesa's compiler for RDNA 2, 3 and 4 runs on any Linux machine,
//! and tells registers, occupancy, instructions and cycles of each shader. See `docs/kernel-stats.md`.

mod flow;
mod listing;
mod measure;
mod mesa;
mod specialisations;
mod spirv;
mod table;
mod vulkan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::measure::Row;
use crate::mesa::Mesa;
use crate::specialisations::{Job, Steps};
use crate::table::Table;

/// What AMD's shader compiler makes of the kernels of the training and evaluation steps.
#[derive(Debug, Parser)]
struct Args {
    /// Only kernels whose name contains all of these
    filters: Vec<String>,
    /// GPUs by Mesa's names
    #[arg(long, value_delimiter = ',', default_value = "navi21,navi31,gfx1201")]
    gpu: Vec<String>,
    /// Networks whose steps are looked at
    #[arg(long, value_delimiter = ',', default_value = "resnet32,resnet110")]
    net: Vec<String>,
    /// Branches of the ensemble
    #[arg(long, default_value_t = 3)]
    branches: usize,
    /// Images per step
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Look at the table of test cases instead of networks; names are `family/what`
    #[arg(long)]
    cases: bool,
    /// The folder that tools/kernel-stats/mesa.sh unpacked a newer Mesa into, or `installed` [default: that folder, if it is there]
    #[arg(long)]
    mesa: Option<PathBuf>,
    /// Print JSON
    #[arg(long, conflicts_with = "isa")]
    json: bool,
    /// Print the machine code instead, of all kernels that the filters leave
    #[arg(long)]
    isa: bool,
    /// Print the compiler's listing instead, with its cycles
    #[arg(long, conflicts_with = "isa")]
    listing: bool,
    /// Compare with docs/kernel-stats.tsv; fail where a kernel has become worse
    #[arg(long, conflicts_with_all = ["isa", "listing", "cases"])]
    check: bool,
    /// Write docs/kernel-stats.tsv
    #[arg(long, conflicts_with_all = ["isa", "listing", "cases", "check", "filters"])]
    update: bool,
}

/// What is measured on one GPU.
#[derive(Debug)]
struct Measured {
    gpu: String,
    driver: String,
    rows: Vec<Row>,
}

/// Lanes whose multiply-add a SIMD starts in each cycle at best: 32, and twice that where two of them issue together.
fn rate(gpu: &str) -> f64 {
    let rdna1_or_2 = gpu.starts_with("navi1") || gpu.starts_with("navi2") || gpu.starts_with("gfx10");
    if rdna1_or_2 { 32.0 } else { 64.0 }
}

/// The folder of the workspace.
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

fn jobs(args: &Args) -> Result<Vec<Job>> {
    let jobs = if args.cases {
        specialisations::of_cases(&args.filters)?
    } else {
        let steps = Steps { networks: &args.net, branches: args.branches, batch: args.batch };
        specialisations::of_steps(steps, &args.filters)?
    };
    ensure!(
        !jobs.is_empty(),
        "no kernel has a name with {:?}; without a filter, all are listed",
        args.filters.join(" ")
    );
    Ok(jobs)
}

fn run(args: &Args) -> Result<()> {
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
    if args.json {
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
            ExitCode::FAILURE
        }
    }
}
