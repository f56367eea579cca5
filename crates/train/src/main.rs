//! The command line: trains networks, and evaluates and inspects them.

mod about;
mod args;
mod checkpoint;
mod commands;
mod config;
mod dashboard;
mod date;
mod divergence;
mod drivers;
mod evaluation;
mod failure;
mod feeding;
mod fold;
mod interrupt;
mod memory;
mod onnx;
mod output;
mod outputs;
mod overview;
mod plot;
mod programs;
mod progress;
mod protobuf;
mod ranks;
mod recipe;
mod report;
mod run_dir;
mod same;
mod schedule;
mod sessions;
mod snapshots;
mod source;
mod sweep;
mod table;
mod teacher;
mod tensor_file;
mod tensorboard;
mod timing;
mod trained;
mod training;
mod tuned;
mod tuning;
mod values;

use std::env;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Cli, Command};
use crate::ranks::Ranks;

fn run(cli: Cli, ranks: &mut Ranks) -> Result<()> {
    match cli.command {
        None => commands::train::run(&cli.train, ranks),
        Some(Command::Eval(args)) => commands::eval::run(&args),
        Some(Command::Sweep(args)) => commands::sweep::run(&args),
        Some(Command::Predict(args)) => commands::predict::run(&args),
        Some(Command::Report(args)) => commands::report::run(&args),
        Some(Command::Export(args)) => commands::export::run(&args),
        Some(Command::Fetch(args)) => commands::fetch::run(&args),
        Some(Command::Info(args)) => commands::info::run(&args),
        Some(Command::Profile(args)) => commands::profile::run(&args),
        Some(Command::Tune(args)) => commands::tune::run(&args),
        Some(Command::Bench(args)) => commands::bench::run(&args),
        Some(Command::Selftest(args)) => commands::selftest::run(&args),
        Some(Command::Devices) => commands::devices::run(),
        Some(Command::Doctor(args)) => commands::doctor::run(&args),
        Some(Command::Completions { shell }) => commands::manual::completions(shell),
        Some(Command::Man) => commands::manual::page(),
    }
}

/// Without a desktop session, the layer by which Mesa lets a user choose among GPUs prints an error for every
/// enumeration of adapters; there it is switched off.
fn silence_mesa_without_a_session() {
    const SWITCH: &str = "NODEVICE_SELECT";
    if cfg!(target_os = "linux") && env::var_os("XDG_RUNTIME_DIR").is_none() && env::var_os(SWITCH).is_none() {
        // SAFETY: `main` calls this first, when there is no other thread that could read the environment.
        unsafe { env::set_var(SWITCH, "1") };
    }
}

fn main() -> ExitCode {
    silence_mesa_without_a_session();
    let cli = Cli::parse();
    let mut ranks = Ranks::alone();
    match run(cli, &mut ranks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, &ranks),
    }
}
