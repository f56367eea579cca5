//! Training, from the beginning or from a checkpoint.

use std::path::Path;

use anyhow::{Context, Result, bail};
use data::{Dataset, LoadOptions};

use crate::args::{Method, TrainArgs};
use crate::config::Config;
use crate::run_dir::RunDir;
use crate::training::{Outcome, Session, Trainer};
use crate::{checkpoint, commands, interrupt, output, overview, snapshots, source, table};

/// The split under which the ensemble of snapshots is recorded: it is not measured by epochs.
const SNAPSHOTS: &str = "snapshots";

/// Trains.
///
/// # Errors
/// When anything that was asked for is not there or cannot be done; and when the run was interrupted, after saving it.
pub fn run(args: &TrainArgs) -> Result<()> {
    match &args.resume {
        Some(dir) => resume(args, dir),
        None => begin(args),
    }
}

fn begin(args: &TrainArgs) -> Result<()> {
    let mut trainer = prepare(Config::new(args)?)?;
    if args.profile {
        return commands::profile::run(&mut trainer);
    }
    let run = RunDir::create(args.out.as_deref(), &trainer.config)?;
    train(&mut trainer, Session::new(&run, args.stop_after))
}

fn resume(args: &TrainArgs, dir: &Path) -> Result<()> {
    let (run, saved) = RunDir::open(dir)?;
    let config = saved.resumed(args)?;
    let last = run.last();
    // A run that was ended before its first checkpoint begins anew.
    let checkpoint = if last.exists() { Some(checkpoint::read(&last)?) } else { None };
    let mut trainer = prepare(config)?;
    if let Some(checkpoint) = &checkpoint {
        trainer.restore(checkpoint).with_context(|| format!("cannot resume from {}", last.display()))?;
    }
    run.trim_metrics(trainer.position().epoch)?;
    run.save_config(&trainer.config)?;
    train(&mut trainer, Session::new(&run, args.stop_after))
}

/// Opens the device, loads the data, and compiles the programs.
fn prepare(mut config: Config) -> Result<Trainer> {
    let device = tensor::device::open(&config.device)?;
    let dataset = load(&config)?;
    config.settle(&dataset);
    let counts =
        overview::ImageCounts { train: dataset.train.len(), test: dataset.test.len(), size: dataset.train.size };
    let trainer = Trainer::new(config, device, &dataset)?;
    let Trainer { device, config, training, evaluation, .. } = &trainer;
    let _ = output::line(overview::overview(device, config, counts, training, evaluation)?);
    Ok(trainer)
}

fn load(config: &Config) -> Result<Dataset> {
    let options = LoadOptions {
        data_dir: config.data_dir.clone(),
        limit_train: config.limit_train,
        limit_test: config.limit_test,
        // Runs that differ in their seed are compared on the same data.
        seed: 0,
        classes: config.classes,
    };
    source::load(&config.data, &options)
}

fn train(trainer: &mut Trainer, session: Session<'_>) -> Result<()> {
    interrupt::catch()?;
    let run = session.run;
    let dir = run.path().display();
    let position = trainer.position();
    let steps = trainer.sampler.steps();
    let say = |text: String| {
        // A run goes on when nobody reads what it prints.
        let _ = output::line(text);
    };
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
    say(format!("\n{}", table::heading(trainer.config.network.branches, trainer.config.method)));
    let outcome = trainer.run(session)?;
    let position = trainer.position();
    match outcome {
        Outcome::Interrupted => bail!(
            "interrupted after step {} (epoch {} of {}): everything is saved, and `train --resume {dir}` goes on",
            position.step,
            position.epoch + 1,
            trainer.config.epochs
        ),
        Outcome::Complete => {
            if let Some(best) = trainer.best() {
                say(format!(
                    "\nbest test error {:.2} % (branch 0, epoch {}): {}",
                    best.error,
                    best.epoch,
                    run.best().display()
                ));
            }
            if trainer.config.method == Method::Snapshot {
                report_snapshots(trainer, run)?;
            }
            Ok(())
        }
    }
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
