//! Quantities, networks and devices in words.

use std::time::Duration;

use nets::Macs;
use tensor::Device;

use crate::options::config::Network;

/// `1h 02m`, `3m 04s`, `5s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s:02}s"),
        (0, h, m, _) => format!("{h}h {m:02}m"),
        (d, h, _, _) => format!("{d}d {h:02}h"),
    }
}

/// In a unit that leaves two to four digits before the point.
pub fn byte_size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 10_000.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

/// 10^8 floating-point operations, as the paper counts them.
pub fn flops(macs: Macs) -> String {
    format!("{:.4}e8", macs.flops() as f64 / 1e8)
}

/// Digits in groups of three.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// MiB.
pub fn mebibytes(bytes: usize) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The network in words.
pub fn describe(network: &Network) -> String {
    match (network.branches, network.fan_out.as_str()) {
        (1, _) => network.net.clone(),
        (k, "input") => format!("{}, {k} whole networks", network.net),
        (k, stage) => format!("{}, {k} branches from {stage} on", network.net),
    }
}

/// The device, its driver and kind.
pub fn describe_device(device: &Device) -> String {
    let adapter = || tensor::device::adapters().into_iter().find(|adapter| adapter.name == device.name());
    match device.is_gpu().then(adapter).flatten() {
        Some(adapter) => format!("{} ({}, {}, driver {})", adapter.name, adapter.kind, adapter.backend, adapter.driver),
        None => device.name().to_owned(),
    }
}

/// Devices in words, those alike together.
pub fn devices(names: &[String]) -> String {
    let mut kinds: Vec<(&String, usize)> = Vec::new();
    for name in names {
        match kinds.iter_mut().find(|(kind, _)| *kind == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    let kinds =
        kinds.into_iter().map(|(kind, count)| if count == 1 { kind.clone() } else { format!("{count} x {kind}") });
    kinds.collect::<Vec<_>>().join(", ")
}

/// Worker threads in words.
pub fn workers(count: usize) -> String {
    match count {
        0 => "the step itself".to_owned(),
        1 => "1 worker".to_owned(),
        _ => format!("{count} workers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let texts = [0, 59, 61, 3600, 90_061].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(texts, ["0s", "59s", "1m 01s", "1h 00m", "1d 01h"]);
    }

    #[test]
    fn sizes_have_few_digits() {
        assert_eq!([3 << 20, 9_999 << 20, 20 << 30].map(byte_size), ["3 MiB", "9999 MiB", "20.0 GiB"]);
    }
}
