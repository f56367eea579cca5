//! Kernels of the CPU device where the [reference](crate::Kernel::reference) would be too slow
//! ([`crate::Kernel::compute`]). Only this room knows of vectors, registers and caches; the case table holds all of it
//! to the references.

pub(crate) mod batch_norm;
mod column_sums;
pub(crate) mod conv2d_forward;
pub(crate) mod conv2d_grad_input;
pub(crate) mod conv2d_grad_weight;
mod masked_sums;
mod normalise;
pub(crate) mod peak_fma;
pub(crate) mod product;
mod strips;
mod tiles;
pub(crate) mod vectors;
mod wide_layers;
mod windows;
