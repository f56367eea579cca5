//! The device that is measured.

use tensor::Device;
use tensor::device::open;

/// Names the device to measure, as `--device` does; `auto` if unset.
const DEVICE: &str = "ONFLY_BENCH_DEVICE";

/// The device to measure, without the checks that tests switch on.
pub fn named() -> Device {
    let wanted = std::env::var(DEVICE).unwrap_or_else(|_| "auto".to_owned());
    open(&wanted).unwrap_or_else(|error| panic!("{DEVICE}: {error}"))
}

/// The adapter and its driver, or the CPU device.
pub fn describe(device: &Device) -> String {
    device.adapter().map_or_else(|| device.name().to_owned(), ToString::to_string)
}
