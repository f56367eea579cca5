//! The state of a run: where it comes from, how it is saved, and that all ranks have the same.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use nets::Loaded;

use super::{Session, Trainer};
use crate::failure::Agreed;
use crate::output;
use crate::ranks::same;
use crate::run::checkpoint::{self, Best, Checkpoint, Header, Position};
use crate::run::directory::RunDir;
use crate::run::files;
use crate::step::programs::EvaluationProgram;
use crate::training::divergence::{self, first_not_finite};

impl Trainer {
    /// Gives all ranks the state of rank 0, whether it is new or was read; `kinds` are those of the ranks' devices.
    ///
    /// # Errors
    /// When a rank cannot be reached any more, or the device fails.
    pub fn share_state(&mut self, kinds: &[String]) -> Result<()> {
        // One process touches no device here: what fails there, fails in the loop, which tells what is saved.
        if self.ranks.is_alone() {
            return Ok(());
        }
        self.mixed = kinds.iter().any(|kind| *kind != kinds[0]);
        let own = self.ranks.is_root().then(|| (self.header.clone(), self.saved));
        (self.header, self.saved) = self.ranks.of_root(own)?;
        same::share_banks(&self.ranks, &self.device, same::banks(&self.model))?;
        let totals = self.ranks.floats_of_root(&self.training.step.totals(&self.device)?)?;
        self.training.step.restore_totals(&self.device, &totals)?;
        if let Some(scale) = &self.training.step.optimizer.loss_scale {
            let state = self.ranks.floats_of_root(&scale.read(&self.device)?)?;
            scale.write(&self.device, state.try_into().map_err(|_| anyhow!("rank 0 sent no loss scale"))?)?;
        }
        Ok(())
    }

    /// Makes sure that all ranks have the same parameters. Where their devices round differently, they take rank 0's,
    /// if theirs are close to them.
    pub(super) fn compare_parameters(&self) -> Result<()> {
        let step = self.header.position.step;
        let odd = same::odd_rank(&self.ranks, &self.device, same::banks(&self.model), self.mixed)?;
        let Some(rank) = odd else { return Ok(()) };
        let sentence = format!(
            "rank {rank} has other parameters than the other ranks after step {step}: its device, driver or memory \
             is at fault; the run is ended, since what it trains would be of no use"
        );
        Err(Agreed { sentence, usage: false }.into())
    }

    /// Does `work`, which may run steps, and restores the present state afterwards.
    ///
    /// # Errors
    /// When the device fails, or what is done does.
    pub fn aside<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (step, position) = (&self.training.step, self.header.position);
        self.good.keep(&self.device, &self.model, step, position, step.totals(&self.device)?)?;
        let done = work(self)?;
        self.good.restore(&self.device, &self.model, &self.training.step)?;
        [&self.evaluation].into_iter().chain(&self.validation).try_for_each(EvaluationProgram::forget)?;
        Ok(done)
    }

    /// Takes over weights to begin with, by [`nets::Model::load_start`].
    ///
    /// # Errors
    /// When they do not fit the network.
    pub fn start_from(&mut self, weights: &Checkpoint) -> Result<Loaded> {
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

    /// Makes the best weights those that the state tells of: they are saved after it, so the end of the last session
    /// may have come between, and they may be ahead of a state that is not the last one.
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
            return files::bring_back(&files);
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

    /// Records what the last epoch came to, and saves: the state, and the weights if they are the best so far.
    pub(super) fn save_epoch(&mut self, session: &mut Session<'_>, error: f64, validation: Option<f64>) -> Result<()> {
        self.header.last_error = Some(error);
        let beats = |best: Best| validation.unwrap_or(error) < best.validation_error.unwrap_or(best.error);
        let better = self.header.best.is_none_or(beats);
        if better {
            let epoch = self.header.position.epoch;
            self.header.best = Some(Best { error, validation_error: validation, epoch });
        }
        self.save(session)?;
        if better { self.save_best(session.run) } else { Ok(()) }
    }

    /// Writes `last.safetensors`.
    pub(super) fn save(&mut self, session: &mut Session<'_>) -> Result<()> {
        let totals = self.totals()?;
        let (state, velocities) = (self.model.state(&self.device)?, self.model.velocities(&self.device)?);
        if first_not_finite(state.iter().chain(&velocities)).is_some() {
            return Err(divergence::explain(self));
        }
        let loss_scale = self.training.step.loss_scale(&self.device)?;
        let checkpoint = Checkpoint { header: None, state, velocities, totals, loss_scale };
        if session.run.writes() {
            checkpoint::replace(&session.run.last_saves(), &self.header, &checkpoint).context("cannot save the run")?;
        }
        self.saved = Some(self.header.position);
        session.saved = Instant::now();
        Ok(())
    }

    /// Writes `best.safetensors`.
    pub(super) fn save_best(&self, run: &RunDir) -> Result<()> {
        if !run.writes() {
            return Ok(());
        }
        let state = self.model.state(&self.device)?;
        let weights = Checkpoint { header: None, state, velocities: Vec::new(), totals: Vec::new(), loss_scale: None };
        checkpoint::replace(&run.best_saves(), &self.header, &weights).context("cannot save the best weights")
    }
}
