//! Outputs of a network for every image of a split: its branches' logits, and the gate's shares.

use std::path::Path;

use anyhow::Result;

use crate::run::tensor_file::{self, Encoded};

/// Outputs of the images of the steps so far.
#[derive(Debug)]
pub struct Outputs {
    classes: usize,
    /// Logits of each member, `[images, classes]`.
    logits: Vec<Vec<f32>>,
    /// Shares of the members in the gated ensemble, `[images, members]`; empty without a gate.
    gate: Vec<f32>,
    labels: Vec<i64>,
}

impl Outputs {
    /// None so far, of networks that tell `classes` classes apart.
    pub fn new(members: usize, classes: usize) -> Self {
        Self { classes, logits: vec![Vec::new(); members], gate: Vec::new(), labels: Vec::new() }
    }

    /// Adds the first images of a batch, those that have a label: logits `[M, N, K]`, and activations of the gate
    /// before its softmax `[N, M]`.
    pub fn append(&mut self, logits: &[f32], gate: Option<&[f32]>, labels: &[u32]) {
        let (members, valid) = (self.logits.len(), labels.len());
        self.labels.extend(labels.iter().map(|&label| i64::from(label)));
        for (all, batch) in self.logits.iter_mut().zip(logits.chunks_exact(logits.len() / members)) {
            all.extend_from_slice(&batch[..valid * self.classes]);
        }
        for activations in gate.into_iter().flat_map(|gate| gate.chunks_exact(members)).take(valid) {
            self.gate.extend(softmax(activations));
        }
    }

    /// The images' labels.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// Writes `logits` `[members, images, classes]`, `gate` `[images, members]` where there is one, and `labels`
    /// `[images]`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let (members, images) = (self.logits.len(), self.labels.len());
        let mut tensors = vec![
            Encoded::floats("logits", vec![members, images, self.classes], &self.logits.concat()),
            Encoded::integers("labels", vec![images], &self.labels),
        ];
        if !self.gate.is_empty() {
            tensors.push(Encoded::floats("gate", vec![images, members], &self.gate));
        }
        tensor_file::write(path, &tensors)
    }
}

/// `exp(x_i) / sum_j exp(x_j)`.
pub fn softmax(activations: &[f32]) -> impl Iterator<Item = f32> {
    let largest = activations.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = activations.iter().map(|&x| f64::from(x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(move |power| (power / sum) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_joined_member_by_member_without_what_pads_the_last() {
        let mut outputs = Outputs::new(2, 2);
        outputs.append(&[1., 2., 3., 4., -1., -2., -3., -4.], Some(&[0., 0., 1e3, 0.]), &[7, 8]);
        outputs.append(&[5., 6., 9., 9., -5., -6., 9., 9.], Some(&[0., 3.0f32.ln(), 7., 7.]), &[9]);
        assert_eq!(outputs.logits, [[1., 2., 3., 4., 5., 6.], [-1., -2., -3., -4., -5., -6.]]);
        assert_eq!(outputs.labels, [7, 8, 9]);
        assert_eq!(outputs.gate[..4], [0.5, 0.5, 1., 0.]);
        assert!((outputs.gate[4] - 0.25).abs() < 1e-6 && outputs.gate.len() == 6);
    }
}
