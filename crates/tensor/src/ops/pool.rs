//! Global average pooling: the mean of each channel over the pixels of an image.

use crate::autodiff::{Differentiable, Gradients};
use crate::error::{Result, shape_error};
use crate::graph::{Graph, Var};
use crate::kernels::global_average_pool::{GlobalAveragePool, GlobalAveragePoolGrad};

#[derive(Debug)]
struct Backward {
    members: usize,
    batch: usize,
    area: usize,
    channels: usize,
    x: Var,
    y: Var,
}

impl Graph {
    /// The mean over the pixels of `x` `[M, N, H, W, C]`, giving `[M, N, C]`.
    ///
    /// # Errors
    /// When `x` has another number of axes.
    pub fn global_average_pool(&mut self, x: Var) -> Result<Var> {
        let &[members, batch, height, width, channels] = self.shape(x) else {
            return shape_error("global_average_pool", format!("x should be [M,N,H,W,C], got {:?}", self.shape(x)));
        };
        let area = height * width;
        let y = self.launch_one(GlobalAveragePool { members, batch, area, channels }, &[x])?;
        self.differentiable(Backward { members, batch, area, channels, x, y }, &[x], &[y]);
        Ok(y)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let &Self { members, batch, area, channels, x, .. } = self;
        let mut inputs = vec![dy];
        inputs.extend(gradients.take(x));
        let addend = inputs.len() == 2;
        let dx = graph.launch_one(GlobalAveragePoolGrad { members, batch, area, channels, addend }, &inputs)?;
        gradients.add(graph, x, dx)
    }
}
