//! Cost as the papers count it.

/// Multiply-accumulates of convolutions and linear layers, for one image, forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Macs(pub u64);

impl Macs {
    /// Floating-point operations: two per multiply-accumulate.
    pub fn flops(self) -> u64 {
        2 * self.0
    }
}
