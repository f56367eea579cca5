//! The training loop: steps, evaluation after each epoch, checkpoints.
//!
//! What a step does is a pure function of the configuration and of the state in the banks, so a run that is interrupted
//! and resumed at any step goes on to the same bits as one that was not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use data::{Dataset, Epoch, Pictures, Sampler};
use nets::{Loaded, Model};
use one::{LossWeights, Metrics};
use tensor::{Device, Error};

use crate::checkpoint::{self, Best, Checkpoint, Header, Position};
use crate::config::Config;
use crate::divergence::{self, GoodState, finite, first_not_finite};
use crate::evaluation::evaluate;
use crate::feeding::{Normalisation, Stream, Supply};
use crate::memory::{self, Need};
use crate::programs::{EvaluationProgram, Recipe, StepSettings, TrainingProgram, footprint};
use crate::progress::{Progress, Span};
use crate::run_dir::{self, RunDir};
use crate::table::Moment;
use crate::teacher::Teacher;
use crate::{interrupt, output, snapshots, table};

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
    /// Where the run stood when it was last saved.
    saved: Option<Position>,
    good: GoodState,
    checks: bool,
    /// Memory of everything, in bytes.
    pub need: u64,
}

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
    saved: Instant,
    steps: usize,
    evaluation: Duration,
    /// Time of the epochs' training steps.
    training: Duration,
}

impl<'a> Session<'a> {
    /// A session that begins now.
    pub fn new(run: &'a RunDir, stop_after: Option<usize>) -> Self {
        Self { run, stop_after, saved: Instant::now(), steps: 0, evaluation: Duration::ZERO, training: Duration::ZERO }
    }

    fn must_stop(&self) -> bool {
        interrupt::requested() || self.stop_after.is_some_and(|steps| self.steps >= steps)
    }
}

impl Trainer {
    /// Uploads the data, compiles the programs, and initialises the model. `config` must be settled; `validation` are the
    /// images held out. With `checks` every kernel's outputs are looked at in every step.
    ///
    /// # Errors
    /// When the data do not fill a batch, the teacher cannot be had, or the device cannot hold or run the programs.
    pub fn new(
        config: Config,
        device: Device,
        dataset: Dataset<Arc<Pictures>>,
        validation: Option<&Arc<Pictures>>,
        checks: bool,
    ) -> Result<Self> {
        let augment = config.augment.map_or(data::Augmentation::None, Into::into);
        let sampler = Sampler::new(config.seed, dataset.train.len(), config.batch, augment)?;
        let architecture = config.network.architecture()?;
        let method = config.method_config(dataset.classes.len())?;
        let teacher = Teacher::read(&config)?;
        let mut header = Header::new(&config);
        header.class_names.clone_from(&dataset.classes);
        let mut model = Model::with_decay(config.decay.into());
        let recipe = |batch| Recipe {
            architecture: &*architecture,
            method: &method,
            normalisation: Normalisation { mean: header.mean, std: header.std },
            precision: config.precision.into(),
            batch,
            workers: config.worker_threads(),
            checks,
        };
        let need = memory::check(&device, config.batch, |batch| {
            let evaluated = if batch == config.batch { config.eval_batch } else { config.eval_batch.min(batch) };
            let measured: Vec<&Pictures> =
                [&dataset.test].into_iter().chain(validation).map(|split| &**split).collect();
            let (train, test) = ((recipe(batch), &*dataset.train), (recipe(evaluated), measured.as_slice()));
            let (programs, model) = footprint(&device, train, test, teacher.as_ref())?;
            let splits: Vec<(&Pictures, usize)> = [(&*dataset.train, batch)]
                .into_iter()
                .chain(measured.iter().map(|&split| (split, evaluated)))
                .collect();
            Ok(Need::new(programs, model.params(), &splits, &device))
        })?;
        // What the check cannot know, a GPU says while it allocates.
        let whole = |error: anyhow::Error| match error.downcast_ref() {
            Some(Error::Device { .. }) => {
                error.context(format!("a batch of {} needs {} in all", config.batch, memory::size(need.total())))
            }
            _ => error,
        };
        let (nesterov, teacher) = (config.nesterov, teacher.as_ref());
        let training =
            TrainingProgram::new(&device, &mut model, recipe(config.batch), dataset.train, nesterov, teacher)
                .map_err(whole)?;
        let mut evaluate = |images| training.evaluation(&mut model, recipe(config.eval_batch), images).map_err(whole);
        let evaluation = evaluate(&dataset.test)?;
        let validation = validation.map(evaluate).transpose()?;
        model.initialize(&device, config.seed)?;
        let good = GoodState::new(&model);
        Ok(Self {
            config,
            device,
            model,
            training,
            evaluation,
            validation,
            sampler,
            header,
            saved: None,
            good,
            checks,
            need: need.total(),
        })
    }

    /// Takes over weights to begin with, by [`Model::load_start`].
    ///
    /// # Errors
    /// When they do not fit the network.
    pub fn begin_with(&mut self, weights: &Checkpoint) -> Result<Loaded> {
        Ok(self.model.load_start(&self.device, &weights.state)?)
    }

    /// Takes up the state of a checkpoint.
    ///
    /// # Errors
    /// When it is of another network or has not all that is needed.
    pub fn restore(&mut self, header: &Header, checkpoint: &Checkpoint) -> Result<()> {
        let Position { epoch, epoch_step, step } = header.position;
        let steps = self.sampler.steps();
        if header.network != self.config.network || epoch_step > steps || epoch * steps + epoch_step != step {
            bail!("it is not of the run that config.toml describes");
        }
        self.model.load(&self.device, &checkpoint.state)?;
        self.model.load_velocities(&self.device, &checkpoint.velocities)?;
        self.training.step.restore_totals(&self.device, &checkpoint.totals)?;
        match (&self.training.step.optimizer.loss_scale, checkpoint.loss_scale) {
            (Some(scale), Some(state)) => scale.write(&self.device, state)?,
            (None, None) => {}
            _ => bail!("it is of another --precision than the run that config.toml describes"),
        }
        (self.header.position, self.header.best) = (header.position, header.best);
        self.header.last_error = header.last_error;
        self.saved = Some(header.position);
        Ok(())
    }

    /// Makes the best weights those that the state tells of: they are saved after it, so the end of the last session may
    /// have come between, and they may be ahead of a state that is not the last one.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn settle_best(&self, run: &RunDir) -> Result<()> {
        let files = run.best_saves();
        let Some(best) = self.header.best else {
            return run.remove(&[files.current.as_path(), files.previous.as_path()]);
        };
        let is_it = |header: &Header| {
            header.best.is_some_and(|other| other.epoch == best.epoch && (other.error - best.error).abs() < 1e-9)
        };
        let holds_it = |path| checkpoint::read_own(path).is_ok_and(|(header, _)| is_it(&header));
        if holds_it(&files.current) {
            return Ok(());
        }
        if holds_it(&files.previous) {
            return run_dir::bring_back(&files);
        }
        if self.header.position == (Position { epoch: best.epoch, epoch_step: 0, ..self.header.position }) {
            return self.save_best(run);
        }
        output::note(format!(
            "{} is not that of epoch {}, the best so far: a better one will replace it",
            files.current.display(),
            best.epoch
        ));
        Ok(())
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        self.header.position
    }

    /// Where the run stood when it was last saved, if it was.
    pub fn saved(&self) -> Option<Position> {
        self.saved
    }

    /// What a checkpoint of this moment says of itself.
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
            };
            let mut progress = Progress::new(span);
            let outcome = self.epoch(session, &mut progress);
            progress.finish();
            match outcome? {
                Some(line) => {
                    // A run goes on when nobody reads its table.
                    let _ = output::line(line);
                }
                None => {
                    self.save(session)?;
                    return Ok(Outcome::Interrupted);
                }
            }
        }
        Ok(Outcome::Complete)
    }

    /// Trains the rest of an epoch and evaluates it: the line of the table, or nothing when the end was asked for.
    fn epoch(&mut self, session: &mut Session<'_>, progress: &mut Progress) -> Result<Option<String>> {
        let started = Instant::now();
        let number = self.header.position.epoch;
        let picks = self.sampler.epoch(number);
        let supplied = self.supply();
        self.look()?;
        while self.header.position.epoch_step < picks.steps() {
            if session.must_stop() {
                return Ok(None);
            }
            self.step(&picks)?;
            snapshots::save_if_due(self, session.run)?;
            session.steps += 1;
            let step = self.header.position.epoch_step;
            if step.is_multiple_of(divergence::LOOK_EVERY) {
                self.look()?;
            }
            if progress.advance(step) {
                let metrics = self.metrics()?;
                progress.show(step, &metrics, metrics.loss(self.weights()));
            }
            let due = |every: crate::args::SaveEvery| every.is_due(self.header.position.step, session.saved.elapsed());
            if step < picks.steps() && self.config.save_every.is_some_and(due) {
                self.save(session)?;
            }
        }
        let train = self.metrics()?;
        let images_per_second = progress.rate(picks.steps());
        let (time, supplied) =
            (progress.elapsed(), supplied.zip(self.supply()).map(|(before, now)| now.since(&before)));
        session.training += time;
        if session.must_stop() {
            return Ok(None);
        }
        if let Some(stream) = self.training.stream.as_mut().filter(|_| number + 1 < self.config.epochs) {
            stream.prepare(&self.sampler.epoch(number + 1), 0);
        }

        let evaluating = Instant::now();
        let weights = self.weights();
        let held_out = self.validation.as_ref().map_or(0, EvaluationProgram::steps);
        let steps = held_out + self.evaluation.steps();
        let context = || format!("in the evaluation of epoch {}", number + 1);
        let mut validation = None;
        if let Some(program) = &mut self.validation {
            validation = evaluate(program, weights, |step| progress.evaluating(step, steps)).with_context(context)?;
            if validation.is_none() {
                return Ok(None);
            }
        }
        let evaluated = evaluate(&mut self.evaluation, weights, |step| progress.evaluating(held_out + step, steps))
            .with_context(context)?;
        let Some(test) = evaluated else { return Ok(None) };
        session.evaluation = evaluating.elapsed();

        let learning_rate = self.rate(0);
        self.training.step.take_totals(&self.device)?;
        self.header.position = Position { epoch: number + 1, epoch_step: 0, step: self.header.position.step };
        let moment = Moment { learning_rate, weights, images_per_second, ..self.moment() };
        let epoch = table::Epoch {
            moment,
            train: &train,
            validation: validation.as_ref(),
            test: &test,
            supply: supplied.map(|supply| (supply, time)),
            time: started.elapsed(),
        };
        // The metrics come first: what is beyond the checkpoint is dropped on resuming, what is missing is lost. The best
        // weights come last: while they are those of this checkpoint, they can be had from it.
        session.run.append_metrics(&epoch.records())?;
        let line = epoch.line();
        let error = test.top1_errors()[0];
        let validation_error = validation.as_ref().map(|found| found.top1_errors()[0]);
        self.header.last_error = Some(error);
        let beats = |best: Best| validation_error.unwrap_or(error) < best.validation_error.unwrap_or(best.error);
        let better = self.header.best.is_none_or(beats);
        if better {
            self.header.best = Some(Best { error, validation_error, epoch: number + 1 });
        }
        self.save(session)?;
        if better {
            self.save_best(session.run)?;
        }
        Ok(Some(line))
    }

    /// What was measured of the host's part in the training steps so far, where images are streamed.
    fn supply(&self) -> Option<Supply> {
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

    /// Writes `best.safetensors`.
    fn save_best(&self, run: &RunDir) -> Result<()> {
        let state = self.model.state(&self.device)?;
        let weights = Checkpoint { header: None, state, velocities: Vec::new(), totals: Vec::new(), loss_scale: None };
        checkpoint::replace(&run.best_saves(), &self.header, &weights).context("cannot save the best weights")
    }

    /// Where the run stands, for its records.
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
        let at = (self.header.position.epoch, step);
        let &Config { schedule, lr, cycles, epochs, .. } = &self.config;
        schedule.rate(lr, cycles, at, (epochs, self.sampler.steps()))
    }

    fn weights(&self) -> LossWeights {
        self.config.loss_weights(self.header.position.epoch)
    }

    fn step(&mut self, epoch: &Epoch) -> Result<()> {
        let step = self.header.position.epoch_step;
        let outcome = self.training.run(epoch, step, self.settings(step));
        self.advance();
        let Err(error) = outcome else { return Ok(()) };
        match error.downcast_ref::<Error>() {
            Some(Error::NotFinite(found)) => Err(divergence::checked(self, found)?.into()),
            _ => Err(error),
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
        let mut metrics = Metrics::new(self.evaluation.method());
        metrics.add(&totals, self.header.position.epoch_step * self.config.batch);
        Ok(metrics)
    }

    /// The sums of the losses of the epoch so far, which are finite.
    fn totals(&mut self) -> Result<Vec<f32>> {
        let totals = self.training.step.totals(&self.device)?;
        if finite(&totals) { Ok(totals) } else { Err(divergence::explain(self)) }
    }

    /// Writes `last.safetensors`.
    fn save(&mut self, session: &mut Session<'_>) -> Result<()> {
        let totals = self.totals()?;
        let (state, velocities) = (self.model.state(&self.device)?, self.model.velocities(&self.device)?);
        if first_not_finite(state.iter().chain(&velocities)).is_some() {
            return Err(divergence::explain(self));
        }
        let loss_scale = self.training.step.loss_scale(&self.device)?;
        let checkpoint = Checkpoint { header: None, state, velocities, totals, loss_scale };
        checkpoint::replace(&session.run.last_saves(), &self.header, &checkpoint).context("cannot save the run")?;
        self.saved = Some(self.header.position);
        session.saved = Instant::now();
        Ok(())
    }
}

/// Worker threads in words.
pub fn workers(count: usize) -> String {
    match count {
        0 => "the step itself".to_owned(),
        1 => "1 worker".to_owned(),
        _ => format!("{count} workers"),
    }
}
