//! The command line: trains networks, and evaluates and inspects them.

mod commands;
mod failure;
mod formats;
mod interrupt;
mod machine;
mod options;
mod output;
mod ranks;
mod report;
mod run;
mod show;
mod step;
mod sweep;
mod training;

use std::env;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use crate::failure::{Agreed, Divergence, is_exchange, is_wrong_usage};
use crate::options::args::{Cli, Command};
use crate::output::ClosedOutput;
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

/// Time that rank 0 has to report an error before the other ranks, which found it too, report it themselves.
const TURN: Duration = Duration::from_secs(10);

/// Prints the error and gives the exit status: 2 for wrong usage, 1 for anything else, 0 when nobody reads the output
/// any more. Of several ranks, the first tells what all know of; what one alone knows of ends all.
fn report(error: &anyhow::Error, ranks: &Ranks) -> ExitCode {
    if error.chain().any(<dyn std::error::Error>::is::<ClosedOutput>) {
        return ExitCode::SUCCESS;
    }
    let agreed = error.chain().any(|cause| cause.is::<Agreed>() || cause.is::<Divergence>());
    if agreed && !ranks.is_root() {
        return ExitCode::SUCCESS;
    }
    if !ranks.is_root() && is_exchange(error) {
        thread::sleep(TURN);
    }
    // Some causes come with line breaks and excerpts of files.
    let sentence =
        format!("{error:#}").lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let status = if is_wrong_usage(error) { 2 } else { 1 };
    if ranks.is_alone() || agreed {
        output::note(format!("error: {sentence}"));
        return ExitCode::from(status);
    }
    output::note_of_rank(format!("error: {sentence}"));
    ranks.abort(status.into())
}

fn main() -> ExitCode {
    silence_mesa_without_a_session();
    let cli = Cli::parse();
    let mut ranks = Ranks::alone();
    match run(cli, &mut ranks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, &ranks),
    }
}
