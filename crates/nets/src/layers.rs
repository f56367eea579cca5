//! Layers of a recorded network: with the state, everything that another program needs to compute the same.

use tensor::Var;
use tensor::ops::Pool2d;

use crate::builder::ConvSpec;

/// Operation of a layer, in inference.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// A convolution without bias, `{name}.weight`.
    Conv {
        /// Prefix of its parameters' names.
        name: String,
        /// Its shape.
        spec: ConvSpec,
    },
    /// Batch-norm with running statistics; a second input is added to its output, and a ReLU comes last.
    BatchNorm {
        /// Prefix of its parameters' names.
        name: String,
        /// Constant added to the variance.
        epsilon: f32,
        /// True if there is a ReLU.
        relu: bool,
    },
    /// A linear layer with bias.
    Linear {
        /// Prefix of its parameters' names.
        name: String,
    },
    /// The largest value of each window; positions outside are left out.
    MaxPool(Pool2d),
    /// The mean of each window; positions outside count as zeros.
    AveragePool(Pool2d),
    /// The mean over all pixels.
    GlobalAveragePool,
    /// The channels of two inputs, one behind the other.
    Concat,
    /// Every `stride`-th pixel, and zero channels, one half (rounded down) in front and one half behind.
    ShortcutA {
        /// Channels that are added.
        added: usize,
        /// Distance between pixels that are kept.
        stride: usize,
    },
    /// A copy of the input for each member.
    Expand,
}

/// A layer as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The operation.
    pub operation: Operation,
    /// Tensors that it reads, without parameters.
    pub inputs: Vec<Var>,
    /// The tensor that it makes.
    pub output: Var,
    /// Members of the output. An input with one member is read by all.
    pub members: usize,
}
