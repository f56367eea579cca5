//! Differentiable operations: the shape rule, the forward kernels and the hand-written backward of each.

mod batch_norm;
mod conv2d;
mod linear;
mod pool;
mod shortcut;

pub use batch_norm::BatchNorm;
pub use conv2d::Conv2d;
