//! Residual networks for 32x32 images (He, Zhang, Ren, Sun: "Deep residual learning for image recognition", 2015,
//! section 4.2): a 3x3 stem, three stages of 1, 2 and 4 times its width with strides 1, 2 and 2, global average
//! pooling and a linear classifier.

use tensor::Var;

use crate::Architecture;
pub use crate::block::Shortcut;
use crate::block::{basic, bottleneck, residual};
use crate::builder::{Builder, ConvSpec};
use crate::error::Result;

/// Kind of a network's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1 to the stage's planes, 3x3 (with the stride), 1x1 to four times the planes.
    Bottleneck,
}

/// A residual network for 32x32 images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CifarResNet {
    /// Kind of block.
    pub block: Block,
    /// Blocks in each stage, n.
    pub blocks: usize,
    /// Channels of the stem and planes of the first stage: 16 in the paper.
    pub width: usize,
    /// Shortcuts where shapes change.
    pub shortcut: Shortcut,
}

/// Greatest depth accepted: that of the paper's deepest network.
const MAX_DEPTH: usize = 1202;

impl CifarResNet {
    /// The network of this depth: 6n+2 layers with basic blocks, else 9n+2 with bottlenecks. 164 is both, and has
    /// bottlenecks, as everywhere in the literature.
    pub fn new(depth: usize, shortcut: Shortcut) -> Option<Self> {
        if !(8..=MAX_DEPTH).contains(&depth) {
            return None;
        }
        let (block, blocks) = match depth - 2 {
            layers if layers % 6 == 0 && depth != 164 => (Block::Basic, layers / 6),
            layers if layers % 9 == 0 => (Block::Bottleneck, layers / 9),
            _ => return None,
        };
        Some(Self { block, blocks, width: 16, shortcut })
    }

    fn depth(&self) -> usize {
        match self.block {
            Block::Basic => 6 * self.blocks + 2,
            Block::Bottleneck => 9 * self.blocks + 2,
        }
    }
}

impl Architecture for CifarResNet {
    fn name(&self) -> String {
        format!("resnet{}", self.depth())
    }

    fn stages(&self) -> Vec<String> {
        ["conv1", "layer1", "layer2", "layer3"].map(str::to_owned).to_vec()
    }

    fn stage(&self, index: usize, net: &mut Builder<'_>, x: Var) -> Result<Var> {
        if index == 0 {
            let y = net.conv("conv1", x, ConvSpec::three(self.width, 1))?;
            return net.batch_norm("bn1", y, None, true);
        }
        let planes = self.width << (index - 1);
        let mut y = x;
        for i in 0..self.blocks {
            let stride = if i == 0 && index > 1 { 2 } else { 1 };
            let convs = match self.block {
                Block::Basic => basic(planes, stride),
                Block::Bottleneck => bottleneck(planes, 1, 4 * planes, stride),
            };
            y = residual(net, &format!("layer{index}.{i}"), y, &convs, self.shortcut)?;
        }
        Ok(y)
    }

    fn classifier(&self, net: &mut Builder<'_>, x: Var, classes: usize) -> Result<Var> {
        let pooled = net.global_average_pool(x)?;
        net.linear("fc", pooled, classes)
    }
}
