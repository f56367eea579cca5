//! Choosing among a kernel's variants by measuring them on an adapter.
//!
//! [`Kernel::launch`] takes the variant that a static rule thinks the fastest. [`measure`] times all of
//! [`Kernel::candidates`], and [`Choices`] hold what was found; a device that is given them
//! ([`Device::tuned`](crate::Device::tuned)) runs the variants that they name. Nothing here reads or writes files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use half::f16;

use crate::device::{Device, Dispatch, Executable, View};
use crate::error::Result;
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut};
use crate::rng::Rng;
use crate::shape::{DType, Spec};
use crate::target::Target;

/// The variants to run in place of those that the static rule takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// Index among a kernel's candidates, by the [`key`] of these.
    variants: BTreeMap<u64, usize>,
}

impl Choices {
    /// Takes variant `variant` wherever a kernel's candidates have this [`key`]; 0 is the static rule's.
    pub fn choose(&mut self, key: u64, variant: usize) {
        if variant == 0 {
            self.variants.remove(&key);
        } else {
            self.variants.insert(key, variant);
        }
    }

    /// How many kernels run another variant than the static rule's.
    pub fn len(&self) -> usize {
        self.variants.len()
    }

    /// Whether every kernel runs the static rule's variant.
    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }

    /// The launch of `kernel` on an adapter like `target`.
    pub fn launch(&self, kernel: &dyn Kernel, target: &Target) -> Launch {
        if self.is_empty() {
            return kernel.launch(target);
        }
        let mut candidates = kernel.candidates(target);
        let variant = self.variant(&candidates);
        candidates.swap_remove(variant)
    }

    fn variant(&self, candidates: &[Launch]) -> usize {
        self.variants.get(&key(candidates)).copied().filter(|&variant| variant < candidates.len()).unwrap_or(0)
    }

    /// Those that concern any of `kernels`.
    #[must_use]
    pub fn among<'a>(&self, kernels: impl IntoIterator<Item = &'a Arc<dyn Kernel>>, target: &Target) -> Self {
        let mut found = Self::default();
        if !self.is_empty() {
            for kernel in kernels {
                let candidates = kernel.candidates(target);
                found.choose(key(&candidates), self.variant(&candidates));
            }
        }
        found
    }

    /// A number that differs where the choices do. On one adapter and driver, the same choices give the same bits.
    pub fn fingerprint(&self) -> u64 {
        let mut text = String::new();
        for (key, variant) in &self.variants {
            let _ = write!(text, "{key:016x} {variant} ");
        }
        fnv(&text)
    }
}

/// What identifies a kernel's candidates: a hash of all that they are made of, sources and grids. A choice among other
/// candidates, of an earlier version or another shape, thus is never found.
pub fn key(candidates: &[Launch]) -> u64 {
    // A launch's debug text holds all of it, further passes too.
    fnv(&format!("{candidates:?}"))
}

/// FNV-1a.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A kernel in one of its variants.
#[derive(Debug)]
pub struct Variant {
    kernel: Arc<dyn Kernel>,
    launch: Launch,
}

impl Variant {
    /// `kernel`, launched as `launch` on every adapter.
    pub fn new(kernel: Arc<dyn Kernel>, launch: Launch) -> Self {
        Self { kernel, launch }
    }
}

impl Kernel for Variant {
    fn name(&self) -> &'static str {
        self.kernel.name()
    }

    fn inputs(&self) -> Vec<Spec> {
        self.kernel.inputs()
    }

    fn outputs(&self) -> Vec<Spec> {
        self.kernel.outputs()
    }

    fn updates(&self, index: usize) -> bool {
        self.kernel.updates(index)
    }

    fn cost(&self) -> Cost {
        self.kernel.cost()
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.kernel.reference(inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        self.launch.clone()
    }
}

/// Kernels whose candidates on `target` are several, each once.
pub fn tunable<'a>(
    kernels: impl IntoIterator<Item = &'a Arc<dyn Kernel>>,
    target: &Target,
) -> Vec<(u64, Arc<dyn Kernel>)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for kernel in kernels {
        let candidates = kernel.candidates(target);
        let key = key(&candidates);
        if candidates.len() > 1 && seen.insert(key) {
            found.push((key, Arc::clone(kernel)));
        }
    }
    found
}

/// What was found of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The [`key`] of its candidates.
    pub key: u64,
    /// What became of each candidate, the static rule's first.
    pub candidates: Vec<Candidate>,
    /// The candidate to run.
    pub choice: usize,
}

/// What became of a candidate.
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

/// Samples of each candidate.
const ROUNDS: usize = 11;
/// Rounds after which those that are far slower are left out, and how much slower that is.
const ROUNDS_FOR_ALL: usize = 3;
const FAR: f64 = 1.5;
/// A sample takes about so long, unless that would be too many runs.
const SAMPLE: Duration = Duration::from_millis(2);
const MOST_RUNS: usize = 64;
/// Gains below this share are noise, however steady.
const LEAST_GAIN: f64 = 0.02;

/// Times the candidates of a kernel on `device`, after a few runs that warm up, in rounds: each candidate has one sample in
/// each. One that is not the static rule's is chosen only where three quarters of its samples are below three quarters of
/// that one's, and its median is lower by at least two per cent. `key` is that of its candidates.
///
/// # Errors
/// When the device fails, or the static rule's variant cannot run.
pub fn measure(device: &Device, target: &Target, key: u64, kernel: &Arc<dyn Kernel>) -> Result<Measured> {
    let operands = Operands::new(device, kernel)?;
    let launches = kernel.candidates(target);
    let mut probe = operands.prepare(&launches[0], 1)?;
    probe.run_timed()?;
    let once = probe.run_timed()?[0].as_secs_f64();
    let runs = ((SAMPLE.as_secs_f64() / once.max(1e-9)) as usize).clamp(1, MOST_RUNS);
    let expected = operands.read()?;
    let mut candidates: Vec<Tried> = Vec::with_capacity(launches.len());
    for (index, launch) in launches.iter().enumerate() {
        candidates.push(match operands.prepare(launch, runs) {
            Ok(mut executable) => {
                executable.run()?;
                match if index == 0 { None } else { operands.differs(&expected)? } {
                    None => Ok(executable),
                    Some(problem) => Err(Candidate::Refused(problem)),
                }
            }
            Err(error) if index == 0 => return Err(error),
            Err(error) => Err(Candidate::Refused(error.to_string())),
        });
    }
    let mut samples: Vec<Vec<f64>> = vec![Vec::with_capacity(ROUNDS); candidates.len()];
    for round in 0..ROUNDS {
        for offset in 0..candidates.len() {
            // No candidate always comes first, or after the same other one.
            let index = (round + offset) % launches.len();
            if let Ok(executable) = &mut candidates[index] {
                let time: Duration = executable.run_timed()?.iter().sum();
                samples[index].push(time.as_secs_f64() / runs as f64);
            }
        }
        if round + 1 == ROUNDS_FOR_ALL {
            leave_out_the_slow(&mut candidates, &samples);
        }
    }
    let candidates: Vec<Candidate> = candidates
        .into_iter()
        .zip(samples)
        .map(|(candidate, samples)| match candidate {
            Ok(_) => summary(samples),
            Err(out) => out,
        })
        .collect();
    let choice = choose(&candidates);
    Ok(Measured { key, candidates, choice })
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

/// A kernel with operands of its own: random floats, zeros where it takes integers.
pub(crate) struct Operands<'a> {
    device: &'a Device,
    kernel: &'a Arc<dyn Kernel>,
    inputs: Vec<View>,
    outputs: Vec<View>,
}

impl<'a> Operands<'a> {
    pub(crate) fn new(device: &'a Device, kernel: &'a Arc<dyn Kernel>) -> Result<Self> {
        let mut id = 0;
        let mut view = |spec: &Spec, filled: bool| -> Result<View> {
            let words = spec.words();
            let buffer = device.alloc(words, "operand to measure with")?;
            if filled && spec.dtype != DType::U32 {
                device.write(&buffer, 0, &random(spec))?;
            }
            id += 1;
            Ok(View { buffer, buffer_id: id, offset: 0, words, dtype: spec.dtype })
        };
        let inputs = kernel.inputs().iter().map(|spec| view(spec, true)).collect::<Result<_>>()?;
        let outputs = kernel.outputs().iter().map(|spec| view(spec, false)).collect::<Result<_>>()?;
        Ok(Self { device, kernel, inputs, outputs })
    }

    /// `kernel`, which takes the same operands, on these.
    pub(crate) fn dispatch(&self, kernel: Arc<dyn Kernel>) -> Dispatch {
        Dispatch { kernel, inputs: self.inputs.clone(), outputs: self.outputs.clone() }
    }

    fn prepare(&self, launch: &Launch, runs: usize) -> Result<Executable> {
        let variant = Variant::new(Arc::clone(self.kernel), launch.clone());
        self.device.prepare(vec![self.dispatch(Arc::new(variant)); runs])
    }

    fn read(&self) -> Result<Vec<Vec<f32>>> {
        let read = |view: &View| Ok(floats(&self.device.read(&view.buffer, 0, view.words)?, view.dtype));
        self.outputs.iter().map(read).collect()
    }

    /// How what was computed last differs from `expected`, beyond what another order of additions does. What a kernel
    /// updates is not compared, since it has run more than once.
    fn differs(&self, expected: &[Vec<f32>]) -> Result<Option<String>> {
        for (output, (got, want)) in self.read()?.iter().zip(expected).enumerate() {
            let square: f64 = want.iter().map(|&want| f64::from(want).powi(2)).sum();
            let scale = (square / want.len().max(1) as f64).sqrt();
            let near = |(&got, &want): (&f32, &f32)| {
                got.to_bits() == want.to_bits()
                    || f64::from((got - want).abs()) <= TOLERANCE * (f64::from(want.abs()) + scale)
            };
            if !self.kernel.updates(output) && !got.iter().zip(want).all(near) {
                return Ok(Some(format!("its output {output} differs from that of the variant it should replace")));
            }
        }
        Ok(None)
    }
}

/// Difference of a candidate's results, relative to their magnitude: far above rounding, also to 16 bits.
const TOLERANCE: f64 = 0.01;

/// Floats of a part of the operands that is repeated: what they are hardly matters to the time.
const PATTERN: usize = 1 << 16;

fn random(spec: &Spec) -> Vec<u32> {
    let mut rng = Rng::new(&[0x7e5e]);
    let mut value = || rng.uniform() as f32 * 2.0 - 1.0;
    let half = |value: f32| u32::from(f16::from_f32(value).to_bits());
    let word = |_| match spec.dtype {
        DType::F16 => half(value()) | half(value()) << 16,
        DType::F32 | DType::U32 => value().to_bits(),
    };
    let pattern: Vec<u32> = (0..spec.words().min(PATTERN)).map(word).collect();
    pattern.iter().copied().cycle().take(spec.words()).collect()
}

fn floats(words: &[u32], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => bytemuck::cast_slice(words).iter().map(|half: &f16| half.to_f32()).collect(),
        DType::F32 | DType::U32 => words.iter().map(|&word| f32::from_bits(word)).collect(),
    }
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

    #[test]
    fn choices_are_equal_in_their_fingerprint_alone() {
        let mut choices = Choices::default();
        let none = choices.fingerprint();
        choices.choose(7, 1);
        let one = choices.fingerprint();
        assert_ne!(none, one);
        choices.choose(7, 2);
        assert_ne!(one, choices.fingerprint());
        choices.choose(7, 0);
        assert_eq!((choices.fingerprint(), choices.len()), (none, 0));
    }
}
