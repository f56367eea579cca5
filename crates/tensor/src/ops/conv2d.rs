//! Two-dimensional convolution (cross-correlation, as in every deep-learning library).
//!
//! `y[m,n,p,q,k] = sum over r,s,c of x[m,n, p u - a + r, q v - b + s, c] w[m,r,s,c,k]` with stride `(u,v)` and zero
//! padding `(a,b)`. Its gradients are two more convolutions: of `dy` with the transposed weights, and of `x` with `dy`.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::conv2d::{Conv2dForward, Conv2dGradInput, Conv2dGradWeight, ConvGeometry};
use crate::kernels::gemm::Gemm;
use crate::kernels::sum_partials::{Sum, SumPartials};
use crate::shape::DType;

/// Parameters of a convolution that do not follow from the shapes of its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Step between output pixels, vertically and horizontally.
    pub stride: [usize; 2],
    /// Rows and columns of zeros added on each side.
    pub padding: [usize; 2],
    /// Groups that channels and filters are split into.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], groups: 1 }
    }
}

#[derive(Debug)]
struct Backward {
    geometry: ConvGeometry,
    x: Var,
    w: Var,
    y: Var,
}

impl Graph {
    /// Convolves `x` `[M or 1, N, H, W, C]` with `w` `[M, R, S, C/groups, K]`, giving `[M, N, P, Q, K]`. An input with
    /// one member fans out: every member of the weights reads it.
    ///
    /// # Errors
    /// When the shapes do not fit each other or the stride, padding and groups.
    pub fn conv2d(&mut self, x: Var, w: Var, spec: Conv2d) -> Result<Var> {
        let geometry = geometry(self.shape(x), self.shape(w), spec)?;
        if is_product(&geometry) && self.spec(x).dtype == DType::F16 {
            let problem = format!("in 16 bits channels must come in fours, and w is {:?}", self.shape(w));
            return shape_error("conv2d", problem);
        }
        if is_product(&geometry) {
            let y = self.launch_one(product(&geometry), &[x, w])?;
            self.set_shape(y, geometry.output_spec().shape)?;
            self.differentiable(ProductBackward { geometry, x, w, y }, &[x, w], &[y]);
            return Ok(y);
        }
        let y = self.launch_one(Conv2dForward { geometry, normalised: false, statistics: false }, &[x, w])?;
        self.differentiable(Backward { geometry, x, w, y }, &[x, w], &[y]);
        Ok(y)
    }
}

/// Tells whether a convolution is run as a matrix product over pixels: a 1x1 whose channels or filters do not come in
/// fours, as in the last block of DenseNet-BC-190-40, with 950 channels and more. The convolution kernels' scalar
/// variants have no tiles.
fn is_product(geometry: &ConvGeometry) -> bool {
    geometry.is_pointwise() && geometry.groups == 1 && !geometry.in_quads()
}

/// The forward of such a convolution: pixels `[N P Q, C]` times weights `[C, K]`, for each member.
fn product(geometry: &ConvGeometry) -> Gemm {
    Gemm {
        members: geometry.members,
        a_members: geometry.input_members,
        rows: geometry.batch * geometry.height * geometry.width,
        columns: geometry.filters,
        inner: geometry.channels,
        transpose_a: false,
        transpose_b: false,
        sum_members: false,
        bias: false,
    }
}

#[derive(Debug)]
struct ProductBackward {
    geometry: ConvGeometry,
    x: Var,
    w: Var,
    y: Var,
}

impl Differentiable for ProductBackward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let forward = product(&self.geometry);
        let Gemm { members, rows, columns, inner, .. } = forward;
        if graph.needs_gradient(self.w) {
            let kernel = Gemm { rows: inner, inner: rows, transpose_a: true, ..forward };
            let dw = graph.launch_one(kernel, &[self.x, dy])?;
            gradients.add(graph, self.w, dw)?;
        }
        if graph.needs_gradient(self.x) {
            let sum_members = self.geometry.fans_out();
            let transposed = Gemm { columns: inner, inner: columns, transpose_b: true, ..forward };
            let kernel = Gemm { a_members: members, sum_members, ..transposed };
            let dx = graph.launch_one(kernel, &[dy, self.w])?;
            gradients.add(graph, self.x, dx)?;
        }
        Ok(())
    }
}

fn geometry(x: &[usize], w: &[usize], spec: Conv2d) -> Result<ConvGeometry> {
    let (&[input_members, batch, height, width, channels], &[members, r, s, group_channels, filters]) = (x, w) else {
        return shape_error("conv2d", format!("x should be [M,N,H,W,C] and w [M,R,S,C/groups,K], got {x:?} and {w:?}"));
    };
    let Conv2d { stride, padding, groups } = spec;
    if groups == 0 || channels != groups * group_channels || filters % groups.max(1) != 0 {
        return shape_error(
            "conv2d",
            format!("{channels} channels and {filters} filters in {groups} groups do not fit weights {w:?}"),
        );
    }
    if input_members != members && input_members != 1 {
        return shape_error("conv2d", format!("an input of {input_members} members and weights of {members}"));
    }
    if stride.contains(&0) || height + 2 * padding[0] < r || width + 2 * padding[1] < s || x.contains(&0) || r * s == 0
    {
        return shape_error(
            "conv2d",
            format!("input {x:?} is too small for kernel {r}x{s} with stride {stride:?} and padding {padding:?}"),
        );
    }
    let kernel = [r, s];
    Ok(ConvGeometry {
        members,
        input_members,
        batch,
        height,
        width,
        channels,
        filters,
        kernel,
        stride,
        padding,
        groups,
    })
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let geometry = self.geometry;
        if graph.needs_gradient(self.x) {
            let mut inputs = vec![dy, self.w];
            inputs.extend(gradients.take(self.x));
            let dx = graph.launch_one(Conv2dGradInput { geometry, addend: inputs.len() == 3, norm: None }, &inputs)?;
            gradients.add(graph, self.x, dx)?;
        }
        if graph.needs_gradient(self.w) {
            let kernel = Conv2dGradWeight { geometry, normalised: false };
            let sum = SumPartials::new(Sum::of(kernel.partials(), geometry.weight_spec().shape));
            let partials = graph.launch_one(kernel, &[self.x, dy])?;
            let dw = graph.launch_one(sum, &[partials])?;
            gradients.add(graph, self.w, dw)?;
        }
        Ok(())
    }
}
