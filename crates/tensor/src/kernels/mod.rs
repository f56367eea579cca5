//! One file per kernel, or a folder for a family of them: the Rust half of `shaders/<same name>.wgsl`, with the
//! reference, which is its specification.

pub mod batch_norm;
pub mod concat;
pub mod conv2d;
pub mod elementwise;
pub mod expand_members;
pub mod gemm;
pub mod global_average_pool;
pub mod loss_scale;
pub mod peak_fma;
pub mod peak_workgroup;
pub mod pool2d;
pub mod sgd;
pub mod shortcut_a;
pub mod sum_columns;
pub mod sum_members;
pub mod sum_partials;
#[cfg(test)]
mod testing;
pub(crate) mod tiling;
mod windows;
