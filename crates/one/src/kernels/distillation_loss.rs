//! The fused loss of every method: all its terms and all its gradients in one dispatch.
//!
//! Per sample, with branch logits `z_i`, label `y`, `p_i = softmax(z_i)` and `q_i = softmax(z_i/T)`:
//!
//! * **On-the-fly native ensemble** (Lan, Zhu, Gong, NeurIPS 2018, eq. 1-7), with branch shares `g` and teacher logits
//!   `z_e = sum_i g_i z_i`. The teacher learns from `CE(z_e, y)` alone, whose gradient reaches the branches and the
//!   gate.
//!
//!   ```text
//!   loss  = c (sum_i CE(z_i, y) + CE(z_e, y)) + w T^2 sum_i KL(q_e || q_i)
//!   dz_i  = c (p_i - onehot) + w T (q_i - q_e) + c g_i (p_e - onehot)
//!   dgate = c g_i (s_i - sum_j g_j s_j),   s_i = <z_i, p_e - onehot>
//!   ```
//! * **Deep mutual learning** (Zhang, Xiang, Hospedales, Lu, CVPR 2018): each branch learns from each other.
//!
//!   ```text
//!   loss = c sum_i CE(z_i, y) + w T^2 sum_i mean_{j != i} KL(q_j || q_i)
//!   dz_i = c (p_i - onehot) + w T mean_{j != i} (q_i - q_j)
//!   ```
//! * **Knowledge distillation** (Hinton, Vinyals, Dean, 2015) from the logits `z_t` of a trained network.
//!
//!   ```text
//!   loss = c sum_i CE(z_i, y) + w T^2 sum_i KL(q_t || q_i)
//!   dz_i = c (p_i - onehot) + w T (q_i - q_t)
//!   ```
//! * **Cross-entropy alone** without a teacher: `c sum_i CE(z_i, y)`.
//!
//! The distilled distribution is held constant: no gradient flows into it. The gradients are those of the mean of
//! `loss` over the valid rows.
//!
//! On a GPU one workgroup of 64 threads takes one sample. It reads the sample's logits once into workgroup memory and
//! sweeps the classes three times, each sweep with one reduction for all its quantities: maxima and ranks, sums of
//! exponentials, then KL and the gradients. Where the rows do not fit into workgroup memory beside the reduction's
//! scratch, the sweeps read them again from the cache.

use rayon::prelude::*;
use tensor::{Binding, Cost, Kernel, Launch, Slice, SliceMut, Spec, Target};

use super::softmax::{log_softmax, rank, widen};

/// Columns of the terms per network: cross-entropy, `T^2` KL, top-1 wrong (0 or 1), top-5 wrong (0 or 1).
pub const TERMS: usize = 4;

/// Words of workgroup memory that every WebGPU device has.
const WORKGROUP_WORDS: usize = 16_384 / 4;

/// Words of reduction scratch per quantity: `PITCH` in the shader.
const REDUCTION_PITCH: usize = 72;

/// The source that the branches learn from, beside the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Teacher {
    /// Nothing: a single network or independent members. Only the cross-entropies of the branches remain.
    None,
    /// Their ensemble, in which `g = softmax(gate)` over the branches, per sample.
    Gated,
    /// Their ensemble, in which `g = 1/M`: the plain mean of the logits.
    Mean,
    /// Each other.
    Peers,
    /// Logits that come from outside.
    Given,
}

impl Teacher {
    /// Tells whether the branches form an ensemble that learns with them.
    pub fn is_ensemble(self) -> bool {
        matches!(self, Self::Gated | Self::Mean)
    }
}

/// The loss kernel.
///
/// Inputs: logits `[M, N, K]`; labels U32 `[N]`, each below K (a larger one is read as `K - 1`); hyper `[3]`, see
/// below; for [`Teacher::Gated`] also the gate's activations before the softmax, `[N, M]`, and for [`Teacher::Given`]
/// the teacher's logits `[1, N, K]`.
///
/// `hyper = (w, n, c)`: the weight of the distillation term, the number of valid rows, and the weight of the
/// cross-entropies. Rows from n on, in a ragged last batch, give zero terms and zero gradients.
///
/// Outputs: terms `[N, (M + 1) * TERMS]`; with `gradient` also the gradient of the logits `[M, N, K]` and, for
/// [`Teacher::Gated`], that of the gate's activations `[N, M]`.
///
/// A row of the terms holds [`TERMS`] values for each branch, then for the teacher: the ensemble, or the given one.
/// They belong to the sample: they are neither divided by n nor multiplied by w or c. The KL of the last is 0; without
/// a teacher of that kind so are its other terms, and without `distill` so is every KL. A network is wrong in the top k
/// if at least k classes stand in front of the label's: those of a larger logit, of an equal logit and smaller index,
/// or of a logit that is no number. A label whose own logit is no number is always wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistillationLoss {
    /// M, from 1 to 8.
    pub branches: usize,
    /// N.
    pub batch: usize,
    /// K, at least 2.
    pub classes: usize,
    /// T, greater than 0.
    pub temperature: f32,
    /// The source that the branches learn from.
    pub teacher: Teacher,
    /// True if the KL terms exist; without a teacher they never do.
    pub distill: bool,
    /// True if the gradients are computed.
    pub gradient: bool,
}

/// The weights of the terms.
#[derive(Debug, Clone, Copy)]
struct Weights {
    distillation: f64,
    cross_entropy: f64,
}

impl DistillationLoss {
    fn distills(&self) -> bool {
        self.distill && self.teacher != Teacher::None
    }

    fn is_gated(&self) -> bool {
        self.teacher == Teacher::Gated
    }

    fn is_given(&self) -> bool {
        self.teacher == Teacher::Given
    }

    /// The branches, and the teacher if it is a network of its own.
    fn networks(&self) -> usize {
        self.branches + usize::from(self.teacher.is_ensemble() || self.is_given())
    }

    /// `g` of one sample.
    fn shares(&self, guide: &[f32]) -> Vec<f64> {
        if self.is_gated() {
            log_softmax(&widen(guide), 1.0).into_iter().map(f64::exp).collect()
        } else {
            vec![1.0 / self.branches as f64; self.branches]
        }
    }

    /// One valid sample. `logits` holds the K logits of each branch, `guide` the gate's activations or the teacher's
    /// logits.
    fn sample(&self, logits: &[&[f32]], label: usize, weights: Weights, guide: &[f32]) -> Sample {
        let z: Vec<Vec<f64>> = logits.iter().map(|row| widen(row)).collect();
        let mut sample = Sample::blank(self);
        for (i, z_i) in z.iter().enumerate() {
            let log_p = log_softmax(z_i, 1.0);
            write_errors(sample.terms_of(i), z_i, &log_p, label);
            for (class, slope) in sample.slope_of(i, self.classes).iter_mut().enumerate() {
                *slope = weights.cross_entropy * (log_p[class].exp() - onehot(class, label));
            }
        }
        let teacher = match self.teacher {
            Teacher::None | Teacher::Peers => None,
            Teacher::Gated | Teacher::Mean => Some(self.ensemble(&mut sample, &z, label, weights, &self.shares(guide))),
            Teacher::Given => {
                let z_t = widen(guide);
                write_errors(sample.terms_of(self.branches), &z_t, &log_softmax(&z_t, 1.0), label);
                Some(z_t)
            }
        };
        if self.distills() {
            self.distil(&mut sample, &z, teacher.as_deref(), weights);
        }
        sample
    }

    /// The ensemble's terms and gradients; returns its logits `z_e`.
    fn ensemble(&self, sample: &mut Sample, z: &[Vec<f64>], label: usize, weights: Weights, g: &[f64]) -> Vec<f64> {
        let mut z_e = vec![0.0; self.classes];
        for (share, z_i) in g.iter().zip(z) {
            for (mixture, z) in z_e.iter_mut().zip(z_i) {
                *mixture += share * z;
            }
        }
        let log_p = log_softmax(&z_e, 1.0);
        write_errors(sample.terms_of(self.branches), &z_e, &log_p, label);
        let residual: Vec<f64> = log_p.iter().enumerate().map(|(c, log_p)| log_p.exp() - onehot(c, label)).collect();
        for (i, share) in g.iter().enumerate() {
            for (slope, residual) in sample.slope_of(i, self.classes).iter_mut().zip(&residual) {
                *slope += weights.cross_entropy * share * residual;
            }
        }
        let s: Vec<f64> = z.iter().map(|z_i| z_i.iter().zip(&residual).map(|(z, r)| z * r).sum()).collect();
        let mean_s: f64 = g.iter().zip(&s).map(|(share, s)| share * s).sum();
        sample.dgate = g.iter().zip(&s).map(|(share, s)| weights.cross_entropy * share * (s - mean_s)).collect();
        z_e
    }

    /// The distillation terms and their gradients: every branch learns from `teacher`'s logits, or from all others.
    fn distil(&self, sample: &mut Sample, z: &[Vec<f64>], teacher: Option<&[f64]>, weights: Weights) {
        let t = f64::from(self.temperature);
        let log_q: Vec<Vec<f64>> = z.iter().map(|z_i| log_softmax(z_i, t)).collect();
        let log_teacher = teacher.map(|teacher| log_softmax(teacher, t));
        for (i, own) in log_q.iter().enumerate() {
            let targets: Vec<&Vec<f64>> = match &log_teacher {
                Some(teacher) => vec![teacher],
                None => log_q.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, peer)| peer).collect(),
            };
            // A branch without a peer has nothing to learn from.
            let share = 1.0 / targets.len().max(1) as f64;
            for target in targets {
                let kl: f64 = target.iter().zip(own).map(|(target, own)| target.exp() * (target - own)).sum();
                sample.terms_of(i)[1] += share * t * t * kl;
                for (slope, (target, own)) in sample.slope_of(i, self.classes).iter_mut().zip(target.iter().zip(own)) {
                    *slope += weights.distillation * t * share * (own.exp() - target.exp());
                }
            }
        }
    }
}

/// Terms and unscaled gradients of one sample.
struct Sample {
    /// `[M + 1, TERMS]`.
    terms: Vec<f64>,
    /// `[M, K]`.
    dlogits: Vec<f64>,
    /// `[M]`.
    dgate: Vec<f64>,
}

impl Sample {
    fn blank(kernel: &DistillationLoss) -> Self {
        Self {
            terms: vec![0.0; (kernel.branches + 1) * TERMS],
            dlogits: vec![0.0; kernel.branches * kernel.classes],
            dgate: vec![0.0; kernel.branches],
        }
    }

    fn terms_of(&mut self, network: usize) -> &mut [f64] {
        &mut self.terms[network * TERMS..][..TERMS]
    }

    fn slope_of(&mut self, branch: usize, classes: usize) -> &mut [f64] {
        &mut self.dlogits[branch * classes..][..classes]
    }
}

fn onehot(class: usize, label: usize) -> f64 {
    if class == label { 1.0 } else { 0.0 }
}

/// Cross-entropy, top-1 wrong and top-5 wrong of one network.
fn write_errors(terms: &mut [f64], z: &[f64], log_p: &[f64], label: usize) {
    let (rank, lost) = (rank(z, label), z[label].is_nan());
    terms[0] = -log_p[label];
    terms[2] = f64::from(u8::from(lost || rank >= 1));
    terms[3] = f64::from(u8::from(lost || rank >= 5));
}

impl Kernel for DistillationLoss {
    fn name(&self) -> &'static str {
        "distillation_loss"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut inputs =
            vec![Spec::f32([self.branches, self.batch, self.classes]), Spec::u32([self.batch]), Spec::f32([3])];
        match self.teacher {
            Teacher::Gated => inputs.push(Spec::f32([self.batch, self.branches])),
            Teacher::Given => inputs.push(Spec::f32([1, self.batch, self.classes])),
            Teacher::None | Teacher::Mean | Teacher::Peers => {}
        }
        inputs
    }

    fn outputs(&self) -> Vec<Spec> {
        let mut outputs = vec![Spec::f32([self.batch, (self.branches + 1) * TERMS])];
        if self.gradient {
            outputs.push(Spec::f32([self.branches, self.batch, self.classes]));
            if self.is_gated() {
                outputs.push(Spec::f32([self.batch, self.branches]));
            }
        }
        outputs
    }

    /// An exponential counts one operation. Per logit of each network, and per temperature: maximum, difference,
    /// exponential, sum. Per logit of each branch: the mixture 2, KL 4 for each that it learns from, each term of the
    /// gradient 4, the gate 3.
    fn cost(&self) -> Cost {
        let (ensemble, distill) = (usize::from(self.teacher.is_ensemble()), usize::from(self.distills()));
        let targets = if self.teacher == Teacher::Peers { self.branches - 1 } else { 1 };
        let softmax = self.networks() * 4 * (1 + distill);
        let forward = softmax + self.branches * (2 * ensemble + 4 * distill * targets);
        let backward = self.branches * (4 * (1 + ensemble + distill * targets) + 3 * usize::from(self.is_gated()));
        let per_class = forward + if self.gradient { backward } else { 0 };
        Cost::new(self, self.batch * self.classes * per_class)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (m, n, k) = (self.branches, self.batch, self.classes);
        let (logits, labels, hyper) = (inputs[0].f32(), inputs[1].u32(), inputs[2].f32());
        let guide = inputs.get(3).map_or(&[][..], |guide| guide.f32());
        let guide_words = guide.len() / n;
        let weights = Weights { distillation: f64::from(hyper[0]), cross_entropy: f64::from(hyper[2]) };
        let valid = f64::from(hyper[1]);

        let samples: Vec<Sample> = (0..n)
            .into_par_iter()
            .map(|row| {
                if row as f64 >= valid {
                    return Sample::blank(self);
                }
                let z: Vec<&[f32]> = (0..m).map(|i| &logits[(i * n + row) * k..][..k]).collect();
                let label = (labels[row] as usize).min(k - 1);
                self.sample(&z, label, weights, &guide[row * guide_words..][..guide_words])
            })
            .collect();

        let terms = outputs[0].f32();
        for (sample, terms) in samples.iter().zip(terms.chunks_exact_mut((m + 1) * TERMS)) {
            store(terms, &sample.terms, 1.0);
        }
        if self.gradient {
            let dlogits = outputs[1].f32();
            for (row, sample) in samples.iter().enumerate() {
                for (i, slope) in sample.dlogits.chunks_exact(k).enumerate() {
                    store(&mut dlogits[(i * n + row) * k..][..k], slope, valid);
                }
            }
            if self.is_gated() {
                let dgate = outputs[2].f32();
                for (sample, dgate) in samples.iter().zip(dgate.chunks_exact_mut(m)) {
                    store(dgate, &sample.dgate, valid);
                }
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        debug_assert!((1..=8).contains(&self.branches), "the reduction's scratch is sized for at most 8 branches");
        debug_assert!(self.classes >= 2 && self.temperature > 0.0, "a softmax needs two classes and a temperature");
        debug_assert!(self.teacher != Teacher::Peers || self.branches > 1, "a branch alone has no peers");
        let rows = (self.branches + usize::from(self.is_given())) * self.classes;
        let staged = rows + 2 * self.networks() * REDUCTION_PITCH <= WORKGROUP_WORDS;
        let entry = match (self.gradient, self.is_gated()) {
            (false, _) => "evaluate",
            (true, true) => "train_gated",
            (true, false) => "train",
        };
        let guide = if self.is_gated() || self.is_given() { Binding::Input(3) } else { Binding::Input(0) };
        let mut bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Input(2), guide];
        bindings.extend((0..self.outputs().len()).map(Binding::Output));
        Launch::new(tensor::shader!("distillation_loss"), 0, 0, self.batch)
            .size("BRANCHES", self.branches)
            .size("BATCH", self.batch)
            .size("CLASSES", self.classes)
            .size("NETWORKS", self.networks())
            .size("STAGE", if staged { rows } else { 1 })
            .float("TEMPERATURE", self.temperature)
            .switch("STAGED", staged)
            .switch("ENSEMBLE", self.teacher.is_ensemble())
            .switch("GATED", self.is_gated())
            .switch("GIVEN", self.is_given())
            .switch("PEERS", self.teacher == Teacher::Peers)
            .switch("DISTILL", self.distills())
            .switch("GRADIENT", self.gradient)
            .entry(entry)
            .bindings(bindings)
    }
}

/// Narrows `values / divisor`. Blank samples stay exactly 0 whatever the divisor.
fn store(target: &mut [f32], values: &[f64], divisor: f64) {
    for (target, &value) in target.iter_mut().zip(values) {
        *target = if value == 0.0 { 0.0 } else { (value / divisor) as f32 };
    }
}
