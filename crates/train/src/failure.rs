//! Errors that the program tells apart: wrong usage, what all ranks know of, divergence, lost connections.

use data::DataError;
use serde::{Deserialize, Serialize};

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

/// The values are not finite any more: what is known of it, in a sentence.
#[derive(Debug)]
pub struct Divergence(pub String);

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Divergence {}

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
