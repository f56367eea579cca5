//! Sums over the rows of a matrix that accumulate on the device: metrics.

use rayon::prelude::*;

use super::tiling::Tiling;
use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// Rows that one CPU task adds up in single precision, before the chunks are added in double precision.
const TASK_ROWS: usize = 256;

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
    let chunks: Vec<Vec<f32>> = (values.par_chunks(TASK_ROWS * columns))
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
        let tiling = Tiling::narrow(self.columns);
        let launch = Launch::new(shader!("sum_columns"), 1, 1, tiling.tiles)
            .size("ROWS", self.rows)
            .size("HALF", tiling.lanes / 2);
        tiling.describe(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn totals_grow_by_the_sums_of_rows() {
        for (rows, columns) in [(1, 1), (3, 5), (600, 17)] {
            let values = normal(rows * columns, 0.5, 1.0, 1);
            let before = normal(columns, 3.0, 1.0, 2);
            let totals = run(&AccumulateColumns { rows, columns }, &[&values], &[&before]).remove(0);
            for (c, &total) in totals.iter().enumerate() {
                let sum: f64 = (0..rows).map(|r| f64::from(values[r * columns + c])).sum();
                assert_close(total, f64::from(before[c]) + sum, 1e-5);
            }
        }
    }
}
