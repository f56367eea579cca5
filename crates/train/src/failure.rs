//! How errors end the program: one sentence on stderr, and the exit status.

use std::process::ExitCode;
use std::time::Duration;

use data::DataError;
use serde::{Deserialize, Serialize};

use crate::divergence::Divergence;
use crate::output::{self, ClosedOutput};
use crate::ranks::Ranks;

/// Wrong usage: what was asked for cannot be, whatever the machine.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error that all ranks know of: rank 0 tells it, and they end without being stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    pub sentence: String,
    /// True if what was asked for cannot be.
    pub usage: bool,
}

impl std::fmt::Display for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Agreed {}

/// How long rank 0 has to tell what the others have found out, too, before they do.
const TURN: Duration = Duration::from_secs(10);

/// An error of wrong usage.
pub fn usage(sentence: impl Into<String>) -> anyhow::Error {
    Usage(sentence.into()).into()
}

/// Tells whether an option's value is to blame.
fn is_usage(error: &(dyn std::error::Error + 'static)) -> bool {
    let nets = error.downcast_ref::<nets::Error>();
    let tensor = error.downcast_ref::<tensor::Error>();
    let data = error.downcast_ref::<DataError>();
    error.is::<Usage>()
        || error.downcast_ref().is_some_and(|agreed: &Agreed| agreed.usage)
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

/// Tells whether what was asked for is to blame.
pub fn is_wrong_usage(error: &anyhow::Error) -> bool {
    error.chain().any(is_usage)
}

/// Tells whether the connection to other ranks has failed.
pub fn is_exchange(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<dist::Error>() || matches!(cause.downcast_ref(), Some(tensor::Error::Exchange { .. })))
}

/// Prints the error and gives the exit status: 2 for wrong usage, 1 for anything else, 0 when nobody reads the output
/// any more. Of several ranks, the first tells what all know of; what one alone knows of ends all.
pub fn report(error: &anyhow::Error, ranks: &Ranks) -> ExitCode {
    if error.chain().any(<dyn std::error::Error>::is::<ClosedOutput>) {
        return ExitCode::SUCCESS;
    }
    let agreed = error.chain().any(|cause| cause.is::<Agreed>() || cause.is::<Divergence>());
    if agreed && !ranks.is_root() {
        return ExitCode::SUCCESS;
    }
    if !ranks.is_root() && is_exchange(error) {
        std::thread::sleep(TURN);
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
