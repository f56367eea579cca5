//! Residual networks for 224x224 images: ResNet (He et al., 2015, section 4.1) and ResNeXt (Xie et al., 2017, section
//! 3.1): a 7x7 stem of 64 channels with stride 2, a 3x3 max-pool with stride 2, and four stages of 64, 128, 256 and 512
//! planes with strides 1, 2, 2 and 2.
//!
//! State has torchvision's names, and a bottleneck's stride is on its 3x3, as there.

use tensor::Var;
use tensor::ops::Pool2d;

use crate::Architecture;
use crate::block::{Shortcut, basic, bottleneck, residual};
use crate::builder::{Builder, ConvSpec};
use crate::error::Result;

/// Kind of a network's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// A bottleneck to four times the stage's planes, whose 3x3 runs in groups.
    Bottleneck {
        /// Groups C of the 3x3 (the cardinality); 1 in ResNet.
        cardinality: usize,
        /// Width d of a group in the first stage, where the 3x3 has C d channels; 64 in ResNet.
        width: usize,
    },
}

/// A residual network for 224x224 images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageNetResNet {
    /// Kind of block.
    pub block: Block,
    /// Blocks in each stage.
    pub blocks: [usize; 4],
    /// Channels of the stem and planes of the first stage: 64 in the papers.
    pub stem: usize,
    /// Shortcuts where shapes change.
    pub shortcut: Shortcut,
}

impl ImageNetResNet {
    /// ResNet-18, -34 or -50.
    pub fn resnet(depth: usize, shortcut: Shortcut) -> Option<Self> {
        let plain = Block::Bottleneck { cardinality: 1, width: 64 };
        let (block, blocks) = match depth {
            18 => (Block::Basic, [2, 2, 2, 2]),
            34 => (Block::Basic, [3, 4, 6, 3]),
            50 => (plain, [3, 4, 6, 3]),
            _ => return None,
        };
        Some(Self { block, blocks, stem: 64, shortcut })
    }

    /// ResNeXt-50 of this cardinality and width.
    pub fn resnext50(cardinality: usize, width: usize, shortcut: Shortcut) -> Option<Self> {
        let sizes = (1..=1024).contains(&cardinality) && (1..=1024).contains(&width) && cardinality * width <= 4096;
        let block = Block::Bottleneck { cardinality, width };
        sizes.then_some(Self { block, blocks: [3, 4, 6, 3], stem: 64, shortcut })
    }
}

impl Architecture for ImageNetResNet {
    fn name(&self) -> String {
        let per_block = if self.block == Block::Basic { 2 } else { 3 };
        let depth = per_block * self.blocks.iter().sum::<usize>() + 2;
        match self.block {
            Block::Bottleneck { cardinality, width } if cardinality > 1 => {
                format!("resnext{depth}-{cardinality}x{width}d")
            }
            _ => format!("resnet{depth}"),
        }
    }

    fn stages(&self) -> Vec<String> {
        ["conv1", "layer1", "layer2", "layer3", "layer4"].map(str::to_owned).to_vec()
    }

    fn stage(&self, index: usize, net: &mut Builder<'_>, x: Var) -> Result<Var> {
        if index == 0 {
            let stem = ConvSpec { filters: self.stem, kernel: 7, stride: 2, padding: 3, groups: 1 };
            let y = net.conv("conv1", x, stem)?;
            let y = net.batch_norm("bn1", y, None, true)?;
            return net.max_pool(y, Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] });
        }
        let planes = self.stem << (index - 1);
        let mut y = x;
        for i in 0..self.blocks[index - 1] {
            let stride = if i == 0 && index > 1 { 2 } else { 1 };
            let convs = match self.block {
                Block::Basic => basic(planes, stride),
                Block::Bottleneck { cardinality, width } => {
                    bottleneck((cardinality * width) << (index - 1), cardinality, 4 * planes, stride)
                }
            };
            y = residual(net, &format!("layer{index}.{i}"), y, &convs, self.shortcut)?;
        }
        Ok(y)
    }

    fn classifier(&self, net: &mut Builder<'_>, x: Var, classes: usize) -> Result<Var> {
        let pooled = net.global_average_pool(x)?;
        net.linear("fc", pooled, classes)
    }

    fn image_size(&self) -> usize {
        224
    }
}
