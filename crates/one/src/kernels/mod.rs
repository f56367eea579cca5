//! The methods' own kernels, through the same public trait as the engine's. One file here is the Rust half of one
//! file in `shaders/`; their references share `softmax`.

pub mod distillation_loss;
pub mod predictions;
mod softmax;

pub use distillation_loss::{DistillationLoss, TERMS, Teacher};
pub use predictions::Predict;
