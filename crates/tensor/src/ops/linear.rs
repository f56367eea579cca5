//! The linear layer `z = x w + b`, with gradients `dx = dz w^T`, `dw = x^T dz` and `db = sum of dz over rows`.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::gemm::Gemm;
use crate::kernels::sum_partials::{Sum, SumPartials};

#[derive(Debug)]
struct Backward {
    members: usize,
    input_members: usize,
    rows: usize,
    inner: usize,
    columns: usize,
    x: Var,
    w: Var,
    b: Var,
    z: Var,
}

impl Graph {
    /// Multiplies `x` `[M or 1, N, C]` by `w` `[M, C, K]` and adds `b` `[M, K]`, giving `[M, N, K]`. An input with one
    /// member fans out.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn linear(&mut self, x: Var, w: Var, b: Var) -> Result<Var> {
        let shapes = (self.shape(x), self.shape(w), self.shape(b));
        let (&[input_members, rows, inner], &[members, w_inner, columns], &[b_members, b_columns]) = shapes else {
            return shape_error("linear", format!("x [M,N,C], w [M,C,K], b [M,K] were expected, got {shapes:?}"));
        };
        let members_fit = input_members == members || input_members == 1;
        if inner != w_inner || !members_fit || b_members != members || b_columns != columns || rows * inner == 0 {
            return shape_error("linear", format!("x, w and b do not fit each other: {shapes:?}"));
        }
        let kernel = Gemm {
            members,
            a_members: input_members,
            rows,
            columns,
            inner,
            transpose_a: false,
            transpose_b: false,
            sum_members: false,
            bias: true,
        };
        let z = self.launch_one(kernel, &[x, w, b])?;
        let op = Backward { members, input_members, rows, inner, columns, x, w, b, z };
        self.differentiable(op, &[x, w, b], &[z]);
        Ok(z)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dz) = gradients.of(self.z) else { return Ok(()) };
        let &Self { members, input_members, rows, inner, columns, x, w, b, .. } = self;
        if graph.needs_gradient(w) {
            let kernel = Gemm {
                members,
                a_members: input_members,
                rows: inner,
                columns,
                inner: rows,
                transpose_a: true,
                transpose_b: false,
                sum_members: false,
                bias: false,
            };
            let dw = graph.launch_one(kernel, &[x, dz])?;
            gradients.add(graph, w, dw)?;
        }
        if graph.needs_gradient(b) {
            let db = graph.launch_one(SumPartials::new(Sum::of_rows(members, rows, columns)), &[dz])?;
            gradients.add(graph, b, db)?;
        }
        if graph.needs_gradient(x) {
            let kernel = Gemm {
                members,
                a_members: members,
                rows,
                columns: inner,
                inner: columns,
                transpose_a: false,
                transpose_b: true,
                sum_members: input_members == 1 && members > 1,
                bias: false,
            };
            let dx = graph.launch_one(kernel, &[dz, w])?;
            gradients.add(graph, x, dx)?;
        }
        Ok(())
    }
}
