//! The matrix product as the CPU device computes it, against its reference.

use tensor::kernels::gemm::Gemm;
use tensor::{Kernel, Rng, Slice, SliceMut};

fn random(words: usize, key: u64) -> Vec<f32> {
    let mut rng = Rng::new(&[0x6e33, key]);
    (0..words).map(|_| 0.1 + rng.normal() as f32).collect()
}

#[test]
fn the_cpu_computes_the_reference() {
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
            let [mut y, mut want] = [(); 2].map(|()| vec![f32::MAX; kernel.outputs()[0].words()]);
            kernel.compute(&slices, &mut [SliceMut::F32(&mut y)]);
            kernel.reference(&slices, &mut [SliceMut::F32(&mut want)]);
            for (got, want) in y.iter().zip(want) {
                let (error, want) = (f64::from(got - want).abs(), f64::from(want));
                assert!(error <= 1e-5 * (want.abs() + (inner as f64).sqrt()), "{kernel:?}: got {got}, expected {want}");
            }
        }
    }
}
