//! Batch normalisation: statistics, normalisation, and the gradient; all of them in one kernel where rows are few.

mod apply;
mod grad;
mod small;
mod stats;

pub use apply::{BatchNormApply, BatchNormInference, Residual};
pub(super) use grad::PassBindings;
pub use grad::{Activation, BatchNormGradInput, BatchNormGradPartials, Upstream};
pub use small::{BatchNormSmall, BatchNormSmallGrad, SMALL_ROWS};
pub(crate) use stats::merge_chunks;
pub use stats::{BatchNormFinalize, BatchNormPartials, Chunks};
