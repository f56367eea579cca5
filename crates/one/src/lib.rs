//! On-the-fly native ensemble (Lan, Zhu, Gong, NeurIPS 2018): a network fans out into branches, a gate fuses their
//! logits into a teacher, and a fused loss distils the teacher back into every branch, in one training run.

pub mod kernels;
mod metrics;
mod network;
mod step;

pub use kernels::ensemble_distillation::Teacher;
pub use metrics::Metrics;
pub use network::{Config, Heads, MAX_BRANCHES, record};
pub use step::{Evaluation, Optimizer, Training, evaluation, training};

/// What goes wrong here is what goes wrong in a network or in the engine.
pub use nets::{Error, Result};
