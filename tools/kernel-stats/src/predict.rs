//! Prediction, not measurement, of the speed of training steps on GPUs that were not at hand, from the operations and
//! bytes that the engine counts, the compiler's share of peak of each convolution, and published peaks.
//!
//! A kernel takes the longer of two times: its bytes at [`BANDWIDTH`] of the memory's published rate, caches ignored;
//! and, if it is a convolution, its operations at the share of the published rate that the compiler's statistics
//! give. [`DISPATCH`] is added for each dispatch. A GPU of another vendor gets the lowest share of the three that
//! were measured.

use std::collections::BTreeMap;

use tensor::Cost;

use crate::Measured;

/// Share of the memory's published rate that a good copy reaches.
const BANDWIDTH: f64 = 0.85;
/// Seconds from the end of a dispatch to the beginning of the next one that waits for it.
const DISPATCH: f64 = 2e-6;

/// A GPU by its published peaks.
struct Gpu {
    name: &'static str,
    /// Mesa's name of the GPU whose compiler statistics apply.
    statistics: Option<&'static str>,
    teraflops: f64,
    gigabytes: f64,
}

const GPUS: [Gpu; 6] = [
    Gpu { name: "RX 6800", statistics: Some("navi21"), teraflops: 16.2, gigabytes: 512.0 },
    Gpu { name: "RX 7900 XTX", statistics: Some("navi31"), teraflops: 61.4, gigabytes: 960.0 },
    Gpu { name: "RX 9070 XT", statistics: Some("gfx1201"), teraflops: 48.7, gigabytes: 640.0 },
    Gpu { name: "RTX 4090", statistics: None, teraflops: 82.6, gigabytes: 1008.0 },
    Gpu { name: "Arc A770", statistics: None, teraflops: 19.7, gigabytes: 560.0 },
    Gpu { name: "M1 (8 cores)", statistics: None, teraflops: 2.6, gigabytes: 68.0 },
];

/// A training step: its kernels by name, with their cost and their passes.
#[derive(Debug)]
pub struct Step {
    /// Network and precision.
    pub name: String,
    /// Images per step.
    pub batch: usize,
    /// Kernels of the step.
    pub kernels: Vec<(String, Cost, usize)>,
}

/// Share of peak of each kernel, by GPU.
type Shares<'a> = BTreeMap<&'a str, BTreeMap<&'a str, f64>>;

fn shares(measured: &[Measured]) -> Shares<'_> {
    let mut shares = Shares::new();
    for Measured { gpu, rows, .. } in measured {
        shares.insert(gpu, rows.iter().map(|row| (row.kernel.as_str(), row.of_peak / 100.0)).collect());
    }
    shares
}

/// Prints the table.
pub fn print(steps: &[Step], measured: &[Measured]) {
    let shares = shares(measured);
    for step in steps {
        println!("{}, batch {}: a prediction", step.name, step.batch);
        println!("{:<14} {:>9} {:>12} {:>14} {:>9}", "", "ms a step", "images/s", "bytes decide", "overhead");
        for gpu in &GPUS {
            let share = |kernel: &str| -> Option<f64> {
                let of = |name: &str| shares.get(name).and_then(|rows| rows.get(kernel)).copied();
                match gpu.statistics {
                    Some(name) => of(name),
                    None => shares.keys().filter_map(|name| of(name)).reduce(f64::min),
                }
            };
            let (mut seconds, mut by_bytes, mut dispatches) = (0.0, 0.0, 0);
            for (name, cost, passes) in &step.kernels {
                let memory = cost.bytes as f64 / (gpu.gigabytes * 1e9 * BANDWIDTH);
                let convolution = name.starts_with("conv2d");
                let arithmetic = share(name)
                    .filter(|&share| convolution && share > 0.0)
                    .map_or(0.0, |share| cost.flops as f64 / (gpu.teraflops * 1e12 * share));
                seconds += memory.max(arithmetic);
                by_bytes += if memory >= arithmetic { memory } else { 0.0 };
                dispatches += passes;
            }
            let overhead = dispatches as f64 * DISPATCH;
            let total = seconds + overhead;
            println!(
                "{:<14} {:>9.2} {:>12.0} {:>13.0}% {:>8.0}%",
                gpu.name,
                total * 1e3,
                step.batch as f64 / total,
                100.0 * by_bytes / total,
                100.0 * overhead / total
            );
        }
        println!();
    }
}
