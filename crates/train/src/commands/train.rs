//! Training, from the beginning or from a checkpoint.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::commands::profile::Form;
use crate::failure::{self, Agreed, Divergence};
use crate::machine::choices::Tuning;
use crate::options::args::{Method, TrainArgs, Ui};
use crate::options::config::{self, Config};
use crate::ranks::Ranks;
use crate::run::checkpoint::{self, Best, Checkpoint, Damaged, Header, Position};
use crate::run::directory::{RunDir, SNAPSHOTS};
use crate::run::files::{Kept, bring_back};
use crate::run::sessions::SessionRecord;
use crate::show::dashboard::{self, Dashboard, View};
use crate::show::progress::Display;
use crate::show::tensorboard::Events;
use crate::show::{overview, table, words};
use crate::training::setup::{VariantPolicy, load_initial_weights, new_trainer_with, prepare, read_initial_weights};
use crate::training::{Outcome, Session, Trainer, snapshots};
use crate::{commands, interrupt, output};

/// Trains. Of several processes that were started together, `ranks` becomes what connects them.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done; and when the run was interrupted, after saving it.
pub fn run(args: &TrainArgs, ranks: &mut Ranks) -> Result<()> {
    *ranks = Ranks::start()?;
    match &args.resume {
        Some(dir) => resume_run(args, dir, ranks),
        None => begin_run(args, ranks),
    }
}

fn begin_run(args: &TrainArgs, ranks: &Ranks) -> Result<()> {
    if args.profile {
        ranks.refuse_several("--profile measures one process: start it without mpirun")?;
        return commands::profile::measure(args, Form::default());
    }
    let mut trainer = new_trainer_with(args, true, ranks, VariantPolicy::Measured)?;
    let run = if ranks.is_root() { RunDir::create(args.out.as_deref(), &trainer.config).map(Some) } else { Ok(None) };
    let run = directory(ranks, run)?;
    train(&mut trainer, Session::new(&run, args.stop_after), args)
}

/// The directory of a run, which rank 0 has: the others only know where it is.
fn directory(ranks: &Ranks, own: Result<Option<RunDir>>) -> Result<RunDir> {
    let own = ranks.together(own)?;
    let path = ranks.of_root(own.as_ref().map(|run| run.path().to_owned()))?;
    Ok(own.unwrap_or_else(|| RunDir::of_another(path)))
}

fn resume_run(args: &TrainArgs, dir: &Path, ranks: &Ranks) -> Result<()> {
    let opened = ranks.together(if ranks.is_root() { RunDir::open(dir).map(Some) } else { Ok(None) })?;
    let (run, saved) = opened.unzip();
    let saved = ranks.of_root(saved)?;
    let run = directory(ranks, Ok(run))?;
    let config = ranks.together(saved.resumed(args, ranks.count()))?;
    // A run that was ended before its first checkpoint begins anew.
    let found = || -> Result<(Option<ResumePoint>, Option<Checkpoint>)> {
        let found = ResumePoint::find(&run)?;
        let weights = if found.is_some() { None } else { read_initial_weights(&config)? };
        Ok((found, weights))
    };
    let (state, weights) = ranks.together(if run.writes() { found() } else { Ok((None, None)) })?;
    let tuning = config.tuning.clone();
    let mut trainer = prepare(config, args, true, ranks, VariantPolicy::OfRun)?;
    ranks.together(match &state {
        Some(state) => state.take_up(&mut trainer, &run, tuning.as_ref()),
        None => load_initial_weights(&mut trainer, weights.as_ref(), true),
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
        "this run was on {} and goes on with {}: a step still takes {} images, {} on each rank instead of {}; \
         {statistics}, and sums are taken in another order, so its numbers go on, but not to the last bit as they \
         would have",
        ranks(before.ranks),
        ranks(now.ranks),
        now.batch,
        now.own_batch(),
        before.own_batch()
    ));
}

/// The state that a run goes on from.
struct ResumePoint {
    file: PathBuf,
    header: Header,
    checkpoint: Checkpoint,
    /// Reason why the last one, which is there, is not used.
    trouble: Option<String>,
}

impl ResumePoint {
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

/// Says so if a run goes on with other variants of its kernels, whose sums have another order.
fn warn_of_other_variants(before: Option<&Tuning>, trainer: &Trainer) {
    let [before, now] = [before, trainer.config.tuning.as_ref()].map(|tuning| tuning.map(Tuning::fingerprint));
    if before != now {
        let name = |tuning: Option<&str>| tuning.map_or("untuned".to_owned(), |choices| format!("tuned ({choices})"));
        output::note(format!(
            "the kernels were {} when this run was saved, and are {} now: its numbers go on, but not to the last bit \
             as they would have",
            name(before),
            name(now)
        ));
    }
}

fn train(trainer: &mut Trainer, mut session: Session<'_>, args: &TrainArgs) -> Result<()> {
    interrupt::catch()?;
    let ranks = trainer.ranks.clone();
    let devices = ranks.gather(&words::describe_device(&trainer.device))?;
    trainer.share_state(&devices)?;
    ranks.set_time_limit(Duration::from_secs(args.rank_timeout.unwrap_or(config::RANK_TIMEOUT) as u64));
    let run = session.run;
    announce(trainer, run, &devices);
    session.display = Display::None;
    if run.writes() {
        let step = trainer.position().step;
        run.append_session(&SessionRecord::new(step, words::devices(&devices)))?;
        session.display = display(args.ui.unwrap_or_default(), trainer, run)?;
        session.events = Some(Events::begin(run.path(), &trainer.config, step)?);
    }
    let outcome = trainer.run(&mut session);
    // The screen is as it was before anything else is printed.
    session.display = Display::None;
    let (speed, broken) = trainer.report_supply(&session);
    broken.iter().for_each(output::note);
    match outcome.map_err(|error| with_what_is_saved(error, trainer, run))? {
        Outcome::Interrupted => Err(interrupted(trainer, run)),
        Outcome::Complete => {
            if let Some(events) = &mut session.events {
                events.end(trainer.position().step)?;
            }
            report_errors(trainer, run);
            speed.into_iter().chain(trainer.report_traffic(&session)).for_each(say);
            if trainer.config.method == Method::Snapshot && run.writes() {
                report_snapshots(trainer, run)?;
            }
            Ok(())
        }
    }
}

/// Prints a line. A run goes on when nobody reads what it prints.
fn say(text: String) {
    let _ = output::line(text);
}

/// Prints where the run lies and where it begins, and the heading of its table.
fn announce(trainer: &Trainer, run: &RunDir, devices: &[String]) {
    let Trainer { config, .. } = trainer;
    if let Some(ranks) = overview::describe_ranks(config, devices) {
        say(format!("{:<12} {ranks}", "ranks"));
    }
    say(format!("{:<12} {}", "run", run.path().display()));
    let Position { epoch, epoch_step, step } = trainer.position();
    if step > 0 {
        let (epoch, steps) = (epoch + 1, trainer.sampler.steps());
        say(format!("{:<12} after step {step} (epoch {epoch}, step {epoch_step} of {steps})", "resumed"));
    }
    let (validated, streamed) = (trainer.validation.is_some(), trainer.training.stream.is_some());
    say(format!("\n{}", table::heading(config.network.branches, config.method, validated, streamed)));
}

/// The error of a run that was ended before its last epoch.
fn interrupted(trainer: &Trainer, run: &RunDir) -> anyhow::Error {
    let Position { epoch, step, .. } = trainer.position();
    let sentence = format!(
        "interrupted after step {step} (epoch {} of {}): everything is saved, and `train --resume {}` goes on",
        epoch + 1,
        trainer.config.epochs,
        run.path().display()
    );
    Agreed { sentence, usage: false }.into()
}

/// Prints the last test error and the best one, and the files of their weights.
fn report_errors(trainer: &Trainer, run: &RunDir) {
    if let Some(error) = trainer.header().last_error {
        say(format!("\nlast test error {error:.2} % (branch 0): {}", run.last().display()));
    }
    if let Some(Best { error, validation_error, epoch }) = trainer.best() {
        let chosen = validation_error
            .map_or_else(String::new, |error| format!(" where the validation error was lowest, {error:.2} %"));
        let file = run.best();
        say(format!("best test error {error:.2} % (branch 0, epoch {epoch}){chosen}: {}", file.display()));
    }
}

/// Display of a run's progress: where there is no terminal, the dashboard is plain.
fn display(ui: Ui, trainer: &Trainer, run: &RunDir) -> Result<Display> {
    Ok(match ui {
        Ui::None => Display::None,
        Ui::Live if dashboard::possible() => {
            let config = &trainer.config;
            let network = format!("{}, method {}", words::describe(&config.network), config.method.name());
            let device = words::describe_device(&trainer.device);
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
