//! One file per kernel family: the Rust half of `shaders/<same name>.wgsl`, and its CPU reference.

pub mod batch_norm_apply;
pub mod batch_norm_backward;
pub mod batch_norm_stats;
pub mod conv2d;
pub mod conv2d_forward;
pub mod conv2d_grad_input;
pub mod conv2d_grad_weight;
pub mod gemm;
mod matrix;
pub mod sum_partials;
#[cfg(test)]
mod testing;
