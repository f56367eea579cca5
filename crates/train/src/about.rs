//! What measured something, and on what: parts of the objects that commands write as JSON.

use serde_json::{Value, json};
use tensor::Device;

/// This program: its version, and the commit that it was built from, if whoever built it said so (`ONFLY_COMMIT`).
pub fn program() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION"), "commit": option_env!("ONFLY_COMMIT") })
}

/// A device; the CPU device has neither backend nor driver.
pub fn device(device: &Device) -> Value {
    let adapter = device.adapter();
    json!({
        "name": device.name(),
        "backend": adapter.map(|adapter| &adapter.backend),
        "driver": adapter.map(|adapter| &adapter.driver),
        "software": device.target().is_some_and(|target| target.software),
    })
}
