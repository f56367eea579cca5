//! The micro-kernels that measure what an adapter can do at most.

use tensor::kernels::peak_fma::PeakFma;
use tensor::kernels::peak_workgroup::PeakWorkgroup;

use super::{Case, Fill};

/// All cases.
pub fn cases() -> Vec<Case> {
    let chains = [(1, 4), (257, 12), (300, 64)].map(|(threads, steps)| {
        // A factor below 1: rounding errors of earlier steps shrink, as the values do.
        let factors = [0.75f32, -0.5].map(f32::to_bits);
        Case::new(format!("peak_fma/{threads} threads {steps} steps"), PeakFma { threads, steps }, steps)
            .input(1, Fill::Words(factors.to_vec()))
            .quick(threads > 1)
    });
    let reads = [(1, 8), (3, 264)].map(|(workgroups, steps)| {
        let name = format!("peak_workgroup/{workgroups} workgroups {steps} steps");
        Case::new(name, PeakWorkgroup { workgroups, steps }, steps).quick(true)
    });
    chains.into_iter().chain(reads).collect()
}
