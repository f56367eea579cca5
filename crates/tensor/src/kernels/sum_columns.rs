//! Sums over the rows of a matrix: gradients of biases, and metrics that accumulate on the device.

use rayon::prelude::*;

use super::matrix::Tiling;
use crate::kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut};
use crate::shape::Spec;
use crate::target::Target;

/// Rows that one CPU task adds up in single precision, before the chunks are added in double precision.
const CHUNK_ROWS: usize = 256;

/// `values [M, rows, columns]` -> `sums [M, columns]`, in a fixed order.
#[derive(Debug, Clone, PartialEq)]
pub struct SumColumns {
    /// Members M.
    pub members: usize,
    /// Rows of one member.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// `values [rows, columns]`; updates `totals [columns]`: adds the sums over the rows, in a fixed order.
#[derive(Debug, Clone, PartialEq)]
pub struct AccumulateColumns {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// Sums over the rows of one matrix.
fn sum_rows(values: &[f32], columns: usize) -> Vec<f64> {
    let chunks: Vec<Vec<f32>> = (values.par_chunks(CHUNK_ROWS * columns))
        .map(|chunk| {
            let mut sums = vec![0.0; columns];
            for row in chunk.chunks_exact(columns) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; columns];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value);
        }
    }
    sums
}

fn launch(members: usize, rows: usize, columns: usize, accumulate: bool) -> Launch {
    let tiling = Tiling::narrow(columns);
    let launch = Launch::new(include_str!("../../../../shaders/sum_columns.wgsl"), 0, 0, members * tiling.tiles)
        .bindings([Binding::Input(0), Binding::Output(0)])
        .size("ROWS", rows)
        .switch("ACCUMULATE", accumulate)
        .size("HALF", tiling.lanes / 2);
    tiling.describe(launch)
}

impl Kernel for SumColumns {
    fn name(&self) -> &'static str {
        "sum_columns"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.rows, self.columns])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.columns])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.members * self.rows * self.columns)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let values = inputs[0].f32().chunks_exact(self.rows * self.columns);
        for (values, sums) in values.zip(outputs[0].f32().chunks_exact_mut(self.columns)) {
            for (sum, exact) in sums.iter_mut().zip(sum_rows(values, self.columns)) {
                *sum = exact as f32;
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(self.members, self.rows, self.columns, false)
    }
}

impl Kernel for AccumulateColumns {
    fn name(&self) -> &'static str {
        "sum_columns"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.rows, self.columns])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.columns])]
    }

    fn updates(&self, _index: usize) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.rows * self.columns)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        for (total, sum) in outputs[0].f32().iter_mut().zip(sum_rows(inputs[0].f32(), self.columns)) {
            *total += sum as f32;
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        launch(1, self.rows, self.columns, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn rows_are_added_up_and_totals_grow() {
        for (members, rows, columns) in [(1, 1, 1), (2, 3, 5), (3, 600, 17)] {
            let values = normal(members * rows * columns, 0.5, 1.0, 1);
            let want =
                |m: usize, c: usize| (0..rows).map(|r| f64::from(values[(m * rows + r) * columns + c])).sum::<f64>();
            let sums = run(&SumColumns { members, rows, columns }, &[&values], &[]).remove(0);
            for (i, &sum) in sums.iter().enumerate() {
                assert_close(sum, want(i / columns, i % columns), 1e-5);
            }
            let before = normal(columns, 3.0, 1.0, 2);
            let totals = run(&AccumulateColumns { rows, columns }, &[&values[..rows * columns]], &[&before]).remove(0);
            for (c, &total) in totals.iter().enumerate() {
                assert_close(total, f64::from(before[c]) + want(0, c), 1e-5);
            }
        }
    }
}
