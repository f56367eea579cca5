//! Differentiable operations: the shape rule, the forward kernels and the hand-written backward of each.

mod batch_norm;
mod concat;
mod conv2d;
mod linear;
mod members;
mod pool;
mod shortcut;

pub use batch_norm::BatchNorm;
pub use conv2d::Conv2d;
pub use pool::Pool2d;
