//! Products of matrices on the CPU, by the crate `gemm`.

use rayon::prelude::*;

use crate::kernel::{Slice, SliceMut};
use crate::kernels::gemm::Gemm;

impl Gemm {
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

/// Computes blocks of rows in parallel.
pub(crate) fn compute(kernel: &Gemm, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
    const BLOCK_ROWS: usize = 128;
    let (a, b) = (inputs[0].f32(), inputs[1].f32());
    let bias = inputs.get(2).map(|slice| slice.f32());
    let blocks: Vec<_> = outputs[0]
        .f32()
        .chunks_mut(kernel.rows * kernel.columns)
        .enumerate()
        .flat_map(|(member, y)| y.chunks_mut(BLOCK_ROWS * kernel.columns).enumerate().map(move |block| (member, block)))
        .collect();
    blocks.into_par_iter().for_each(|(member, (block, y))| {
        let rows = y.len() / kernel.columns;
        let members = if kernel.sum_members { 0..kernel.members } else { member..member + 1 };
        y.fill(0.0);
        for m in members {
            if let Some(bias) = bias {
                for row in y.chunks_exact_mut(kernel.columns) {
                    for (y, bias) in row.iter_mut().zip(&bias[m * kernel.columns..]) {
                        *y += bias;
                    }
                }
            }
            let a = kernel.a(a, m).rows_from(block * BLOCK_ROWS, rows);
            multiply(a, kernel.b(b, m), y, kernel.columns, true);
        }
    });
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
