//! The compute engine: kernels with CPU references, graphs with hand-written gradients, memory plans, and
//! programs that run on a GPU (WGSL through `wgpu`) or on the CPU. It knows nothing of images, networks or
//! distillation.

pub mod autodiff;
pub mod bank;
mod cpu;
pub mod device;
pub mod error;
pub mod footprint;
pub mod graph;
pub mod host;
pub mod kernel;
pub mod kernels;
pub mod ops;
pub mod optim;
pub mod params;
pub mod peaks;
pub mod plan;
pub mod program;
pub mod rng;
pub mod shape;
pub mod sharing;
pub mod tuning;
pub mod work;

pub use bank::Bank;
pub use device::Device;
pub use error::{Error, Result};
pub use footprint::Footprint;
pub use graph::{Graph, Var};
pub use host::HostWork;
pub use kernel::{Activations, Binding, Cost, Form, Kernel, Launch, Slice, SliceMut, Target};
pub use params::{Kind, Param, Params};
pub use peaks::Peaks;
pub use program::{CompileOptions, Memory, NotFinite, ProfileRow, Program};
pub use rng::Rng;
pub use shape::{DType, Spec};
pub use sharing::{Exchange, Sharing};
pub use tuning::Choices;
pub use work::Work;
