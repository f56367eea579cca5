//! Datasets: their readers, fetching, the order in which samples are visited, and the kernel that augments them.
//!
//! Decoded images lie on the device from the start ([`Images`], one word per pixel, split by [`kernels::augment::shards`]);
//! a step is fed only with which images it takes and how each is cropped and flipped ([`Sampler`]), and
//! [`kernels::augment::Augment`] makes the normalised batch from that.

mod archive;
pub mod cifar10;
mod convert;
pub mod dataset;
pub mod error;
pub mod fetch;
pub mod kernels;
pub mod sampler;
pub mod shapes;

pub use dataset::{DATASETS, Dataset, Images, LoadOptions, load};
pub use error::{DataError, Result};
pub use fetch::fetch;
pub use kernels::augment::{Augment, shards};
pub use sampler::{Epoch, EvalBatch, Evaluation, PADDING, Pick, Sampler, pack};
