//! Pooling: the largest value or the mean of each channel, over windows or over whole images.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::global_average_pool::{GlobalAveragePool, GlobalAveragePoolGrad};
use crate::kernels::pool2d::{self, Pool2dGrad, PoolGeometry, Pooling};

/// The windows of a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2d {
    /// Height and width of a window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step between windows.
    pub stride: [usize; 2],
    /// Rows and columns added on each side, at most half of the window.
    pub padding: [usize; 2],
}

#[derive(Debug)]
struct Backward {
    geometry: PoolGeometry,
    x: Var,
    y: Var,
}

#[derive(Debug)]
struct GlobalBackward {
    members: usize,
    batch: usize,
    area: usize,
    channels: usize,
    x: Var,
    y: Var,
}

impl Graph {
    /// The largest value in each window of `x` `[M, N, H, W, C]`, giving `[M, N, P, Q, C]` with
    /// `P = (H + 2 padding - kernel) / stride + 1`. Positions outside are left out. The gradient goes to the first
    /// maximum of a window, row by row.
    ///
    /// # Errors
    /// When the windows do not fit the input.
    pub fn max_pool(&mut self, x: Var, spec: Pool2d) -> Result<Var> {
        self.pool(x, spec, Pooling::Max)
    }

    /// The mean over each window of `x`, as [`Graph::max_pool`]; positions outside count as zeros.
    ///
    /// # Errors
    /// When the windows do not fit the input.
    pub fn average_pool(&mut self, x: Var, spec: Pool2d) -> Result<Var> {
        self.pool(x, spec, Pooling::Average)
    }

    fn pool(&mut self, x: Var, spec: Pool2d, pooling: Pooling) -> Result<Var> {
        let &[members, batch, height, width, channels] = self.shape(x) else {
            return shape_error("pool", format!("x should be [M,N,H,W,C], got {:?}", self.shape(x)));
        };
        let Pool2d { kernel, stride, padding } = spec;
        let fits = |axis: usize, extent: usize| {
            stride[axis] > 0 && 2 * padding[axis] <= kernel[axis] && extent + 2 * padding[axis] >= kernel[axis].max(1)
        };
        if !fits(0, height) || !fits(1, width) || self.shape(x).contains(&0) || kernel.contains(&0) {
            let Pool2d { kernel: [r, s], stride: [u, v], padding: [a, b] } = spec;
            let windows = format!("windows of {r}x{s} with stride {u}x{v} and padding {a}x{b}");
            let problem = format!("an input of {height}x{width} pixels is too small for {windows}");
            return shape_error("pool", problem);
        }
        let geometry =
            PoolGeometry { images: members * batch, height, width, channels, kernel, stride, padding, pooling };
        let y = self.launch_one(pool2d::Pool2d { geometry }, &[x])?;
        let [rows, columns] = geometry.output_extent();
        self.set_shape(y, [members, batch, rows, columns, channels])?;
        self.differentiable(Backward { geometry, x, y }, &[x], &[y]);
        Ok(y)
    }

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
        self.differentiable(GlobalBackward { members, batch, area, channels, x, y }, &[x], &[y]);
        Ok(y)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let inputs = if self.geometry.pooling == Pooling::Max { vec![dy, self.x] } else { vec![dy] };
        let dx = graph.launch_one(Pool2dGrad { geometry: self.geometry }, &inputs)?;
        gradients.add(graph, self.x, dx)
    }
}

impl Differentiable for GlobalBackward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let &Self { members, batch, area, channels, x, .. } = self;
        let mut inputs = vec![dy];
        inputs.extend(gradients.take(x));
        let addend = inputs.len() == 2;
        let kernel = GlobalAveragePoolGrad { members, batch, area, channels, addend };
        let dx = graph.launch_as(graph.spec(x).dtype, kernel, &inputs)?[0];
        gradients.add(graph, x, dx)
    }
}
