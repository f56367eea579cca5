//! Help at a shell: completions and the manual page, both made from the options themselves.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::options::args::Cli;
use crate::output::ClosedOutput;

/// Prints the completions of a shell.
///
/// # Errors
/// When stdout cannot be written.
pub fn completions(shell: Shell) -> Result<()> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    write(&text)
}

/// Prints the manual page: of the program, and behind it of each of its commands.
///
/// # Errors
/// When stdout cannot be written.
pub fn page() -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text).context("cannot make the manual page")?;
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let man = Man::new(inner.clone());
        man.render_name_section(&mut text).context("cannot make the manual page")?;
        man.render_synopsis_section(&mut text).context("cannot make the manual page")?;
        man.render_options_section(&mut text).context("cannot make the manual page")?;
    }
    write(&text)
}

fn write(text: &[u8]) -> Result<()> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedOutput.into()),
        other => other.context("cannot write to stdout"),
    }
}
