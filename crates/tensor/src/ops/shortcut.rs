//! The parameter-free shortcut of residual networks ("option A", He et al. 2015): every `stride`-th pixel, and zero
//! channels added, half of them before and half after.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::shortcut_a::{ShortcutA, ShortcutAGrad};

#[derive(Debug)]
struct Backward {
    forward: ShortcutA,
    x: Var,
    y: Var,
}

impl Graph {
    /// Subsamples `x` `[M, N, H, W, C]` by `stride` and pads its channels with zeros to `filters`, giving
    /// `[M, N, ceil(H/stride), ceil(W/stride), filters]`.
    ///
    /// # Errors
    /// When there are fewer filters than channels, or the stride is 0.
    pub fn shortcut_a(&mut self, x: Var, filters: usize, stride: usize) -> Result<Var> {
        let &[members, batch, height, width, channels] = self.shape(x) else {
            return shape_error("shortcut_a", format!("x should be [M,N,H,W,C], got {:?}", self.shape(x)));
        };
        if stride == 0 || filters < channels {
            return shape_error("shortcut_a", format!("{channels} channels to {filters} with stride {stride}"));
        }
        let forward = ShortcutA { members, batch, height, width, channels, filters, stride };
        let y = self.launch_one(forward.clone(), &[x])?;
        self.differentiable(Backward { forward, x, y }, &[x], &[y]);
        Ok(y)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let mut inputs = vec![dy];
        inputs.extend(gradients.take(self.x));
        let ShortcutA { members, batch, height, width, channels, filters, stride } = self.forward;
        let addend = inputs.len() == 2;
        let kernel = ShortcutAGrad { members, batch, height, width, channels, filters, stride, addend };
        let dx = graph.launch_one(kernel, &inputs)?;
        gradients.add(graph, self.x, dx)
    }
}
