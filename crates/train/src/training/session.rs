//! One call of the training loop: what it is told, how it ends, and what is said of it.

use std::time::{Duration, Instant};

use super::Trainer;
use crate::interrupt;
use crate::options::values::SaveEvery;
use crate::ranks::{Requests, Traffic};
use crate::run::directory::RunDir;
use crate::show::progress::Display;
use crate::show::tensorboard::Events;
use crate::show::words::workers;
use crate::step::feeding::{Stream, Supply};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are trained.
    Complete,
    /// The end was asked for, and everything is saved.
    Interrupted,
}

/// What one call of [`Trainer::run`] needs to know beside the configuration.
#[derive(Debug)]
pub struct Session<'a> {
    pub run: &'a RunDir,
    /// Steps after which it ends as if interrupted.
    pub stop_after: Option<usize>,
    /// What shows its progress.
    pub display: Display,
    /// What TensorBoard reads.
    pub events: Option<Events>,
    pub(super) saved: Instant,
    pub(super) steps: usize,
    pub(super) evaluation: Duration,
    /// Time of the epochs' training steps.
    pub training: Duration,
    /// What the training steps exchanged with other ranks.
    pub traffic: Traffic,
}

impl<'a> Session<'a> {
    /// A session that begins now.
    pub fn new(run: &'a RunDir, stop_after: Option<usize>) -> Self {
        let (evaluation, training) = (Duration::ZERO, Duration::ZERO);
        Self {
            run,
            stop_after,
            display: Display::Plain,
            events: None,
            saved: Instant::now(),
            steps: 0,
            evaluation,
            training,
            traffic: Traffic::default(),
        }
    }

    /// Tells whether as many steps are done as the session is to do.
    fn is_over(&self) -> bool {
        self.stop_after.is_some_and(|steps| self.steps >= steps)
    }
}

impl Trainer {
    /// What the clock, a signal or a key wants done after a step, `coming` steps from now.
    pub(super) fn requests(&self, session: &Session<'_>, coming: usize) -> Requests {
        let step = self.position().step + coming;
        let due = |every: SaveEvery| every.is_due(step, session.saved.elapsed());
        Requests {
            stop: interrupt::requested(),
            save: interrupt::save_requested() || self.config.save_every.is_some_and(due),
            stop_after_epoch: interrupt::requested_after_epoch(),
        }
    }

    /// What all ranks do now.
    pub(super) fn decided(&self, session: &Session<'_>) -> Requests {
        self.ranks.decided(|| self.requests(session, 0))
    }

    /// Tells whether the end was asked for, by all ranks alike.
    pub(super) fn must_stop(&self, session: &Session<'_>) -> bool {
        self.decided(session).stop || session.is_over()
    }

    /// What was measured of the host's part in the training steps so far, where images are streamed.
    pub(super) fn supply(&self) -> Option<Supply> {
        self.training.stream.as_ref().map(Stream::supply)
    }

    /// What a session was held up by, and which images it did without, in sentences.
    pub fn report_supply(&self, session: &Session<'_>) -> (Option<String>, Vec<String>) {
        let speed = self.supply().map(|supply| {
            format!(
                "{:<12} {:.0} images/s prepared by {}; the device waited for them {:.1} % of the training time",
                "stream",
                supply.images_per_second(),
                workers(self.config.worker_threads()),
                100.0 * supply.share(session.training)
            )
        });
        let streams = [
            ("training", self.training.stream.as_ref()),
            ("validation", self.validation.as_ref().and_then(|program| program.stream.as_ref())),
            ("test", self.evaluation.stream.as_ref()),
        ];
        let broken = streams.into_iter().filter_map(|(split, stream)| stream?.broken(split));
        (speed, broken.collect())
    }

    /// What a session exchanged with other ranks, and how long this one waited for it, in a sentence.
    pub fn report_traffic(&self, session: &Session<'_>) -> Option<String> {
        if self.ranks.is_alone() {
            return None;
        }
        let steps = session.steps.max(1) as f64;
        let Traffic { waited, bytes } = session.traffic;
        Some(format!(
            "{:<12} a step gave {:.2} MB to sums, and waited {:.1} ms for them: {:.1} % of the training time",
            "exchange",
            bytes as f64 / steps / 1e6,
            1e3 * waited.as_secs_f64() / steps,
            100.0 * waited.as_secs_f64() / session.training.as_secs_f64().max(1e-9)
        ))
    }
}
