//! The training loop: steps, evaluation after each epoch, checkpoints.
//!
//! A step is a pure function of the configuration and of the state in the banks, so a run that is interrupted and
//! resumed at any step goes on to the same bits as one that was not.

pub mod divergence;
mod session;
pub mod setup;
pub mod snapshots;
mod state;
pub mod variants;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use data::{Dataset, Epoch, Pictures, Sampler};
use nets::Model;
use one::{LossWeights, Metrics};
use tensor::{Choices, Device, Error, Form, Program, Sharing};

use crate::options::config::Config;
use crate::ranks::Ranks;
use crate::run::checkpoint::{Best, Header, Position};
use crate::show::progress::{Progress, Span};
use crate::show::table::{self, Moment};
use crate::show::words::byte_size;
use crate::step::evaluated::Evaluated;
use crate::step::evaluation::evaluate_together;
use crate::step::feeding::{Normalisation, Supply};
use crate::step::memory::{self, Need};
use crate::step::programs::{EvalImages, EvaluationProgram, StepSettings, StepSpec, TrainingProgram, footprint};
use crate::step::teacher::Teacher;
use crate::{interrupt, output};

use divergence::{GoodState, finite};

pub use session::{Outcome, Session};

/// Steps from one comparison of the ranks' parameters to the next.
const COMPARE_EVERY: usize = 100;

/// The training steps of an epoch.
struct TrainedEpoch {
    metrics: Metrics,
    images_per_second: f64,
    time: Duration,
    /// The host's part in them, where images are streamed.
    supply: Option<Supply>,
}

/// The evaluation of an epoch.
struct EvaluatedEpoch {
    validation: Option<Evaluated>,
    test: Evaluated,
}

/// A network in training.
#[derive(Debug)]
pub struct Trainer {
    pub config: Config,
    pub device: Device,
    pub model: Model,
    pub training: TrainingProgram,
    pub evaluation: EvaluationProgram,
    /// On the training images that are held out.
    pub validation: Option<EvaluationProgram>,
    pub sampler: Sampler,
    header: Header,
    /// Position of the last checkpoint.
    saved: Option<Position>,
    good: GoodState,
    checks: bool,
    /// Memory of everything, in bytes.
    pub need: u64,
    /// The processes that train the run together.
    pub ranks: Ranks,
    /// True if their devices are of several kinds, which round differently.
    mixed: bool,
}

impl Trainer {
    /// Uploads the data, compiles the programs, and initialises the model. `config` must be settled; `validation` are
    /// the images held out. With `checks` every kernel's outputs are looked at in every step.
    ///
    /// # Errors
    /// When the data do not fill a batch, the teacher cannot be had, or the device cannot hold or run the programs.
    pub fn new(
        config: Config,
        device: Device,
        dataset: Dataset<Arc<Pictures>>,
        validation: Option<Arc<Pictures>>,
        checks: bool,
        ranks: Ranks,
    ) -> Result<Self> {
        let augment = config.augment.map_or(data::Augmentation::None, Into::into);
        let sampler = Sampler::new(config.seed, dataset.train.len(), config.batch, augment)?;
        let architecture = config.network.architecture()?;
        let method = config.method_config(dataset.classes.len())?;
        let teacher = Teacher::read(&config)?;
        let mut header = Header::new(&config);
        header.class_names.clone_from(&dataset.classes);
        let mut model = Model::with_decay(config.decay.into());
        let sharing = ranks.exchange().map(|exchange| Sharing {
            exchange,
            batch_norm: config.sync_bn,
            parts: config.gradient_parts,
        });
        let spec = |batch| StepSpec {
            architecture: &*architecture,
            method: &method,
            normalisation: Normalisation { mean: header.mean, std: header.std },
            precision: config.precision.into(),
            batch,
            workers: config.worker_threads(),
            checks,
            sharing: sharing.as_ref(),
            part: (ranks.rank(), ranks.count()),
        };
        let need = needed_memory(&device, &ranks, &config, (&dataset, &validation), spec, teacher.as_ref())?;
        let specs = [spec(config.own_batch()), spec(config.own_eval_batch())];
        let Dataset { train, test, .. } = dataset;
        let programs = Programs::compile(&device, &mut model, specs, [train, test], validation, (&config, &teacher));
        let programs = programs.map_err(|error| with_need(error, &config, &need))?;
        let Programs { training, evaluation, validation } = programs;
        model.initialize(&device, config.seed)?;
        Ok(Self {
            good: GoodState::new(&model),
            config,
            device,
            model,
            training,
            evaluation,
            validation,
            sampler,
            header,
            saved: None,
            checks,
            need: need.total(),
            ranks,
            mixed: false,
        })
    }

    /// The kernels of all its programs.
    pub fn kernels(&self) -> impl Iterator<Item = &Form> {
        let validation = self.validation.iter().flat_map(|validation| validation.program.kernels());
        self.training.program.kernels().chain(self.evaluation.program.kernels()).chain(validation)
    }

    /// Goes on with other programs of the same steps, which run the variants of kernels that `choices` name.
    ///
    /// # Errors
    /// When the device cannot run one.
    pub fn go_on_with(&mut self, [training, evaluation]: [Program; 2], choices: &Choices) -> Result<()> {
        self.device = self.device.tuned(choices.clone());
        (self.training.program, self.evaluation.program) = (training, evaluation);
        if let Some(validation) = &mut self.validation {
            validation.program = validation.program.tuned(choices.clone())?;
        }
        Ok(())
    }

    /// This rank's part of the images of an epoch.
    pub fn order(&self, epoch: usize) -> Epoch {
        self.sampler.epoch(epoch).part(self.ranks.rank(), self.ranks.count())
    }

    /// Position of the run: epochs and steps done.
    pub fn position(&self) -> Position {
        self.header.position
    }

    /// Position of the last checkpoint, if there is one.
    pub fn saved(&self) -> Option<Position> {
        self.saved
    }

    /// Header of a checkpoint of the present state.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The best test error so far.
    pub fn best(&self) -> Option<Best> {
        self.header.best
    }

    /// Trains until all epochs are done, or the end is asked for.
    ///
    /// # Errors
    /// When the device fails, the loss is not finite, or the run's directory cannot be written.
    pub fn run(&mut self, session: &mut Session<'_>) -> Result<Outcome> {
        while self.header.position.epoch < self.config.epochs {
            let span = Span {
                epoch: self.header.position.epoch + 1,
                epochs: self.config.epochs,
                first: self.header.position.epoch_step,
                steps: self.sampler.steps(),
                batch: self.config.batch,
                evaluation: session.evaluation,
                learning_rate: self.rate(0),
            };
            let mut progress = Progress::new(span, &session.display);
            let outcome = self.epoch(session, &mut progress);
            progress.finish();
            let Some(line) = outcome? else {
                self.save(session)?;
                return Ok(Outcome::Interrupted);
            };
            // A run goes on when nobody reads its table.
            let _ = output::line(line);
            if self.decided(session).stop_after_epoch && self.header.position.epoch < self.config.epochs {
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Complete)
    }

    /// Trains the rest of an epoch and evaluates it: the line of the table, or nothing when the end was asked for.
    fn epoch(&mut self, session: &mut Session<'_>, progress: &mut Progress) -> Result<Option<String>> {
        let started = Instant::now();
        let Some(trained) = self.train_steps(session, progress)? else { return Ok(None) };
        self.prepare_next_epoch();
        self.compare_parameters()?;
        let Some(evaluated) = self.evaluate(session, progress)? else { return Ok(None) };
        self.conclude(session, progress, &trained, &evaluated, started).map(Some)
    }

    /// The steps of an epoch that are left; nothing when the end was asked for.
    fn train_steps(&mut self, session: &mut Session<'_>, progress: &mut Progress) -> Result<Option<TrainedEpoch>> {
        let picks = self.order(self.header.position.epoch);
        let (supplied, traffic) = (self.supply(), self.ranks.traffic());
        self.look()?;
        while self.header.position.epoch_step < picks.steps() {
            if self.must_stop(session) {
                return Ok(None);
            }
            self.ranks.ask(self.requests(session, 1));
            self.step(&picks)?;
            snapshots::save_if_due(self, session.run)?;
            session.steps += 1;
            self.check_state()?;
            self.show(progress)?;
            // At its end, an epoch is saved in any case.
            if self.decided(session).save && self.header.position.epoch_step < picks.steps() {
                self.save_as_asked(session, progress)?;
            }
        }
        let metrics = self.metrics()?;
        let (images_per_second, time) = (progress.rate(picks.steps()), progress.elapsed());
        let supply = supplied.zip(self.supply()).map(|(before, now)| now.since(&before));
        session.training += time;
        session.traffic.add(self.ranks.traffic().since(&traffic));
        let trained = TrainedEpoch { metrics, images_per_second, time, supply };
        Ok(if self.must_stop(session) { None } else { Some(trained) })
    }

    /// Looks at the losses, and compares the ranks' parameters, every so often.
    fn check_state(&mut self) -> Result<()> {
        let Position { epoch_step, step, .. } = self.header.position;
        if epoch_step.is_multiple_of(divergence::LOOK_EVERY) {
            self.look()?;
        }
        if step.is_multiple_of(COMPARE_EVERY) { self.compare_parameters() } else { Ok(()) }
    }

    /// Shows the losses of the epoch so far, when it is time to.
    fn show(&self, progress: &mut Progress) -> Result<()> {
        let step = self.header.position.epoch_step;
        if progress.advance(step) {
            // Losses that are not finite any more are explained at the next look, by all ranks together.
            let metrics = self.means_of(&self.training.step.totals(&self.device)?);
            progress.show(step, &metrics, metrics.loss(self.weights()));
        }
        Ok(())
    }

    /// Saves within an epoch, and says so if a key asked for it.
    fn save_as_asked(&mut self, session: &mut Session<'_>, progress: &Progress) -> Result<()> {
        self.save(session)?;
        if interrupt::take_save() {
            progress.say(format!("saved after step {}", self.header.position.step));
        }
        Ok(())
    }

    /// Lets workers prepare the first batches of the next epoch during the evaluation.
    fn prepare_next_epoch(&mut self) {
        let next = self.header.position.epoch + 1;
        if next < self.config.epochs {
            let order = self.order(next);
            self.training.stream.iter_mut().for_each(|stream| stream.prepare(&order, 0));
        }
    }

    /// Measures the held-out images and the test images; nothing when the end was asked for.
    fn evaluate(&mut self, session: &mut Session<'_>, progress: &Progress) -> Result<Option<EvaluatedEpoch>> {
        let started = Instant::now();
        let weights = self.weights();
        let held_out = self.validation.as_ref().map_or(0, EvaluationProgram::steps);
        let steps = held_out + self.evaluation.steps();
        let epoch = self.header.position.epoch + 1;
        let ranks = &self.ranks;
        let measure = |program: &mut EvaluationProgram, done: usize| {
            evaluate_together(program, ranks, weights, |step| progress.evaluating(done + step, steps))
                .with_context(|| format!("in the evaluation of epoch {epoch}"))
        };
        let validation = match &mut self.validation {
            None => None,
            Some(program) => match measure(program, 0)? {
                None => return Ok(None),
                found => found,
            },
        };
        let Some(test) = measure(&mut self.evaluation, held_out)? else { return Ok(None) };
        session.evaluation = started.elapsed();
        Ok(Some(EvaluatedEpoch { validation, test }))
    }

    /// Records and saves what an epoch came to, which began at `started`, and goes on to the next. Returns its line of
    /// the table.
    fn conclude(
        &mut self,
        session: &mut Session<'_>,
        progress: &Progress,
        trained: &TrainedEpoch,
        measured: &EvaluatedEpoch,
        started: Instant,
    ) -> Result<String> {
        let EvaluatedEpoch { validation, test } = measured;
        let (learning_rate, weights) = (self.rate(0), self.weights());
        self.training.step.take_totals(&self.device)?;
        let Position { epoch, step, .. } = self.header.position;
        self.header.position = Position { epoch: epoch + 1, epoch_step: 0, step };
        let moment = Moment { learning_rate, weights, images_per_second: trained.images_per_second, ..self.moment() };
        let row = table::Epoch {
            moment,
            train: &trained.metrics,
            validation: validation.as_ref(),
            test,
            supply: trained.supply.map(|supply| (supply, trained.time)),
            time: started.elapsed(),
        };
        // The metrics come first: what is beyond the checkpoint is dropped on resuming, what is missing is lost. The
        // best weights come last: while they are those of this checkpoint, they can be had from it.
        let records = row.records();
        session.run.append_metrics(&records)?;
        if let Some(events) = &mut session.events {
            events.epoch(step, &records, test.predictions.shares())?;
        }
        progress.done(epoch + 1, &trained.metrics, test);
        let line = row.line();
        let error = |found: &Evaluated| found.top1_errors()[0];
        self.save_epoch(session, error(test), validation.as_ref().map(error))?;
        Ok(line)
    }

    /// Position, rates and weights of the loss, for the run's records.
    pub fn moment(&self) -> Moment<'_> {
        let Position { epoch, step, .. } = self.header.position;
        Moment {
            epoch,
            epochs: self.config.epochs,
            step,
            learning_rate: self.rate(0),
            weights: self.weights(),
            images_per_second: 0.0,
            device: self.device.name(),
        }
    }

    /// Settings of step `step` of the epoch under way.
    pub fn settings(&self, step: usize) -> StepSettings {
        let &Config { momentum, weight_decay, .. } = &self.config;
        StepSettings { rate: self.rate(step), momentum, weight_decay, weights: self.weights() }
    }

    fn rate(&self, step: usize) -> f64 {
        self.config.rate((self.header.position.epoch, step), self.sampler.steps())
    }

    fn weights(&self) -> LossWeights {
        self.config.loss_weights(self.header.position.epoch)
    }

    fn step(&mut self, epoch: &Epoch) -> Result<()> {
        let step = self.header.position.epoch_step;
        let outcome = self.training.run(epoch, step, self.settings(step));
        self.advance();
        let error = outcome.err();
        let found = error.as_ref().and_then(|error| match error.downcast_ref::<Error>() {
            Some(Error::NotFinite(found)) => Some(&**found),
            _ => None,
        });
        match (&error, found) {
            (None, _) | (Some(_), Some(_)) if self.checks => match divergence::checked(self, found)? {
                None => Ok(()),
                Some(divergence) => Err(divergence.into()),
            },
            _ => error.map_or(Ok(()), Err),
        }
    }

    /// Counts a step.
    pub fn advance(&mut self) {
        self.header.position.epoch_step += 1;
        self.header.position.step += 1;
    }

    /// Takes up the state of the last look at the losses again, and returns where the run stood then.
    ///
    /// # Errors
    /// When the device fails.
    pub fn return_to_good_state(&mut self) -> Result<Position> {
        self.header.position = self.good.restore(&self.device, &self.model, &self.training.step)?;
        Ok(self.header.position)
    }

    /// Looks at the losses, and keeps the state if they are finite.
    fn look(&mut self) -> Result<()> {
        let totals = self.totals()?;
        if !self.checks {
            self.good.keep(&self.device, &self.model, &self.training.step, self.header.position, totals)?;
        }
        Ok(())
    }

    /// The means of the epoch so far.
    ///
    /// # Errors
    /// When anything failed on the device, or the loss is not finite.
    fn metrics(&mut self) -> Result<Metrics> {
        let totals = self.totals()?;
        Ok(self.means_of(&totals))
    }

    fn means_of(&self, totals: &[f32]) -> Metrics {
        let mut metrics = Metrics::new(self.evaluation.method());
        metrics.add(totals, self.header.position.epoch_step * self.config.batch);
        metrics
    }

    /// The sums of the losses of the epoch so far, which are finite.
    fn totals(&mut self) -> Result<Vec<f32>> {
        let totals = self.training.step.totals(&self.device)?;
        if finite(&totals) { Ok(totals) } else { Err(divergence::explain(self)) }
    }
}

/// The programs of a run.
struct Programs {
    training: TrainingProgram,
    evaluation: EvaluationProgram,
    validation: Option<EvaluationProgram>,
}

impl Programs {
    /// Compiles the steps of training and of evaluation, with these specifications, for training images and test
    /// images, and images held out.
    fn compile(
        device: &Device,
        model: &mut Model,
        [train, evaluate]: [StepSpec<'_>; 2],
        [images, test]: [Arc<Pictures>; 2],
        validation: Option<Arc<Pictures>>,
        (config, teacher): (&Config, &Option<Teacher>),
    ) -> Result<Self> {
        // Before the step takes its memory: what is on the device needs none of the host's any more.
        let upload = |images| EvalImages::upload(device, images);
        let (test, validation) = (upload(test)?, validation.map(upload).transpose()?);
        let training = TrainingProgram::new(device, model, train, images, config.nesterov, teacher.as_ref())?;
        let mut evaluation = |images| training.evaluation(model, evaluate, images);
        let (evaluation, validation) = (evaluation(test)?, validation.map(evaluation).transpose()?);
        Ok(Self { training, evaluation, validation })
    }
}

/// Adds what a run needs to an error of the device: what [`needed_memory`] cannot know, a GPU says while it allocates.
fn with_need(error: anyhow::Error, config: &Config, need: &Need) -> anyhow::Error {
    match error.downcast_ref() {
        Some(Error::Device { .. }) => {
            error.context(format!("a batch of {} needs {} in all", config.own_batch(), byte_size(need.total())))
        }
        _ => error,
    }
}

/// The memory that a run needs, which fits.
fn needed_memory<'a>(
    device: &Device,
    ranks: &Ranks,
    config: &Config,
    (dataset, validation): (&Dataset<Arc<Pictures>>, &Option<Arc<Pictures>>),
    spec: impl Fn(usize) -> StepSpec<'a>,
    teacher: Option<&Teacher>,
) -> Result<Need> {
    let (own_batch, own_eval_batch) = (config.own_batch(), config.own_eval_batch());
    let train: &Pictures = &dataset.train;
    let evaluated: Vec<&Pictures> = [&dataset.test].into_iter().chain(validation).map(|split| &**split).collect();
    memory::check(device, own_batch, ranks, |batch| {
        let eval_batch = if batch == own_batch { own_eval_batch } else { own_eval_batch.min(batch) };
        let (programs, model) = footprint(device, (spec(batch), train), (spec(eval_batch), &evaluated), teacher)?;
        let evaluated = evaluated.iter().map(|&split| (split, eval_batch));
        let splits: Vec<(&Pictures, usize)> = [(train, batch)].into_iter().chain(evaluated).collect();
        Ok(Need::new(programs, model.params(), &splits, device))
    })
}
