//! The methods. On-the-fly native ensemble (Lan, Zhu, Gong, NeurIPS 2018): a network fans out into branches, a gate
//! fuses their logits into a teacher, and a fused loss distils the teacher back into every branch, in one training
//! run. The methods it is compared with: the plain network, deep mutual learning, knowledge distillation from a
//! trained teacher, independent networks and their ensemble.

pub mod kernels;
mod metrics;
mod network;
mod predictions;
mod step;

pub use kernels::distillation_loss::Teacher;
pub use metrics::{LossWeights, Metrics};
pub use network::{Config, Heads, MAX_BRANCHES, record};
pub use predictions::{Bin, Network, Predictions};
pub use step::{Batch, Evaluation, Optimizer, Training, evaluation, training};

/// Errors of this crate are those of networks and of the engine.
pub use nets::{Error, Result};
