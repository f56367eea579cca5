//! Datasets: their readers, fetching, the order in which samples are visited, and the kernel that augments them.
//!
//! Decoded images that fit lie on the device from the start (packed [`Images`], split by
//! [`kernels::augment::shards`]). A step is fed only the indices of its images and their crops and flips
//! ([`Sampler`]), and [`kernels::augment::Augment`] makes the normalised batch from that. Other images are streamed:
//! workers prepare batches ahead of the device ([`Loader`]), and the same kernel reads those.

mod archive;
mod bars;
pub mod catalog;
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
pub mod loader;
pub mod loose;
mod mat;
mod npm;
pub mod pictures;
pub mod sampler;
pub mod shapes;
mod stream;
pub mod svhn;
mod view;

pub use catalog::{DATASETS, load};
pub use dataset::{Dataset, Images, LoadOptions};
pub use error::{DataError, Result};
pub use fetch::{fetch, verify};
pub use kernels::augment::{Augment, MAX_SHARDS, image_words, pack_image, shards};
pub use loader::{Batch, Loader};
pub use loose::{Square, find_images, read_images};
pub use pictures::{Files, Missing, Pictures};
pub use sampler::{Augmentation, Epoch, EvalBatch, Evaluation, PADDING, Pick, Sampler, pack};
pub use view::View;
