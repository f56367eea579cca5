//! What changes over a run: the learning rate, and the weight of the distillation term.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// To a tenth after 50 % of the epochs, and again after 75 %.
    Steps,
    /// To zero along half a cosine, step by step.
    Cosine,
}

impl Schedule {
    /// The learning rate at `step` of `epoch` (both from 0), for an initial rate of `lr`.
    pub fn rate(self, lr: f64, (epoch, step): (usize, usize), (epochs, steps): (usize, usize)) -> f64 {
        match self {
            Self::Steps if 4 * epoch >= 3 * epochs => lr * 0.01,
            Self::Steps if 2 * epoch >= epochs => lr * 0.1,
            Self::Steps => lr,
            Self::Cosine => {
                let done = (epoch * steps + step) as f64 / (epochs * steps) as f64;
                0.5 * lr * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }
}

/// Weight of the distillation term in `epoch` (from 0): `exp(-5 (1 - min(e, R) / R)^2)` for a ramp of R epochs, which is
/// the authors' code; 1 without a ramp, as in the paper.
pub fn distillation_weight(epoch: usize, ramp: Option<usize>) -> f64 {
    let Some(ramp) = ramp.filter(|&ramp| ramp > 0) else { return 1.0 };
    let missing = 1.0 - epoch.min(ramp) as f64 / ramp as f64;
    (-5.0 * missing * missing).exp()
}

#[cfg(test)]
mod tests {
    use super::{Schedule, distillation_weight};

    #[test]
    fn steps_fall_at_half_and_three_quarters() {
        let at = |epoch| Schedule::Steps.rate(0.1, (epoch, 389), (300, 390));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        for (epoch, rate) in [(0, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001), (299, 0.001)] {
            close(at(epoch), rate);
        }
        close(Schedule::Steps.rate(0.1, (1, 0), (3, 9)), 0.1);
        close(Schedule::Steps.rate(0.1, (2, 0), (3, 9)), 0.01);
    }

    #[test]
    fn the_cosine_goes_from_the_rate_to_zero() {
        let at = |epoch, step| Schedule::Cosine.rate(0.2, (epoch, step), (10, 100));
        assert!((at(0, 0) - 0.2).abs() < 1e-12);
        assert!((at(5, 0) - 0.1).abs() < 1e-12);
        assert!(at(9, 99) > 0.0 && at(9, 99) < 1e-5);
    }

    #[test]
    fn the_ramp_is_the_authors() {
        assert!((distillation_weight(0, Some(80)) - (-5.0f64).exp()).abs() < 1e-12);
        assert!((distillation_weight(40, Some(80)) - (-1.25f64).exp()).abs() < 1e-12);
        assert!((distillation_weight(200, Some(80)) - 1.0).abs() < 1e-12);
        assert!((distillation_weight(0, None) - 1.0).abs() < 1e-12);
    }
}
