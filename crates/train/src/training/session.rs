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

/// End of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are trained.
    Complete,
    /// The end was asked for, and everything is saved.
    Interrupted,
}

/// Arguments of one call of [`Trainer::run`] that are not part of the configuration, and its measurements.
#[derive(Debug)]
pub struct Session<'a> {
    pub run: &'a RunDir,
    /// Steps after which it ends as if interrupted.
    pub stop_after: Option<usize>,
    /// Display of its progress.
    pub display: Display,
    /// Events for TensorBoard.
    pub events: Option<Events>,
    pub(super) saved: Instant,
    pub(super) steps: usize,
    pub(super) evaluation: Duration,
    /// Time of the epochs' training steps.
    pub training: Duration,
    /// Exchange of the training steps with other ranks.
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
    /// Requests of the clock, a signal or a key that concern the step `coming` steps from now.
    pub(super) fn requests(&self, session: &Session<'_>, coming: usize) -> Requests {
        let step = self.position().step + coming;
        let due = |every: SaveEvery| every.is_due(step, session.saved.elapsed());
        Requests {
            stop: interrupt::requested(),
            save: interrupt::save_requested() || self.config.save_every.is_some_and(due),
            stop_after_epoch: interrupt::requested_after_epoch(),
        }
    }

    /// Requests that all ranks fulfil now.
    pub(super) fn decided(&self, session: &Session<'_>) -> Requests {
        self.ranks.decided(|| self.requests(session, 0))
    }

    /// Tells whether the end was asked for, by all ranks alike.
    pub(super) fn must_stop(&self, session: &Session<'_>) -> bool {
        self.decided(session).stop || session.is_over()
    }

    /// Measurements of the host's part in the training steps so far, where images are streamed.
    pub(super) fn supply(&self) -> Option<Supply> {
        self.training.stream.as_ref().map(Stream::supply)
    }

    /// Describes, in sentences, what a session waited for, and the images that it could not read.
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

    /// Describes, in a sentence, a session's exchange with other ranks, and the time that this one waited for it.
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
