//! The training loop: steps, evaluation after each epoch, checkpoints.
//!
//! What a step does is a pure function of the configuration and of the state in the banks, so a run that is interrupted
//! and resumed at any step goes on to the same bits as one that was not.

pub mod divergence;
mod session;
pub mod setup;
pub mod snapshots;
mod state;
pub mod variants;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use data::{Dataset, Epoch, Pictures, Sampler};
use nets::Model;
use one::{LossWeights, Metrics};
use tensor::{Choices, Device, Error, Form, Program, Sharing};

use crate::options::config::Config;
use crate::ranks::{Ranks, Requests};
use crate::run::checkpoint::{Best, Header, Position};
use crate::show::progress::{Progress, Span};
use crate::show::table::{self, Moment};
use crate::show::words::byte_size;
use crate::step::evaluated::Evaluated;
use crate::step::evaluation::{evaluate, evaluate_together};
use crate::step::feeding::Normalisation;
use crate::step::memory::{self, Need};
use crate::step::programs::{EvalImages, EvaluationProgram, StepSettings, StepSpec, TrainingProgram, footprint};
use crate::step::teacher::Teacher;
use crate::{interrupt, output};

use divergence::{GoodState, finite};

pub use session::{Outcome, Session};

/// Steps from one comparison of the ranks' parameters to the next.
const COMPARE_EVERY: usize = 100;

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
        let (own_batch, own_eval_batch) = (config.own_batch(), config.own_eval_batch());
        let need = memory::check(&device, own_batch, &ranks, |batch| {
            let evaluated = if batch == own_batch { own_eval_batch } else { own_eval_batch.min(batch) };
            let measured: Vec<&Pictures> =
                [&dataset.test].into_iter().chain(&validation).map(|split| &**split).collect();
            let (train, test) = ((spec(batch), &*dataset.train), (spec(evaluated), measured.as_slice()));
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
                error.context(format!("a batch of {own_batch} needs {} in all", byte_size(need.total())))
            }
            _ => error,
        };
        let (nesterov, teacher) = (config.nesterov, teacher.as_ref());
        let Dataset { train, test, .. } = dataset;
        // Before the step takes its memory: what is on the device needs none of the host's any more.
        let upload = |images| EvalImages::upload(&device, images).map_err(whole);
        let (test, validation) = (upload(test)?, validation.map(upload).transpose()?);
        let training =
            TrainingProgram::new(&device, &mut model, spec(own_batch), train, nesterov, teacher).map_err(whole)?;
        let mut evaluate = |images| training.evaluation(&mut model, spec(own_eval_batch), images).map_err(whole);
        let evaluation = evaluate(test)?;
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

    /// What this rank takes of the images of an epoch.
    pub fn order(&self, epoch: usize) -> Epoch {
        self.sampler.epoch(epoch).part(self.ranks.rank(), self.ranks.count())
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
                learning_rate: self.rate(0),
            };
            let mut progress = Progress::new(span, &session.display);
            let outcome = self.epoch(session, &mut progress);
            progress.finish();
            match outcome? {
                Some(line) => {
                    // A run goes on when nobody reads its table.
                    let _ = output::line(line);
                    let asked = interrupt::requested_after_epoch();
                    let asked = if self.ranks.is_alone() { asked } else { self.ranks.agreed().stop_after_epoch };
                    if asked && self.header.position.epoch < self.config.epochs {
                        return Ok(Outcome::Interrupted);
                    }
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
        let picks = self.order(number);
        let (supplied, traffic) = (self.supply(), self.ranks.traffic());
        self.look()?;
        while self.header.position.epoch_step < picks.steps() {
            if session.must_stop(&self.ranks) {
                return Ok(None);
            }
            self.ask(session);
            self.step(&picks)?;
            snapshots::save_if_due(self, session.run)?;
            session.steps += 1;
            let step = self.header.position.epoch_step;
            if step.is_multiple_of(divergence::LOOK_EVERY) {
                self.look()?;
            }
            if !self.ranks.is_alone() && self.header.position.step.is_multiple_of(COMPARE_EVERY) {
                self.compare_parameters()?;
            }
            if progress.advance(step) {
                // Losses that are not finite any more are explained at the next look, by all ranks together.
                let totals = self.training.step.totals(&self.device)?;
                let metrics = self.means_of(&totals);
                progress.show(step, &metrics, metrics.loss(self.weights()));
            }
            if self.ranks.is_alone() {
                self.ask(session);
            }
            // At its end, an epoch is saved in any case.
            if self.ranks.agreed().save && step < picks.steps() {
                self.save(session)?;
                if interrupt::take_save() {
                    progress.say(format!("saved after step {}", self.header.position.step));
                }
            }
        }
        let train = self.metrics()?;
        let images_per_second = progress.rate(picks.steps());
        let (time, supplied) =
            (progress.elapsed(), supplied.zip(self.supply()).map(|(before, now)| now.since(&before)));
        session.training += time;
        session.traffic.add(self.ranks.traffic().since(&traffic));
        if session.must_stop(&self.ranks) {
            return Ok(None);
        }
        if number + 1 < self.config.epochs {
            let next = self.order(number + 1);
            self.training.stream.iter_mut().for_each(|stream| stream.prepare(&next, 0));
        }
        if !self.ranks.is_alone() {
            self.compare_parameters()?;
        }

        let evaluating = Instant::now();
        let weights = self.weights();
        let held_out = self.validation.as_ref().map_or(0, EvaluationProgram::steps);
        let steps = held_out + self.evaluation.steps();
        let context = || format!("in the evaluation of epoch {}", number + 1);
        let mut validation = None;
        if let Some(program) = &mut self.validation {
            let advance = |step| progress.evaluating(step, steps);
            validation = measure(program, &self.ranks, weights, advance).with_context(context)?;
            if validation.is_none() {
                return Ok(None);
            }
        }
        let advance = |step| progress.evaluating(held_out + step, steps);
        let evaluated = measure(&mut self.evaluation, &self.ranks, weights, advance).with_context(context)?;
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
        // The metrics come first: what is beyond the checkpoint is dropped on resuming, what is missing is lost. The
        // best weights come last: while they are those of this checkpoint, they can be had from it.
        let records = epoch.records();
        session.run.append_metrics(&records)?;
        if let Some(events) = &mut session.events {
            events.epoch(moment.step, &records, test.predictions.shares())?;
        }
        progress.done(number + 1, &train, &test);
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
        self.config.rate((self.header.position.epoch, step), self.sampler.steps())
    }

    /// Asks for what the clock, a signal or a key wants done after the step that comes, or, alone, now.
    fn ask(&self, session: &Session<'_>) {
        let coming = if self.ranks.is_alone() { 0 } else { 1 };
        let step = self.header.position.step + coming;
        let due = |every: crate::options::args::SaveEvery| every.is_due(step, session.saved.elapsed());
        self.ranks.ask(Requests {
            stop: interrupt::requested(),
            save: interrupt::save_requested() || self.config.save_every.is_some_and(due),
            stop_after_epoch: interrupt::requested_after_epoch(),
        });
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

/// Measures a split, alone or with the other ranks; `None` when the end was asked for meanwhile.
fn measure(
    program: &mut EvaluationProgram,
    ranks: &Ranks,
    weights: LossWeights,
    advance: impl FnMut(usize),
) -> Result<Option<Evaluated>> {
    if ranks.is_alone() {
        return evaluate(program, weights, advance);
    }
    evaluate_together(program, ranks, weights, advance).map(Some)
}
