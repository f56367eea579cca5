//! Devices: where buffers live and programs run. The CPU device runs the references; a GPU device runs WGSL.

mod cpu;
mod gpu;
mod select;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::graph::work::Work;
use crate::kernel::Target;
use crate::kernel::choices::Choices;
use crate::shape::DType;

pub use cpu::{CpuBuffer, CpuDevice};
pub use gpu::{GpuDevice, GpuOptions};
pub use select::{Adapter, AdapterSummary, adapters, open, open_noop, open_one_of, open_with};

/// Something that holds buffers and runs programs. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Device {
    /// The references of the kernels, on all cores.
    Cpu(Arc<CpuDevice>),
    /// WGSL on an adapter.
    Gpu(Arc<GpuDevice>),
}

/// Memory on a device, in 32-bit words. Cheap to clone; clones share the memory.
#[derive(Debug, Clone)]
pub enum Buffer {
    /// Memory of the CPU device.
    Cpu(CpuBuffer),
    /// Memory of a GPU device.
    Gpu(wgpu::Buffer),
}

/// A part of a buffer, as one operand of a dispatch.
#[derive(Debug, Clone)]
pub struct View {
    /// The memory.
    pub buffer: Buffer,
    /// Identity of the memory: two views of the same buffer have the same id.
    pub buffer_id: usize,
    /// First word; a multiple of [`ALIGNMENT`].
    pub offset: usize,
    /// Length in words.
    pub words: usize,
    /// Element type that the kernel sees.
    pub dtype: DType,
}

/// Alignment, in words, of every tensor inside a shared buffer: 256 bytes, WebGPU's default offset alignment.
pub const ALIGNMENT: usize = 64;

/// One node with its operands, ready to run. The host's work is not run by a device, but keeps its place.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The computation.
    pub work: Work,
    /// Read operands.
    pub inputs: Vec<View>,
    /// Written operands.
    pub outputs: Vec<View>,
}

/// Dispatches prepared for a device.
#[derive(Debug)]
pub enum Executable {
    /// References over CPU buffers.
    Cpu(cpu::CpuProgram),
    /// Pipelines and bind groups.
    Gpu(gpu::GpuProgram),
}

/// Sets the number of threads of the CPU device and of all other computation on the host. Call before computing.
///
/// # Errors
/// When something was computed already.
pub fn limit_threads(threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| Error::Device { device: "cpu".to_owned(), problem: error.to_string() })
}

impl Device {
    /// The CPU device.
    pub fn cpu() -> Self {
        Self::Cpu(Arc::new(CpuDevice::new()))
    }

    /// The name to print: the adapter's, or `cpu` with its number of threads.
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu(device) => device.name(),
            Self::Gpu(device) => device.name(),
        }
    }

    /// Tells whether this is a GPU device (of whatever adapter).
    pub fn is_gpu(&self) -> bool {
        matches!(self, Self::Gpu(_))
    }

    /// The adapter and its driver; none of the CPU device.
    pub fn adapter(&self) -> Option<&Adapter> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(device) => Some(device.adapter()),
        }
    }

    /// The same device, with the same memory, on which programs that are compiled from now on run the variants that
    /// `choices` name. The CPU device has none to choose from.
    #[must_use]
    pub fn tuned(&self, choices: Choices) -> Self {
        match self {
            Self::Cpu(_) => self.clone(),
            Self::Gpu(device) => Self::Gpu(Arc::new(device.tuned(choices))),
        }
    }

    /// Facts of the adapter that kernels may use; none for the CPU device.
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(device) => Some(device.target()),
        }
    }

    /// The largest tensor, in bytes, that a kernel may bind here.
    pub fn max_binding_bytes(&self) -> u64 {
        match self {
            Self::Cpu(_) => u64::MAX,
            Self::Gpu(device) => device.max_binding_bytes(),
        }
    }

    /// The largest buffer, in bytes, that can be allocated here.
    pub fn max_buffer_bytes(&self) -> u64 {
        match self {
            Self::Cpu(_) => u64::MAX,
            Self::Gpu(device) => device.max_buffer_bytes(),
        }
    }

    /// Tells whether its memory is the machine's own: true of the CPU, of integrated GPUs and of software adapters.
    pub fn uses_host_memory(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpu(device) => device.uses_host_memory(),
        }
    }

    /// Zeroed memory.
    ///
    /// # Errors
    /// When the device has not that much, or does not allow a buffer of that size.
    pub fn alloc(&self, words: usize, label: &str) -> Result<Buffer> {
        match self {
            Self::Cpu(device) => device.alloc(words, label).map(Buffer::Cpu),
            Self::Gpu(device) => device.alloc(words, label).map(Buffer::Gpu),
        }
    }

    /// Copies `data` to `buffer` from word `offset` on, before anything that is run afterwards.
    ///
    /// # Errors
    /// When the range is outside the buffer, the buffer is another device's, or the device was lost.
    pub fn write(&self, buffer: &Buffer, offset: usize, data: &[u32]) -> Result<()> {
        match (self, buffer) {
            (Self::Cpu(device), Buffer::Cpu(buffer)) => device.write(buffer, offset, data),
            (Self::Gpu(device), Buffer::Gpu(buffer)) => device.write(buffer, offset, data),
            _ => Err(self.foreign()),
        }
    }

    /// Waits for what was run before, and copies words `offset..offset + words` of `buffer` to the host.
    ///
    /// # Errors
    /// As [`Device::write`], and anything that failed on the device since the last read.
    pub fn read(&self, buffer: &Buffer, offset: usize, words: usize) -> Result<Vec<u32>> {
        match (self, buffer) {
            (Self::Cpu(device), Buffer::Cpu(buffer)) => device.read(buffer, offset, words),
            (Self::Gpu(device), Buffer::Gpu(buffer)) => device.read(buffer, offset, words),
            _ => Err(self.foreign()),
        }
    }

    /// Copies the first `words` of one buffer to another on the device, after what was run before.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub fn copy(&self, from: &Buffer, to: &Buffer, words: usize) -> Result<()> {
        match (self, from, to) {
            (Self::Cpu(device), Buffer::Cpu(from), Buffer::Cpu(to)) => device.copy(from, to, words),
            (Self::Gpu(device), Buffer::Gpu(from), Buffer::Gpu(to)) => device.copy(from, to, words),
            _ => Err(self.foreign()),
        }
    }

    /// Prepares dispatches: on a GPU compiles their pipelines (in parallel) and creates their bind groups.
    ///
    /// # Errors
    /// A kernel that the device cannot run, named, with the limit it exceeds or the compiler's message.
    pub fn prepare(&self, dispatches: Vec<Dispatch>) -> Result<Executable> {
        match self {
            Self::Cpu(device) => cpu::CpuProgram::new(device, dispatches).map(Executable::Cpu),
            Self::Gpu(device) => gpu::GpuProgram::new(device, &dispatches).map(Executable::Gpu),
        }
    }

    /// Waits until everything that was run has finished.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(device) => device.synchronize(),
        }
    }

    /// Tells whether everything that was run has finished; returns at once.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpu(device) => device.is_idle(),
        }
    }

    fn foreign(&self) -> Error {
        Error::Device { device: self.name().to_owned(), problem: "a buffer of another device was passed".to_owned() }
    }
}

impl Executable {
    /// Number of dispatches.
    fn count(&self) -> usize {
        match self {
            Self::Cpu(program) => program.count(),
            Self::Gpu(program) => program.count(),
        }
    }

    /// Runs all dispatches in order. On a GPU returns when they are submitted.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn run(&mut self) -> Result<()> {
        self.run_part(0..self.count())
    }

    /// Runs all dispatches once, and returns the time of each.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn run_timed(&mut self) -> Result<Vec<Duration>> {
        self.time_part(0..self.count())
    }

    /// As [`Executable::run`], for some of the dispatches.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn run_part(&mut self, dispatches: Range<usize>) -> Result<()> {
        match self {
            Self::Cpu(program) => program.run(dispatches),
            Self::Gpu(program) => program.run(dispatches),
        }
    }

    /// As [`Executable::run_timed`], for some of the dispatches.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn time_part(&mut self, dispatches: Range<usize>) -> Result<Vec<Duration>> {
        match self {
            Self::Cpu(program) => program.run_timed(dispatches),
            Self::Gpu(program) => program.run_timed(dispatches),
        }
    }
}
