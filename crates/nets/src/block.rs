//! The residual block, which all residual networks are made of.

use tensor::Var;

use crate::builder::{Builder, ConvSpec};
use crate::error::Result;

/// Shortcut of a block whose output differs in shape from its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shortcut {
    /// Every second pixel, zero channels added: no parameters.
    A,
    /// A 1x1 convolution with the block's stride, and batch-norm.
    #[default]
    B,
}

/// Two 3x3 convolutions, the first with the stride.
pub(crate) fn basic(planes: usize, stride: usize) -> Vec<ConvSpec> {
    vec![ConvSpec::three(planes, stride), ConvSpec::three(planes, 1)]
}

/// 1x1 to the inner `width`, 3x3 in `groups` and with the stride, 1x1 to the block's `filters`.
pub(crate) fn bottleneck(width: usize, groups: usize, filters: usize, stride: usize) -> Vec<ConvSpec> {
    let inner = ConvSpec { groups, ..ConvSpec::three(width, stride) };
    vec![ConvSpec::one(width, 1), inner, ConvSpec::one(filters, 1)]
}

/// Records `relu(shortcut(x) + convolutions(x))`, with batch-norm behind every convolution and a ReLU behind all
/// but the last of them. Names: `{name}.conv1`, `.bn1`, `.conv2`, ..., and `{name}.downsample.0` and `.1`.
pub(crate) fn residual(
    net: &mut Builder<'_>,
    name: &str,
    x: Var,
    convs: &[ConvSpec],
    shortcut: Shortcut,
) -> Result<Var> {
    let channels = net.graph().spec(x).last();
    let filters = convs.last().map_or(channels, |spec| spec.filters);
    let stride = convs.iter().map(|spec| spec.stride).product();
    let passed = if stride == 1 && channels == filters {
        x
    } else {
        match shortcut {
            Shortcut::A => net.shortcut_a(x, filters, stride)?,
            Shortcut::B => {
                let projected = net.conv(&format!("{name}.downsample.0"), x, ConvSpec::one(filters, stride))?;
                net.batch_norm(&format!("{name}.downsample.1"), projected, None, false)?
            }
        }
    };
    let mut y = x;
    for (i, &spec) in (1..).zip(convs) {
        y = net.conv(&format!("{name}.conv{i}"), y, spec)?;
        y = net.batch_norm(&format!("{name}.bn{i}"), y, (i == convs.len()).then_some(passed), true)?;
    }
    Ok(y)
}
