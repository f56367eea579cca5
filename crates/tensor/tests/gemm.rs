//! The reference of the matrix product against the formula, written as loops in double precision.

use tensor::kernels::gemm::Gemm;
use tensor::{Kernel, Rng, Slice, SliceMut};

fn random(words: usize, key: u64) -> Vec<f32> {
    let mut rng = Rng::new(&[0x6e33, key]);
    (0..words).map(|_| 0.1 + rng.normal() as f32).collect()
}

/// `y[m,i,j] = sum over k of op(a)[m,i,k] op(b)[m,k,j] + bias[m,j]`, summed over m if so asked.
fn formula(g: &Gemm, a: &[f32], b: &[f32], bias: &[f32]) -> Vec<f64> {
    let mut y = vec![0.0; g.outputs()[0].words()];
    for m in 0..g.members {
        let a_member = if g.a_members == 1 { 0 } else { m };
        let y_member = if g.sum_members { 0 } else { m };
        for i in 0..g.rows {
            for j in 0..g.columns {
                let mut sum = if g.bias { f64::from(bias[m * g.columns + j]) } else { 0.0 };
                for k in 0..g.inner {
                    let a_index = if g.transpose_a { k * g.rows + i } else { i * g.inner + k };
                    let b_index = if g.transpose_b { j * g.inner + k } else { k * g.columns + j };
                    sum += f64::from(a[a_member * g.rows * g.inner + a_index])
                        * f64::from(b[m * g.inner * g.columns + b_index]);
                }
                y[(y_member * g.rows + i) * g.columns + j] += sum;
            }
        }
    }
    y
}

#[test]
fn reference_computes_the_formula() {
    // The last exceeds the rows that one task takes.
    let sizes = [(1, 1, 1), (5, 10, 17), (8, 100, 64), (3, 4, 1), (300, 7, 11)];
    for switches in 0..32 {
        let on = |bit: usize| switches >> bit & 1 == 1;
        for (rows, columns, inner) in sizes {
            let kernel = Gemm {
                members: 3,
                a_members: if on(0) { 1 } else { 3 },
                rows,
                columns,
                inner,
                transpose_a: on(1),
                transpose_b: on(2),
                sum_members: on(3),
                bias: on(4),
            };
            let inputs: Vec<Vec<f32>> =
                kernel.inputs().iter().zip(0..).map(|(s, key)| random(s.words(), key)).collect();
            let slices: Vec<Slice<'_>> = inputs.iter().map(|input| Slice::F32(input)).collect();
            let mut y = vec![f32::MAX; kernel.outputs()[0].words()];
            kernel.reference(&slices, &mut [SliceMut::F32(&mut y)]);
            let bias = inputs.get(2).map_or(&[][..], |bias| bias);
            for (got, want) in y.iter().zip(formula(&kernel, &inputs[0], &inputs[1], bias)) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= 1e-5 * (want.abs() + (inner as f64).sqrt()), "{kernel:?}: got {got}, expected {want}");
            }
        }
    }
}
