//! The fused loss of on-the-fly native ensemble: all its terms and all its gradients in one dispatch.
//!
//! Per sample, with branch logits `z_i`, label `y`, branch shares `g` and teacher logits `z_e = sum_i g_i z_i`:
//!
//! ```text
//! loss  = sum_i CE(z_i, y) + CE(z_e, y) + w T^2 sum_i KL(softmax(z_e/T) || softmax(z_i/T))
//! dz_i  = (p_i - onehot) + w T (softmax(z_i/T) - softmax(z_e/T)) + g_i (p_e - onehot)
//! dgate = g_i (s_i - sum_j g_j s_j),   s_i = <z_i, p_e - onehot>
//! ```
//!
//! The distillation target `softmax(z_e/T)` is held constant: the teacher learns from `CE(z_e, y)` alone, whose
//! gradient reaches the branches and the gate. The gradients are those of the mean of `loss` over the valid rows.
//!
//! Method and terms: Lan, Zhu, Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018, eq. 1-7.
//!
//! On a GPU one workgroup of 64 lanes takes one sample. It reads the sample's logits once into workgroup memory and
//! sweeps the classes three times, each sweep with one reduction for all its quantities: maxima and ranks, sums of
//! exponentials, then KL and the gradients. Where the rows do not fit into workgroup memory beside the reduction's
//! scratch, the sweeps read them again from the cache.

use rayon::prelude::*;
use tensor::{Binding, Cost, Kernel, Launch, Slice, SliceMut, Spec};

/// Columns of the terms per network: cross-entropy, `T^2` KL, top-1 wrong (0 or 1), top-5 wrong (0 or 1).
pub const TERMS: usize = 4;

/// Words of workgroup memory that every WebGPU device has.
const WORKGROUP_WORDS: usize = 16_384 / 4;

/// Words of reduction scratch per quantity: `PITCH` in the shader.
const REDUCTION_PITCH: usize = 72;

/// Where the branches' shares `g` in the teacher come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Teacher {
    /// No teacher: a single network or independent members. Only the cross-entropies of the branches remain.
    None,
    /// `g = softmax(gate)` over the branches, per sample.
    Gated,
    /// `g = 1/M`: the plain mean of the logits.
    Mean,
}

/// The loss kernel.
///
/// Inputs: logits `[M, N, K]`; labels U32 `[N]`, each below K (a larger one is read as `K - 1`); hyper `[2]`, see
/// below; for [`Teacher::Gated`] also the gate's activations before the softmax, `[N, M]`.
///
/// `hyper = (w, n)`: the weight of the distillation term, and the number of valid rows. Rows from n on, in a ragged
/// last batch, give zero terms and zero gradients.
///
/// Outputs: terms `[N, (M + 1) * TERMS]`; with `gradient` also the gradient of the logits `[M, N, K]` and, for
/// [`Teacher::Gated`], that of the gate's activations `[N, M]`.
///
/// A row of the terms holds [`TERMS`] values for each branch, then for the ensemble. They belong to the sample: they
/// are neither divided by n nor multiplied by w. The ensemble's KL is 0; without a teacher, and for the KL without
/// `distill`, so are the others. A network is wrong in the top k if at least k classes stand in front of the label's:
/// those of a larger logit, of an equal logit and smaller index, or of a logit that is no number. A label whose own
/// logit is no number is always wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnsembleDistillation {
    /// M, from 1 to 8.
    pub branches: usize,
    /// N.
    pub batch: usize,
    /// K, at least 2.
    pub classes: usize,
    /// T, greater than 0.
    pub temperature: f32,
    /// The ensemble that the branches learn from.
    pub teacher: Teacher,
    /// Whether the KL terms exist; without a teacher they never do.
    pub distill: bool,
    /// Whether the gradients are computed.
    pub gradient: bool,
}

impl EnsembleDistillation {
    fn has_teacher(&self) -> bool {
        self.teacher != Teacher::None
    }

    fn distills(&self) -> bool {
        self.distill && self.has_teacher()
    }

    fn is_gated(&self) -> bool {
        self.teacher == Teacher::Gated
    }

    /// The branches, and the ensemble if there is one.
    fn networks(&self) -> usize {
        self.branches + usize::from(self.has_teacher())
    }

    /// `g` of one sample.
    fn shares(&self, gate: Option<&[f32]>) -> Vec<f64> {
        match gate {
            Some(gate) => log_softmax(&widen(gate), 1.0).into_iter().map(f64::exp).collect(),
            None => vec![1.0 / self.branches as f64; self.branches],
        }
    }

    /// One valid sample. `logits` holds the K logits of each branch, `weight` is w.
    fn sample(&self, logits: &[&[f32]], label: usize, weight: f64, gate: Option<&[f32]>) -> Sample {
        let (k, t) = (self.classes, f64::from(self.temperature));
        let z: Vec<Vec<f64>> = logits.iter().map(|row| widen(row)).collect();
        let mut sample = Sample::blank(self);

        for (i, z_i) in z.iter().enumerate() {
            let log_p = log_softmax(z_i, 1.0);
            write_errors(sample.terms_of(i), z_i, &log_p, label);
            for (class, slope) in sample.slope_of(i, k).iter_mut().enumerate() {
                *slope = log_p[class].exp() - onehot(class, label);
            }
        }
        if !self.has_teacher() {
            return sample;
        }

        let g = self.shares(gate);
        let mut z_e = vec![0.0; k];
        for (share, z_i) in g.iter().zip(&z) {
            for (mixture, z) in z_e.iter_mut().zip(z_i) {
                *mixture += share * z;
            }
        }
        let log_p_e = log_softmax(&z_e, 1.0);
        write_errors(sample.terms_of(self.branches), &z_e, &log_p_e, label);
        let residual: Vec<f64> = log_p_e.iter().enumerate().map(|(c, log_p)| log_p.exp() - onehot(c, label)).collect();
        for (i, share) in g.iter().enumerate() {
            for (slope, residual) in sample.slope_of(i, k).iter_mut().zip(&residual) {
                *slope += share * residual;
            }
        }
        let s: Vec<f64> = z.iter().map(|z_i| z_i.iter().zip(&residual).map(|(z, r)| z * r).sum()).collect();
        let mean_s: f64 = g.iter().zip(&s).map(|(share, s)| share * s).sum();
        sample.dgate = g.iter().zip(&s).map(|(share, s)| share * (s - mean_s)).collect();

        if self.distills() {
            let log_q = log_softmax(&z_e, t);
            let q: Vec<f64> = log_q.iter().map(|log_q| log_q.exp()).collect();
            for (i, z_i) in z.iter().enumerate() {
                let log_p = log_softmax(z_i, t);
                let kl: f64 = (0..k).map(|class| q[class] * (log_q[class] - log_p[class])).sum();
                sample.terms_of(i)[1] = t * t * kl;
                for (class, slope) in sample.slope_of(i, k).iter_mut().enumerate() {
                    *slope += weight * t * (log_p[class].exp() - q[class]);
                }
            }
        }
        sample
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
    fn blank(kernel: &EnsembleDistillation) -> Self {
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

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn onehot(class: usize, label: usize) -> f64 {
    if class == label { 1.0 } else { 0.0 }
}

/// `log softmax(z / t)`.
fn log_softmax(z: &[f64], t: f64) -> Vec<f64> {
    let peak = z.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = z.iter().map(|z| ((z - peak) / t).exp()).sum();
    let log_sum = sum.ln();
    z.iter().map(|z| (z - peak) / t - log_sum).collect()
}

/// Cross-entropy, top-1 wrong and top-5 wrong of one network.
fn write_errors(terms: &mut [f64], z: &[f64], log_p: &[f64], label: usize) {
    let in_front = |(class, &value): (usize, &f64)| {
        class != label && (value.is_nan() || value > z[label] || (value == z[label] && class < label))
    };
    let rank = z.iter().enumerate().filter(|&entry| in_front(entry)).count();
    let lost = z[label].is_nan();
    terms[0] = -log_p[label];
    terms[2] = f64::from(u8::from(lost || rank >= 1));
    terms[3] = f64::from(u8::from(lost || rank >= 5));
}

impl Kernel for EnsembleDistillation {
    fn name(&self) -> &'static str {
        "ensemble_distillation"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut inputs =
            vec![Spec::f32([self.branches, self.batch, self.classes]), Spec::u32([self.batch]), Spec::f32([2])];
        if self.is_gated() {
            inputs.push(Spec::f32([self.batch, self.branches]));
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
    /// exponential, sum. Per logit of each branch: the mixture 2, KL 4, each term of the gradient 4, the gate 3.
    fn cost(&self) -> Cost {
        let (teacher, distill) = (usize::from(self.has_teacher()), usize::from(self.distills()));
        let softmax = self.networks() * 4 * (1 + distill);
        let forward = softmax + self.branches * (2 * teacher + 4 * distill);
        let backward = self.branches * (4 * (1 + teacher + distill) + 3 * usize::from(self.is_gated()));
        let per_class = forward + if self.gradient { backward } else { 0 };
        Cost::new(self, self.batch * self.classes * per_class)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (m, n, k) = (self.branches, self.batch, self.classes);
        let (logits, labels, hyper) = (inputs[0].f32(), inputs[1].u32(), inputs[2].f32());
        let gate = self.is_gated().then(|| inputs[3].f32());
        let (weight, valid) = (f64::from(hyper[0]), f64::from(hyper[1]));

        let samples: Vec<Sample> = (0..n)
            .into_par_iter()
            .map(|row| {
                if row as f64 >= valid {
                    return Sample::blank(self);
                }
                let z: Vec<&[f32]> = (0..m).map(|i| &logits[(i * n + row) * k..][..k]).collect();
                let label = (labels[row] as usize).min(k - 1);
                self.sample(&z, label, weight, gate.map(|gate| &gate[row * m..][..m]))
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

    fn launch(&self) -> Launch {
        debug_assert!((1..=8).contains(&self.branches), "the reduction's scratch is sized for at most 8 branches");
        debug_assert!(self.classes >= 2 && self.temperature > 0.0, "a softmax needs two classes and a temperature");
        let rows = self.branches * self.classes;
        let staged = rows + 2 * self.networks() * REDUCTION_PITCH <= WORKGROUP_WORDS;
        let entry = match (self.gradient, self.teacher) {
            (false, _) => "evaluate",
            (true, Teacher::Gated) => "train_gated",
            (true, Teacher::None | Teacher::Mean) => "train",
        };
        let gate = if self.is_gated() { Binding::Input(3) } else { Binding::Input(0) };
        let mut bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Input(2), gate];
        bindings.extend((0..self.outputs().len()).map(Binding::Output));
        Launch::new(include_str!("../../../../shaders/ensemble_distillation.wgsl"), 0, 0, self.batch)
            .size("BRANCHES", self.branches)
            .size("BATCH", self.batch)
            .size("CLASSES", self.classes)
            .size("NETWORKS", self.networks())
            .size("STAGE", if staged { rows } else { 1 })
            .float("TEMPERATURE", self.temperature)
            .switch("STAGED", staged)
            .switch("ENSEMBLE", self.has_teacher())
            .switch("GATED", self.is_gated())
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
