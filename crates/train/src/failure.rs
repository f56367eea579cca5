//! How errors end the program: one sentence on stderr, and the exit status.

use std::process::ExitCode;

use data::DataError;

use crate::output::{self, ClosedOutput};

/// Wrong usage: what was asked for cannot be, whatever the machine.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error of wrong usage.
pub fn usage(sentence: impl Into<String>) -> anyhow::Error {
    Usage(sentence.into()).into()
}

/// Whether an option's value is to blame.
fn is_usage(error: &(dyn std::error::Error + 'static)) -> bool {
    let nets = error.downcast_ref::<nets::Error>();
    let tensor = error.downcast_ref::<tensor::Error>();
    let data = error.downcast_ref::<DataError>();
    error.is::<Usage>()
        || matches!(nets, Some(nets::Error::UnknownNetwork { .. }))
        || matches!(tensor, Some(tensor::Error::NoSuchDevice { .. }))
        || matches!(
            data,
            Some(
                DataError::Unknown { .. }
                    | DataError::Classes { .. }
                    | DataError::TooMany { .. }
                    | DataError::Batch { .. }
                    | DataError::NoImages
                    | DataError::NothingToFetch { .. }
                    | DataError::HoldOut { .. }
            )
        )
}

/// Prints the error and gives the exit status: 2 for wrong usage, 1 for anything else, 0 when nobody reads the output
/// any more.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(<dyn std::error::Error>::is::<ClosedOutput>) {
        return ExitCode::SUCCESS;
    }
    // Some causes come with line breaks and excerpts of files.
    let sentence =
        format!("{error:#}").lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    output::note(format!("error: {sentence}"));
    ExitCode::from(if error.chain().any(is_usage) { 2 } else { 1 })
}
