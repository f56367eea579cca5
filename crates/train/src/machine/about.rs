//! The program and the device, as files of measurements name them.

use serde_json::{Value, json};
use tensor::{Device, Peaks};

/// The program: its version, and the commit that it was built from where whoever built it said so.
pub fn program() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION"), "commit": option_env!("ONFLY_COMMIT") })
}

/// The device, its backend and driver, and whether it is an adapter that is emulated on the CPU.
pub fn device(device: &Device) -> Value {
    let adapter = device.adapter();
    let software = adapter.is_some_and(|adapter| {
        let there = tensor::device::adapters();
        there.iter().any(|it| it.software && it.name == adapter.name && it.driver == adapter.driver)
    });
    json!({
        "name": device.name(),
        "backend": adapter.map(|adapter| &adapter.backend),
        "driver": adapter.map(|adapter| &adapter.driver),
        "software": software,
    })
}

/// The peaks of a device.
pub fn peaks(peaks: &Peaks) -> Value {
    json!({
        "flops_per_second": peaks.flops,
        "bytes_per_second": peaks.bytes,
        "workgroup_bytes_per_second": peaks.workgroup_bytes,
    })
}
