//! Values that are not finite: how they are noticed, and where they came from.
//!
//! The sums of the losses are looked at every few steps; a sum that is not finite stays so. A copy of the state at the
//! last look stays on the device, so that the steps since can be run again, kernel by kernel, until one writes such a
//! value.

use std::fmt;

use anyhow::{Context, Result};
use nets::{Model, NamedTensor};
use one::Training;
use tensor::{Bank, Device, NotFinite};

use crate::failure::Divergence;
use crate::output;
use crate::ranks::Ranks;
use crate::run::checkpoint::Position;
use crate::training::Trainer;

/// Steps from one look at the losses to the next.
pub const LOOK_EVERY: usize = 20;

/// A state of training, from which the steps that followed can be run again. It stays on the device.
#[derive(Debug)]
pub struct GoodState {
    position: Position,
    copies: [Bank; 3],
    totals: Vec<f32>,
    loss_scale: Option<[f32; 4]>,
}

/// The state that a step changes, except for the sums of the losses.
fn banks(model: &Model) -> [&Bank; 3] {
    let params = model.params();
    [params.values(), params.velocities(), params.running()]
}

impl GoodState {
    /// Room for a state of a model whose network is recorded.
    pub fn new(model: &Model) -> Self {
        Self {
            position: Position::default(),
            copies: banks(model).map(Bank::alike),
            totals: Vec::new(),
            loss_scale: None,
        }
    }

    /// Copies the present state.
    ///
    /// # Errors
    /// When the device fails.
    pub fn keep(
        &mut self,
        device: &Device,
        model: &Model,
        step: &Training,
        position: Position,
        totals: Vec<f32>,
    ) -> Result<()> {
        for (copy, bank) in self.copies.iter().zip(banks(model)) {
            copy.copy_from(device, bank)?;
        }
        (self.position, self.totals) = (position, totals);
        self.loss_scale = step.loss_scale(device)?;
        Ok(())
    }

    /// Copies the state back, and returns where the run stood.
    ///
    /// # Errors
    /// When the device fails.
    pub fn restore(&self, device: &Device, model: &Model, step: &Training) -> Result<Position> {
        for (copy, bank) in self.copies.iter().zip(banks(model)) {
            bank.copy_from(device, copy)?;
        }
        step.restore_totals(device, &self.totals)?;
        if let Some((scale, state)) = step.optimizer.loss_scale.as_ref().zip(self.loss_scale) {
            scale.write(device, state)?;
        }
        Ok(self.position)
    }
}

/// Tells whether all are finite.
pub fn finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// The first tensor with a value that is not finite.
pub fn first_not_finite<'a>(tensors: impl IntoIterator<Item = &'a NamedTensor>) -> Option<&'a NamedTensor> {
    tensors.into_iter().find(|tensor| !finite(&tensor.data))
}

/// Cause of the first value that was not finite.
#[derive(Debug)]
enum Cause {
    /// A kernel of this step.
    Kernel(usize, NotFinite),
    /// A parameter or statistic, after this step.
    Parameter(usize, String),
    /// Run again, the steps gave finite values.
    Unknown,
}

/// Diagnosis of values that are not finite.
#[derive(Debug)]
struct Finding {
    /// The step after which it was noticed; where the loss shows it, the first whose loss does.
    step: usize,
    /// The epoch, from 1.
    epoch: usize,
    /// The networks whose loss is not finite, in words.
    networks: Option<String>,
    origin: Cause,
    rate: f64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, epoch, networks, origin, rate } = self;
        match networks {
            Some(networks) => write!(f, "the loss of {networks} is not finite at step {step} (epoch {epoch})")?,
            None => write!(f, "values are not finite any more at step {step} (epoch {epoch})")?,
        }
        match origin {
            Cause::Kernel(step, found) => write!(f, "; the first such value came in step {step} from {found}")?,
            Cause::Parameter(step, name) => write!(f, "; the first such value was in {name} after step {step}")?,
            Cause::Unknown => write!(f, "; run again, the same steps gave finite values: the device may be at fault")?,
        }
        write!(f, "; earlier checkpoints are kept, and a lower --lr than {} may help", decimal(*rate))
    }
}

impl Finding {
    /// The step in which it began, and the dispatch. Of several ranks' findings, the earliest is the cause of the
    /// others.
    fn began(&self) -> (usize, usize) {
        match &self.origin {
            Cause::Kernel(step, found) => (*step, found.dispatch),
            Cause::Parameter(step, _) => (*step, 0),
            Cause::Unknown => (usize::MAX, usize::MAX),
        }
    }
}

/// The finding that all ranks report: that of the rank where it began, with its number. Not every one has to have found
/// something.
fn tell(ranks: &Ranks, own: Option<&Finding>) -> Result<Option<Divergence>> {
    let all: Vec<Option<((usize, usize), String)>> =
        ranks.gather(&own.map(|finding| (finding.began(), finding.to_string())))?;
    let found = all.into_iter().enumerate().filter_map(|(rank, told)| Some((rank, told?)));
    let first = found.min_by_key(|(_, (began, _))| *began);
    Ok(first.map(|(rank, (_, sentence))| Divergence(ranks.prefix(rank) + &sentence)))
}

/// A number in as few digits as tell it.
fn decimal(x: f64) -> String {
    if (1e-4..1e6).contains(&x) { x.to_string() } else { format!("{x:e}") }
}

/// The networks whose sums are not finite, in words; the last is the teacher. `None` if all are finite.
fn networks(totals: &[f32], branches: usize) -> Option<String> {
    if finite(totals) {
        return None;
    }
    // A branch that diverges takes the ensemble with it, and that what is distilled into the others: the
    // cross-entropies, which stand first, tell them apart.
    let terms = totals.len() / (branches + 1);
    let members: Vec<String> = totals
        .chunks(terms)
        .take(branches)
        .enumerate()
        .filter(|(_, terms)| !terms[0].is_finite())
        .map(|(i, _)| i.to_string())
        .collect();
    Some(match members.as_slice() {
        [] => "the ensemble".to_owned(),
        [only] => format!("branch {only}"),
        all if all.len() == branches => "every branch".to_owned(),
        [first @ .., last] => format!("branches {} and {last}", first.join(", ")),
    })
}

/// Explains losses or a state that are not finite: the steps since the last look are run again.
pub fn explain(trainer: &mut Trainer) -> anyhow::Error {
    output::note("not finite: the last steps are run again, kernel by kernel, to find out where it began");
    let told = replay(trainer).and_then(|finding| tell(&trainer.ranks, Some(&finding)));
    match told.and_then(|told| told.context("no rank has found anything")) {
        Ok(divergence) => divergence.into(),
        Err(error) => error.context("the loss is not finite any more, and the steps could not be run again to see why"),
    }
}

fn replay(trainer: &mut Trainer) -> Result<Finding> {
    let noticed = trainer.position();
    let Position { epoch, step, .. } = trainer.return_to_good_state()?;
    let branches = trainer.config.network.branches;
    let rate = trainer.config.lr;
    let mut known = Finding { step: noticed.step, epoch: epoch + 1, networks: None, origin: Cause::Unknown, rate };
    if let Some(tensor) = first_not_finite(&trainer.model.state(&trainer.device)?) {
        known.origin = Cause::Parameter(step, tensor.name.clone());
    }
    let order = trainer.order(epoch);
    while trainer.position().step < noticed.step && known.networks.is_none() {
        let at = trainer.position().epoch_step;
        trainer.training.feed(&order, at, trainer.settings(at))?;
        let found = match known.origin {
            Cause::Unknown => trainer.training.program.run_checked()?,
            _ => {
                trainer.training.program.run()?;
                None
            }
        };
        trainer.advance();
        let step = trainer.position().step;
        if let Some(found) = found {
            known.origin = Cause::Kernel(step, found);
        }
        known.networks = networks(&trainer.training.step.totals(&trainer.device)?, branches);
        if known.networks.is_some() {
            known.step = step;
        }
    }
    Ok(known)
}

/// Diagnosis of the step just done, in which every value was looked at, and this was `found`: adds what the losses say.
/// Nothing if no rank has found anything.
///
/// # Errors
/// When the device fails, or a rank cannot be reached any more.
pub fn checked(trainer: &Trainer, found: Option<&NotFinite>) -> Result<Option<Divergence>> {
    let Position { epoch, step, .. } = trainer.position();
    let totals = trainer.training.step.totals(&trainer.device)?;
    let finding = found.map(|found| Finding {
        step,
        epoch: epoch + 1,
        networks: networks(&totals, trainer.config.network.branches),
        origin: Cause::Kernel(step, found.clone()),
        rate: trainer.config.lr,
    });
    tell(&trainer.ranks, finding.as_ref())
}

#[cfg(test)]
mod tests {
    use super::networks;

    #[test]
    fn the_cross_entropies_tell_which_branch_it_was() {
        let (good, bad) = (1.0, f32::NAN);
        let of = |cross_entropies: [f32; 4]| {
            let totals: Vec<f32> = cross_entropies.iter().flat_map(|&ce| [ce, bad, 0.0, 0.0]).collect();
            networks(&totals, 3).expect("not finite")
        };
        assert_eq!(networks(&[1.0; 16], 3), None);
        assert_eq!(of([good, bad, good, bad]), "branch 1");
        assert_eq!(of([bad, good, bad, bad]), "branches 0 and 2");
        assert_eq!(of([bad, f32::INFINITY, bad, bad]), "every branch");
        assert_eq!(of([good, good, good, bad]), "the ensemble");
        assert_eq!(networks(&[bad, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1).as_deref(), Some("branch 0"));
    }
}
