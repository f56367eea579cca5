//! Setting a training up: device, data, programs and initial weights.

use std::sync::Arc;

use anyhow::{Context, Result};
use data::{Dataset, LoadOptions, Pictures};
use nets::Loaded;
use tensor::Device;

use super::{Trainer, variants};
use crate::machine::choices::{self, Origin, Tuning, Wanted};
use crate::options::args::TrainArgs;
use crate::options::config::Config;
use crate::output;
use crate::ranks::{Ranks, same};
use crate::run::checkpoint::{self, Checkpoint};
use crate::show::overview;
use crate::step::source::{self, Purpose};

/// Builds the trainer that the options describe and loads its initial weights; `say` has what runs printed.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done.
pub fn new_trainer(args: &TrainArgs, say: bool, ranks: &Ranks) -> Result<Trainer> {
    new_trainer_with(args, say, ranks, VariantPolicy::Known)
}

pub fn new_trainer_with(args: &TrainArgs, say: bool, ranks: &Ranks, variants: VariantPolicy) -> Result<Trainer> {
    let own = || -> Result<(Config, Option<Checkpoint>)> {
        let mut config = Config::new(args)?;
        config.share_among(ranks.count(), args.batch_per_rank)?;
        let weights = if ranks.is_root() { read_initial_weights(&config)? } else { None };
        Ok((config, weights))
    };
    let (config, weights) = ranks.together(own())?;
    let mut trainer = prepare(config, args, say, ranks, variants)?;
    ranks.together(load_initial_weights(&mut trainer, weights.as_ref(), say))?;
    Ok(trainer)
}

/// Reads the weights that a new run begins with.
pub fn read_initial_weights(config: &Config) -> Result<Option<Checkpoint>> {
    config.init.as_deref().map(checkpoint::read).transpose()
}

/// Loads the weights that a new run begins with, and says what they became.
pub fn load_initial_weights(trainer: &mut Trainer, weights: Option<&Checkpoint>, say: bool) -> Result<()> {
    let Some((weights, path)) = weights.zip(trainer.config.init.clone()) else { return Ok(()) };
    let file = path.display();
    let loaded = trainer.start_from(weights).with_context(|| format!("cannot begin with {file}"))?;
    let what = match (loaded, trainer.config.network.branches) {
        (Loaded::Everything, 1) => "the whole network".to_owned(),
        (Loaded::Everything, branches) => format!("all {branches} branches and what they share"),
        (Loaded::Target, _) => "the shared stages and branch 0; all else begins at random".to_owned(),
    };
    if say {
        let _ = output::line(format!("{:<12} {file}: {what}", "init"));
    }
    Ok(())
}

/// Choice of the variants of kernels that a training runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariantPolicy {
    /// The variants that are known to be faster on the adapter.
    Known,
    /// The same, after kernels of which nothing is known were measured.
    Measured,
    /// The variants that a resumed run had.
    OfRun,
}

/// Opens the device, with the choices that were made for it, loads the data, and compiles the programs.
pub fn prepare(config: Config, args: &TrainArgs, say: bool, ranks: &Ranks, variants: VariantPolicy) -> Result<Trainer> {
    same::check_options(ranks, &config, args)?;
    let recorded = config.tuning.clone();
    let wanted = match (&recorded, variants) {
        _ if args.untuned => Wanted::Rule,
        (Some(Tuning::Choices(recorded)), VariantPolicy::OfRun) => Wanted::OfRun(recorded),
        (None, VariantPolicy::OfRun) => Wanted::Rule,
        _ => Wanted::Known,
    };
    let opened = choices::open(&config.device, wanted, ranks.place().index);
    let (device, mut origin) = ranks.together(opened)?;
    let mut trainer = build(config, device, args.checks, say, ranks)?;
    // Several ranks would have to agree on what they found.
    if variants == VariantPolicy::Measured && wanted == Wanted::Known && ranks.is_alone() {
        let known = match origin {
            Origin::File(tuned) => Some(tuned),
            Origin::Rule | Origin::Run(_) => None,
        };
        origin = variants::automatic(&mut trainer, known)?.map_or(Origin::Rule, Origin::File);
    }
    record_tuning(&mut trainer, &origin, say);
    Ok(trainer)
}

/// Records in the configuration which variants of kernels the training runs, and prints it.
fn record_tuning(trainer: &mut Trainer, origin: &Origin, say: bool) {
    trainer.config.tuning = None;
    let (Some(adapter), Some(target)) = (trainer.device.adapter(), trainer.device.target()) else { return };
    let choices = origin.choices().among(trainer.kernels(), &target);
    let what = match choices.len() {
        0 => "none of this network's run another variant for it".to_owned(),
        n => format!("{n} of this network's run another variant for it"),
    };
    trainer.config.tuning = Tuning::of(&choices, adapter);
    let text = match origin {
        Origin::Rule => return,
        Origin::File(tuned) => format!("{tuned}: {what} ({})", tuned.path().display()),
        Origin::Run(_) => format!("tuned as this run has it: {what}"),
    };
    if say {
        let _ = output::line(format!("{:<12} {text}", "kernels"));
    }
}

/// Loads the data, compiles the programs for `device`, and prints what runs.
pub fn build(mut config: Config, device: Device, checks: bool, say: bool, ranks: &Ranks) -> Result<Trainer> {
    // Missing data are fetched once for each host.
    let mut dataset = ranks.one_first(|| load(&config, &device))?;
    config.settle(&dataset);
    let classes = dataset.classes.len();
    let validation = config.validation.map(|n| dataset.train.hold_out(n, classes)).transpose();
    let validation = ranks.together(validation.map_err(Into::into))?;
    same::check_data(ranks, &dataset, validation.as_ref())?;
    let counts = overview::ImageCounts {
        train: dataset.train.len(),
        validation: validation.as_ref().map_or(0, Pictures::len),
        test: dataset.test.len(),
        size: dataset.train.size(),
    };
    let share = |pictures| anyhow::Ok(Arc::new(pictures));
    let (dataset, validation) = (dataset.try_map(share, share)?, validation.map(Arc::new));
    let trainer = Trainer::new(config, device, dataset, validation, checks, ranks.clone());
    let trainer = ranks.together(trainer)?;
    let Trainer { device, config, training, evaluation, need, .. } = &trainer;
    if say {
        let _ = output::line(overview::overview(device, config, counts, (training, evaluation), *need)?);
    }
    Ok(trainer)
}

fn load(config: &Config, device: &Device) -> Result<Dataset<Pictures>> {
    let options = LoadOptions {
        data_dir: config.data_dir.clone(),
        limit_train: config.limit_train,
        limit_test: config.limit_test,
        // Runs that differ in their seed are compared on the same data.
        seed: 0,
        classes: config.classes,
        strict: config.strict,
        ..LoadOptions::default()
    };
    let usual = config.network.architecture()?.image_size();
    let (augment, stream) = (config.augment, config.stream);
    source::load(&config.data, &options, Purpose { device, asked: config.image_size, usual, augment, stream })
}
