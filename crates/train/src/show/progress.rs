//! Progress of an epoch or of a long measurement: a bar on a terminal, a line now and then elsewhere, both on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use one::Metrics;

use crate::output;
use crate::show::dashboard::{Dashboard, Shared};
use crate::show::words::duration;
use crate::step::evaluated::Evaluated;

/// Periods in which losses are read from the device: on a terminal, and elsewhere.
const BAR_PERIOD: Duration = Duration::from_millis(500);
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// The progress of an epoch.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// The dashboard that shows it instead of a bar or lines.
    dashboard: Option<Shared>,
    quiet: bool,
    title: String,
    steps: usize,
    first: usize,
    batch: usize,
    started: Instant,
    shown: Instant,
    /// Time of the epochs that follow, besides their training steps, and their steps.
    later: (Duration, usize),
}

/// An epoch that begins at one of its steps.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Number of the epoch, from 1, and of all epochs.
    pub epoch: usize,
    pub epochs: usize,
    /// The step that it begins at, of how many.
    pub first: usize,
    pub steps: usize,
    pub batch: usize,
    /// Time of an evaluation.
    pub evaluation: Duration,
    /// Learning rate of the epoch's first step.
    pub learning_rate: f64,
}

/// Display of a run's progress.
#[derive(Debug, Default)]
pub enum Display {
    /// A bar on a terminal, elsewhere lines.
    #[default]
    Plain,
    Live(Dashboard),
    None,
}

impl Progress {
    /// The progress of an epoch that begins now.
    pub fn new(span: Span, display: &Display) -> Self {
        let dashboard = match display {
            Display::Live(dashboard) => Some(dashboard.shared()),
            Display::Plain | Display::None => None,
        };
        if let Some(dashboard) = &dashboard {
            dashboard.update(|view| {
                (view.epoch, view.step, view.steps) = (span.epoch, span.first, span.steps);
                (view.evaluating, view.learning_rate) = (None, span.learning_rate);
            });
        }
        let plain = matches!(display, Display::Plain);
        let bar = (plain && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {wide_msg}");
            let style = style.expect("the template is well-formed").progress_chars("=> ");
            let bar = ProgressBar::new(span.steps as u64).with_style(style);
            bar.set_prefix(format!("epoch {}/{}", span.epoch, span.epochs));
            bar.set_position(span.first as u64);
            bar
        });
        let now = Instant::now();
        let epochs_left = span.epochs - span.epoch;
        Self {
            bar,
            dashboard,
            quiet: matches!(display, Display::None),
            title: format!("epoch {}/{}", span.epoch, span.epochs),
            steps: span.steps,
            first: span.first,
            batch: span.batch,
            started: now,
            shown: now,
            later: (span.evaluation * (epochs_left as u32 + 1), epochs_left * span.steps),
        }
    }

    /// Counts a step; true when it is time to read the losses and [`Progress::show`] them.
    pub fn advance(&mut self, step: usize) -> bool {
        if let Some(bar) = &self.bar {
            bar.set_position(step as u64);
        }
        if let Some(dashboard) = &self.dashboard {
            dashboard.update(|view| view.step = step);
        }
        let often = self.bar.is_some() || self.dashboard.is_some();
        !self.quiet && self.shown.elapsed() >= if often { BAR_PERIOD } else { LINE_PERIOD }
    }

    /// Time since the epoch (or this part of it) began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Images per second since the epoch (or this part of it) began, up to `step`.
    pub fn rate(&self, step: usize) -> f64 {
        ((step - self.first) * self.batch) as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Shows the means of the epoch so far.
    pub fn show(&mut self, step: usize, metrics: &Metrics, loss: f64) {
        self.shown = Instant::now();
        let error = metrics.top1_errors()[0];
        let rate = self.rate(step);
        let time = |steps: usize| Duration::from_secs_f64((steps * self.batch) as f64 / rate.max(1e-3));
        let epoch = time(self.steps - step);
        let run = epoch + time(self.later.1) + self.later.0;
        if let Some(dashboard) = &self.dashboard {
            dashboard.update(|view| {
                view.losses(metrics, loss);
                view.speed(rate);
                view.left = Some((epoch, run));
            });
            return;
        }
        let text = format!(
            "loss {loss:.4}, error {error:.2} %, {rate:.0} images/s, {} left ({} of the run)",
            duration(epoch),
            duration(run)
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => output::note(format!("{}, step {step}/{}: {text}", self.title, self.steps)),
        }
    }

    /// Shows that the epoch is being evaluated.
    pub fn evaluating(&self, step: usize, steps: usize) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.update(|view| view.evaluating = Some((step, steps)));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("evaluating, {step}/{steps}"));
        }
    }

    /// Shows what the epoch came to.
    pub fn done(&self, epoch: usize, train: &Metrics, test: &Evaluated) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.update(|view| view.epoch_done(epoch, train, test));
        }
    }

    /// Says something where there is no room to print.
    pub fn say(&self, message: String) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.update(|view| view.say(message));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The progress of a long measurement: how much is done, and the time left.
#[derive(Debug)]
pub struct Measurement {
    bar: Option<ProgressBar>,
    /// `measuring`, or whatever else is done.
    doing: &'static str,
    done: usize,
    steps: usize,
    started: Instant,
    shown: Instant,
}

impl Measurement {
    /// The progress of `steps` steps of measuring that begin now.
    pub fn new(steps: usize) -> Self {
        Self::of("measuring", steps)
    }

    /// The progress of `steps` steps of what is done here, in a word.
    pub fn of(doing: &'static str, steps: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {wide_msg}");
            let style = style.expect("the template is well-formed").progress_chars("=> ");
            ProgressBar::new(steps as u64).with_style(style).with_prefix(doing)
        });
        let now = Instant::now();
        Self { bar, doing, done: 0, steps, started: now, shown: now }
    }

    /// Counts a step, and shows where the measurement stands when it is time to.
    pub fn advance(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
        }
        if self.shown.elapsed() < if self.bar.is_some() { BAR_PERIOD } else { LINE_PERIOD } {
            return;
        }
        self.shown = Instant::now();
        let left = self.started.elapsed().div_f64(self.done as f64).mul_f64((self.steps - self.done) as f64);
        let left = format!("{} left", duration(left));
        match &self.bar {
            Some(bar) => bar.set_message(left),
            None => output::note(format!("{}, step {}/{}: {left}", self.doing, self.done, self.steps)),
        }
    }

    /// Writes a line to stdout, above the bar.
    pub fn line(&self, text: &str) {
        // A measurement goes on when nobody reads what it prints.
        let write = || drop(output::line(text));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Writes a line to stderr, above the bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
