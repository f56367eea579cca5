//! The records: a file for each family of kernels, with a `cases()` function, and a line in [`all`].

mod augment;
mod batch_norm;
mod conv2d;
mod distillation_loss;
mod gemm;
mod optimizer;
mod peaks;
mod pointwise;
mod pooling;
mod predictions;
mod reduction;

use crate::{Case, Fill};

/// Every case of every kernel, in 32 bits, and in 16 wherever its kernel has such a form.
pub fn all() -> Vec<Case> {
    let families: Vec<Vec<Case>> = vec![
        augment::cases(),
        batch_norm::cases(),
        conv2d::cases(),
        distillation_loss::cases(),
        gemm::cases(),
        optimizer::cases(),
        peaks::cases(),
        pointwise::cases(),
        pooling::cases(),
        predictions::cases(),
        reduction::cases(),
    ];
    let cases: Vec<Case> = families.into_iter().flatten().collect();
    let halves: Vec<Case> = cases.iter().filter_map(Case::in_halves).collect();
    cases.into_iter().chain(halves).collect()
}
