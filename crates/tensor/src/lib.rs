//! The compute engine: kernels with CPU references, graphs with hand-written gradients, memory plans, and
//! programs that run on a GPU (WGSL through `wgpu`) or on the CPU. It knows nothing of images, networks or
//! distillation.

mod cpu;
pub mod device;
mod error;
mod graph;
pub mod kernel;
pub mod kernels;
pub mod ops;
mod peaks;
mod rng;
mod shape;
mod state;
pub mod tuning;

pub use device::Device;
pub use error::{Error, NotFinite, Result};
pub use graph::footprint::Footprint;
pub use graph::program::{CompileOptions, Memory, ProfileRow, Program};
pub use graph::sharing::{self, Exchange, Sharing};
pub use graph::work::{HostWork, Work};
pub use graph::{Graph, Var, autodiff, fuse};
pub use kernel::choices::Choices;
pub use kernel::{Activations, Binding, Cost, Form, Kernel, Launch, Slice, SliceMut, Target};
pub use peaks::Peaks;
pub use rng::Rng;
pub use shape::{DType, Spec};
pub use state::bank::Bank;
pub use state::optim;
pub use state::params::{Kind, Param, Params};
