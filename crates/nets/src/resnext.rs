//! ResNeXt for 32x32 images (Xie, Girshick, Dollar, Tu, He: "Aggregated residual transformations for deep neural
//! networks", 2017, section 5.3): a 3x3 stem of 64 channels, three stages of 256, 512 and 1024 channels with strides
//! 1, 2 and 2, made of bottlenecks whose 3x3 runs in C groups (the cardinality), C times d wide in the first stage.
//!
//! Names: `conv1`, `bn1`, `layer{1,2,3}.{block}.conv{1,2,3}` and `.bn{1,2,3}`, `.downsample.0` and `.1`, `fc`.

use tensor::Var;

use crate::Architecture;
use crate::block::{Shortcut, bottleneck, residual};
use crate::builder::{Builder, ConvSpec};
use crate::error::Result;

/// A ResNeXt for 32x32 images, of depth 9n+2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CifarResNeXt {
    /// Blocks in each stage, n: 3 in ResNeXt-29.
    pub blocks: usize,
    /// Groups C of the 3x3 convolutions.
    pub cardinality: usize,
    /// Width d of a group in the first stage; it doubles from stage to stage.
    pub width: usize,
    /// Channels of the stem: 64 in the paper. The stages have 4, 8 and 16 times as many.
    pub stem: usize,
    /// Shortcuts where shapes change.
    pub shortcut: Shortcut,
}

impl CifarResNeXt {
    /// The network of `depth` 9n+2 layers, and of this cardinality and width.
    pub fn new(depth: usize, cardinality: usize, width: usize, shortcut: Shortcut) -> Option<Self> {
        let blocks = depth.checked_sub(2).filter(|layers| layers % 9 == 0)? / 9;
        let sizes = (1..=100).contains(&blocks) && (1..=1024).contains(&cardinality) && (1..=1024).contains(&width);
        (sizes && cardinality * width <= 4096).then_some(Self { blocks, cardinality, width, stem: 64, shortcut })
    }
}

impl Architecture for CifarResNeXt {
    fn name(&self) -> String {
        format!("resnext{}-{}x{}d", 9 * self.blocks + 2, self.cardinality, self.width)
    }

    fn stages(&self) -> Vec<String> {
        ["conv1", "layer1", "layer2", "layer3"].map(str::to_owned).to_vec()
    }

    fn stage(&self, index: usize, net: &mut Builder<'_>, x: Var) -> Result<Var> {
        if index == 0 {
            let y = net.conv("conv1", x, ConvSpec::three(self.stem, 1))?;
            return net.batch_norm("bn1", y, None, true);
        }
        let inner = (self.cardinality * self.width) << (index - 1);
        let filters = (4 * self.stem) << (index - 1);
        let mut y = x;
        for i in 0..self.blocks {
            let stride = if i == 0 && index > 1 { 2 } else { 1 };
            let convs = bottleneck(inner, self.cardinality, filters, stride);
            y = residual(net, &format!("layer{index}.{i}"), y, &convs, self.shortcut)?;
        }
        Ok(y)
    }

    fn classifier(&self, net: &mut Builder<'_>, x: Var, classes: usize) -> Result<Var> {
        let pooled = net.global_average_pool(x)?;
        net.linear("fc", pooled, classes)
    }
}
