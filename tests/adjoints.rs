//! Linear kernels on random shapes: a gradient is the adjoint of its forward, `<A x, dy> = <x, A' dy>`.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tensor::kernels::conv2d::{Conv2dForward, Conv2dGradInput, Conv2dGradWeight, ConvGeometry};
use tensor::kernels::gemm::Gemm;
use tensor::kernels::global_average_pool::{GlobalAveragePool, GlobalAveragePoolGrad};
use tensor::kernels::shortcut_a::{ShortcutA, ShortcutAGrad};
use tensor::kernels::sum_members::SumMembers;
use tensor::kernels::sum_partials::{Sum, SumPartials};
use tensor::{Kernel, Rng, Slice, SliceMut};

/// The same cases at every run: a failure is no matter of luck.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 96,
        rng_seed: RngSeed::Fixed(0x0af1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Runs a reference with one output, which begins as NaN.
fn run(kernel: &dyn Kernel, inputs: &[&[f32]]) -> Vec<f32> {
    let lengths: Vec<usize> = kernel.inputs().iter().map(tensor::Spec::words).collect();
    assert_eq!(lengths, inputs.iter().map(|input| input.len()).collect::<Vec<_>>(), "{}", kernel.describe());
    let inputs: Vec<Slice<'_>> = inputs.iter().map(|input| Slice::F32(input)).collect();
    let mut output = vec![f32::NAN; kernel.outputs()[0].words()];
    kernel.reference(&inputs, &mut [SliceMut::F32(&mut output)]);
    output
}

/// Random operands for the inputs of a kernel.
fn operands(kernel: &dyn Kernel) -> Vec<Vec<f32>> {
    let random = |(key, spec): (u64, &tensor::Spec)| random(spec.words(), key);
    (0..).zip(&kernel.inputs()).map(random).collect()
}

fn random(words: usize, key: u64) -> Vec<f32> {
    let mut rng = Rng::new(&[0xad01, key]);
    (0..words).map(|_| 0.1 + rng.normal() as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Two values of one number, up to rounding at the scale of `y` and `dy`.
fn assert_adjoint(forward: f64, backward: f64, y: &[f32], dy: &[f32]) {
    let scale = (dot(y, y) * dot(dy, dy)).sqrt();
    assert!((forward - backward).abs() <= 1e-5 * scale, "{forward} and {backward} at scale {scale}");
}

fn geometries() -> impl Strategy<Value = ConvGeometry> {
    let counts = (1..=3usize, any::<bool>(), 1..=3usize, 1..=3usize);
    let channels = (1..=5usize, 1..=5usize);
    let axis = || (1..=9usize, 1..=4usize, 1..=3usize, 0..=3usize);
    (counts, channels, axis(), axis()).prop_map(|((members, fan_out, batch, groups), (c, k), rows, columns)| {
        // A kernel is no larger than the padded image.
        let kernel = [rows, columns].map(|(extent, kernel, _, padding)| kernel.min(extent + 2 * padding));
        ConvGeometry {
            members,
            input_members: if fan_out { 1 } else { members },
            batch,
            height: rows.0,
            width: columns.0,
            channels: groups * c,
            filters: groups * k,
            kernel,
            stride: [rows.2, columns.2],
            padding: [rows.3, columns.3],
            groups,
        }
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn convolution(geometry in geometries()) {
        let [x, w, dy] = [(geometry.input_spec(), 0), (geometry.weight_spec(), 1), (geometry.output_spec(), 2)]
            .map(|(spec, key)| random(spec.words(), key));
        let y = run(&Conv2dForward { geometry, normalised: false, statistics: false }, &[&x, &w]);
        let dx = run(&Conv2dGradInput { geometry, addend: false, norm: None }, &[&dy, &w]);
        assert_adjoint(dot(&y, &dy), dot(&x, &dx), &y, &dy);

        let kernel = Conv2dGradWeight { geometry, normalised: false };
        let sum = SumPartials::new(Sum::of(kernel.partials(), geometry.weight_spec().shape));
        let dw = run(&sum, &[&run(&kernel, &[&x, &dy])]);
        assert_adjoint(dot(&y, &dy), dot(&w, &dw), &y, &dy);

        let addend = random(x.len(), 3);
        let added = run(&Conv2dGradInput { geometry, addend: true, norm: None }, &[&dy, &w, &addend]);
        assert_adjoint(dot(&added, &x), dot(&dx, &x) + dot(&addend, &x), &added, &x);
    }

    #[test]
    fn linear_layer(
        (members, fan_out) in (1..=3usize, any::<bool>()),
        (rows, inner, columns) in (1..=17usize, 1..=17usize, 1..=17usize),
    ) {
        let a_members = if fan_out { 1 } else { members };
        let forward = Gemm {
            members, a_members, rows, columns, inner,
            transpose_a: false, transpose_b: false, sum_members: false, bias: false,
        };
        let operands = operands(&forward);
        let (x, w) = (&operands[0], &operands[1]);
        let y = run(&forward, &[x, w]);
        let dy = random(y.len(), 2);
        let grad_input = Gemm {
            a_members: members, columns: inner, inner: columns,
            transpose_b: true, sum_members: fan_out, ..forward
        };
        assert_adjoint(dot(&y, &dy), dot(x, &run(&grad_input, &[&dy, w])), &y, &dy);
        let grad_weight = Gemm { rows: inner, inner: rows, transpose_a: true, ..forward };
        assert_adjoint(dot(&y, &dy), dot(w, &run(&grad_weight, &[x, &dy])), &y, &dy);
    }

    #[test]
    fn global_average_pool(members in 1..=3usize, batch in 1..=5usize, area in 1..=20usize, channels in 1..=9usize) {
        let forward = GlobalAveragePool { members, batch, area, channels };
        let x = operands(&forward).remove(0);
        let y = run(&forward, &[&x]);
        let (dy, addend) = (random(y.len(), 1), random(x.len(), 2));
        let grad = |addend| GlobalAveragePoolGrad { members, batch, area, channels, addend };
        let dx = run(&grad(false), &[&dy]);
        assert_adjoint(dot(&y, &dy), dot(&x, &dx), &y, &dy);
        let added = run(&grad(true), &[&dy, &addend]);
        assert_adjoint(dot(&added, &x), dot(&dx, &x) + dot(&addend, &x), &added, &x);
    }

    #[test]
    fn shortcut_a(
        (members, batch) in (1..=2usize, 1..=3usize),
        (height, width, stride) in (1..=9usize, 1..=9usize, 1..=4usize),
        (channels, more) in (1..=9usize, 0..=9usize),
    ) {
        let filters = channels + more;
        let forward = ShortcutA { members, batch, height, width, channels, filters, stride };
        let x = operands(&forward).remove(0);
        let y = run(&forward, &[&x]);
        let dy = random(y.len(), 1);
        let grad = ShortcutAGrad { members, batch, height, width, channels, filters, stride, addend: false };
        assert_adjoint(dot(&y, &dy), dot(&x, &run(&grad, &[&dy])), &y, &dy);
    }

    /// The adjoint of a sum is a copy to every summand.
    #[test]
    fn sums(parts in 1..=40usize, words in 1..=33usize, columns in 1..=9usize) {
        let over_parts = [
            Box::new(SumMembers { members: parts, words }) as Box<dyn Kernel>,
            Box::new(SumPartials::new(Sum::of(parts, vec![words]))),
            Box::new(SumPartials::new(Sum::of_rows(1, parts, words))),
        ];
        for kernel in over_parts {
            let x = operands(kernel.as_ref()).remove(0);
            let y = run(kernel.as_ref(), &[&x]);
            let dy = random(y.len(), 1);
            assert_adjoint(dot(&y, &dy), dot(&x, &dy.repeat(parts)), &y, &dy);
        }
        let kernel = SumPartials::new(Sum::of_rows(3, parts, columns));
        let x = operands(&kernel).remove(0);
        let y = run(&kernel, &[&x]);
        let dy = random(y.len(), 1);
        let copies: Vec<f32> = dy.chunks_exact(columns).flat_map(|member| member.repeat(parts)).collect();
        assert_adjoint(dot(&y, &dy), dot(&x, &copies), &y, &dy);
    }
}
