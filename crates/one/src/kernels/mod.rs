//! The method's own kernels, through the same public trait as the engine's. One file here is the Rust half of one
//! file in `shaders/`.

pub mod ensemble_distillation;

pub use ensemble_distillation::{EnsembleDistillation, TERMS, Teacher};
