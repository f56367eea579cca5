//! The table of predictions of the crate `one`: members alone and fused, rows in the middle of the table, ragged
//! batches.

use one::kernels::Predict;

use super::{Case, Fill};

/// A batch of 5 whose rows begin at `first` and of which `valid` count.
fn case(what: &str, members: usize, classes: usize, gated: bool, [first, valid]: [u32; 2]) -> Case {
    let kernel = Predict { members, batch: 5, classes, rows: 11, gated };
    let mut case = Case::new(format!("predictions/{what}_m{members}_k{classes}"), kernel, classes)
        .input(0, Fill::Normal(0.3, 2.5))
        .input(1, Fill::Below(classes as u32))
        .input(2, Fill::Words(vec![first, valid]));
    // As for the loss: exponentials, their sums and logarithms, and mixtures of M rounded products.
    let largest = 0.3 + 3.0 * 2.5;
    case.tolerance +=
        f64::from(f32::EPSILON) * (2.0 * (7.0 + 2.0 * (classes as f64).ln()) + (members as f64 + 1.0) / 2.0 * largest);
    case
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let integers = |n: usize| Fill::Words((0..n).map(|i| ((i * 7 % 3) as f32).to_bits()).collect());
    vec![
        case("single", 1, 10, false, [0, 5]).quick(true),
        case("single_ragged", 1, 1000, false, [6, 3]),
        case("members", 2, 3, false, [5, 5]),
        case("gated", 3, 10, true, [1, 4]).quick(true),
        case("gated", 8, 101, true, [6, 5]).quick(true),
        case("none", 2, 10, true, [3, 0]),
        case("beyond_the_table", 3, 10, true, [8, 5]),
        case("ties", 1, 11, false, [0, 5]).input(0, integers(5 * 11)),
    ]
}
