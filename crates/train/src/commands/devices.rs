//! The devices of this machine.

use anyhow::Result;
use tensor::Device;

use crate::output::line;

/// Lists adapters and the CPU device, and marks the one that `--device auto` takes.
///
/// # Errors
/// When stdout cannot be written.
pub fn run() -> Result<()> {
    let adapters = tensor::device::adapters();
    let mark = |automatic: bool| if automatic { "*" } else { " " };
    let gpu = adapters.iter().any(|adapter| adapter.automatic);
    for adapter in &adapters {
        line(format!("{} {} ({})", mark(adapter.automatic), adapter.name, adapter.kind))?;
        line(format!("    backend {}, driver {}", adapter.backend, adapter.driver))?;
        line(format!(
            "    binding {} MiB, buffer {} MiB, workgroup memory {} KiB, f16 {}",
            adapter.max_binding_bytes >> 20,
            adapter.max_buffer_bytes >> 20,
            adapter.workgroup_bytes >> 10,
            if adapter.f16 { "yes" } else { "no" }
        ))?;
    }
    line(format!("{} {}", mark(!gpu), Device::cpu().name()))?;
    line("\n* is what --device auto takes; cpu, gpu or any part of a name choose another")
}
