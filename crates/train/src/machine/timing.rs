//! Times of steps: in blocks as training runs them, alternating with another program, and kernel by kernel against the
//! device's peaks.

use std::time::{Duration, Instant};

use anyhow::Result;
use tensor::{Cost, Device, Peaks, Program};

/// Fewest and most pairs that are measured alternately; fewer, where they take twice the time that there is.
const FEWEST_PAIRS: usize = 5;
const MOST_PAIRS: usize = 25;

/// Time and work of dispatches, and the least time that the device's peaks allow them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    pub seconds: f64,
    pub cost: Cost,
    /// The least time that each dispatch can take, in seconds, summed.
    pub least: f64,
}

impl Spent {
    /// A dispatch of this cost.
    pub fn new(time: Duration, cost: Cost, peaks: &Peaks) -> Self {
        Self { seconds: time.as_secs_f64(), cost, least: peaks.least_time(cost) }
    }

    /// Adds other dispatches.
    pub fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.cost.flops += other.cost.flops;
        self.cost.bytes += other.cost.bytes;
        self.least += other.least;
    }

    /// All dispatches of a program's step, one by one, in the mean over `runs` runs.
    ///
    /// # Errors
    /// When the device fails.
    pub fn of_step(program: &mut Program, runs: u32, peaks: &Peaks) -> Result<Self> {
        let times = program.time_kernels(runs)?;
        let mut all = Self::default();
        for (work, time) in program.work().iter().zip(times) {
            all.add(&Self::new(time, work.cost(), peaks));
        }
        Ok(all)
    }

    /// Operations per second.
    pub fn flops(&self) -> f64 {
        self.cost.flops as f64 / self.seconds.max(1e-12)
    }

    /// Bytes per second.
    pub fn bytes(&self) -> f64 {
        self.cost.bytes as f64 / self.seconds.max(1e-12)
    }
}

/// The middle one; not a number of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Seconds of a step in a block of `steps` that are submitted one after another, with the device idle before and after.
///
/// # Errors
/// When the device fails, or a step does.
pub fn block(device: &Device, steps: usize, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    device.synchronize()?;
    let started = Instant::now();
    for _ in 0..steps {
        step()?;
    }
    device.synchronize()?;
    Ok(started.elapsed().as_secs_f64() / steps.max(1) as f64)
}

/// Measures two things alternately, each as often before the other one as behind it, for about so long.
///
/// # Errors
/// When a measurement fails.
pub fn alternate<T>(time: Duration, mut measure: impl FnMut(usize) -> Result<T>) -> Result<[Vec<T>; 2]> {
    let mut found = [Vec::new(), Vec::new()];
    let begun = Instant::now();
    for pair in 0..MOST_PAIRS {
        let time = if pair < FEWEST_PAIRS { 2 * time } else { time };
        if pair > 0 && begun.elapsed() > time {
            break;
        }
        for which in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            found[which].push(measure(which)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn two_are_measured_by_turns() {
        let mut order = Vec::new();
        let mut measure = |time| {
            order.clear();
            let found = alternate(time, |which| {
                order.push(which);
                Ok(order.len())
            });
            found.expect("nothing fails")
        };
        assert_eq!(measure(Duration::ZERO), [[1], [2]]);
        let [first, second] = measure(Duration::from_secs(3600));
        assert_eq!((first.len(), second.len()), (MOST_PAIRS, MOST_PAIRS));
        assert_eq!((&first[..3], &second[..3]), (&[1, 4, 5][..], &[2, 3, 6][..]));
    }

    #[test]
    fn a_block_is_told_for_one_step() {
        let mut steps = 0;
        let seconds = block(&Device::cpu(), 4, || {
            steps += 1;
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        });
        let seconds = seconds.expect("nothing fails");
        assert!(steps == 4 && (0.002..1.0).contains(&seconds), "{steps} {seconds}");
    }
}
