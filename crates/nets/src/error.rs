//! Errors in choosing a network or loading its state.

/// Result of this crate's fallible calls.
pub type Result<T> = std::result::Result<T, Error>;

/// An error in the choice of a network, or in its state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--net` names nothing.
    #[error("unknown network \"{name}\": {hint}")]
    UnknownNetwork {
        /// The name that was asked for.
        name: String,
        /// The known names, or the fault of this one.
        hint: String,
    },
    /// A state dictionary that does not fit the network; nothing was loaded.
    #[error("the weights do not fit the network: {0}")]
    State(String),
    /// The engine returned an error.
    #[error(transparent)]
    Engine(#[from] tensor::Error),
}
