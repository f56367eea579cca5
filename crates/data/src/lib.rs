//! Datasets: their readers, fetching, the order in which samples are visited, and the kernel that augments them.
//!
//! Decoded images lie on the device from the start ([`Images`], one word per pixel, split by [`kernels::augment::shards`]);
//! a step is fed only with which images it takes and how each is cropped and flipped ([`Sampler`]), and
//! [`kernels::augment::Augment`] makes the normalised batch from that.

mod archive;
mod checksum;
pub mod cifar10;
pub mod cifar100;
mod convert;
pub mod dataset;
mod decode;
mod download;
pub mod error;
pub mod fashion_mnist;
pub mod fetch;
pub mod folder;
pub mod kernels;
mod mat;
mod npm;
pub mod sampler;
pub mod shapes;
mod stream;
pub mod svhn;

pub use dataset::{DATASETS, Dataset, Images, LoadOptions, load};
pub use error::{DataError, Result};
pub use fetch::{fetch, verify};
pub use kernels::augment::{Augment, MAX_SHARDS, shards};
pub use sampler::{Epoch, EvalBatch, Evaluation, PADDING, Pick, Sampler, pack};
