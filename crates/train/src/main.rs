//! The command line: trains networks, and evaluates and inspects them.

mod args;
mod checkpoint;
mod commands;
mod config;
mod evaluation;
mod failure;
mod interrupt;
mod output;
mod overview;
mod programs;
mod progress;
mod run_dir;
mod schedule;
mod source;
mod table;
mod training;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Cli, Command};

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        None => commands::train::run(&cli.train),
        Some(Command::Eval(args)) => commands::eval::run(&args),
        Some(Command::Fetch(args)) => commands::fetch::run(&args),
        Some(Command::Info(args)) => commands::info::run(&args),
        Some(Command::Devices) => commands::devices::run(),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
