//! Lines on stdout and stderr. `println!` panics when the reader has gone, these do not.

use std::fmt::Display;
use std::io::{self, Write};

/// The reader of stdout has gone: there is nothing left to do for a command that only prints.
#[derive(Debug)]
pub struct ClosedOutput;

impl Display for ClosedOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for ClosedOutput {}

/// Writes a line to stdout.
///
/// # Errors
/// [`ClosedOutput`] when the reader has gone, or the system's reason.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedOutput.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
    }
}

/// Writes a line to stderr. Where that fails there is nobody to tell.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
