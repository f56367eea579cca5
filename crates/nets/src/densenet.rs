//! Densely connected networks for 32x32 images (Huang, Liu, van der Maaten, Weinberger: "Densely connected
//! convolutional networks", 2017), in their variant BC: bottlenecks of four times the growth rate, and transitions that
//! halve the channels.
//!
//! A 3x3 stem of 2k channels; three blocks of (L - 4) / 6 layers, each of which adds k channels to all channels before
//! it; a transition with a 2x2 average-pool behind the first two blocks; batch-norm, ReLU, global average pooling and a
//! linear classifier. Batch-norm and ReLU stand in front of each convolution.
//!
//! Names: `conv1`, `dense{1,2,3}.{layer}.bn1`, `.conv1` (1x1), `.bn2`, `.conv2` (3x3), `trans{1,2}.bn1` and `.conv1`,
//! `bn`, `fc`.

use tensor::Var;
use tensor::ops::Pool2d;

use crate::Architecture;
use crate::builder::{Builder, ConvSpec};
use crate::error::Result;

/// DenseNet-BC for 32x32 images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseNetBc {
    /// Layers in each block.
    pub layers: usize,
    /// Growth rate k: channels that a layer adds.
    pub growth: usize,
}

impl DenseNetBc {
    /// The network of depth L = 6n+4 and growth rate k.
    pub fn new(depth: usize, growth: usize) -> Option<Self> {
        let layers = depth.checked_sub(4).filter(|layers| layers % 6 == 0)? / 6;
        ((1..=100).contains(&layers) && (1..=512).contains(&growth)).then_some(Self { layers, growth })
    }

    /// Records a layer: its output is the channels before it and k new ones.
    fn layer(&self, net: &mut Builder<'_>, name: &str, x: Var) -> Result<Var> {
        let y = net.batch_norm(&format!("{name}.bn1"), x, None, true)?;
        let y = net.conv(&format!("{name}.conv1"), y, ConvSpec::one(4 * self.growth, 1))?;
        let y = net.batch_norm(&format!("{name}.bn2"), y, None, true)?;
        let y = net.conv(&format!("{name}.conv2"), y, ConvSpec::three(self.growth, 1))?;
        net.concat(x, y)
    }

    /// Records a transition: half of the channels, and half of the rows and columns.
    fn transition(&self, net: &mut Builder<'_>, name: &str, x: Var) -> Result<Var> {
        let channels = net.graph().spec(x).last();
        let y = net.batch_norm(&format!("{name}.bn1"), x, None, true)?;
        let y = net.conv(&format!("{name}.conv1"), y, ConvSpec::one(channels / 2, 1))?;
        net.average_pool(y, Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] })
    }
}

impl Architecture for DenseNetBc {
    fn name(&self) -> String {
        format!("densenet-bc-{}-{}", 6 * self.layers + 4, self.growth)
    }

    /// Names of the stages. A transition belongs to the block before it: the branches of the paper begin with the
    /// last block.
    fn stages(&self) -> Vec<String> {
        ["conv1", "dense1", "dense2", "dense3"].map(str::to_owned).to_vec()
    }

    fn stage(&self, index: usize, net: &mut Builder<'_>, x: Var) -> Result<Var> {
        if index == 0 {
            return net.conv("conv1", x, ConvSpec::three(2 * self.growth, 1));
        }
        // A block begins with a batch-norm, and each member has its own statistics and parameters.
        let mut y = net.expand(x)?;
        for i in 0..self.layers {
            y = self.layer(net, &format!("dense{index}.{i}"), y)?;
        }
        if index < 3 { self.transition(net, &format!("trans{index}"), y) } else { Ok(y) }
    }

    fn classifier(&self, net: &mut Builder<'_>, x: Var, classes: usize) -> Result<Var> {
        let y = net.batch_norm("bn", x, None, true)?;
        let pooled = net.global_average_pool(y)?;
        net.linear("fc", pooled, classes)
    }
}
