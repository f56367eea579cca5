//! Choosing among the variants of a training's kernels on its adapter: each kernel alone, then those that were chosen
//! within steps, alternating with those that ran before.

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tensor::tuning::{self, Outcome};
use tensor::{Choices, Form, Program, Target};

use crate::machine::choices::Tuned;
use crate::machine::timing::{alternate, block, median};
use crate::output;
use crate::show::progress::Measurement;
use crate::step::programs::{EvaluationProgram, StepSettings};
use crate::training::Trainer;

/// Seconds that a training may measure before its first step, and the share of them that is for whole steps.
const BUDGET: f64 = 20.0;
const FOR_STEPS: f64 = 0.15;
/// Names another time, in seconds. Tests set it.
const SECONDS: &str = "ONFLY_TUNING_SECONDS";
/// A block of steps takes about so long, in seconds.
const BLOCK: f64 = 0.05;
const MOST_STEPS: f64 = 50.0;
/// A training step that is slower by a larger share than this has the choices withdrawn.
pub const SLOWER: f64 = 0.01;
/// Period in which results are written while more is measured.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// A kernel with several variants.
#[derive(Debug)]
pub struct VariedKernel {
    /// The key of its candidates.
    pub key: u64,
    pub kernel: Form,
    /// Its dispatches in a training step, and in an evaluation step.
    pub training: usize,
    pub evaluation: usize,
    /// Their time in an epoch, for each training step of it, in seconds.
    seconds: f64,
}

/// Keys of kernels' candidates, made once for kernels that are alike.
#[derive(Debug)]
struct Keys {
    target: Target,
    /// By the kernels in words that hold all of what they are; nothing for those that have one variant.
    known: BTreeMap<String, Option<u64>>,
}

impl Keys {
    fn new(target: Target) -> Self {
        Self { target, known: BTreeMap::new() }
    }

    /// The key of a kernel that has several candidates.
    fn of(&mut self, kernel: &Form) -> Option<u64> {
        let target = &self.target;
        *self.known.entry(format!("{kernel:?}")).or_insert_with(|| {
            let candidates = kernel.candidates(target);
            (candidates.len() > 1).then(|| tuning::key(&candidates))
        })
    }
}

/// Feeds the steps that are measured: images, where they are on the device, and a rate that leaves the weights alone.
fn feed(trainer: &mut Trainer) -> Result<()> {
    let settings = StepSettings { rate: 0.0, ..trainer.settings(0) };
    if trainer.training.stream.is_none() {
        let order = trainer.order(0);
        trainer.training.feed(&order, 0, settings)?;
    }
    if trainer.evaluation.stream.is_none() {
        trainer.evaluation.run(0, 0, settings.weights)?;
    }
    Ok(())
}

/// The kernels of a training that have several variants, those that take the longest first. Runs steps.
///
/// # Errors
/// When the device fails.
pub fn varied_kernels(trainer: &mut Trainer, target: Target) -> Result<Vec<VariedKernel>> {
    feed(trainer)?;
    let mut keys = Keys::new(target);
    let mut found: BTreeMap<u64, VariedKernel> = BTreeMap::new();
    let steps = trainer.sampler.steps().max(1) as f64;
    let evaluations = |program: &EvaluationProgram| program.steps() as f64 / steps;
    let Trainer { training, evaluation, validation, .. } = trainer;
    let evaluated = [evaluation].into_iter().chain(validation);
    let evaluated = evaluated.map(|program| (evaluations(program), &mut program.program, 1));
    for (weight, program, evaluates) in [(1.0, &mut training.program, 0)].into_iter().chain(evaluated) {
        program.run()?;
        let times = program.time_kernels(1)?;
        for (work, time) in program.work().iter().zip(times) {
            let Some(kernel) = work.kernel() else { continue };
            let Some(key) = keys.of(kernel) else { continue };
            let new = || VariedKernel { key, kernel: kernel.clone(), training: 0, evaluation: 0, seconds: 0.0 };
            let varied = found.entry(key).or_insert_with(new);
            varied.training += 1 - evaluates;
            varied.evaluation += evaluates;
            varied.seconds += weight * time.as_secs_f64();
        }
    }
    let mut varied_kernels: Vec<VariedKernel> = found.into_values().collect();
    varied_kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(varied_kernels)
}

/// Measures kernels in their order until `deadline`, and takes up what is found. `each` is told what became of each.
///
/// # Errors
/// When `each` has one, the file cannot be written, or the device was lost.
pub fn measure(
    trainer: &Trainer,
    target: Target,
    varied_kernels: &[VariedKernel],
    tuned: &mut Tuned,
    deadline: Option<Instant>,
    mut each: impl FnMut(&VariedKernel, &Outcome) -> Result<()>,
) -> Result<()> {
    let kernels: Vec<_> = varied_kernels.iter().map(|varied| (varied.key, varied.kernel.clone())).collect();
    let mut result = Ok(());
    let mut saved = Instant::now();
    tuning::measure_all(&trainer.device, &target, &kernels, deadline, |index, outcome| {
        let varied = &varied_kernels[index];
        if let Outcome::Measured(measured) = &outcome {
            tuned.take(varied.kernel.describe(), measured);
        }
        result = each(varied, &outcome);
        if result.is_ok() && saved.elapsed() >= SAVE_EVERY {
            result = tuned.save();
            saved = Instant::now();
        }
        result.is_ok()
    });
    result?;
    // A device that was lost has failed for good.
    Ok(trainer.device.synchronize()?)
}

/// Seconds of whole steps, with the variants that ran before and with those that were chosen.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    pub training: [f64; 2],
    /// Nothing where it was not measured.
    pub evaluation: Option<[f64; 2]>,
}

/// Verdict on choices.
#[derive(Debug)]
pub struct Verdict {
    /// True if the training runs them.
    pub kept: bool,
    /// Kernels that are not faster within steps, though they are alone.
    pub dropped: Vec<u64>,
    /// Times of kernels within steps, all their dispatches together, in seconds: before, and with the choice.
    pub in_steps: BTreeMap<u64, [f64; 2]>,
    pub steps: Option<Steps>,
}

/// Keeps what was chosen for the kernels with the keys `new` unless it makes a training's steps slower, which is
/// measured in alternation with what ran before, kernel by kernel, then whole. What is not kept is withdrawn from
/// `tuned`. `time` is for all of it, about, besides compiling; `evaluation` has the evaluation step measured, too. Runs
/// steps.
///
/// # Errors
/// When the device fails.
pub fn settle(
    trainer: &mut Trainer,
    tuned: &mut Tuned,
    new: &[u64],
    time: Duration,
    evaluation: bool,
) -> Result<Verdict> {
    let mut verdict = Verdict { kept: true, dropped: Vec::new(), in_steps: BTreeMap::new(), steps: None };
    let Some(target) = trainer.device.target() else { return Ok(verdict) };
    let of_training = |tuned: &Tuned, trainer: &Trainer| tuned.choices().among(trainer.kernels(), &target);
    let mut choices = of_training(tuned, trainer);
    let changed: Vec<u64> = choices.iter().map(|(key, _)| key).filter(|key| new.contains(key)).collect();
    if changed.is_empty() {
        return Ok(verdict);
    }
    let mut after = programs(trainer, &choices)?;
    verdict.in_steps = in_steps(trainer, &mut after, &changed, time / 2)?;
    let slower = verdict.in_steps.iter().filter(|(_, [before, after])| after >= before);
    verdict.dropped = slower.map(|(&key, _)| key).collect();
    tuned.withdraw(&verdict.dropped);
    choices = of_training(tuned, trainer);
    if verdict.dropped.len() == changed.len() {
        return Ok(verdict);
    }
    if !verdict.dropped.is_empty() {
        after = programs(trainer, &choices)?;
    }
    let steps = whole(trainer, &mut after, time / 2, evaluation)?;
    verdict.steps = Some(steps);
    verdict.kept = steps.training[1] <= (1.0 + SLOWER) * steps.training[0];
    if verdict.kept {
        trainer.go_on_with(after, &tuned.choices())?;
    } else {
        tuned.withdraw(&changed);
    }
    Ok(verdict)
}

/// The steps of training and of evaluation, with these variants.
fn programs(trainer: &Trainer, choices: &Choices) -> Result<[Program; 2]> {
    let tuned = |program: &Program| -> Result<Program> {
        let mut tuned = program.tuned(choices.clone())?;
        // The first run may take far longer than the others.
        tuned.run()?;
        Ok(tuned)
    };
    Ok([tuned(&trainer.training.program)?, tuned(&trainer.evaluation.program)?])
}

/// Times of the kernels with these keys within steps.
fn in_steps(
    trainer: &mut Trainer,
    after: &mut [Program; 2],
    changed: &[u64],
    time: Duration,
) -> Result<BTreeMap<u64, [f64; 2]>> {
    let Some(target) = trainer.device.target() else { return Ok(BTreeMap::new()) };
    let mut keys = Keys::new(target);
    let mut found: BTreeMap<u64, [f64; 2]> = BTreeMap::new();
    let before = [&mut trainer.training.program, &mut trainer.evaluation.program];
    for (before, after) in before.into_iter().zip(after) {
        let places: Vec<Option<u64>> = before
            .work()
            .iter()
            .map(|work| work.kernel().and_then(|kernel| keys.of(kernel)).filter(|key| changed.contains(key)))
            .collect();
        let mut programs = [before, after];
        let sums = alternate(time / 2, |which| {
            let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
            let times = programs[which].time_kernels(1)?;
            for (place, time) in places.iter().zip(times) {
                if let Some(key) = place {
                    *sums.entry(*key).or_default() += time.as_secs_f64();
                }
            }
            Ok(sums)
        })?;
        for key in changed.iter().filter(|key| places.contains(&Some(**key))) {
            let of = |sums: &[BTreeMap<u64, f64>]| median(&sums.iter().map(|sums| sums[key]).collect::<Vec<_>>());
            let sum = found.entry(*key).or_default();
            *sum = [sum[0] + of(&sums[0]), sum[1] + of(&sums[1])];
        }
    }
    Ok(found)
}

/// Times of whole steps.
fn whole(trainer: &mut Trainer, after: &mut [Program; 2], time: Duration, evaluation: bool) -> Result<Steps> {
    let device = trainer.device.clone();
    let time = if evaluation { time / 2 } else { time };
    let compare = |before: &mut Program, after: &mut Program| -> Result<[f64; 2]> {
        let once = block(&device, 1, || Ok(before.run()?))?;
        let steps = (BLOCK / once.max(1e-9)).clamp(1.0, MOST_STEPS) as usize;
        let mut programs = [before, after];
        let times = alternate(time, |which| block(&device, steps, || Ok(programs[which].run()?)))?;
        Ok(times.map(|times| median(&times)))
    };
    let [training_after, evaluation_after] = after;
    let training = compare(&mut trainer.training.program, training_after)?;
    let evaluated = evaluation.then(|| compare(&mut trainer.evaluation.program, evaluation_after));
    Ok(Steps { training, evaluation: evaluated.transpose()? })
}

/// Measures the kernels of a training of which nothing is known on its adapter, for a limited time before its first
/// step, and has it run what is faster. Returns all that is known then.
///
/// # Errors
/// When the device fails.
pub fn automatic(trainer: &mut Trainer, known: Option<Tuned>) -> Result<Option<Tuned>> {
    let target = trainer.device.target().filter(|target| !target.software);
    let (Some(adapter), Some(target)) = (trainer.device.adapter().cloned(), target) else { return Ok(known) };
    let is_known = |key| known.as_ref().is_some_and(|known| known.knows(key));
    let mut keys = Keys::new(target);
    if trainer.kernels().filter_map(|kernel| keys.of(kernel)).all(is_known) {
        return Ok(known);
    }
    let mut tuned = match known.map_or_else(|| Tuned::new(&adapter), Ok) {
        Ok(tuned) => tuned,
        Err(error) => {
            output::note(format!("kernels are not tuned: {error:#}"));
            return Ok(None);
        }
    };
    trainer.aside(|trainer| within_budget(trainer, target, &mut tuned))?;
    if let Err(error) = tuned.save() {
        output::note(format!("what was measured is for this run alone: {error:#}"));
    }
    Ok(Some(tuned))
}

/// Seconds to measure for; what is no such number is as good as none.
fn budget(seconds: Option<&str>) -> f64 {
    let given = seconds.and_then(|seconds| seconds.parse().ok());
    given.filter(|seconds| (0.0..=86_400.0).contains(seconds)).unwrap_or(BUDGET)
}

/// Measures what is not known, and says so.
fn within_budget(trainer: &mut Trainer, target: Target, tuned: &mut Tuned) -> Result<()> {
    let mut varied_kernels = varied_kernels(trainer, target)?;
    varied_kernels.retain(|varied| !tuned.knows(varied.key));
    let seconds = budget(env::var(SECONDS).ok().as_deref());
    output::note(format!(
        "measuring the variants of {} kernels that are new to this adapter, for {seconds} s at most; --untuned leaves \
         it out",
        varied_kernels.len(),
    ));
    // Training waits in any case for what a driver compiles for the first step.
    let begun = Instant::now();
    let for_steps = Duration::from_secs_f64(FOR_STEPS * seconds);
    let deadline = begun + Duration::from_secs_f64(seconds) - for_steps;
    let mut progress = Measurement::new(varied_kernels.len());
    let mut new = Vec::new();
    let measured = measure(trainer, target, &varied_kernels, tuned, Some(deadline), |varied, outcome| {
        match outcome {
            Outcome::Measured(_) => new.push(varied.key),
            Outcome::OutOfTime => {}
            Outcome::Failed(error) => progress.note(&format!("{} is not measured: {error}", varied.kernel.describe())),
        }
        progress.advance();
        Ok(())
    });
    progress.finish();
    if let Err(error) = measured {
        output::note(format!("what was measured is for this run alone: {error:#}"));
    }
    let verdict = settle(trainer, tuned, &new, for_steps, false).context("cannot measure steps")?;
    let left = match varied_kernels.len() - new.len() {
        0 => String::new(),
        n => format!(", {n} are left for the next start"),
    };
    let _ = output::line(format!(
        "{:<12} {} kernels measured in {:.1} s{left}{}",
        "tuning",
        new.len(),
        begun.elapsed().as_secs_f64(),
        describe(&verdict)
    ));
    Ok(())
}

/// The verdict on choices in words, to be printed behind the measurements.
fn describe(verdict: &Verdict) -> String {
    let change = |[before, after]: [f64; 2]| 100.0 * (after / before - 1.0);
    match verdict.steps {
        None => "; the static rule's variants stay".to_owned(),
        Some(Steps { training, .. }) if verdict.kept => {
            format!("; a training step takes {:+.1} % with what was chosen", change(training))
        }
        Some(Steps { training, .. }) => format!(
            "; a training step is slower by {:.1} % with what was chosen, so the static rule's variants stay",
            change(training)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_a_number_of_seconds() {
        assert_eq!([Some("0.5"), Some("0")].map(budget), [0.5, 0.0]);
        for other in [None, Some(""), Some("-1"), Some("long"), Some("1e300"), Some("NaN")] {
            assert_eq!(budget(other), BUDGET);
        }
    }

    #[test]
    fn what_became_of_choices_is_told() {
        let steps = |training| Some(Steps { training, evaluation: None });
        let verdict = |kept, steps| Verdict { kept, dropped: Vec::new(), in_steps: BTreeMap::new(), steps };
        assert!(describe(&verdict(true, None)).contains("variants stay"));
        assert!(describe(&verdict(true, steps([0.010, 0.009]))).contains("takes -10.0 %"));
        let slower = describe(&verdict(false, steps([0.010, 0.011])));
        assert!(slower.contains("slower by 10.0 %") && slower.contains("variants stay"), "{slower}");
    }
}
