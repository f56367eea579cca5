//! Choices among a kernel's variants: measured on every adapter, and run by the devices that they are given to.

mod common;

use tensor::ops::Conv2d;
use tensor::tuning::{Candidate, key, measure, tunable};
use tensor::{Choices, Device, Form, Graph, Spec, Target, Var};

/// A convolution with several variants.
fn recorded() -> (Graph, Var, Var, Var) {
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([1, 4, 8, 8, 32]));
    let w = graph.input("w", Spec::f32([1, 3, 3, 32, 64]));
    let y = graph.conv2d(x, w, Conv2d { padding: [1, 1], ..Conv2d::default() }).expect("fits");
    graph.keep(y);
    (graph, x, w, y)
}

fn candidates(target: &Target) -> (u64, Form) {
    let (graph, ..) = recorded();
    let kernels = graph.live_kernels().expect("planned");
    let mut found = tunable(&kernels, target);
    assert_eq!(found.len(), 1, "one convolution");
    found.swap_remove(0)
}

fn run(device: &Device) -> Vec<f32> {
    let (graph, x, w, y) = recorded();
    let mut program = graph.compile(device).unwrap_or_else(|error| panic!("{error}"));
    let values = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect() };
    program.feed_f32(x, &values(4 * 64 * 32)).expect("fits");
    program.feed_f32(w, &values(9 * 32 * 64)).expect("fits");
    program.run().expect("runs");
    program.read_f32(y).expect("kept")
}

/// The time decides which candidate is chosen, and the test cannot know that; but all are measured, or far slower.
#[test]
fn every_candidate_is_measured_or_left_out_for_a_reason() {
    for device in common::gpus(Some(Target::HARDWARE)) {
        let (key, kernel) = candidates(&Target::HARDWARE);
        let measured = measure(&device, &Target::HARDWARE, key, &kernel).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(measured.candidates.len(), kernel.candidates(&Target::HARDWARE).len());
        assert!(measured.before() > 0.0 && measured.after() <= measured.before(), "{measured:?}");
        for candidate in &measured.candidates {
            assert!(!matches!(candidate, Candidate::Refused(_)), "{measured:?}");
        }
    }
}

#[test]
fn devices_run_the_variants_that_they_are_given() {
    let (key_of_all, kernel) = candidates(&Target::HARDWARE);
    let launches = kernel.candidates(&Target::HARDWARE);
    for device in common::gpus(Some(Target::HARDWARE)) {
        let rule = run(&device);
        for (variant, launch) in launches.iter().enumerate() {
            let mut choices = Choices::default();
            choices.choose(key_of_all, variant);
            assert_eq!(choices.launch(&kernel, &Target::HARDWARE).source(), launch.source());
            let tuned = device.tuned(choices);
            let (first, second) = (run(&tuned), run(&tuned));
            assert!(first.iter().zip(&second).all(|(a, b)| a.to_bits() == b.to_bits()), "variant {variant}");
            let error = first.iter().zip(&rule).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 1e-3, "variant {variant} of {}: {error}", device.name());
        }
    }
}

#[test]
fn choices_of_other_candidates_are_never_found() {
    let (_, kernel) = candidates(&Target::HARDWARE);
    let launches = kernel.candidates(&Target::HARDWARE);
    let mut choices = Choices::default();
    choices.choose(key(&launches[1..]), 1);
    choices.choose(key(&launches) ^ 1, 2);
    assert_eq!(choices.launch(&kernel, &Target::HARDWARE).source(), launches[0].source());
    assert!(choices.among([&kernel], &Target::HARDWARE).is_empty());
    // An index that there is not is the static rule's variant.
    choices.choose(key(&launches), launches.len());
    assert_eq!(choices.launch(&kernel, &Target::HARDWARE).source(), launches[0].source());
}
