//! Updates of the parameters.

use tensor::kernels::sgd::Sgd;

use super::{Case, Fill};

/// All cases.
pub fn cases() -> Vec<Case> {
    let step = |words: usize, nesterov: bool| {
        let scales = (0..words / 64).map(|block| ((block % 3 != 1) as u32 as f32).to_bits()).collect();
        let hyper = [0.1_f32, 0.9, 1e-2].map(f32::to_bits).to_vec();
        Case::new(format!("sgd/{words} nesterov={nesterov}"), Sgd { words, nesterov }, 1)
            .input(1, Fill::Words(scales))
            .input(2, Fill::Words(hyper))
    };
    vec![step(2112, false), step(2112, true), step(64, true)]
}
