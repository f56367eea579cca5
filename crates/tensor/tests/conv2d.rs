//! The convolutions as the CPU device computes them, against the formula in double precision, and the adjoint
//! identities that tie the three kernels together.

use tensor::kernels::batch_norm::{Activation, BatchNormGradPartials, BatchNormPartials};
use tensor::kernels::conv2d::{Conv2dForward, Conv2dGradInput, Conv2dGradWeight, ConvGeometry};
use tensor::kernels::sum_partials::{Sum, SumPartials};
use tensor::{Kernel, Rng, Slice, SliceMut};

/// Odd and even extents, kernels, strides and paddings that differ by axis, groups, fan-out.
fn geometries() -> Vec<ConvGeometry> {
    let base = ConvGeometry {
        members: 1,
        input_members: 1,
        batch: 2,
        height: 7,
        width: 6,
        channels: 4,
        filters: 8,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        groups: 1,
    };
    vec![
        base,
        ConvGeometry { members: 3, input_members: 3, ..base },
        ConvGeometry { members: 3, ..base },
        ConvGeometry { stride: [2, 2], ..base },
        ConvGeometry { stride: [2, 2], height: 8, width: 8, members: 2, ..base },
        ConvGeometry { stride: [3, 2], kernel: [4, 5], padding: [0, 2], height: 11, width: 9, ..base },
        ConvGeometry { stride: [2, 3], kernel: [2, 1], padding: [1, 0], members: 2, input_members: 2, ..base },
        ConvGeometry { kernel: [1, 1], padding: [0, 0], ..base },
        ConvGeometry { kernel: [1, 1], padding: [0, 0], members: 2, groups: 2, ..base },
        ConvGeometry { kernel: [1, 1], padding: [0, 0], stride: [2, 2], ..base },
        ConvGeometry { kernel: [1, 1], padding: [2, 1], ..base },
        ConvGeometry { channels: 6, filters: 9, groups: 3, stride: [1, 2], ..base },
        ConvGeometry { channels: 5, filters: 5, groups: 5, members: 2, ..base },
        ConvGeometry { channels: 3, filters: 1, kernel: [7, 6], padding: [0, 0], ..base },
        ConvGeometry { channels: 1, filters: 3, kernel: [5, 3], padding: [4, 5], height: 2, width: 1, ..base },
        ConvGeometry { channels: 16, filters: 16, height: 32, width: 32, ..base },
        ConvGeometry { channels: 32, filters: 48, height: 5, width: 29, members: 3, ..base },
        ConvGeometry { channels: 64, filters: 64, width: 13, padding: [0, 0], groups: 2, ..base },
        ConvGeometry { channels: 16, filters: 32, kernel: [2, 3], height: 3, width: 2, ..base },
        ConvGeometry { channels: 32, filters: 16, padding: [1, 0], height: 4, width: 3, members: 2, ..base },
        // Weights that no second-level cache holds.
        ConvGeometry { channels: 128, filters: 128, height: 3, width: 4, members: 2, ..base },
        ConvGeometry {
            channels: 260,
            filters: 264,
            height: 4,
            width: 5,
            groups: 2,
            stride: [2, 1],
            members: 2,
            ..base
        },
        ConvGeometry { channels: 512, filters: 256, height: 3, width: 5, kernel: [1, 1], padding: [0, 0], ..base },
        ConvGeometry { channels: 257, filters: 512, kernel: [1, 1], padding: [0, 0], stride: [2, 2], ..base },
        ConvGeometry { channels: 64, filters: 512, kernel: [2, 3], padding: [3, 2], height: 2, width: 1, ..base },
        ConvGeometry { channels: 17, filters: 11, batch: 70, height: 5, width: 4, members: 2, ..base },
    ]
}

fn random(words: usize, key: u64) -> Vec<f32> {
    let mut rng = Rng::new(&[0xc0de, key]);
    (0..words).map(|_| 0.1 + rng.normal() as f32).collect()
}

/// The only output of a kernel, as [`run_all`].
fn run(kernel: &dyn Kernel, inputs: &[&[f32]]) -> Vec<f32> {
    let mut outputs = run_all(kernel, inputs);
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}

/// Runs a kernel as the CPU device does, over outputs poisoned with a value that no kernel writes.
fn run_all(kernel: &dyn Kernel, inputs: &[&[f32]]) -> Vec<Vec<f32>> {
    for (spec, input) in kernel.inputs().iter().zip(inputs) {
        assert_eq!(spec.words(), input.len(), "{}", kernel.describe());
    }
    let inputs: Vec<_> = inputs.iter().map(|input| Slice::F32(input)).collect();
    let mut outputs: Vec<Vec<f32>> = kernel.outputs().iter().map(|spec| vec![f32::MAX; spec.words()]).collect();
    let mut slices: Vec<_> = outputs.iter_mut().map(|output| SliceMut::F32(output)).collect();
    kernel.compute(&inputs, &mut slices);
    outputs
}

fn assert_close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    let rms = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= 2e-5 * (expected.abs() + rms), "{what}: element {i} is {got}, expected {expected}");
    }
}

fn grad_weight(geometry: ConvGeometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let kernel = Conv2dGradWeight { geometry, normalised: false };
    let sum = SumPartials::new(Sum::of(kernel.partials(), geometry.weight_spec().shape));
    assert_eq!(kernel.outputs(), sum.inputs());
    run(&sum, &[&run(&kernel, &[x, dy])])
}

#[test]
fn the_cpu_computes_the_formula() {
    for geometry in geometries() {
        let words = [geometry.input_spec(), geometry.weight_spec(), geometry.output_spec()].map(|spec| spec.words());
        let [x, w, dy] = [0, 1, 2].map(|key| random(words[key], key as u64));
        let addend = random(words[0], 3);
        let mut y = vec![0.0; words[2]];
        let mut dw = vec![0.0; words[1]];
        let mut dx = vec![0.0; words[0]];
        geometry.terms(|i, j, k| {
            let [x, w, dy] = [x[i], w[j], dy[k]].map(f64::from);
            y[k] += x * w;
            dx[i] += dy * w;
            dw[j] += dy * x;
        });
        let what = |kernel| format!("{kernel} of {geometry:?}");

        assert_close(
            &what("forward"),
            &run(&Conv2dForward { geometry, normalised: false, statistics: false }, &[&x, &w]),
            &y,
        );
        assert_close(&what("grad_weight"), &grad_weight(geometry, &x, &dy), &dw);
        let kernel = Conv2dGradInput { geometry, addend: false, norm: None };
        assert_close(&what("grad_input"), &run(&kernel, &[&dy, &w]), &dx);
        dx.iter_mut().zip(&addend).for_each(|(dx, &addend)| *dx += f64::from(addend));
        let kernel = Conv2dGradInput { geometry, addend: true, norm: None };
        assert_close(&what("grad_input with addend"), &run(&kernel, &[&dy, &w, &addend]), &dx);
    }
}

/// The forward is linear in each operand, so `<y, dy>`, `<x, dx>` and `<w, dw>` are one number.
#[test]
fn they_are_adjoint() {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    for geometry in geometries() {
        let words = [geometry.input_spec(), geometry.weight_spec(), geometry.output_spec()].map(|spec| spec.words());
        let [x, w, dy] = [0, 1, 2].map(|key| random(words[key], 10 + key as u64));
        let y = run(&Conv2dForward { geometry, normalised: false, statistics: false }, &[&x, &w]);
        let dx = run(&Conv2dGradInput { geometry, addend: false, norm: None }, &[&dy, &w]);
        let dw = grad_weight(geometry, &x, &dy);
        let scale = (dot(&y, &y) * dot(&dy, &dy)).sqrt();
        for (name, product) in [("input", dot(&x, &dx)), ("weight", dot(&w, &dw))] {
            let error = (product - dot(&y, &dy)).abs();
            assert!(error <= 1e-5 * scale, "gradient of the {name} is not adjoint for {geometry:?}: off by {error}");
        }
    }
}

/// Work is divided by shape alone: the number of threads changes no bit.
#[test]
fn threads_change_no_bit() {
    let all = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        pool.install(|| {
            let mut outputs = Vec::new();
            for geometry in geometries() {
                let words = [geometry.input_spec(), geometry.weight_spec(), geometry.output_spec()].map(|s| s.words());
                let [x, w, dy] = [0, 1, 2].map(|key| random(words[key], 20 + key as u64));
                outputs.push(run(&Conv2dForward { geometry, normalised: false, statistics: false }, &[&x, &w]));
                outputs.push(run(&Conv2dGradInput { geometry, addend: false, norm: None }, &[&dy, &w]));
                outputs.push(grad_weight(geometry, &x, &dy));
            }
            outputs
        })
    };
    assert!(all(1) == all(3), "results depend on the number of threads");
}

/// The split of the long reduction serves a GPU without growing the memory beyond two fifths of the activations'.
#[test]
fn partials_are_moderate() {
    for (channels, extent) in [(16, 32), (32, 16), (64, 8)] {
        let geometry = ConvGeometry {
            members: 1,
            input_members: 1,
            batch: 128,
            height: extent,
            width: extent,
            channels,
            filters: channels,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            groups: 1,
        };
        let kernel = Conv2dGradWeight { geometry, normalised: false };
        let activations = 2 * geometry.input_spec().words();
        assert!((8..=512).contains(&kernel.partials()), "{}", kernel.describe());
        assert!(5 * kernel.outputs()[0].words() <= 2 * activations, "{}", kernel.describe());
    }
}

#[test]
fn a_normalised_input_is_that_of_the_normalised_tensor() {
    for geometry in geometries() {
        let ConvGeometry { input_members, channels, .. } = geometry;
        let words = [geometry.input_spec(), geometry.weight_spec(), geometry.output_spec()].map(|spec| spec.words());
        let [x, w, dy] = [0, 1, 2].map(|key| random(words[key], key as u64));
        let stats: Vec<f32> = random(input_members * 2 * channels, 3).iter().map(|v| 0.5 + 0.2 * v).collect();
        let (gamma, beta) = (random(input_members * channels, 4), random(input_members * channels, 5));
        let per_member = words[0] / input_members;
        let normalised: Vec<f32> = x
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let (m, c) = (i / per_member, i % channels);
                let (mean, inv_std) = (stats[2 * m * channels + c], stats[(2 * m + 1) * channels + c]);
                let parameter = m * channels + c;
                ((x - mean) * (gamma[parameter] * inv_std) + beta[parameter]).max(0.0)
            })
            .collect();
        let widen = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
        let what = format!("{geometry:?}");
        let [plain, own] = [false, true].map(|normalised| Conv2dForward { geometry, normalised, statistics: false });
        let expected = widen(run(&plain, &[&normalised, &w]));
        assert_close(&what, &run(&own, &[&x, &w, &stats, &gamma, &beta]), &expected);
        let [plain, own] = [false, true].map(|normalised| Conv2dGradWeight { geometry, normalised });
        let expected = widen(run(&plain, &[&normalised, &dy]));
        assert_close(&what, &run(&own, &[&x, &dy, &stats, &gamma, &beta]), &expected);
    }
}

/// The part of a batch-norm that a convolution does beside its own work is, bit for bit, that of its kernels behind
/// it.
#[test]
fn first_passes_of_batch_norms_are_those_of_their_own_kernels() {
    for (index, geometry) in geometries().into_iter().enumerate() {
        let ConvGeometry { members, input_members, channels, .. } = geometry;
        let words = [geometry.input_spec(), geometry.weight_spec(), geometry.output_spec()].map(|spec| spec.words());
        let [x, w, dy] = [0, 1, 2].map(|key| random(words[key], key as u64));
        let what = format!("{geometry:?}");
        let plain = Conv2dForward { geometry, normalised: false, statistics: false };
        let own = Conv2dForward { statistics: true, ..plain };
        let outputs = run_all(&own, &[&x, &w]);
        assert!(outputs[0] == run(&plain, &[&x, &w]), "{what}: sums change the convolution");
        let partials: BatchNormPartials = own.partials();
        assert_eq!((partials.members, partials.channels), (members, geometry.filters), "{what}");
        assert!(outputs[1] == run(&partials, &[&outputs[0]]), "{what}: other sums");

        let (addend, norm_x, y) = (random(words[0], 3), random(words[0], 4), random(words[0], 5));
        let stats: Vec<f32> = random(input_members * 2 * channels, 6).iter().map(|v| 0.5 + 0.2 * v).collect();
        let (gamma, beta) = (random(input_members * channels, 7), random(input_members * channels, 8));
        for activation in [Activation::Linear, Activation::Relu, Activation::ReluOfSum] {
            let plain = Conv2dGradInput { geometry, addend: index % 2 == 0, norm: None };
            let own = Conv2dGradInput { norm: Some(activation), ..plain };
            let mut inputs: Vec<&[f32]> = vec![&dy, &w];
            if plain.addend {
                inputs.push(&addend);
            }
            let dx = run(&plain, &inputs);
            let mut norm_inputs: Vec<&[f32]> = vec![&norm_x, &dx, &stats, &gamma, &beta];
            inputs.extend([norm_x.as_slice(), &stats]);
            match activation {
                Activation::Linear => {}
                Activation::Relu => inputs.extend([gamma.as_slice(), &beta]),
                Activation::ReluOfSum => {
                    inputs.push(&y);
                    norm_inputs.push(&y);
                }
            }
            let outputs = run_all(&own, &inputs);
            let partials: BatchNormGradPartials = own.partials(activation);
            let expected = run_all(&partials, &norm_inputs);
            assert!(outputs[1] == expected[0], "{what}, {activation:?}: other sums");
            let behind = expected.get(1).unwrap_or(&dx);
            assert!(&outputs[0] == behind, "{what}, {activation:?}: another gradient");
        }
    }
}

/// This machine runs these tests with its widest vectors, others run narrower ones: `ONFLY_VECTORS` asks
/// for them, and means nothing where there are none of the name.
#[test]
fn narrower_vectors_pass_the_same_tests() {
    for name in ["none", "avx2"] {
        let program = std::env::current_exe().expect("this program");
        let arguments = ["--skip", "vectors_pass_the_same_tests"];
        let output = std::process::Command::new(program).args(arguments).env("ONFLY_VECTORS", name).output();
        let output = output.expect("started");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("the_cpu_computes_the_formula ... ok"), "{name}: {text}");
    }
}
