//! Schedules: the learning rate and the weight of the distillation term in the course of a run.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Schedule of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// To a tenth after 50 % of the epochs, and again after 75 %.
    Steps,
    /// To zero along half a cosine, step by step.
    Cosine,
    /// To zero along half a cosine, once in each of the --cycles
    Cyclic,
}

/// Steps of one of `cycles` equal parts of a run; the last one may be shorter.
pub fn cycle_steps(steps: usize, cycles: usize) -> usize {
    steps.div_ceil(cycles.max(1)).max(1)
}

impl Schedule {
    /// The learning rate at `step` of `epoch` (both from 0), for an initial rate of `lr`.
    ///
    /// In cycles of `c = ceil(S / cycles)` of all S steps it is `lr / 2 (1 + cos(pi (t mod c) / c))` at step t (Huang
    /// et al., "Snapshot ensembles", ICLR 2017, eq. 2).
    pub fn rate(self, lr: f64, cycles: usize, at: (usize, usize), of: (usize, usize)) -> f64 {
        let ((epoch, step), (epochs, steps)) = (at, of);
        match self {
            Self::Steps if 4 * epoch >= 3 * epochs => lr * 0.01,
            Self::Steps if 2 * epoch >= epochs => lr * 0.1,
            Self::Steps => lr,
            Self::Cosine => {
                let done = (epoch * steps + step) as f64 / (epochs * steps) as f64;
                half_cosine(lr, done)
            }
            Self::Cyclic => {
                let cycle = cycle_steps(epochs * steps, cycles);
                half_cosine(lr, ((epoch * steps + step) % cycle) as f64 / cycle as f64)
            }
        }
    }
}

/// From `lr` to 0 while `done` goes from 0 to 1.
fn half_cosine(lr: f64, done: f64) -> f64 {
    0.5 * lr * (1.0 + (std::f64::consts::PI * done).cos())
}

/// A rate during the warm-up: after `done` of its `steps`, on the way from `from` to what it will be, `rate`.
pub fn warmed(rate: f64, from: f64, done: usize, steps: usize) -> f64 {
    if done >= steps {
        return rate;
    }
    from + (rate - from) * (done + 1) as f64 / steps as f64
}

/// Weight of the distillation term in `epoch` (from 0): `exp(-5 (1 - min(e, R) / R)^2)` for a ramp of R epochs, which
/// is the authors' code; 1 without a ramp, as in the paper.
pub fn distillation_weight(epoch: usize, ramp: Option<usize>) -> f64 {
    let Some(ramp) = ramp.filter(|&ramp| ramp > 0) else { return 1.0 };
    let missing = 1.0 - epoch.min(ramp) as f64 / ramp as f64;
    (-5.0 * missing * missing).exp()
}

#[cfg(test)]
mod tests {
    use super::{Schedule, cycle_steps, distillation_weight, warmed};

    #[test]
    fn steps_fall_at_half_and_three_quarters() {
        let at = |epoch| Schedule::Steps.rate(0.1, 1, (epoch, 389), (300, 390));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        for (epoch, rate) in [(0, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001), (299, 0.001)] {
            close(at(epoch), rate);
        }
        close(Schedule::Steps.rate(0.1, 1, (1, 0), (3, 9)), 0.1);
        close(Schedule::Steps.rate(0.1, 1, (2, 0), (3, 9)), 0.01);
    }

    #[test]
    fn the_cosine_goes_from_the_rate_to_zero() {
        let at = |epoch, step| Schedule::Cosine.rate(0.2, 1, (epoch, step), (10, 100));
        assert!((at(0, 0) - 0.2).abs() < 1e-12);
        assert!((at(5, 0) - 0.1).abs() < 1e-12);
        assert!(at(9, 99) > 0.0 && at(9, 99) < 1e-5);
    }

    #[test]
    fn cycles_begin_at_the_rate_and_end_near_zero() {
        // 7 epochs of 10 steps in 3 cycles: 24, 24 and 22 steps.
        assert_eq!(cycle_steps(70, 3), 24);
        let at = |t: usize| Schedule::Cyclic.rate(0.2, 3, (t / 10, t % 10), (7, 10));
        for start in [0, 24, 48] {
            assert!((at(start) - 0.2).abs() < 1e-12 && (at(start + 12) - 0.1).abs() < 1e-12);
        }
        assert!(at(23) > 0.0 && at(23) < 1e-3 && at(47) < 1e-3);
    }

    #[test]
    fn a_warm_up_ends_at_the_rate() {
        assert!((warmed(0.8, 0.1, 0, 10) - 0.17).abs() < 1e-12);
        assert!((warmed(0.8, 0.1, 9, 10) - 0.8).abs() < 1e-12 && (warmed(0.8, 0.1, 10, 10) - 0.8).abs() < 1e-12);
        assert!((warmed(0.8, 0.0, 0, 0) - 0.8).abs() < 1e-12);
    }

    #[test]
    fn the_ramp_is_the_authors() {
        assert!((distillation_weight(0, Some(80)) - (-5.0f64).exp()).abs() < 1e-12);
        assert!((distillation_weight(40, Some(80)) - (-1.25f64).exp()).abs() < 1e-12);
        assert!((distillation_weight(200, Some(80)) - 1.0).abs() < 1e-12);
        assert!((distillation_weight(0, None) - 1.0).abs() < 1e-12);
    }
}
