//! On-the-fly native ensemble: the fused distillation loss.

pub mod kernels;
