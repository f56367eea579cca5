//! Measured peaks of a device: multiply-adds in registers, copies through its memory, reads of workgroup
//! memory.

use std::time::{Duration, Instant};

use crate::device::Device;
use crate::error::Result;
use crate::kernel::{Cost, Form, Kernel};
use crate::kernels::elementwise::Copy;
use crate::kernels::peak_fma::PeakFma;
use crate::kernels::peak_workgroup::PeakWorkgroup;
use crate::tuning::Operands;

/// A device's peaks, in operations and bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Floating-point operations, a multiply-add counted twice.
    pub flops: f64,
    /// Bytes of its memory, what is read and what is written.
    pub bytes: f64,
    /// Bytes read of workgroup memory; the CPU device has none.
    pub workgroup_bytes: Option<f64>,
}

/// Multiply-adds of a chain, and reads of a thread.
const STEPS: usize = 1024;
/// Words that are copied: more than a cache holds, and what every adapter binds.
const COPY_WORDS: usize = 1 << 25;
/// Each micro-kernel runs for about so long, so that clocks rise, and at least a few times; the fastest run counts.
const TIME: Duration = Duration::from_millis(300);
const FEWEST_RUNS: usize = 3;

impl Peaks {
    /// Measures them.
    ///
    /// # Errors
    /// When the device fails, or has no memory left for 256 MiB of operands.
    pub fn measure(device: &Device) -> Result<Self> {
        let hardware = device.target().is_some_and(|target| !target.software);
        let (threads, workgroups) = if hardware { (1 << 17, 1 << 12) } else { (1 << 15, 1 << 8) };
        let fma = PeakFma { threads, steps: STEPS };
        let copy = Copy { words: COPY_WORDS.min((device.max_binding_bytes() / 4) as usize) };
        let reads = PeakWorkgroup { workgroups, steps: STEPS };
        let read = reads.workgroup_bytes() as f64;
        let (operations, moved) = (fma.cost().flops as f64, copy.cost().bytes as f64);
        Ok(Self {
            flops: operations / fastest(device, fma)?,
            bytes: moved / fastest(device, copy)?,
            workgroup_bytes: match device {
                Device::Cpu(_) => None,
                Device::Gpu(_) => Some(read / fastest(device, reads)?),
            },
        })
    }

    /// The least time in seconds that work of this cost can take: that of its operations or that of its bytes.
    pub fn least_time(&self, cost: Cost) -> f64 {
        (cost.flops as f64 / self.flops).max(cost.bytes as f64 / self.bytes)
    }
}

/// The fastest run of a kernel, in seconds.
fn fastest(device: &Device, kernel: impl Kernel + 'static) -> Result<f64> {
    let kernel = Form::from(kernel);
    let operands = Operands::new(device, &kernel)?;
    let mut executable = device.prepare(vec![operands.dispatch(kernel.clone())])?;
    let (begun, mut runs, mut best) = (Instant::now(), 0, Duration::MAX);
    while runs < FEWEST_RUNS || begun.elapsed() < TIME {
        best = best.min(executable.run_timed()?.iter().sum());
        runs += 1;
    }
    Ok(best.as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_time_is_that_of_the_scarcer() {
        let peaks = Peaks { flops: 100.0, bytes: 10.0, workgroup_bytes: None };
        assert_eq!(peaks.least_time(Cost { flops: 200, bytes: 10 }), 2.0);
        assert_eq!(peaks.least_time(Cost { flops: 200, bytes: 50 }), 5.0);
    }
}
