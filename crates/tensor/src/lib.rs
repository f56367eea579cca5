//! The compute engine: kernels with CPU references, graphs with hand-written gradients, memory plans, and
//! programs that run on a GPU (WGSL through `wgpu`) or on the CPU. It knows nothing of images, networks or
//! distillation.

pub mod device;
pub mod error;
pub mod kernel;
pub mod kernels;
pub mod rng;
pub mod shape;

pub use device::Device;
pub use error::{Error, Result};
pub use kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut};
pub use rng::Rng;
pub use shape::{DType, Spec};
