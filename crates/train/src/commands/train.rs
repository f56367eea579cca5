//! Training, from the beginning or from a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use data::{Dataset, LoadOptions, Pictures};
use nets::Loaded;
use tensor::Device;

use crate::args::{Method, TrainArgs, Ui};
use crate::checkpoint::{Checkpoint, Damaged, Header};
use crate::commands::profile::Form;
use crate::config::{Config, processors};
use crate::dashboard::{Dashboard, View};
use crate::divergence::Divergence;
use crate::failure::{self, Agreed, usage};
use crate::progress::Display;
use crate::ranks::Ranks;
use crate::run_dir::{Kept, RunDir, bring_back};
use crate::source::Purpose;
use crate::tensorboard::Events;
use crate::training::{Outcome, Session, Trainer};
use crate::tuned::{Origin, Tuning, Wanted};
use crate::{
    checkpoint, commands, dashboard, interrupt, output, overview, same, sessions, snapshots, source, table, tuned,
    tuning,
};

/// The split under which the ensemble of snapshots is recorded: it is not measured by epochs.
pub const SNAPSHOTS: &str = "snapshots";

/// How long a rank may keep the others waiting, unless that is said, in seconds.
const PATIENCE: usize = 300;

/// Trains. Of several processes that were started together, `ranks` becomes what connects them.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done; and when the run was interrupted, after saving it.
pub fn run(args: &TrainArgs, ranks: &mut Ranks) -> Result<()> {
    *ranks = Ranks::start()?;
    if !ranks.is_alone() {
        output::set_rank(ranks.rank());
        tensor::device::limit_threads((processors() / ranks.place().sharing).max(1))?;
    }
    match &args.resume {
        Some(dir) => resume(args, dir, ranks),
        None => begin(args, ranks),
    }
}

fn begin(args: &TrainArgs, ranks: &Ranks) -> Result<()> {
    if args.profile {
        return match ranks.is_alone() {
            true => commands::profile::measure(args, Form::default()),
            false => ranks.together(Err(usage("--profile measures one process: start it without mpirun"))),
        };
    }
    let mut trainer = begin_new(args, true, ranks, Variants::Measured)?;
    let run = if ranks.is_root() { RunDir::create(args.out.as_deref(), &trainer.config).map(Some) } else { Ok(None) };
    let run = directory(ranks, run)?;
    train(&mut trainer, Session::new(&run, args.stop_after), args)
}

/// Builds the trainer that the options describe and loads its initial weights; `say` has what runs printed.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done.
pub fn begun(args: &TrainArgs, say: bool, ranks: &Ranks) -> Result<Trainer> {
    begin_new(args, say, ranks, Variants::Known)
}

fn begin_new(args: &TrainArgs, say: bool, ranks: &Ranks, variants: Variants) -> Result<Trainer> {
    let own = || -> Result<(Config, Option<Checkpoint>)> {
        let mut config = Config::new(args)?;
        config.share_among(ranks.count(), args.batch_per_rank)?;
        let weights = if ranks.is_root() { initial_weights(&config)? } else { None };
        Ok((config, weights))
    };
    let (config, weights) = ranks.together(own())?;
    let mut trainer = prepare(config, args, say, ranks, variants)?;
    ranks.together(begin_with(&mut trainer, weights.as_ref(), say))?;
    Ok(trainer)
}

/// The directory of a run, which rank 0 has: the others only know where it is.
fn directory(ranks: &Ranks, own: Result<Option<RunDir>>) -> Result<RunDir> {
    let own = ranks.together(own)?;
    if ranks.is_alone() {
        return own.context("a run without a directory");
    }
    let path = ranks.of_root(own.as_ref().map(|run| run.path().to_owned()).as_ref())?;
    Ok(own.unwrap_or_else(|| RunDir::of_another(path)))
}

fn resume(args: &TrainArgs, dir: &Path, ranks: &Ranks) -> Result<()> {
    let opened = ranks.together(if ranks.is_root() { RunDir::open(dir).map(Some) } else { Ok(None) })?;
    let (run, saved) = opened.unzip();
    let saved = match saved {
        Some(config) if ranks.is_alone() => config,
        saved => ranks.of_root(saved.as_ref())?,
    };
    let run = directory(ranks, Ok(run))?;
    let config = ranks.together(saved.resumed(args, ranks.count()))?;
    // A run that was ended before its first checkpoint begins anew.
    let found = || -> Result<(Option<Saved>, Option<Checkpoint>)> {
        let found = Saved::find(&run)?;
        let weights = if found.is_some() { None } else { initial_weights(&config)? };
        Ok((found, weights))
    };
    let (state, weights) = ranks.together(if run.writes() { found() } else { Ok((None, None)) })?;
    let tuning = config.tuning.clone();
    let mut trainer = prepare(config, args, true, ranks, Variants::OfRun)?;
    ranks.together(match &state {
        Some(state) => state.take_up(&mut trainer, &run, tuning.as_ref()),
        None => begin_with(&mut trainer, weights.as_ref(), true),
    })?;
    if saved.ranks != ranks.count() {
        say_of_other_ranks(&saved, &trainer.config);
    }
    if run.writes() {
        trainer.settle_best(&run)?;
        run.trim_metrics(trainer.position().epoch)?;
        run.save_config(&trainer.config)?;
    }
    train(&mut trainer, Session::new(&run, args.stop_after), args)
}

/// Says what changes where a run goes on with another number of ranks.
fn say_of_other_ranks(before: &Config, now: &Config) {
    let ranks = |count: usize| if count == 1 { "1 rank".to_owned() } else { format!("{count} ranks") };
    let statistics = match now.sync_bn {
        true => "batch-norms still normalise over all of them",
        false => "batch-norms normalise over fewer or more images than before",
    };
    output::note(format!(
        "this run was on {} and goes on with {}: a step still takes {} images, {} on each rank in place of {}; \
         {statistics}, and \
         sums are taken in another order, so its numbers go on, but not to the last bit as they would have",
        ranks(before.ranks),
        ranks(now.ranks),
        now.batch,
        now.own_batch(),
        before.own_batch()
    ));
}

/// The state that a run goes on from.
struct Saved {
    file: PathBuf,
    header: Header,
    checkpoint: Checkpoint,
    /// Why it is not the last one, which is there.
    trouble: Option<String>,
}

impl Saved {
    /// Goes on from it.
    fn take_up(&self, trainer: &mut Trainer, run: &RunDir, tuning: Option<&Tuning>) -> Result<()> {
        let Self { file, header, checkpoint, trouble } = self;
        trainer.restore(header, checkpoint).with_context(|| format!("cannot resume from {}", file.display()))?;
        if let Some(trouble) = trouble {
            let aside = run.set_aside_last()?;
            output::note(format!(
                "{trouble}; it is now {}, and the run goes on from the one before, after step {}",
                aside.display(),
                header.position.step
            ));
            bring_back(&run.last_saves())?;
        }
        warn_of_other_variants(tuning, trainer);
        Ok(())
    }

    /// The last state if it can be read, or else the one before; `None` if the run was never saved.
    fn find(run: &RunDir) -> Result<Option<Self>> {
        let Kept { current, previous } = run.last_saves();
        let read = |file: PathBuf, trouble: Option<String>| -> Result<Option<Self>> {
            let (header, checkpoint) = checkpoint::read_own(&file)?;
            Ok(Some(Self { file, header, checkpoint, trouble }))
        };
        match (current.exists(), previous.exists()) {
            (false, false) => Ok(None),
            (false, true) => {
                // The run was ended between the renaming of the two.
                bring_back(&run.last_saves())?;
                read(current, None)
            }
            (true, false) => read(current, None),
            (true, true) => read(current, None).or_else(|error: anyhow::Error| {
                let trouble = error.downcast_ref().map_or_else(|| format!("{error:#}"), Damaged::finding);
                read(previous, Some(trouble.clone())).with_context(|| trouble)
            }),
        }
    }
}

/// Reads the weights that a new run begins with.
fn initial_weights(config: &Config) -> Result<Option<Checkpoint>> {
    config.init.as_deref().map(checkpoint::read).transpose()
}

/// Loads the weights that a new run begins with, and says what they became.
fn begin_with(trainer: &mut Trainer, weights: Option<&Checkpoint>, say: bool) -> Result<()> {
    let Some((weights, path)) = weights.zip(trainer.config.init.clone()) else { return Ok(()) };
    let file = path.display();
    let loaded = trainer.begin_with(weights).with_context(|| format!("cannot begin with {file}"))?;
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

/// Says so if a run goes on with other variants of its kernels, whose sums have another order.
fn warn_of_other_variants(before: Option<&Tuning>, trainer: &Trainer) {
    let [before, now] = [before, trainer.config.tuning.as_ref()].map(|tuning| tuning.map(Tuning::fingerprint));
    if before != now {
        let name = |tuning: Option<&str>| tuning.map_or("untuned".to_owned(), |choices| format!("tuned ({choices})"));
        output::note(format!(
            "the kernels were {} when this run was saved, and are {} now: its numbers go on, but not to the last bit \
             as \
             they would have",
            name(before),
            name(now)
        ));
    }
}

/// Which variants of its kernels a training takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variants {
    /// Those that are known to be faster on the adapter.
    Known,
    /// The same, after kernels of which nothing is known were measured.
    Measured,
    /// Those that the run has that goes on.
    OfRun,
}

/// Opens the device, with the choices that were made for it, loads the data, and compiles the programs.
fn prepare(config: Config, args: &TrainArgs, say: bool, ranks: &Ranks, variants: Variants) -> Result<Trainer> {
    if !ranks.is_alone() {
        let facts = ranks.together(same::facts(&config, args))?;
        same::check(ranks, &facts, "start all ranks with the same program and options")?;
    }
    let recorded = config.tuning.clone();
    let wanted = match (&recorded, variants) {
        _ if args.untuned => Wanted::Rule,
        (Some(Tuning::Choices(recorded)), Variants::OfRun) => Wanted::OfRun(recorded),
        (None, Variants::OfRun) => Wanted::Rule,
        _ => Wanted::Known,
    };
    let opened = tuned::open(&config.device, wanted, ranks.place().index);
    let (device, mut origin) = ranks.together(opened)?;
    let mut trainer = build(config, device, args.checks, say, ranks)?;
    // Several ranks would have to agree on what they found.
    if variants == Variants::Measured && wanted == Wanted::Known && ranks.is_alone() {
        let known = match origin {
            Origin::File(tuned) => Some(tuned),
            Origin::Rule | Origin::Run(_) => None,
        };
        origin = tuning::automatic(&mut trainer, known)?.map_or(Origin::Rule, Origin::File);
    }
    record_tuning(&mut trainer, &origin, say);
    Ok(trainer)
}

/// Has the configuration tell which variants of kernels the training runs, and says so.
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
    // What is missing is fetched once for each host.
    let mut dataset = ranks.one_first(|| load(&config, &device))?;
    config.settle(&dataset);
    let classes = dataset.classes.len();
    let validation = config.validation.map(|n| dataset.train.hold_out(n, classes)).transpose();
    let validation = ranks.together(validation.map_err(Into::into))?;
    if !ranks.is_alone() {
        let facts = same::data_facts(&dataset, validation.as_ref());
        same::check(ranks, &facts, "all ranks need the same data")?;
    }
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

fn train(trainer: &mut Trainer, mut session: Session<'_>, args: &TrainArgs) -> Result<()> {
    interrupt::catch()?;
    let ranks = trainer.ranks.clone();
    let devices = ranks.gather(&overview::describe_device(&trainer.device))?;
    trainer.begin_together(&devices)?;
    let run = session.run;
    let dir = run.path().display();
    let position = trainer.position();
    let steps = trainer.sampler.steps();
    let say = |text: String| {
        // A run goes on when nobody reads what it prints.
        let _ = output::line(text);
    };
    if !ranks.is_alone() {
        say(format!("{:<12} {}", "ranks", overview::describe_ranks(&trainer.config, &devices)));
        ranks.set_time_limit(Duration::from_secs(args.rank_timeout.unwrap_or(PATIENCE) as u64));
    }
    say(format!("{:<12} {dir}", "run"));
    if position.step > 0 {
        say(format!(
            "{:<12} after step {} (epoch {}, step {} of {steps})",
            "resumed",
            position.step,
            position.epoch + 1,
            position.epoch_step
        ));
    }
    let (validated, streamed) = (trainer.validation.is_some(), trainer.training.stream.is_some());
    say(format!("\n{}", table::heading(trainer.config.network.branches, trainer.config.method, validated, streamed)));
    session.display = Display::None;
    if run.writes() {
        run.append_session(&sessions::Session::new(position.step, overview::devices(&devices)))?;
        session.display = display(args.ui.unwrap_or_default(), trainer, run)?;
        session.events = Some(Events::begin(run.path(), &trainer.config, position.step)?);
    }
    let outcome = trainer.run(&mut session);
    // The screen is as it was before anything else is printed.
    session.display = Display::None;
    let (speed, broken) = trainer.report_supply(&session);
    broken.iter().for_each(output::note);
    let outcome = outcome.map_err(|error| with_what_is_saved(error, trainer, run))?;
    let position = trainer.position();
    match outcome {
        Outcome::Interrupted => {
            let sentence = format!(
                "interrupted after step {} (epoch {} of {}): everything is saved, and `train --resume {dir}` goes on",
                position.step,
                position.epoch + 1,
                trainer.config.epochs
            );
            Err(Agreed { sentence, usage: false }.into())
        }
        Outcome::Complete => {
            if let Some(events) = &mut session.events {
                events.end(position.step)?;
            }
            if let Some(error) = trainer.header().last_error {
                say(format!("\nlast test error {error:.2} % (branch 0): {}", run.last().display()));
            }
            if let Some(best) = trainer.best() {
                let chosen = best
                    .validation_error
                    .map_or_else(String::new, |error| format!(" where the validation error was lowest, {error:.2} %"));
                say(format!(
                    "best test error {:.2} % (branch 0, epoch {}){chosen}: {}",
                    best.error,
                    best.epoch,
                    run.best().display()
                ));
            }
            if let Some(speed) = speed {
                say(speed);
            }
            if !ranks.is_alone() {
                say(trainer.report_traffic(&session));
            }
            if trainer.config.method == Method::Snapshot && run.writes() {
                report_snapshots(trainer, run)?;
            }
            Ok(())
        }
    }
}

/// What shows the progress of a run: where there is no terminal, the dashboard is plain.
fn display(ui: Ui, trainer: &Trainer, run: &RunDir) -> Result<Display> {
    Ok(match ui {
        Ui::None => Display::None,
        Ui::Live if dashboard::possible() => {
            let config = &trainer.config;
            let network = format!("{}, method {}", overview::describe(&config.network), config.method.name());
            let device = overview::describe_device(&trainer.device);
            let title = [network, config.data.clone(), device, run.path().display().to_string()];
            Display::Live(Dashboard::open(View::new(title, config.epochs, trainer.need))?)
        }
        Ui::Live | Ui::Plain => Display::Plain,
    })
}

/// Adds to what ended a run where it can go on. One that diverged would do so again.
fn with_what_is_saved(error: anyhow::Error, trainer: &Trainer, run: &RunDir) -> anyhow::Error {
    if error.is::<Divergence>() {
        return error;
    }
    if failure::is_exchange(&error) && !run.writes() {
        // Rank 0 knows the same, and says it in full.
        return error;
    }
    let dir = run.path().display();
    let sentence = match trainer.saved() {
        _ if run.writes() && !run.path().is_dir() => {
            format!("{error:#}; the run was saved in {dir}, which is not there any more: put it back to go on from it")
        }
        Some(position) => format!(
            "{error:#}; the state after step {} is saved, and `train --resume {dir}` goes on from it",
            position.step
        ),
        None => format!("{error:#}; nothing was saved before, and `train --resume {dir}` begins anew"),
    };
    if error.is::<Agreed>() { Agreed { sentence, usage: false }.into() } else { anyhow!(sentence) }
}

/// Measures the ensemble of the snapshots.
fn report_snapshots(trainer: &Trainer, run: &RunDir) -> Result<()> {
    let Some((file, found)) = snapshots::finish(trainer, run)? else {
        bail!(
            "interrupted before the ensemble of the snapshots was measured: `train --resume {}` goes on",
            run.path().display()
        );
    };
    // A run that was resumed when it was complete has the record already.
    run.trim_split(SNAPSHOTS)?;
    run.append_metrics(&[trainer.moment().evaluation(SNAPSHOTS, &found)])?;
    let _ = output::line(format!("\n{}", table::evaluation(&found)));
    let _ = output::line(format!("the ensemble of the snapshots: {}", file.display()));
    Ok(())
}
