//! Matrix products of every member: linear layers and their gradients.
//!
//! `y[m] = op(a[m]) op(b[m]) + bias[m]`, where `op` may transpose; with `sum_members`, the sum of it over m.

use rayon::prelude::*;

use crate::kernel::Target;
use crate::kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut};
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

    fn a<'a>(&self, a: &'a [f32], member: usize) -> Matrix<'a> {
        let words = self.rows * self.inner;
        let member = if self.a_members == 1 { 0 } else { member };
        Matrix::new(&a[member * words..][..words], self.rows, self.inner, self.transpose_a)
    }

    fn b<'a>(&self, b: &'a [f32], member: usize) -> Matrix<'a> {
        let words = self.inner * self.columns;
        Matrix::new(&b[member * words..][..words], self.inner, self.columns, self.transpose_b)
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
        const BLOCK_ROWS: usize = 128;
        let (a, b) = (inputs[0].f32(), inputs[1].f32());
        let bias = inputs.get(2).map(|slice| slice.f32());
        let blocks: Vec<_> = outputs[0]
            .f32()
            .chunks_mut(self.rows * self.columns)
            .enumerate()
            .flat_map(|(member, y)| {
                y.chunks_mut(BLOCK_ROWS * self.columns).enumerate().map(move |block| (member, block))
            })
            .collect();
        blocks.into_par_iter().for_each(|(member, (block, y))| {
            let rows = y.len() / self.columns;
            let members = if self.sum_members { 0..self.members } else { member..member + 1 };
            y.fill(0.0);
            for m in members {
                if let Some(bias) = bias {
                    for row in y.chunks_exact_mut(self.columns) {
                        for (y, bias) in row.iter_mut().zip(&bias[m * self.columns..]) {
                            *y += bias;
                        }
                    }
                }
                let a = self.a(a, m).rows_from(block * BLOCK_ROWS, rows);
                multiply(a, self.b(b, m), y, self.columns, true);
            }
        });
    }

    fn launch(&self, _: &Target) -> Launch {
        let tiles = self.rows.div_ceil(TILE) * self.columns.div_ceil(TILE);
        let width = |extent: usize| if extent.is_multiple_of(4) { ("vec4<f32>", 4) } else { ("f32", 1) };
        let (a_type, a_width) = width(if self.transpose_a { self.rows } else { self.inner });
        let (b_type, b_width) = width(if self.transpose_b { self.inner } else { self.columns });
        let workgroups_per_member = tiles.div_ceil(WORKGROUP);
        let wgsl = include_str!("../../../../shaders/gemm.wgsl");
        // Without a bias its binding sees the bytes of `b`, and the shader leaves it alone.
        let bias = Binding::Input(if self.bias { 2 } else { 1 });
        Launch::new(wgsl, 2, 1, self.output_members() * workgroups_per_member)
            .bindings([Binding::Input(0), Binding::Input(1), Binding::Output(0), bias])
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

/// A view of a matrix in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A dense matrix, row-major, or column-major if `transposed`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, transposed: bool) -> Self {
        if transposed {
            Self::strided(data, rows, columns, 1, rows)
        } else {
            Self::strided(data, rows, columns, columns, 1)
        }
    }

    /// Element `(i, j)` at `data[i row_stride + j column_stride]`.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < data.len(),
            "a matrix view ends within its slice"
        );
        Self { data, rows, columns, row_stride, column_stride }
    }

    /// The view of `rows` rows from `first` on.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        Self::strided(&self.data[first * self.row_stride..], rows, self.columns, self.row_stride, self.column_stride)
    }
}

/// `y = a b`, or `y += a b` if `accumulate`, on one thread; row `i` of `y` starts at `y[i row_stride]`.
pub(super) fn multiply(a: Matrix<'_>, b: Matrix<'_>, y: &mut [f32], row_stride: usize, accumulate: bool) {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert_eq!(inner, b.rows, "the inner extents of a product agree");
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * row_stride + columns <= y.len() && columns <= row_stride, "the product fits its slice");
    // SAFETY: `Matrix::strided` and the assertions above keep every element that the strides reach inside the
    // slices; `y` is borrowed exclusively, so it overlaps neither operand, and its elements are distinct because
    // a row is no longer than the row stride.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            y.as_mut_ptr(),
            1,
            row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
