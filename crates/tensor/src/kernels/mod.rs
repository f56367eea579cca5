//! One file per kernel family: the Rust half of `shaders/<same name>.wgsl`, and its CPU reference.

pub mod conv2d;
pub mod conv2d_forward;
pub mod conv2d_grad_input;
pub mod conv2d_grad_weight;
pub mod gemm;
pub mod sum_partials;
