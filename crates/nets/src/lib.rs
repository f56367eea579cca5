//! Network architectures, recorded on the engine's graphs. State has the names that PyTorch users expect, and cost is
//! counted as in the papers.

mod block;
mod builder;
mod catalog;
mod cost;
pub mod densenet;
mod error;
pub mod imagenet;
mod layers;
mod layout;
mod model;
mod names;
pub mod resnet;
pub mod resnext;

pub use builder::{Builder, ConvSpec, Mode};
pub use catalog::{architecture, closest, names};
pub use cost::Macs;
pub use error::{Error, Result};
pub use layers::{Layer, Operation};
pub use layout::Layout;
pub use model::{Decay, Init, Loaded, Model, NamedTensor, deployed, member_name};
pub use names::own_name;

use std::fmt::Debug;

use tensor::Var;

/// A network as a sequence of stages and a classifier. All members share the stages before `fan_out`.
pub trait Architecture: Debug + Send + Sync {
    /// The name that `--net` accepts.
    fn name(&self) -> String;

    /// Names of the stages in order, which prefix their parameters; the stem is stage 0.
    fn stages(&self) -> Vec<String>;

    /// The stage at which branches begin unless another is asked for: the last.
    fn default_fan_out(&self) -> usize {
        self.stages().len() - 1
    }

    /// Records stage `index` on `x` `[M, N, H, W, C]`.
    ///
    /// # Errors
    /// When the input does not fit the stage.
    fn stage(&self, index: usize, builder: &mut Builder<'_>, x: Var) -> Result<Var>;

    /// Records the classifier on the last stage's output, giving logits `[M, N, K]`.
    ///
    /// # Errors
    /// When the input does not fit the classifier.
    fn classifier(&self, builder: &mut Builder<'_>, x: Var, classes: usize) -> Result<Var>;

    /// Height and width of the images that the network is designed for. Other sizes work unless pooling leaves no
    /// pixel.
    fn image_size(&self) -> usize {
        32
    }
}
