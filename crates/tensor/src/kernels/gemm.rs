//! Matrix products of every member: linear layers and their gradients.
//!
//! `y[m] = op(a[m]) op(b[m]) + bias[m]`, where `op` may transpose; with `sum_members`, the sum of it over m.

use crate::cpu;
use crate::kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// A product of matrices for each member: inputs `a`, `b` and, with [`Self::bias`], `bias`; output `y`.
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    /// M: members of `b`, of `bias` and, unless summed, of the output.
    pub members: usize,
    /// Members of `a`: M, or 1 when every member reads the same.
    pub a_members: usize,
    /// Rows of the output.
    pub rows: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Length of the reduction.
    pub inner: usize,
    /// `a` is `[members, inner, rows]` instead of `[members, rows, inner]`.
    pub transpose_a: bool,
    /// `b` is `[members, columns, inner]` instead of `[members, inner, columns]`.
    pub transpose_b: bool,
    /// The output is the sum over the members, `[1, rows, columns]`: the gradient of an input that fanned out.
    pub sum_members: bool,
    /// A third input `[M, columns]` is added to every row.
    pub bias: bool,
}

/// Side of the square tile of the output that a thread computes.
const TILE: usize = 4;
const WORKGROUP: usize = 64;

impl Gemm {
    fn output_members(&self) -> usize {
        if self.sum_members { 1 } else { self.members }
    }
}

impl Kernel for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn inputs(&self) -> Vec<Spec> {
        let a = if self.transpose_a { [self.inner, self.rows] } else { [self.rows, self.inner] };
        let b = if self.transpose_b { [self.columns, self.inner] } else { [self.inner, self.columns] };
        let mut specs = vec![Spec::f32([self.a_members, a[0], a[1]]), Spec::f32([self.members, b[0], b[1]])];
        if self.bias {
            specs.push(Spec::f32([self.members, self.columns]));
        }
        specs
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.output_members(), self.rows, self.columns])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 2 * self.members * self.rows * self.columns * self.inner)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let &Self { members, rows, columns, inner, .. } = self;
        let (a, b) = (inputs[0].f32(), inputs[1].f32());
        let element = |y_at: usize| -> f32 {
            let (member, i, j) = (y_at / (rows * columns), y_at / columns % rows, y_at % columns);
            let mut sum = 0.0;
            for m in if self.sum_members { 0..members } else { member..member + 1 } {
                let a = &a[if self.a_members == 1 { 0 } else { m } * rows * inner..];
                let b = &b[m * inner * columns..];
                sum += if self.bias { f64::from(inputs[2].f32()[m * columns + j]) } else { 0.0 };
                for l in 0..inner {
                    let a = a[if self.transpose_a { l * rows + i } else { i * inner + l }];
                    let b = b[if self.transpose_b { j * inner + l } else { l * columns + j }];
                    sum += f64::from(a) * f64::from(b);
                }
            }
            sum as f32
        };
        outputs[0].f32().iter_mut().enumerate().for_each(|(y_at, y)| *y = element(y_at));
    }

    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        cpu::product::compute(self, inputs, outputs);
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiles = self.rows.div_ceil(TILE) * self.columns.div_ceil(TILE);
        let width = |extent: usize| if extent.is_multiple_of(4) { ("vec4<f32>", 4) } else { ("f32", 1) };
        let (a_type, a_width) = width(if self.transpose_a { self.rows } else { self.inner });
        let (b_type, b_width) = width(if self.transpose_b { self.inner } else { self.columns });
        let workgroups_per_member = tiles.div_ceil(WORKGROUP);
        let wgsl = shader!("gemm");
        // Without a bias its binding sees the bytes of `b`, and the shader leaves it alone.
        let bias = Binding::Input(if self.bias { 2 } else { 1 });
        Launch::new(wgsl, 2, 1, self.output_members() * workgroups_per_member)
            .bindings([Binding::Input(0), Binding::Input(1), bias, Binding::Output(0)])
            .alias("A", a_type)
            .alias("B", b_type)
            .size("A_WIDTH", a_width)
            .size("B_WIDTH", b_width)
            .size("A_MEMBERS", self.a_members)
            .size("SUMMED", self.members / self.output_members())
            .size("ROWS", self.rows)
            .size("COLUMNS", self.columns)
            .size("INNER", self.inner)
            .switch("TRANSPOSE_A", self.transpose_a)
            .switch("TRANSPOSE_B", self.transpose_b)
            .switch("BIAS", self.bias)
            .size("WORKGROUP", WORKGROUP)
    }
}
