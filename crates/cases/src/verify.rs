//! Cases on a device against their references: each in every launch of its kernel that the device can run, for hardware
//! and for software adapters, with 16-bit floats and with words that hold two of them.

use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tensor::{DType, Device, Form, Launch, Target};

use crate::prepared::Operands;
use crate::{Case, Mismatch, compare};

/// One of the launches that a kernel may be run in.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The kind of adapter that it is for, and its place among the candidates there.
    pub name: String,
    /// The kernel in this launch.
    pub kernel: Form,
}

/// Which launches of a kernel are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All that the device can run, also those for adapters of another kind.
    All,
    /// Of each kind of adapter the one that such an adapter would take without being tuned.
    Kinds,
    /// Those among which the device would choose, in each way to store 16 bits that it can.
    Own,
    /// The one that it would take without being tuned.
    Rule,
}

/// A device under test.
#[derive(Debug, Clone)]
pub struct Opened {
    /// True if naga's checks are in its shaders.
    pub checked: bool,
    /// The device.
    pub device: Device,
    /// Which launches it runs.
    pub reach: Reach,
}

/// Something that is wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The case's name.
    pub case: String,
    /// The candidate's.
    pub candidate: String,
    /// True if naga's checks were in the shader.
    pub checked: bool,
    /// The first wrong element, where there are outputs.
    pub mismatch: Option<Mismatch>,
    /// All of it in words, the case's name and the candidate's left out.
    pub problem: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = if self.checked { "checks on" } else { "checks off" };
        write!(f, "{} ({}, {checks}): {}", self.case, self.candidate, self.problem)
    }
}

/// The outcome of a case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The case's name.
    pub case: String,
    /// Its kernel's family.
    pub kernel: &'static str,
    /// Launches that were tried, each on every device.
    pub candidates: usize,
    /// Runs whose outputs were compared, or that failed.
    pub runs: usize,
    /// The largest error of an element as a share of what is allowed.
    pub worst: f64,
    /// Time of the reference and of all runs, compiling included.
    pub time: Duration,
    /// The fault.
    pub failures: Vec<Failure>,
    /// True if a device failed for good, and the runs that were left could not be made.
    pub lost: bool,
}

/// Times that devices which fail for good are opened anew.
const MOST_LOSSES: usize = 8;

/// The launches of a kernel that a device like `own` can run, as far as `reach` goes, each once. The CPU device (none)
/// has one way only.
pub fn candidates(kernel: &Form, own: Option<Target>, reach: Reach) -> Vec<Candidate> {
    let Some(own) = own else {
        return vec![Candidate { name: "cpu".to_owned(), kernel: kernel.clone() }];
    };
    let halves = kernel.inputs().iter().chain(&kernel.outputs()).any(|spec| spec.dtype == DType::F16);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (software, shader_f16) in [(false, true), (false, false), (true, true), (true, false)] {
        let within = match reach {
            Reach::All | Reach::Kinds => true,
            Reach::Own => software == own.software,
            Reach::Rule => (software, shader_f16) == (own.software, own.shader_f16),
        };
        if !within {
            continue;
        }
        let kind = if software { "software" } else { "hardware" };
        let stored = match (halves, shader_f16) {
            (false, _) => "",
            (true, true) => ", f16",
            (true, false) => ", packed",
        };
        let mut launches = kernel.candidates(&Target { software, shader_f16, ..own });
        if matches!(reach, Reach::Kinds | Reach::Rule) {
            launches.truncate(1);
        }
        for (index, launch) in launches.into_iter().enumerate() {
            // A launch's debug text holds all of it.
            if runs(&launch, own) && seen.insert(format!("{launch:?}")) {
                let name = format!("{kind} {index}{stored}");
                found.push(Candidate { name, kernel: kernel.clone().launched_as(launch) });
            }
        }
    }
    found
}

/// Tells whether a device like `own` has what a launch asks of it.
fn runs(launch: &Launch, own: Target) -> bool {
    launch.passes().all(|pass| pass.enable.is_none() || own.shader_f16)
}

/// Runs a case in every candidate on every device, and compares what was written with the reference.
pub fn verify(case: &Case, devices: &[Opened]) -> Outcome {
    let started = Instant::now();
    let operands = case.operands();
    let want = operands.reference(&case.kernel);
    let mut outcome = Outcome::of(case);
    'devices: for opened in devices {
        let candidates = candidates(&case.kernel, opened.device.target(), opened.reach);
        outcome.candidates = outcome.candidates.max(candidates.len());
        for candidate in candidates {
            outcome.runs += 1;
            let (worst, wrong) = attempt(case, &candidate, &operands, &want, &opened.device);
            outcome.worst = outcome.worst.max(worst);
            let Some((mismatch, problem)) = wrong else { continue };
            let (case, checked) = (case.name.clone(), opened.checked);
            let no_outputs = mismatch.is_none();
            outcome.failures.push(Failure { case, candidate: candidate.name, checked, mismatch, problem });
            if no_outputs && opened.device.synchronize().is_err() {
                outcome.lost = true;
                break 'devices;
            }
        }
    }
    outcome.time = started.elapsed();
    outcome
}

/// The fault of a run: the first wrong element if there are outputs, and all of it in words.
type Wrong = (Option<Mismatch>, String);

/// Runs a candidate; returns the largest error as a share of what is allowed, and what is wrong.
fn attempt(
    case: &Case,
    candidate: &Candidate,
    operands: &Operands,
    want: &[Vec<u32>],
    device: &Device,
) -> (f64, Option<Wrong>) {
    let prepared = operands.prepare(candidate.kernel.clone(), device, 1).map_err(|error| error.to_string());
    let got = match prepared.and_then(|mut prepared| prepared.outputs()) {
        Ok(got) => got,
        Err(problem) => return (0.0, Some((None, problem))),
    };
    let mut worst = 0.0f64;
    let mut wrong = None;
    for (output, spec) in case.kernel.outputs().iter().enumerate() {
        let found = compare(output, &got[output], &want[output], spec, case.tolerance);
        worst = worst.max(found.worst);
        wrong = wrong.or(found.mismatch);
    }
    (worst, wrong.map(|mismatch| (Some(mismatch.clone()), mismatch.to_string())))
}

impl Outcome {
    /// Nothing yet.
    fn of(case: &Case) -> Self {
        Self {
            case: case.name.clone(),
            kernel: case.kernel.name(),
            candidates: 0,
            runs: 0,
            worst: 0.0,
            time: Duration::ZERO,
            failures: Vec::new(),
            lost: false,
        }
    }

    /// A case that cannot be run, and why.
    fn not_run(case: &Case, problem: &str) -> Self {
        let (name, candidate) = (case.name.clone(), "none".to_owned());
        let problem = format!("not run: {problem}");
        let failure = Failure { case: name, candidate, checked: false, mismatch: None, problem };
        Self { failures: vec![failure], ..Self::of(case) }
    }
}

/// Opens the devices under test.
pub type Open<'a> = dyn Fn() -> tensor::Result<Vec<Opened>> + 'a;
/// Callback for each case; a break ends the check after the cases under way.
pub type Watch<'a> = dyn Fn(&Outcome) -> ControlFlow<()> + Sync + 'a;

/// Devices that are opened anew when they have failed.
struct Rig<'a> {
    open: &'a Open<'a>,
    devices: Vec<Opened>,
    losses: usize,
}

impl Rig<'_> {
    /// The devices, opened anew if one of them has failed for good; or why that is of no use.
    fn mended(&mut self) -> Result<&[Opened], String> {
        if self.devices.iter().any(|opened| opened.device.synchronize().is_err()) {
            self.losses += 1;
            if self.losses > MOST_LOSSES {
                return Err(format!("the device had to be opened anew {MOST_LOSSES} times, and failed again"));
            }
            self.devices = (self.open)().map_err(|error| format!("it failed, and cannot be opened anew: {error}"))?;
        }
        Ok(&self.devices)
    }
}

/// Totals over some of the cases.
#[derive(Default)]
struct Pass {
    done: Vec<(usize, Outcome)>,
    /// Cases under way when a device failed, one of which is to blame.
    suspects: Vec<usize>,
    left: Vec<usize>,
    stopped: bool,
}

/// Runs the cases, some at a time: compiling their shaders is what takes time. Where a device fails for good, it is
/// opened anew, and the cases that were under way run again, one by one: so only the one to blame has failed. The
/// outcomes are in the order of the cases; fewer if `watch` breaks.
///
/// # Errors
/// When the devices cannot be opened.
pub fn verify_all(cases: &[Case], open: &Open<'_>, watch: &Watch<'_>) -> tensor::Result<Vec<Outcome>> {
    let mut rig = Rig { open, devices: open()?, losses: 0 };
    let mut queue: Vec<usize> = (0..cases.len()).collect();
    let mut outcomes: Vec<(usize, Outcome)> = Vec::new();
    let mut stopped = false;
    while !queue.is_empty() && !stopped {
        let pass = match rig.mended() {
            Ok(devices) => in_parallel(cases, &queue, devices, watch),
            // None of them can be run.
            Err(_) => Pass { suspects: queue, ..Pass::default() },
        };
        outcomes.extend(pass.done);
        (queue, stopped) = (pass.left, pass.stopped);
        for index in pass.suspects {
            if stopped {
                break;
            }
            let case = &cases[index];
            let outcome = match rig.mended() {
                Ok(devices) => verify(case, devices),
                Err(problem) => Outcome::not_run(case, &problem),
            };
            stopped = watch(&outcome).is_break();
            outcomes.push((index, outcome));
        }
    }
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Runs cases on all cores, until all have run, a device fails for good, or `watch` breaks.
fn in_parallel(cases: &[Case], queue: &[usize], devices: &[Opened], watch: &Watch<'_>) -> Pass {
    let next = AtomicUsize::new(0);
    let (lost, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
    let work = || {
        let mut pass = Pass::default();
        while !lost.load(Ordering::Relaxed) && !stopped.load(Ordering::Relaxed) {
            let Some(&index) = queue.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let outcome = verify(&cases[index], devices);
            if outcome.lost {
                lost.store(true, Ordering::Relaxed);
                pass.suspects.push(index);
                continue;
            }
            if watch(&outcome).is_break() {
                stopped.store(true, Ordering::Relaxed);
            }
            pass.done.push((index, outcome));
        }
        pass
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Pass::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let pass = worker.join().expect("a case's run reports what fails, and does not panic");
            all.done.extend(pass.done);
            all.suspects.extend(pass.suspects);
        }
    });
    all.left = queue.get(next.into_inner()..).unwrap_or_default().to_vec();
    all.stopped = stopped.into_inner();
    all
}
