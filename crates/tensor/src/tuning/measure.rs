//! Times of a kernel's candidates on a device, one kernel after another; what they are compiled to is made on all cores
//! ahead of it.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Operands;
use crate::device::{Device, Executable};
use crate::error::{Error, Result};
use crate::kernel::{Form, Launch, Target};

/// Measurements of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The [key](super::key) of its candidates.
    pub key: u64,
    /// The outcome of each candidate, the static rule's first.
    pub candidates: Vec<Candidate>,
    /// The candidate to run.
    pub choice: usize,
}

/// The outcome of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Candidate {
    /// Time of one run, in seconds: median and the quartiles around it.
    Timed {
        /// A quarter of the samples are below.
        lower: f64,
        /// Half of them are.
        median: f64,
        /// Three quarters are.
        upper: f64,
    },
    /// It was left out after a few samples, being far slower than another.
    Slow,
    /// It cannot run here, or computes something else than the static rule's: why, in a sentence.
    Refused(String),
}

impl Measured {
    /// Median time of the static rule's variant, in seconds.
    pub fn before(&self) -> f64 {
        self.median(0)
    }

    /// Median time of the chosen variant, in seconds.
    pub fn after(&self) -> f64 {
        self.median(self.choice)
    }

    fn median(&self, index: usize) -> f64 {
        match self.candidates[index] {
            Candidate::Timed { median, .. } => median,
            _ => f64::NAN,
        }
    }
}

/// The outcome of measuring a kernel.
#[derive(Debug)]
pub enum Outcome {
    /// It was.
    Measured(Measured),
    /// The time was over before.
    OutOfTime,
    /// Its operands cannot be had here, or the static rule's variant cannot run.
    Failed(Error),
}

/// Samples of each candidate.
const ROUNDS: usize = 11;
/// Rounds after which those that are far slower are left out, and how much slower that is.
const ROUNDS_FOR_ALL: usize = 3;
const FAR: f64 = 1.5;
/// A sample takes about so long, unless that would be too many runs: each has its own timestamps, and submitting it
/// takes the host about as long as a small kernel takes the device.
const SAMPLE: Duration = Duration::from_millis(1);
const MOST_RUNS: usize = 24;
/// Seconds from which on a single run is a sample of its own that hardly varies: these numbers of rounds are enough
/// then.
const LONG: f64 = 0.02;
const ROUNDS_OF_LONG: usize = 5;
const ROUNDS_FOR_ALL_OF_LONG: usize = 1;
/// Gains below this share are noise, however steady.
const LEAST_GAIN: f64 = 0.02;
/// Bytes of the operands of kernels that are compiled together; a kernel alone may have more.
const OPERANDS: usize = 256 << 20;
/// Candidates for each core that are compiled together.
const CANDIDATES_FOR_A_CORE: usize = 3;

/// Times the candidates of a kernel on `device`, after a few runs that warm up, in rounds: each candidate has one
/// sample in each. One that is not the static rule's is chosen only where three quarters of its samples are below three
/// quarters of that one's, and its median is lower by at least two per cent. `key` is that of its candidates.
///
/// # Errors
/// When the device fails, or the static rule's variant cannot run.
pub fn measure(device: &Device, target: &Target, key: u64, kernel: &Form) -> Result<Measured> {
    let mut found = Vec::new();
    measure_all(device, target, &[(key, kernel.clone())], None, |_, outcome| {
        found.push(outcome);
        true
    });
    match found.pop() {
        Some(Outcome::Measured(measured)) => Ok(measured),
        Some(Outcome::Failed(error)) => Err(error),
        Some(Outcome::OutOfTime) | None => unreachable!("one kernel is measured, and there is no limit to its time"),
    }
}

/// As [`measure`], for several kernels with the [keys](super::key) of their candidates, in their order, until
/// `deadline`. The candidates of some kernels are compiled on all cores, then these kernels are measured, while nothing
/// else is done. `each` is told the index of every kernel and what became of it, and says whether to go on.
pub fn measure_all(
    device: &Device,
    target: &Target,
    kernels: &[(u64, Form)],
    deadline: Option<Instant>,
    mut each: impl FnMut(usize, Outcome) -> bool,
) {
    let launches: Vec<Vec<Launch>> = kernels.iter().map(|(_, kernel)| kernel.candidates(target)).collect();
    let mut start = 0;
    while start < kernels.len() {
        let group = start..group_end(kernels, &launches, start);
        start = group.end;
        let compiled = compile(device, kernels, &launches, group.clone(), deadline);
        for (index, compiled) in group.zip(compiled) {
            let key = kernels[index].0;
            let outcome = match compiled.and_then(|compiled| compiled.map_or(Ok(None), |it| it.measure(key, deadline)))
            {
                Ok(Some(measured)) => Outcome::Measured(measured),
                Ok(None) => Outcome::OutOfTime,
                Err(error) => Outcome::Failed(error),
            };
            if !each(index, outcome) {
                return;
            }
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The end of the kernels, from `start` on, that are compiled together: enough to occupy all cores, and so few
/// that their operands take little memory.
fn group_end(kernels: &[(u64, Form)], launches: &[Vec<Launch>], start: usize) -> usize {
    let (mut candidates, mut bytes) = (0, 0);
    for (index, (_, kernel)) in kernels.iter().enumerate().skip(start) {
        candidates += launches[index].len();
        bytes += kernel.inputs().iter().chain(&kernel.outputs()).map(|spec| 4 * spec.words()).sum::<usize>();
        if index > start && (bytes > OPERANDS || candidates > CANDIDATES_FOR_A_CORE * cores()) {
            return index;
        }
    }
    kernels.len()
}

fn over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// A kernel on operands of its own, with each of its candidates ready to run.
struct Compiled<'a> {
    operands: Operands<'a>,
    candidates: Vec<Result<Executable>>,
}

/// A candidate while it is compiled; none where the time was over before.
type Slot = Mutex<Option<Result<Executable>>>;

/// Compiles the candidates of the kernels in `group` on all cores. Of each kernel: nothing, where the time was over
/// before.
fn compile<'a>(
    device: &'a Device,
    kernels: &'a [(u64, Form)],
    launches: &[Vec<Launch>],
    group: Range<usize>,
    deadline: Option<Instant>,
) -> Vec<Result<Option<Compiled<'a>>>> {
    let operands: Vec<Result<Operands<'a>>> =
        kernels[group.clone()].iter().map(|(_, kernel)| Operands::new(device, kernel)).collect();
    let jobs: Vec<(&Operands<'a>, &Launch)> = operands
        .iter()
        .zip(&launches[group.clone()])
        .filter_map(|(operands, launches)| Some((operands.as_ref().ok()?, launches)))
        .flat_map(|(operands, launches)| launches.iter().map(move |launch| (operands, launch)))
        .collect();
    let slots: Vec<Slot> = jobs.iter().map(|_| Slot::default()).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..cores().min(jobs.len()) {
            scope.spawn(|| {
                while let Some((slot, (operands, launch))) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    slots.get(index).zip(jobs.get(index)).filter(|_| !over(deadline))
                } {
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(operands.prepare(launch, MOST_RUNS));
                }
            });
        }
    });
    let mut slots = slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    let gather = |(operands, launches): (Result<Operands<'a>>, &Vec<Launch>)| {
        let operands = operands?;
        // All of them are taken from the slots, also where some are missing.
        let candidates: Vec<_> = slots.by_ref().take(launches.len()).collect();
        let candidates: Option<Vec<Result<Executable>>> = candidates.into_iter().collect();
        Ok(candidates.map(|candidates| Compiled { operands, candidates }))
    };
    operands.into_iter().zip(&launches[group]).map(gather).collect()
}

impl Compiled<'_> {
    /// Times the candidates; nothing where the time was over before there was enough.
    fn measure(self, key: u64, deadline: Option<Instant>) -> Result<Option<Measured>> {
        let Self { operands, candidates } = self;
        let mut compiled = candidates.into_iter();
        let Some(rule) = compiled.next() else { return Ok(None) };
        let mut rule = rule?;
        rule.run_part(0..1)?;
        let once = rule.time_part(0..1)?.iter().sum::<Duration>().as_secs_f64();
        let runs = ((SAMPLE.as_secs_f64() / once.max(1e-9)) as usize).clamp(1, MOST_RUNS);
        let expected = operands.read()?;
        let mut candidates: Vec<Tried> = vec![Ok(rule)];
        for candidate in compiled {
            if over(deadline) {
                return Ok(None);
            }
            candidates.push(check(candidate, &operands, &expected)?);
        }
        let Some(samples) = sample(&mut candidates, runs, once >= LONG, deadline)? else { return Ok(None) };
        let summaries = candidates.into_iter().zip(samples).map(|(candidate, samples)| match candidate {
            Ok(_) => summary(samples),
            Err(out) => out,
        });
        let candidates: Vec<Candidate> = summaries.collect();
        let choice = choose(&candidates);
        Ok(Some(Measured { key, candidates, choice }))
    }
}

/// Runs a candidate once, and compares what it computes.
fn check(candidate: Result<Executable>, operands: &Operands<'_>, expected: &[Vec<f32>]) -> Result<Tried> {
    let mut executable = match candidate {
        Ok(executable) => executable,
        Err(error) => return Ok(Err(Candidate::Refused(error.to_string()))),
    };
    executable.run_part(0..1)?;
    Ok(match operands.differs(expected)? {
        None => Ok(executable),
        Some(problem) => Err(Candidate::Refused(problem)),
    })
}

/// Seconds of a run, several of each candidate.
fn sample(
    candidates: &mut [Tried],
    runs: usize,
    long: bool,
    deadline: Option<Instant>,
) -> Result<Option<Vec<Vec<f64>>>> {
    let (rounds, for_all) = match long {
        true => (ROUNDS_OF_LONG, ROUNDS_FOR_ALL_OF_LONG),
        false => (ROUNDS, ROUNDS_FOR_ALL),
    };
    for executable in candidates.iter_mut().flatten() {
        if !long {
            executable.run_part(0..runs)?;
        }
    }
    let mut samples: Vec<Vec<f64>> = vec![Vec::with_capacity(rounds); candidates.len()];
    for round in 0..rounds {
        for offset in 0..candidates.len() {
            // No candidate always comes first, or after the same other one.
            let index = (round + offset) % candidates.len();
            if let Ok(executable) = &mut candidates[index] {
                let time: Duration = executable.time_part(0..runs)?.iter().sum();
                samples[index].push(time.as_secs_f64() / runs as f64);
            }
        }
        if round + 1 == for_all {
            leave_out_the_slow(candidates, &samples);
        }
        if over(deadline) && round + 1 < rounds {
            return Ok(None);
        }
    }
    Ok(Some(samples))
}

/// A candidate that can be timed, or what became of it.
type Tried = std::result::Result<Executable, Candidate>;

fn leave_out_the_slow(candidates: &mut [Tried], samples: &[Vec<f64>]) {
    let fastest = |samples: &Vec<f64>| samples.iter().copied().fold(f64::INFINITY, f64::min);
    let best = samples.iter().map(fastest).fold(f64::INFINITY, f64::min);
    for (candidate, samples) in candidates.iter_mut().zip(samples).skip(1) {
        if candidate.is_ok() && fastest(samples) > FAR * best {
            *candidate = Err(Candidate::Slow);
        }
    }
}

fn summary(mut samples: Vec<f64>) -> Candidate {
    samples.sort_unstable_by(f64::total_cmp);
    let at = |quarter: usize| samples[(samples.len() - 1) * quarter / 4];
    Candidate::Timed { lower: at(1), median: at(2), upper: at(3) }
}

/// The fastest of those that are faster than the first by more than the noise.
fn choose(candidates: &[Candidate]) -> usize {
    let Candidate::Timed { lower: first_lower, median: first, .. } = candidates[0] else { return 0 };
    let better = candidates.iter().enumerate().filter_map(|(index, candidate)| match *candidate {
        Candidate::Timed { median, upper, .. } if upper < first_lower && median < (1.0 - LEAST_GAIN) * first => {
            Some((median, index))
        }
        _ => None,
    });
    better.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(lower: f64, median: f64, upper: f64) -> Candidate {
        Candidate::Timed { lower, median, upper }
    }

    #[test]
    fn a_candidate_is_chosen_only_where_it_is_faster_beyond_the_noise() {
        let rule = timed(0.98, 1.0, 1.02);
        assert_eq!(choose(&[rule.clone(), timed(0.5, 0.6, 0.7)]), 1);
        assert_eq!(choose(&[rule.clone(), timed(0.5, 0.6, 0.7), timed(0.4, 0.5, 0.6)]), 2);
        assert_eq!(choose(&[rule.clone(), timed(0.5, 0.6, 0.99)]), 0, "the samples overlap");
        assert_eq!(choose(&[timed(0.999, 1.0, 1.001), timed(0.985, 0.985, 0.986)]), 0, "too little to matter");
        assert_eq!(choose(&[rule.clone(), Candidate::Slow, Candidate::Refused("no".to_owned())]), 0);
        assert_eq!(choose(&[rule, Candidate::Slow, timed(0.1, 0.2, 0.3)]), 2);
    }

    #[test]
    fn quartiles_are_of_the_sorted_samples() {
        let samples = vec![5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(summary(samples), timed(2.0, 3.0, 4.0));
    }
}
