//! Parameter layouts: as stored here, and as PyTorch has them.

/// The layout of one member of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A vector `[C]` in both.
    Vector,
    /// `[C, K]` here, `[K, C]` in PyTorch.
    Linear {
        /// Inputs C.
        inputs: usize,
        /// Outputs K.
        outputs: usize,
    },
    /// `[R, S, P, K]` here, where P is C padded with zero channels, `[K, C, R, S]` in PyTorch.
    Conv {
        /// Filters K.
        filters: usize,
        /// Channels C of a group.
        channels: usize,
        /// Channels as stored, not below C.
        padded: usize,
        /// Kernel height R and width S.
        kernel: [usize; 2],
    },
}

impl Layout {
    /// The shape in PyTorch of a member with `words` stored elements.
    pub fn torch_shape(&self, words: usize) -> Vec<usize> {
        match *self {
            Layout::Vector => vec![words],
            Layout::Linear { inputs, outputs } => vec![outputs, inputs],
            Layout::Conv { filters, channels, kernel: [r, s], .. } => vec![filters, channels, r, s],
        }
    }

    /// Position of the stored element `index` in PyTorch's layout; none for a padding channel.
    fn torch_index(&self, index: usize) -> Option<usize> {
        match *self {
            Layout::Vector => Some(index),
            Layout::Linear { inputs, outputs } => Some(index % outputs * inputs + index / outputs),
            Layout::Conv { filters, channels, padded, kernel: [r, s] } => {
                let (tap, k) = (index / filters, index % filters);
                let (pixel, c) = (tap / padded, tap % padded);
                (c < channels).then_some((k * channels + c) * r * s + pixel)
            }
        }
    }

    /// Converts PyTorch's layout to the stored one of `words` elements; padding channels are zero.
    pub fn store(&self, torch: &[f32], words: usize) -> Vec<f32> {
        (0..words).map(|i| self.torch_index(i).map_or(0.0, |j| torch[j])).collect()
    }

    /// Converts the stored layout to PyTorch's.
    pub fn to_torch(&self, stored: &[f32]) -> Vec<f32> {
        let mut torch = vec![0.0; self.torch_shape(stored.len()).iter().product()];
        for (i, &value) in stored.iter().enumerate() {
            if let Some(j) = self.torch_index(i) {
                torch[j] = value;
            }
        }
        torch
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn layouts_are_inverse_and_put_elements_where_pytorch_does() {
        let conv = Layout::Conv { filters: 2, channels: 3, padded: 4, kernel: [2, 1] };
        let torch: Vec<f32> = (0..12u8).map(f32::from).collect();
        let stored = conv.store(&torch, 16);
        // Stored [R, S, P, K]: tap (r = 1, s = 0), channel 2, filter 1 is PyTorch's [k = 1][c = 2][r = 1][s = 0].
        assert_eq!(stored[(4 + 2) * 2 + 1].to_bits(), torch[(3 + 2) * 2 + 1].to_bits());
        assert_eq!(&stored[6..8], [0.0, 0.0]);
        assert_eq!(conv.to_torch(&stored), torch);
        assert_eq!(conv.torch_shape(16), [2, 3, 2, 1]);

        let linear = Layout::Linear { inputs: 4, outputs: 3 };
        let stored = linear.store(&torch, 12);
        assert_eq!(stored[3 + 2].to_bits(), torch[2 * 4 + 1].to_bits());
        assert_eq!(linear.to_torch(&stored), torch);
    }
}
