//! Predictions of every network of an ensemble, and of every way to fuse it, for each image: the rows from which
//! errors, cross-entropies and calibration are counted.

use tensor::{Binding, Cost, Kernel, Launch, Slice, SliceMut, Spec, Target};

use super::softmax::{log_softmax, rank, widen};

/// Columns per network: cross-entropy, confidence, predicted class, rank of the true class.
pub const COLUMNS: usize = 4;

/// The predictions of a batch.
///
/// Inputs: logits `[M, N, K]`; labels U32 `[N]`, each below K (a larger one is read as `K - 1`); position U32 `[2]`,
/// the first row of the table to write and the number n of valid samples; if `gated` the gate's activations before the
/// softmax `[N, M]`. Updates the table `[rows, columns]`: rows `first` to `first + n`, as far as there are.
///
/// The networks are the M members; if there are several, the mean of their logits and the mean of their probabilities;
/// and if `gated` the ensemble of logits with shares `g = softmax(gate)`. A row holds [`COLUMNS`] values for each: the
/// cross-entropy, the largest probability (the confidence), the class that has it (the first of equals), and the number
/// of classes in front of the true one: those of a larger score, of an equal score and smaller index, or of a score
/// that is no number; K if the true class's score is no number. Behind them stand the M shares if `gated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predict {
    /// M.
    pub members: usize,
    /// N.
    pub batch: usize,
    /// K.
    pub classes: usize,
    /// Rows of the table.
    pub rows: usize,
    /// True if there is a gate; then there are several members.
    pub gated: bool,
}

impl Predict {
    /// The members, and the ways to fuse them.
    pub fn networks(&self) -> usize {
        self.members + if self.members > 1 { 2 } else { 0 } + usize::from(self.gated)
    }

    /// Columns of the table.
    pub fn columns(&self) -> usize {
        self.networks() * COLUMNS + if self.gated { self.members } else { 0 }
    }

    /// One row of the table.
    fn row(&self, logits: &[&[f32]], label: usize, gate: Option<&[f32]>) -> Vec<f64> {
        let z: Vec<Vec<f64>> = logits.iter().map(|row| widen(row)).collect();
        let mut row: Vec<f64> = z.iter().flat_map(|z_i| predict(z_i, &log_softmax(z_i, 1.0), label)).collect();
        if self.members > 1 {
            let equal = vec![1.0 / self.members as f64; self.members];
            let mean = mixture(&z, &equal);
            row.extend(predict(&mean, &log_softmax(&mean, 1.0), label));
            let log_p: Vec<Vec<f64>> = z.iter().map(|z_i| log_softmax(z_i, 1.0)).collect();
            let log_mean: Vec<f64> = (0..self.classes).map(|k| log_mean_exp(log_p.iter().map(|p| p[k]))).collect();
            row.extend(predict(&log_mean, &log_mean, label));
        }
        if let Some(gate) = gate {
            let shares: Vec<f64> = log_softmax(&widen(gate), 1.0).into_iter().map(f64::exp).collect();
            let z_e = mixture(&z, &shares);
            row.extend(predict(&z_e, &log_softmax(&z_e, 1.0), label));
            row.extend(shares);
        }
        row
    }
}

/// `sum_i shares_i z_i`.
fn mixture(z: &[Vec<f64>], shares: &[f64]) -> Vec<f64> {
    let mut mixed = vec![0.0; z[0].len()];
    for (share, z_i) in shares.iter().zip(z) {
        for (sum, z) in mixed.iter_mut().zip(z_i) {
            *sum += share * z;
        }
    }
    mixed
}

/// `log mean exp`, of values that may be far below 0.
fn log_mean_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let peak = values.clone().fold(f64::MIN, f64::max);
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + (value - peak).exp()));
    peak + f64::ln(sum / count)
}

/// The columns of a network that ranks the classes by `scores` and whose probabilities have these logarithms.
fn predict(scores: &[f64], log_p: &[f64], label: usize) -> [f64; COLUMNS] {
    let mut best = 0;
    for (class, &score) in scores.iter().enumerate() {
        if score > scores[best] || (scores[best].is_nan() && !score.is_nan()) {
            best = class;
        }
    }
    [-log_p[label], log_p[best].exp(), best as f64, rank(scores, label) as f64]
}

impl Kernel for Predict {
    fn name(&self) -> &'static str {
        "predictions"
    }

    fn inputs(&self) -> Vec<Spec> {
        let mut inputs =
            vec![Spec::f32([self.members, self.batch, self.classes]), Spec::u32([self.batch]), Spec::u32([2])];
        if self.gated {
            inputs.push(Spec::f32([self.batch, self.members]));
        }
        inputs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.rows, self.columns()])]
    }

    fn updates(&self, _index: usize) -> bool {
        true
    }

    /// Maximum, comparison, exponential and sum per logit of each network, and the mixtures. Of the table only the
    /// batch's rows are written.
    fn cost(&self) -> Cost {
        let mixtures = (self.networks() - self.members) * 2 * self.members;
        let flops = self.batch * self.classes * (4 * self.networks() + mixtures);
        let read: usize = self.inputs().iter().map(Spec::bytes).sum();
        Cost { flops: flops as u64, bytes: (read + 4 * self.batch * self.columns()) as u64 }
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (logits, labels, position) = (inputs[0].f32(), inputs[1].u32(), inputs[2].u32());
        let (k, n) = (self.classes, self.batch);
        let table = outputs[0].f32().chunks_exact_mut(self.columns()).skip(position[0] as usize);
        for (sample, target) in (0..n.min(position[1] as usize)).zip(table) {
            let z: Vec<&[f32]> = (0..self.members).map(|i| &logits[(i * n + sample) * k..][..k]).collect();
            let label = (labels[sample] as usize).min(k - 1);
            let gate = self.gated.then(|| &inputs[3].f32()[sample * self.members..][..self.members]);
            for (target, value) in target.iter_mut().zip(self.row(&z, label, gate)) {
                *target = value as f32;
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        debug_assert!(!self.gated || self.members > 1, "a gate weighs several members");
        let gate = if self.gated { Binding::Input(3) } else { Binding::Input(0) };
        let bindings = [Binding::Input(0), Binding::Input(1), Binding::Input(2), gate, Binding::Output(0)];
        let workgroups = (self.batch * self.networks()).div_ceil(64);
        Launch::new(tensor::shader!("predictions"), 0, 0, workgroups)
            .size("MEMBERS", self.members)
            .size("BATCH", self.batch)
            .size("CLASSES", self.classes)
            .size("NETWORKS", self.networks())
            .size("ROWS", self.rows)
            .size("COLUMNS", self.columns())
            .switch("GATED", self.gated)
            .bindings(bindings)
    }
}
