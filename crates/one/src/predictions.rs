//! Statistics of the predictions for a whole split: errors, cross-entropy and calibration, for each network and each
//! way to fuse them.

use crate::kernels::predictions::{COLUMNS, Predict};

/// Bins of equal width of the expected calibration error: the usual number (Guo et al., "On calibration of modern
/// neural networks", ICML 2017).
const BINS: usize = 15;

/// A network, or a way to fuse the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A branch, or one of several whole networks.
    Member(usize),
    /// The mean of the members' logits.
    MeanLogits,
    /// The mean of the members' probabilities.
    MeanProbabilities,
    /// The members' logits with the gate's shares: ONE-E.
    Gated,
}

/// Images of similar confidence.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// Number of images.
    pub images: usize,
    /// Mean of their largest probabilities, 0 to 1.
    pub confidence: f64,
    /// Share of them that are predicted correctly, 0 to 1.
    pub accuracy: f64,
}

/// The predictions of every network for every image of a split. Errors are in per cent.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    kernel: Predict,
    table: Vec<f32>,
}

impl Predictions {
    /// Predictions in the first `images` rows of the table that [`Predict`] fills.
    pub(crate) fn new(kernel: Predict, mut table: Vec<f32>, images: usize) -> Self {
        table.truncate(images * kernel.columns());
        Self { kernel, table }
    }

    /// The table, one row per image.
    pub fn rows(&self) -> &[f32] {
        &self.table
    }

    /// Predictions by the same networks of other images, or of more, whose rows these are.
    #[must_use]
    pub fn with_rows(self, rows: Vec<f32>) -> Self {
        Self { table: rows, ..self }
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.table.len() / self.kernel.columns()
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.kernel.members
    }

    /// The members, then the ways to fuse them.
    pub fn networks(&self) -> Vec<Network> {
        let mut networks: Vec<Network> = (0..self.kernel.members).map(Network::Member).collect();
        if self.kernel.members > 1 {
            networks.extend([Network::MeanLogits, Network::MeanProbabilities]);
        }
        if self.kernel.gated {
            networks.push(Network::Gated);
        }
        networks
    }

    /// One column of a network, image by image.
    fn column(&self, network: Network, column: usize) -> impl Iterator<Item = f64> + '_ {
        let index = self.networks().iter().position(|&other| other == network);
        let first = index.expect("the network is one of these predictions") * COLUMNS + column;
        self.table.chunks_exact(self.kernel.columns()).map(move |row| f64::from(row[first]))
    }

    fn mean(&self, values: impl Iterator<Item = f64>) -> f64 {
        values.sum::<f64>() / self.images().max(1) as f64
    }

    /// Share of the images for which k or more classes rank before the true one, per cent.
    pub fn top_k_error(&self, network: Network, k: usize) -> f64 {
        100.0 * self.mean(self.column(network, 3).map(|rank| f64::from(u8::from(rank >= k as f64))))
    }

    /// Mean of `-log p(true class)`.
    pub fn cross_entropy(&self, network: Network) -> f64 {
        self.mean(self.column(network, 0))
    }

    /// Bins of a reliability diagram: the images in 15 bins of equal width by their largest probability.
    pub fn reliability(&self, network: Network) -> Vec<Bin> {
        let mut bins = [Bin::default(); BINS];
        for (confidence, rank) in self.column(network, 1).zip(self.column(network, 3)) {
            let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
            bin.images += 1;
            bin.confidence += confidence;
            bin.accuracy += f64::from(u8::from(rank < 1.0));
        }
        for bin in bins.iter_mut().filter(|bin| bin.images > 0) {
            bin.confidence /= bin.images as f64;
            bin.accuracy /= bin.images as f64;
        }
        bins.to_vec()
    }

    /// Expected calibration error, per cent: the mean over images of `|share of correct predictions - mean of the
    /// largest probability|` in the image's bin of [`Predictions::reliability`].
    pub fn calibration_error(&self, network: Network) -> f64 {
        let bins = self.reliability(network);
        let gaps = bins.iter().map(|bin| bin.images as f64 * (bin.accuracy - bin.confidence).abs());
        100.0 * self.mean(gaps)
    }

    /// The class that the network predicts, image by image.
    pub fn classes(&self, network: Network) -> Vec<usize> {
        self.column(network, 2).map(|class| class as usize).collect()
    }

    /// The members' shares in the gated ensemble, image by image; empty without a gate.
    pub fn shares(&self) -> impl Iterator<Item = &[f32]> {
        let first = self.kernel.networks() * COLUMNS;
        self.table.chunks_exact(self.kernel.columns()).map(move |row| &row[first..])
    }

    /// Mean share of each member in the gated ensemble; empty without a gate.
    pub fn mean_shares(&self) -> Vec<f64> {
        let members = self.kernel.columns() - self.kernel.networks() * COLUMNS;
        (0..members).map(|i| self.mean(self.shares().map(|shares| f64::from(shares[i])))).collect()
    }

    /// Mean and standard deviation, over the members, of a figure of every member (n - 1 in the denominator, as in
    /// the paper's tables; 0 for one member).
    pub fn over_members(&self, figure: impl Fn(Network) -> f64) -> (f64, f64) {
        let values: Vec<f64> = (0..self.members()).map(|i| figure(Network::Member(i))).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let square: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        (mean, (square / (n - 1.0).max(1.0)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `[cross-entropy, confidence, class, rank]` of one network.
    fn single(rows: &[[f32; COLUMNS]]) -> Predictions {
        let kernel = Predict { members: 1, batch: 1, classes: 10, rows: rows.len(), gated: false };
        Predictions::new(kernel, rows.as_flattened().to_vec(), rows.len())
    }

    #[test]
    fn errors_and_cross_entropy_are_means() {
        let found = single(&[[0.5, 0.9, 3.0, 0.0], [1.5, 0.4, 2.0, 1.0], [4.0, 0.3, 1.0, 5.0], [2.0, 0.5, 0.0, 4.0]]);
        let only = Network::Member(0);
        assert!((found.top_k_error(only, 1) - 75.0).abs() < 1e-9);
        assert!((found.top_k_error(only, 5) - 25.0).abs() < 1e-9);
        assert!((found.cross_entropy(only) - 2.0).abs() < 1e-9);
        assert_eq!(found.classes(only), [3, 2, 1, 0]);
        assert_eq!(found.networks(), [only]);
        assert!(found.mean_shares().is_empty());
    }

    #[test]
    fn calibration_compares_confidence_with_accuracy_bin_by_bin() {
        // Two images in the bin of 0.9, one correct: gap 0.4 on average. Two of 0.3, none correct: gap 0.3.
        let rows = [[0.0, 0.9, 0.0, 0.0], [0.0, 0.9, 0.0, 1.0], [0.0, 0.3, 0.0, 1.0], [0.0, 0.3, 0.0, 2.0]];
        let error = single(&rows).calibration_error(Network::Member(0));
        assert!((error - 100.0 * (2.0 * 0.4 + 2.0 * 0.3) / 4.0).abs() < 1e-5, "{error}");
        let bins = single(&rows).reliability(Network::Member(0));
        let (low, high) = (bins[4], bins[13]);
        assert_eq!((bins.len(), low.images, high.images, bins.iter().map(|bin| bin.images).sum()), (15, 2, 2, 4));
        assert!((low.confidence - 0.3).abs() < 1e-6 && (high.accuracy - 0.5).abs() < 1e-9 && low.accuracy < 1e-9);
        // A confident and correct prediction is calibrated; the last bin includes its upper end.
        assert!(single(&[[0.0, 1.0, 0.0, 0.0]]).calibration_error(Network::Member(0)) < 1e-9);
    }

    #[test]
    fn members_have_a_mean_and_a_spread() {
        let kernel = Predict { members: 3, batch: 1, classes: 10, rows: 1, gated: true };
        let mut row = vec![0.0; kernel.columns()];
        for (network, cross_entropy) in [1.0, 2.0, 6.0, 7.0, 8.0, 9.0].into_iter().enumerate() {
            row[network * COLUMNS] = cross_entropy;
        }
        let shares = kernel.columns() - 3;
        row[shares..].copy_from_slice(&[0.5, 0.25, 0.25]);
        let found = Predictions::new(kernel, row, 1);
        let (mean, deviation) = found.over_members(|network| found.cross_entropy(network));
        assert!((mean - 3.0).abs() < 1e-9 && (deviation - 7f64.sqrt()).abs() < 1e-9);
        for (network, expected) in
            [(Network::MeanLogits, 7.0), (Network::MeanProbabilities, 8.0), (Network::Gated, 9.0)]
        {
            assert!((found.cross_entropy(network) - expected).abs() < 1e-9);
        }
        assert_eq!(found.mean_shares(), [0.5, 0.25, 0.25]);
        assert_eq!(found.shares().collect::<Vec<_>>(), [[0.5, 0.25, 0.25]]);
    }
}
