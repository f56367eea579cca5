//! The runs of a sweep as processes of their own: what one does, however it ends, leaves the others alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::interrupt;
use crate::options::config::is_free;
use crate::output::line;
use crate::report::Run;
use crate::run::directory::{PERTURBED, RunDir};
use crate::show::words::duration;
use crate::sweep::figures::directory;
use crate::sweep::plan::{Plan, Planned};

/// Period in which processes are asked whether they have ended.
const LOOK: Duration = Duration::from_millis(100);
/// Name of the file, in a run's directory, of what it wrote to stdout and stderr.
const LOG: &str = "log.txt";

/// State of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Complete,
    /// It is not, and may begin or go on.
    Open,
    /// For this reason.
    Failed(String),
}

/// State of the run, from its directory alone.
pub fn state(plan: &Plan, run: &Planned) -> State {
    let dir = directory(plan, &run.name);
    if RunDir::find(&dir).is_err() {
        return State::Open;
    }
    let found = match Run::read(&dir) {
        Ok(found) => found,
        Err(error) => return State::Failed(format!("{error:#}")),
    };
    match found.config.same_run(&run.config) {
        Err(error) => State::Failed(format!("{} holds another run: {error:#}", dir.display())),
        Ok(()) if found.is_complete() && (!run.perturb || dir.join(PERTURBED).is_file()) => State::Complete,
        Ok(()) => State::Open,
    }
}

/// A process of a run.
struct Process<'a> {
    run: &'a Planned,
    child: Child,
    log: PathBuf,
    started: Instant,
}

/// Runs what is open, `jobs` at once, and returns each run with its state in the end; `None` when the end was asked for
/// meanwhile.
///
/// # Errors
/// When a process cannot be started.
pub fn run(plan: &Plan, jobs: usize) -> Result<Option<Vec<(&Planned, State)>>> {
    fs::create_dir_all(&plan.out).with_context(|| format!("cannot make the directory {}", plan.out.display()))?;
    let mut states: Vec<(&Planned, State)> = plan.runs.iter().map(|run| (run, state(plan, run))).collect();
    let mut waiting = states.iter().filter(|(_, state)| *state == State::Open).map(|&(run, _)| run).peekable();
    let (mut under_way, mut ended): (Vec<Process<'_>>, Vec<(&Planned, State)>) = (Vec::new(), Vec::new());
    loop {
        let free = under_way.len() < jobs && !interrupt::requested();
        if let Some(run) = waiting.next_if(|run| free && (under_way.is_empty() || !run.waits)) {
            under_way.push(start(plan, run)?);
            continue;
        }
        if under_way.is_empty() {
            break;
        }
        sleep(LOOK);
        for i in (0..under_way.len()).rev() {
            if let Some(status) = under_way[i].child.try_wait().context("cannot wait for a process")? {
                let process = under_way.remove(i);
                let run = process.run;
                // The width of the optimum is a process after that of training.
                if status.success() && state(plan, run) == State::Open && trained(plan, run) {
                    under_way.push(perturb(plan, run, process.started)?);
                    continue;
                }
                let state = end(plan, &process, status.success());
                if !interrupt::requested() {
                    say(plan, &process, &state)?;
                }
                ended.push((run, state));
            }
        }
    }
    if interrupt::requested() {
        return Ok(None);
    }
    for (run, state) in &mut states {
        if let Some((_, found)) = ended.iter().find(|(other, _)| other.name == run.name) {
            state.clone_from(found);
        }
    }
    Ok(Some(states))
}

fn trained(plan: &Plan, run: &Planned) -> bool {
    Run::read(&directory(plan, &run.name)).is_ok_and(|run| run.is_complete())
}

/// Begins a run, or goes on with it.
fn start<'a>(plan: &Plan, run: &'a Planned) -> Result<Process<'a>> {
    let dir = directory(plan, &run.name);
    if run.perturb && trained(plan, run) {
        return perturb(plan, run, Instant::now());
    }
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    if RunDir::find(&dir).is_ok() {
        command.arg("--resume").arg(&dir);
        // Options that may differ are given anew.
        let may_differ = |argument: &&String| {
            let option = argument.split('=').next().unwrap_or_default();
            is_free(&option.trim_start_matches('-').replace('-', "_"))
        };
        command.args(run.arguments.iter().filter(may_differ));
    } else {
        command.args(&run.arguments).arg("--out").arg(&dir);
    }
    spawn(run, command, &dir, Instant::now())
}

/// Measures the width of a trained network's optimum.
fn perturb<'a>(plan: &Plan, run: &'a Planned, started: Instant) -> Result<Process<'a>> {
    let dir = directory(plan, &run.name);
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    command.arg("eval").arg("--perturb").arg("--weights").arg(dir.join("last.safetensors"));
    command.arg("--to").arg(dir.join(PERTURBED));
    let theirs = ["--device=", "--data-dir=", "--limit-train=", "--limit-test="];
    command.args(run.arguments.iter().filter(|argument| theirs.iter().any(|theirs| argument.starts_with(theirs))));
    spawn(run, command, &dir, started)
}

fn spawn<'a>(run: &'a Planned, mut command: Command, dir: &Path, started: Instant) -> Result<Process<'a>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let log = dir.join(LOG);
    let file = File::options().create(true).append(true).open(&log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let copy = file.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
    let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn().context("cannot start a process")?;
    Ok(Process { run, child, log, started })
}

/// State of a run whose process has ended.
fn end(plan: &Plan, process: &Process<'_>, success: bool) -> State {
    match state(plan, process.run) {
        State::Open => {
            let log = fs::read(&process.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let log = log.unwrap_or_default();
            let error = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
            let unknown = if success { "it ended early" } else { "its process ended without a word" };
            State::Failed(error.unwrap_or(unknown).to_owned())
        }
        state => state,
    }
}

fn say(plan: &Plan, process: &Process<'_>, state: &State) -> Result<()> {
    let (name, time) = (&process.run.name, duration(process.started.elapsed()));
    match state {
        State::Failed(why) => line(format!("{name}: failed after {time}: {why} ({})", process.log.display())),
        _ => {
            let found = Run::read(&directory(plan, name)).ok();
            let error = found.as_ref().and_then(|run| run.last()?.top1_error.first().copied());
            let error = error.map_or_else(String::new, |error| format!(", test error {error:.2} % (branch 0)"));
            line(format!("{name}: complete after {time}{error}"))
        }
    }
}
