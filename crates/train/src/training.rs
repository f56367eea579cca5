//! The training loop: steps, evaluation after each epoch, checkpoints.
//!
//! What a step does is a pure function of the configuration and of the state in the banks, so a run that is interrupted
//! and resumed at any step goes on to the same bits as one that was not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use data::{Dataset, Epoch, Images, Sampler};
use nets::{Loaded, Model};
use one::{LossWeights, Metrics};
use tensor::Device;

use crate::args::Augmentation;
use crate::checkpoint::{self, Best, Checkpoint, Header, Position};
use crate::config::Config;
use crate::evaluation::evaluate;
use crate::programs::{EvaluationProgram, Normalisation, Recipe, StepSettings, TrainingProgram};
use crate::progress::{Progress, Span};
use crate::run_dir::RunDir;
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
}

impl<'a> Session<'a> {
    /// A session that begins now.
    pub fn new(run: &'a RunDir, stop_after: Option<usize>) -> Self {
        Self { run, stop_after, saved: Instant::now(), steps: 0, evaluation: Duration::ZERO }
    }

    fn must_stop(&self) -> bool {
        interrupt::requested() || self.stop_after.is_some_and(|steps| self.steps >= steps)
    }
}

impl Trainer {
    /// Uploads the data, compiles the programs, and initialises the model. `config` must be settled; `validation` are the
    /// images held out.
    ///
    /// # Errors
    /// When the data do not fill a batch, the teacher cannot be had, or the device cannot hold or run the programs.
    pub fn new(config: Config, device: Device, dataset: Dataset, validation: Option<&Images>) -> Result<Self> {
        let augment = config.augment == Some(Augmentation::Standard);
        let sampler = Sampler::new(config.seed, dataset.train.len(), config.batch, augment)?;
        let architecture = config.network.architecture()?;
        let method = config.method_config(dataset.classes.len())?;
        let teacher = Teacher::read(&config)?;
        let header = Header::new(&config);
        let mut model = Model::with_decay(config.decay.into());
        let recipe = |batch| Recipe {
            architecture: &*architecture,
            method: &method,
            normalisation: Normalisation { mean: header.mean, std: header.std },
            batch,
        };
        let (nesterov, teacher) = (config.nesterov, teacher.as_ref());
        let training =
            TrainingProgram::new(&device, &mut model, recipe(config.batch), dataset.train, nesterov, teacher)?;
        let mut evaluate = |images| training.evaluation(&mut model, recipe(config.eval_batch), images);
        let evaluation = evaluate(&dataset.test)?;
        let validation = validation.map(evaluate).transpose()?;
        model.initialize(&device, config.seed)?;
        Ok(Self { config, device, model, training, evaluation, validation, sampler, header })
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
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(header) = &checkpoint.header else { bail!("it does not say where the run stood") };
        let Position { epoch, epoch_step, step } = header.position;
        let steps = self.sampler.steps();
        if header.network != self.config.network || epoch_step > steps || epoch * steps + epoch_step != step {
            bail!("it is not of the run that config.toml describes");
        }
        self.model.load(&self.device, &checkpoint.state)?;
        self.model.load_velocities(&self.device, &checkpoint.velocities)?;
        self.training.step.restore_totals(&self.device, &checkpoint.totals)?;
        (self.header.position, self.header.best) = (header.position, header.best);
        self.header.last_error = header.last_error;
        Ok(())
    }

    /// Where the run stands.
    pub fn position(&self) -> Position {
        self.header.position
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
    pub fn run(&mut self, mut session: Session<'_>) -> Result<Outcome> {
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
            let outcome = self.epoch(&mut session, &mut progress);
            progress.finish();
            match outcome? {
                Some(line) => {
                    // A run goes on when nobody reads its table.
                    let _ = output::line(line);
                }
                None => {
                    self.save(&mut session)?;
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
        while self.header.position.epoch_step < picks.steps() {
            if session.must_stop() {
                return Ok(None);
            }
            self.step(&picks)?;
            snapshots::save_if_due(self, session.run)?;
            session.steps += 1;
            let step = self.header.position.epoch_step;
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
        if session.must_stop() {
            return Ok(None);
        }

        let evaluating = Instant::now();
        let weights = self.weights();
        let held_out = self.validation.as_ref().map_or(0, EvaluationProgram::steps);
        let steps = held_out + self.evaluation.steps();
        let mut validation = None;
        if let Some(program) = &mut self.validation {
            validation = evaluate(program, weights, |step| progress.evaluating(step, steps))?;
            if validation.is_none() {
                return Ok(None);
            }
        }
        let evaluated = evaluate(&mut self.evaluation, weights, |step| progress.evaluating(held_out + step, steps))?;
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
            time: started.elapsed(),
        };
        // The metrics come first: what is beyond the checkpoint is dropped on resuming, what is missing is lost.
        session.run.append_metrics(&epoch.records())?;
        let line = epoch.line();
        let error = test.top1_errors()[0];
        let validation_error = validation.as_ref().map(|found| found.top1_errors()[0]);
        self.header.last_error = Some(error);
        let better = |best: Best| validation_error.unwrap_or(error) < best.validation_error.unwrap_or(best.error);
        if self.header.best.is_none_or(better) {
            self.header.best = Some(Best { error, validation_error, epoch: number + 1 });
            let state = self.model.state(&self.device)?;
            let weights = Checkpoint { header: None, state, velocities: Vec::new(), totals: Vec::new() };
            checkpoint::write(&session.run.best(), self.header.clone(), &weights)?;
        }
        self.save(session)?;
        Ok(Some(line))
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

    fn step(&mut self, picks: &Epoch) -> Result<()> {
        let step = self.header.position.epoch_step;
        self.training.run(picks.step(step), self.settings(step))?;
        self.header.position.epoch_step += 1;
        self.header.position.step += 1;
        Ok(())
    }

    /// The means of the epoch so far.
    ///
    /// # Errors
    /// When anything failed on the device, or the loss is not finite.
    fn metrics(&self) -> Result<Metrics> {
        let totals = self.training.step.totals(&self.device)?;
        self.check(&totals)?;
        let mut metrics = Metrics::new(self.evaluation.method());
        metrics.add(&totals, self.header.position.epoch_step * self.config.batch);
        Ok(metrics)
    }

    fn check(&self, totals: &[f32]) -> Result<()> {
        if totals.iter().all(|total| total.is_finite()) {
            return Ok(());
        }
        let Position { epoch, step, .. } = self.header.position;
        bail!(
            "the loss is not finite any more at step {step} (epoch {}): earlier checkpoints are kept; a lower --lr than {} \
             may help",
            epoch + 1,
            self.config.lr
        )
    }

    /// Writes `last.safetensors`.
    fn save(&mut self, session: &mut Session<'_>) -> Result<()> {
        let totals = self.training.step.totals(&self.device)?;
        self.check(&totals)?;
        let (state, velocities) = (self.model.state(&self.device)?, self.model.velocities(&self.device)?);
        let checkpoint = Checkpoint { header: None, state, velocities, totals };
        checkpoint::write(&session.run.last(), self.header.clone(), &checkpoint).context("cannot save the run")?;
        session.saved = Instant::now();
        Ok(())
    }
}
