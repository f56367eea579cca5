//! One file per kernel family: the Rust half of `shaders/<same name>.wgsl`, with the reference: its
//! specification.

pub mod batch_norm_apply;
pub mod batch_norm_backward;
pub mod batch_norm_small;
pub mod batch_norm_stats;
pub mod concat;
pub mod conv2d;
pub mod conv2d_forward;
pub mod conv2d_grad_input;
pub mod conv2d_grad_weight;
pub(crate) mod conv2d_tiled;
pub mod elementwise;
pub mod expand_members;
pub mod gemm;
pub mod global_average_pool;
pub mod loss_scale;
pub mod peak_fma;
pub mod peak_workgroup;
pub mod pool2d;
pub mod relu;
pub mod sgd;
pub mod shortcut_a;
pub mod sum_columns;
pub mod sum_members;
pub mod sum_partials;
#[cfg(test)]
mod testing;
pub(crate) mod tiling;
pub mod top_k_errors;
