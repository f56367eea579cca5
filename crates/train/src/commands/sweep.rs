//! Many runs from one file.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::failure::usage;
use crate::interrupt;
use crate::options::args::SweepArgs;
use crate::output::{line, note};
use crate::report::{Loader, Measuring, comparison, report};
use crate::run::directory::RunDir;
use crate::run::files::write_atomically;
use crate::sweep::figures::{compare, directory};
use crate::sweep::plan::{self, Plan, Planned};
use crate::sweep::running::{self, State};

/// The report, in the sweep's directory.
const NAME: &str = "report.html";

/// Runs what is not complete, and writes the report.
///
/// # Errors
/// When the file is not of a sweep; when the end was asked for; and in the end, when a run failed.
pub fn run(args: &SweepArgs) -> Result<()> {
    let file = args.file.display();
    let text = fs::read_to_string(&args.file).with_context(|| format!("cannot read {file}"))?;
    let mut plan = plan::parse(&args.file, &text).map_err(|problem| usage(format!("{file}: {problem}")))?;
    if let Some(out) = &args.out {
        // Options may name the directory, so that the file is read again.
        let text = format!("out = {}\n{}", toml::Value::from(out.to_string_lossy().as_ref()), without_out(&text)?);
        plan = plan::parse(&args.file, &text).map_err(|problem| usage(format!("{file}: {problem}")))?;
    }
    for run in &mut plan.runs {
        // The last of two is taken.
        run.arguments.extend(args.device.iter().map(|device| format!("--device={device}")));
        run.arguments.extend(args.data_dir.iter().map(|dir| format!("--data-dir={}", dir.display())));
    }
    if args.dry_run {
        return list(&plan);
    }
    line(format!("{}: {} runs in {}", plan.title, plan.runs.len(), plan.out.display()))?;
    interrupt::catch()?;
    let states = if args.report_only {
        plan.runs.iter().map(|run| (run, running::state(&plan, run))).collect()
    } else {
        let Some(states) = running::run(&plan, args.jobs)? else {
            bail!("interrupted: every run is saved, and `train sweep {file}` goes on");
        };
        states
    };
    write_report(args, &plan)?;
    let failed: Vec<&(&Planned, State)> =
        states.iter().filter(|(_, state)| matches!(state, State::Failed(_))).collect();
    let complete = states.iter().filter(|(_, state)| *state == State::Complete).count();
    line(format!("{complete} of {} runs are complete", states.len()))?;
    match failed.as_slice() {
        [] => Ok(()),
        failed => {
            for (run, state) in failed {
                if let State::Failed(why) = state {
                    note(format!("{}: {why}", run.name));
                }
            }
            let names: Vec<&str> = failed.iter().map(|(run, _)| run.name.as_str()).collect();
            bail!("{} of {} runs failed ({}); the others are kept", failed.len(), states.len(), names.join(", "))
        }
    }
}

/// The file without where its runs lie.
fn without_out(text: &str) -> Result<String> {
    let mut table: toml::Table = text.parse().context("cannot read the file again")?;
    table.remove("out");
    Ok(toml::to_string(&table)?)
}

fn list(plan: &Plan) -> Result<()> {
    for run in &plan.runs {
        let state = match running::state(plan, run) {
            State::Complete => "complete".to_owned(),
            State::Open if RunDir::find(&directory(plan, &run.name)).is_ok() => "to go on with".to_owned(),
            State::Open => "to run".to_owned(),
            State::Failed(why) => why,
        };
        line(format!("{}: {state}\n    train {}", run.name, run.arguments.join(" ")))?;
    }
    Ok(())
}

/// Prints the paper's figures beside ours, and writes the page.
fn write_report(args: &SweepArgs, plan: &Plan) -> Result<()> {
    let rows = compare(plan);
    if !rows.is_empty() {
        let width =
            |i: usize, head: &str| rows.iter().map(|row| row[i].chars().count()).chain([head.len()]).max().unwrap_or(0);
        let (name, what) = (width(0, ""), width(1, ""));
        line(format!("\n{:name$}  {:what$}  {:>15}  {:>15}", "", "", "paper", "here"))?;
        for row in &rows {
            line(format!("{:name$}  {:what$}  {:>15}  {:>15}", row[0], row[1], row[2], row[3]))?;
        }
        line("")?;
    }
    let directories: Vec<_> = plan.runs.iter().map(|run| directory(plan, &run.name)).collect();
    let directories: Vec<_> = directories.into_iter().filter(|dir| RunDir::find(dir).is_ok()).collect();
    if directories.is_empty() && rows.is_empty() {
        return Ok(());
    }
    let data_dir = args.data_dir.as_deref();
    let measuring = match args.no_eval {
        true => Measuring::Without("Confusion, calibration and the gate by class are left out: --no-eval.".to_owned()),
        false => Measuring::With(Box::new(Loader::new(args.device.as_deref().unwrap_or("auto"), data_dir)?)),
    };
    let page = report(Some(&plan.title), &directories, &comparison(&rows), measuring)?;
    let to = plan.out.join(NAME);
    fs::create_dir_all(&plan.out).with_context(|| format!("cannot make the directory {}", plan.out.display()))?;
    write_atomically(&to, page.as_bytes())?;
    line(format!("report: {}", to.display()))
}
