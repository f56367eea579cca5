//! Which device a name means.

use std::fmt;
use std::sync::{Arc, LazyLock};

use super::{Device, GpuDevice, GpuOptions};
use crate::cpu::vectors;
use crate::error::{Error, Result};

/// Facts of an adapter that `devices` prints.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// The adapter's own name.
    pub name: String,
    /// Vulkan, Metal, Dx12.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `software`, `other`.
    pub kind: &'static str,
    /// True if it is emulated on the CPU.
    pub software: bool,
    /// True if shaders may use 16-bit floats.
    pub f16: bool,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// True if `auto` takes this one.
    pub automatic: bool,
}

/// The identity of an adapter and the driver that compiles for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// The adapter's own name.
    pub name: String,
    /// Vulkan, Metal, Dx12.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, driver {})", self.name, self.backend, self.driver)
    }
}

pub(super) fn identity(info: &wgpu::AdapterInfo) -> Adapter {
    Adapter {
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
    }
}

/// The one instance of the process, which is never dropped: where threads opened and dropped instances of their own at
/// the same time, NVIDIA's driver 580 ended the process by a segmentation fault.
static INSTANCE: LazyLock<wgpu::Instance> =
    LazyLock::new(|| wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env()));

fn enumerate() -> Vec<wgpu::Adapter> {
    pollster::block_on(INSTANCE.enumerate_adapters(wgpu::Backends::all()))
}

fn kind(info: &wgpu::AdapterInfo) -> (&'static str, bool) {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => ("discrete GPU", false),
        wgpu::DeviceType::IntegratedGpu => ("integrated GPU", false),
        wgpu::DeviceType::VirtualGpu => ("virtual GPU", false),
        wgpu::DeviceType::Cpu => ("software", true),
        wgpu::DeviceType::Other => ("other", false),
    }
}

/// Index of the adapter that `auto` takes: a discrete GPU before an integrated one before any other hardware.
fn automatic(adapters: &[wgpu::Adapter]) -> Option<usize> {
    hardware(adapters).first().copied()
}

/// Indices of the adapters that are hardware, in the order in which `auto` takes them.
fn hardware(adapters: &[wgpu::Adapter]) -> Vec<usize> {
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => Some(0),
        wgpu::DeviceType::IntegratedGpu => Some(1),
        wgpu::DeviceType::VirtualGpu => Some(2),
        wgpu::DeviceType::Other => Some(3),
        wgpu::DeviceType::Cpu => None,
    };
    let mut found: Vec<(usize, usize)> =
        (0..adapters.len()).filter_map(|i| rank(&adapters[i]).map(|rank| (rank, i))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, i)| i).collect()
}

/// The adapters of this machine.
pub fn adapters() -> Vec<AdapterSummary> {
    let adapters = enumerate();
    let chosen = automatic(&adapters);
    adapters
        .iter()
        .enumerate()
        .map(|(i, adapter)| {
            let info = adapter.get_info();
            let limits = adapter.limits();
            let (kind, software) = kind(&info);
            let Adapter { name, backend, driver } = identity(&info);
            AdapterSummary {
                name,
                backend,
                driver,
                kind,
                software,
                f16: adapter.features().contains(wgpu::Features::SHADER_F16),
                max_binding_bytes: limits.max_storage_buffer_binding_size,
                max_buffer_bytes: limits.max_buffer_size,
                workgroup_bytes: limits.max_compute_workgroup_storage_size,
                automatic: chosen == Some(i),
            }
        })
        .collect()
}

/// A device without a driver, which takes every program and computes nothing: what is left is the host's own work. It
/// is never among the [`adapters`].
///
/// # Errors
/// When `wgpu` refuses.
pub fn open_noop() -> Result<Device> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::NOOP;
    descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
    let instance = wgpu::Instance::new(descriptor);
    let found = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let adapter = found
        .map_err(|error| Error::Device { device: "noop".to_owned(), problem: format!("it is not there: {error}") })?;
    GpuDevice::open(&adapter, GpuOptions::default()).map(|device| Device::Gpu(Arc::new(device)))
}

fn cpu() -> Result<Device> {
    vectors::check().map_err(|problem| Error::Device { device: "cpu".to_owned(), problem })?;
    Ok(Device::cpu())
}

/// Opens the device that `wanted` names: `auto` (a hardware GPU if there is one, else the CPU device), `gpu` (a
/// hardware GPU), `cpu`, or any part of an adapter's name, which is how a software adapter is asked for.
///
/// # Errors
/// When nothing fits, with the names that would; or when the adapter cannot be opened.
pub fn open(wanted: &str) -> Result<Device> {
    open_with(wanted, GpuOptions::default())
}

/// As [`open`], with options for a GPU.
///
/// # Errors
/// As [`open`].
pub fn open_with(wanted: &str, options: GpuOptions) -> Result<Device> {
    open_one_of(wanted, 0, options)
}

/// As [`open_with`], for one of several processes of a machine: where several adapters fit, process `index` takes the
/// next one in turn.
///
/// # Errors
/// As [`open`].
pub fn open_one_of(wanted: &str, index: usize, options: GpuOptions) -> Result<Device> {
    if wanted == "cpu" {
        return cpu();
    }
    let adapters = enumerate();
    let fitting = match wanted {
        "auto" | "gpu" => hardware(&adapters),
        name => {
            let name = name.to_lowercase();
            let fits = |i: &usize| !name.is_empty() && adapters[*i].get_info().name.to_lowercase().contains(&name);
            (0..adapters.len()).filter(fits).collect()
        }
    };
    if fitting.is_empty() && wanted == "auto" {
        return cpu();
    }
    if let Some(&i) = fitting.get(index % fitting.len().max(1)) {
        return GpuDevice::open(&adapters[i], options).map(|device| Device::Gpu(Arc::new(device)));
    }
    let mut names = vec!["cpu".to_owned()];
    for adapter in &adapters {
        let info = adapter.get_info();
        let (kind, _) = kind(&info);
        names.push(format!("\"{}\" ({kind}, {:?})", info.name, info.backend));
    }
    Err(Error::NoSuchDevice { wanted: wanted.to_owned(), available: names.join(", ") })
}
