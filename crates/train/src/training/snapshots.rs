//! Snapshot ensembles (Huang et al., ICLR 2017): the states of one network at the ends of the learning rate's cycles,
//! as members of an ensemble.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nets::{Model, NamedTensor};
use one::LossWeights;

use crate::options::args::Method;
use crate::options::config::Network;
use crate::options::schedule::cycle_steps;
use crate::run::checkpoint::{self, Checkpoint};
use crate::run::directory::RunDir;
use crate::step::evaluated::Evaluated;
use crate::step::evaluation::evaluate;
use crate::step::feeding::Normalisation;
use crate::step::programs::StepSpec;
use crate::training::Trainer;

/// The ensemble's file in a run's directory.
const ENSEMBLE: &str = "ensemble.safetensors";

/// The state at the end of cycle `number`, from 1.
fn path(run: &RunDir, number: usize) -> PathBuf {
    run.path().join(format!("snapshot-{number}.safetensors"))
}

/// All steps of a run, and those of a cycle.
fn steps(trainer: &Trainer) -> (usize, usize) {
    let all = trainer.config.epochs * trainer.sampler.steps();
    (all, cycle_steps(all, trainer.config.cycles))
}

fn weights(state: Vec<NamedTensor>) -> Checkpoint {
    Checkpoint { header: None, state, velocities: Vec::new(), totals: Vec::new(), loss_scale: None }
}

/// Saves the network if a cycle ends with the step just done.
///
/// # Errors
/// When a value is not finite, or the file cannot be written.
pub fn save_if_due(trainer: &Trainer, run: &RunDir) -> Result<()> {
    let (all, cycle) = steps(trainer);
    let step = trainer.position().step;
    if trainer.config.method != Method::Snapshot || !run.writes() || (!step.is_multiple_of(cycle) && step != all) {
        return Ok(());
    }
    let state = weights(trainer.model.state(&trainer.device)?);
    checkpoint::write(&path(run, step.div_ceil(cycle)), trainer.header(), &state)
}

/// Writes the ensemble of all snapshots as one network's members, and measures it. Returns its file, too; `None` when
/// the end was asked for meanwhile.
///
/// # Errors
/// When a snapshot is missing or damaged, or the device fails.
pub fn finish(trainer: &Trainer, run: &RunDir) -> Result<Option<(PathBuf, Evaluated)>> {
    let (all, cycle) = steps(trainer);
    let count = all.div_ceil(cycle);
    let mut state = Vec::new();
    for member in 0..count {
        state.extend(read(&path(run, member + 1), member)?);
    }
    let mut header = trainer.header().clone();
    header.network = Network { branches: count, ..header.network.alone() };
    header.method = Method::Ensemble;
    (header.best, header.last_error) = (None, None);
    let file = run.path().join(ENSEMBLE);
    let ensemble = weights(state);
    let architecture = header.network.architecture()?;
    let method = one::Config::independent(count, header.classes);
    let spec = StepSpec {
        precision: trainer.config.precision.into(),
        ..StepSpec::evaluation(
            &*architecture,
            &method,
            Normalisation { mean: header.mean, std: header.std },
            trainer.config.eval_batch,
            trainer.config.worker_threads(),
        )
    };
    let mut model = Model::new();
    let mut program = trainer.evaluation.of_another(&mut model, spec)?;
    model.load(&trainer.device, &ensemble.state).context("the snapshots are not of this run")?;
    checkpoint::write(&file, &header, &ensemble)?;
    Ok(evaluate(&mut program, LossWeights::default(), |_| ())?.map(|found| (file, found)))
}

/// The state of a snapshot under the names of member `member`.
fn read(path: &Path, member: usize) -> Result<Vec<NamedTensor>> {
    let (_, checkpoint) = checkpoint::read_own(path).context("the ensemble of snapshots lacks one")?;
    let renamed = checkpoint
        .state
        .into_iter()
        .map(|tensor| NamedTensor { name: nets::member_name(&tensor.name, member), ..tensor });
    Ok(renamed.collect())
}
