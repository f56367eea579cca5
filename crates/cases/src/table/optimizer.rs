//! Updates of the parameters.

use tensor::kernels::loss_scale::{CHUNK, CheckGradients, ScaleGradient, UpdateLossScale};
use tensor::kernels::sgd::Sgd;

use super::{Case, Fill};

/// All cases.
pub fn cases() -> Vec<Case> {
    let step = |words: usize, nesterov: bool| {
        let scales = (0..words / 64).map(|block| ((block % 3 != 1) as u32 as f32).to_bits()).collect();
        let hyper = [0.1_f32, 0.9, 1e-2].map(f32::to_bits).to_vec();
        Case::new(format!("sgd/{words} nesterov={nesterov}"), Sgd { words, nesterov, loss_scaled: false }, 1)
            .input(1, Fill::Words(scales))
            .input(2, Fill::Words(hyper))
    };
    let mut cases = vec![step(2112, false), step(2112, true).quick(true), step(64, true)];
    // A step of a scaled loss, and one that is left out.
    for (name, factor) in [("scaled", 0.25_f32), ("left_out", 0.0)] {
        let scales = Fill::Words(vec![1.0_f32.to_bits(); 3]);
        let kernel = Sgd { words: 192, nesterov: true, loss_scaled: true };
        let state = [4.0, 3.0, factor, 0.0].map(f32::to_bits).to_vec();
        let case = Case::new(format!("sgd/{name}"), kernel, 1).input(1, scales);
        let hyper = [0.1_f32, 0.9, 1e-2].map(f32::to_bits).to_vec();
        cases.push(case.input(2, Fill::Words(hyper)).input(3, Fill::Words(state)).quick(true));
    }
    cases.extend(loss_scale());
    cases
}

/// The scale of the loss: gradients of several chunks, of which one is not finite; flags and the states that follow.
fn loss_scale() -> Vec<Case> {
    let state = |values: [f32; 4]| Fill::Words(values.map(f32::to_bits).to_vec());
    let mut gradients = vec![1.0_f32.to_bits(); 2 * CHUNK + 132];
    gradients[CHUNK + 5] = f32::NEG_INFINITY.to_bits();
    gradients[2 * CHUNK + 131] = f32::MAX.to_bits();
    let words = gradients.len();
    let flags = |flags: [f32; 3]| Fill::Words(flags.map(f32::to_bits).to_vec());
    let update = |name: &str, given: [f32; 3], before: [f32; 4]| {
        let case = Case::new(format!("loss_scale/{name}"), UpdateLossScale { flags: 3 }, 1);
        case.input(0, flags(given)).update(0, state(before))
    };
    [
        Case::new("loss_scale/scale", ScaleGradient { words: 517 }, 1).input(1, state([1024.0, 0.0, 0.0, 0.0])),
        Case::new("loss_scale/check", CheckGradients { words }, 1).input(0, Fill::Words(gradients)),
        update("good", [0.0; 3], [512.0, 7.0, 0.0, 1.0]),
        update("doubles", [0.0; 3], [512.0, 1999.0, 0.0, 1.0]),
        update("halves", [0.0, 1.0, 0.0], [512.0, 7.0, 0.5, 1.0]),
    ]
    .map(|case| case.quick(true))
    .into()
}
