//! Tests of the fused loss's reference against the written-out loss: values, finite differences, limits.

use one::kernels::{DistillationLoss, TERMS, Teacher};
use tensor::{Kernel, Rng, Slice, SliceMut};

/// Inputs of one run.
#[derive(Clone)]
struct Inputs {
    logits: Vec<f32>,
    labels: Vec<u32>,
    weight: f32,
    valid: f32,
    cross_entropy: f32,
    gate: Vec<f32>,
    /// The logits of a teacher from outside.
    given: Vec<f32>,
}

/// Outputs of one run; empty if the kernel has none.
#[derive(Debug, PartialEq)]
struct Outputs {
    terms: Vec<f32>,
    dlogits: Vec<f32>,
    dgate: Vec<f32>,
}

const POISON: f32 = -12345.0;

fn kernel(branches: usize, batch: usize, classes: usize, teacher: Teacher) -> DistillationLoss {
    DistillationLoss { branches, batch, classes, temperature: 3.0, teacher, distill: true, gradient: true }
}

fn random_inputs(kernel: &DistillationLoss, std: f64) -> Inputs {
    let mut rng = Rng::new(&[7, kernel.branches as u64, kernel.classes as u64]);
    let mut normal = |n: usize, std: f64| (0..n).map(|_| (std * rng.normal()) as f32).collect::<Vec<_>>();
    let logits = normal(kernel.branches * kernel.batch * kernel.classes, std);
    let gate = normal(kernel.branches * kernel.batch, 1.5);
    let labels = (0..kernel.batch).map(|_| rng.below(kernel.classes) as u32).collect();
    let given = (0..kernel.batch * kernel.classes).map(|_| (std * rng.normal()) as f32).collect();
    Inputs { logits, labels, weight: 0.7, valid: kernel.batch as f32, cross_entropy: 0.6, gate, given }
}

fn run(kernel: &DistillationLoss, inputs: &Inputs) -> Outputs {
    let hyper = [inputs.weight, inputs.valid, inputs.cross_entropy];
    let mut slices = vec![Slice::F32(&inputs.logits), Slice::U32(&inputs.labels), Slice::F32(&hyper)];
    if kernel.teacher == Teacher::Gated {
        slices.push(Slice::F32(&inputs.gate));
    }
    if kernel.teacher == Teacher::Given {
        slices.push(Slice::F32(&inputs.given));
    }
    for (slice, spec) in slices.iter().zip(kernel.inputs()) {
        assert_eq!(slice.f32().len(), spec.words(), "{spec}");
    }
    let mut buffers: Vec<Vec<f32>> = kernel.outputs().iter().map(|spec| vec![POISON; spec.words()]).collect();
    let mut outputs: Vec<SliceMut<'_>> = buffers.iter_mut().map(|buffer| SliceMut::F32(buffer)).collect();
    kernel.reference(&slices, &mut outputs);
    assert!(buffers.iter().flatten().all(|&x| x != POISON), "every element is written");
    let mut buffers = buffers.into_iter();
    let mut next = || buffers.next().unwrap_or_default();
    Outputs { terms: next(), dlogits: next(), dgate: next() }
}

fn softmax(z: &[f64], t: f64) -> Vec<f64> {
    let peak = z.iter().copied().fold(f64::MIN, f64::max);
    let e: Vec<f64> = z.iter().map(|z| ((z - peak) / t).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

/// The branches' logits of one row, and the teacher's.
fn row_logits(kernel: &DistillationLoss, logits: &[f64], gate: &[f64], row: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (m, k) = (kernel.branches, kernel.classes);
    let z: Vec<Vec<f64>> = (0..m).map(|i| logits[(i * kernel.batch + row) * k..][..k].to_vec()).collect();
    let g = match kernel.teacher {
        Teacher::Gated => softmax(&gate[row * m..][..m], 1.0),
        _ => vec![1.0 / m as f64; m],
    };
    let z_e = (0..k).map(|class| (0..m).map(|i| g[i] * z[i][class]).sum()).collect();
    (z, z_e)
}

/// Targets of the branches of one row: for each branch, distributions with equal weights in its target.
type Targets = Vec<Vec<Vec<f64>>>;

/// The loss as the papers write it, with the distillation targets given, so that they do not move with the logits.
fn loss(kernel: &DistillationLoss, inputs: &Inputs, logits: &[f64], gate: &[f64], targets: &[Targets]) -> f64 {
    let t = f64::from(kernel.temperature);
    let rows = (inputs.valid as usize).min(kernel.batch);
    let mut total = 0.0;
    let c = f64::from(inputs.cross_entropy);
    for (row, targets) in targets.iter().enumerate().take(rows) {
        let label = inputs.labels[row] as usize;
        let (z, z_e) = row_logits(kernel, logits, gate, row);
        for z_i in &z {
            total -= c * softmax(z_i, 1.0)[label].ln();
        }
        if kernel.teacher.is_ensemble() {
            total -= c * softmax(&z_e, 1.0)[label].ln();
        }
        if kernel.distill {
            for (z_i, targets) in z.iter().zip(targets) {
                for q in targets {
                    let kl: f64 = q.iter().zip(softmax(z_i, t)).map(|(q, p)| q * (q / p).ln()).sum();
                    total += f64::from(inputs.weight) * t * t * kl / targets.len() as f64;
                }
            }
        }
    }
    total / rows as f64
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn targets(kernel: &DistillationLoss, inputs: &Inputs) -> Vec<Targets> {
    let (logits, gate, given) = (widen(&inputs.logits), widen(&inputs.gate), widen(&inputs.given));
    let (t, k) = (f64::from(kernel.temperature), kernel.classes);
    let of_row = |row: usize| {
        let (z, z_e) = row_logits(kernel, &logits, &gate, row);
        let others = |i: usize| (0..z.len()).filter(|&j| j != i).map(|j| softmax(&z[j], t)).collect();
        let of_branch = |i: usize| match kernel.teacher {
            Teacher::None => Vec::new(),
            Teacher::Gated | Teacher::Mean => vec![softmax(&z_e, t)],
            Teacher::Peers => others(i),
            Teacher::Given => vec![softmax(&given[row * k..][..k], t)],
        };
        (0..z.len()).map(of_branch).collect()
    };
    (0..kernel.batch).map(of_row).collect()
}

/// Compares a gradient with central differences of `f` at `at`.
fn check_gradient(what: &str, at: &[f64], gradient: &[f32], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len(), "{what}");
    let step = 1e-5;
    for (i, &got) in gradient.iter().enumerate() {
        let mut moved = at.to_vec();
        moved[i] = at[i] + step;
        let above = f(&moved);
        moved[i] = at[i] - step;
        let expected = (above - f(&moved)) / (2.0 * step);
        assert!((expected - f64::from(got)).abs() < 1e-7 + 1e-6 * expected.abs(), "{what}[{i}]: {got}, not {expected}");
    }
}

/// Every variant on small shapes.
fn variants() -> Vec<DistillationLoss> {
    let mut all = Vec::new();
    for (branches, classes) in [(1, 10), (3, 10), (2, 2), (5, 3), (8, 7)] {
        for teacher in [Teacher::None, Teacher::Gated, Teacher::Mean, Teacher::Peers, Teacher::Given] {
            if branches == 1 && teacher == Teacher::Peers {
                continue;
            }
            for distill in [false, true] {
                all.push(DistillationLoss { distill, ..kernel(branches, 4, classes, teacher) });
            }
        }
    }
    all
}

#[test]
fn gradients_are_finite_differences_with_the_target_held() {
    for kernel in variants() {
        for valid in [4.0, 3.0] {
            let inputs = Inputs { valid, ..random_inputs(&kernel, 2.0) };
            let (logits, gate, q) = (widen(&inputs.logits), widen(&inputs.gate), targets(&kernel, &inputs));
            let outputs = run(&kernel, &inputs);
            let name = format!("{kernel:?}");
            check_gradient(&name, &logits, &outputs.dlogits, |z| loss(&kernel, &inputs, z, &gate, &q));
            if kernel.teacher == Teacher::Gated {
                check_gradient(&name, &gate, &outputs.dgate, |gate| loss(&kernel, &inputs, &logits, gate, &q));
            }
        }
    }
}

#[test]
fn terms_add_up_to_the_loss() {
    for kernel in variants() {
        let inputs = random_inputs(&kernel, 2.0);
        let outputs = run(&kernel, &inputs);
        let weights = [f64::from(inputs.cross_entropy), f64::from(inputs.weight), 0.0, 0.0];
        let counts = |i: usize| i / TERMS % (kernel.branches + 1) < kernel.branches || kernel.teacher.is_ensemble();
        let terms = outputs.terms.iter().enumerate().filter(|&(i, _)| counts(i));
        let sum: f64 = terms.map(|(i, &term)| weights[i % TERMS] * f64::from(term)).sum();
        let (logits, gate, q) = (widen(&inputs.logits), widen(&inputs.gate), targets(&kernel, &inputs));
        let expected = loss(&kernel, &inputs, &logits, &gate, &q);
        let got = sum / f64::from(inputs.valid);
        assert!((got - expected).abs() < 1e-6 * expected, "{kernel:?}: {got}, not {expected}");
    }
}

#[test]
fn evaluation_gives_the_terms_of_training() {
    for kernel in variants() {
        let inputs = random_inputs(&kernel, 2.0);
        let evaluation = run(&DistillationLoss { gradient: false, ..kernel }, &inputs);
        assert_eq!(evaluation.terms, run(&kernel, &inputs).terms);
        assert!(evaluation.dlogits.is_empty() && evaluation.dgate.is_empty());
    }
}

#[test]
fn gradients_sum_to_zero_over_classes_and_over_the_gate() {
    for kernel in variants() {
        let outputs = run(&kernel, &random_inputs(&kernel, 2.0));
        for row in outputs.dlogits.chunks(kernel.classes).chain(outputs.dgate.chunks(kernel.branches)) {
            assert!(row.iter().copied().map(f64::from).sum::<f64>().abs() < 1e-6, "{kernel:?}: {row:?}");
        }
    }
}

#[test]
fn identical_branches_have_nothing_to_distil() {
    let kernel = kernel(3, 4, 10, Teacher::Gated);
    let mut inputs = random_inputs(&kernel, 2.0);
    let one = inputs.logits[..40].to_vec();
    inputs.logits = one.repeat(3);
    inputs.gate = vec![0.25; 12];
    let distilled = run(&kernel, &inputs);
    for row in distilled.terms.chunks(4 * TERMS) {
        for network in row.chunks(TERMS) {
            assert!((network[0] - row[0]).abs() < 1e-6, "all networks are the same");
            assert!(network[1].abs() < 1e-12, "KL {}", network[1]);
        }
    }
    let plain = run(&DistillationLoss { distill: false, ..kernel }, &inputs);
    for (distilled, plain) in distilled.dlogits.iter().zip(&plain.dlogits) {
        assert!((distilled - plain).abs() < 1e-7);
    }
    assert!(distilled.dgate.iter().all(|x| x.abs() < 1e-7), "no branch is better than another");
}

#[test]
fn identical_peers_have_exactly_nothing_to_distil() {
    for branches in [2, 3, 8] {
        let kernel = DistillationLoss { temperature: 1.0, ..kernel(branches, 4, 10, Teacher::Peers) };
        let mut inputs = random_inputs(&kernel, 2.0);
        inputs.logits = inputs.logits[..40].repeat(branches);
        let distilled = run(&kernel, &inputs);
        let alone = run(&DistillationLoss { teacher: Teacher::None, distill: false, ..kernel }, &inputs);
        assert_eq!(distilled, alone, "{branches} networks with identical weights distil nothing");
    }
}

#[test]
fn a_teacher_from_outside_is_reported_beside_its_students() {
    let kernel = kernel(2, 4, 10, Teacher::Given);
    let mut inputs = random_inputs(&kernel, 2.0);
    let student = inputs.logits[..40].to_vec();
    inputs.given.clone_from(&student);
    let outputs = run(&kernel, &inputs);
    for row in outputs.terms.chunks(3 * TERMS) {
        assert_eq!((row[0], row[2], row[3]), (row[2 * TERMS], row[2 * TERMS + 2], row[2 * TERMS + 3]));
        assert!(row[1].abs() < 1e-12 && row[TERMS + 1] > 0.0, "only the other student has something to learn");
    }
}

#[test]
fn rows_beyond_the_valid_ones_give_zeros_and_change_nothing() {
    let (m, k) = (3, 10);
    let whole = kernel(m, 3, k, Teacher::Gated);
    let expected_inputs = random_inputs(&whole, 2.0);
    let expected = run(&whole, &expected_inputs);

    let ragged = kernel(m, 5, k, Teacher::Gated);
    let mut inputs = expected_inputs.clone();
    let padded: Vec<Vec<f32>> =
        expected_inputs.logits.chunks(3 * k).map(|branch| [branch, &[f32::NAN; 20]].concat()).collect();
    inputs.logits = padded.concat();
    inputs.labels.extend([u32::MAX, 4]);
    inputs.gate.extend([f32::NAN; 6]);
    let got = run(&ragged, &inputs);

    let split = 3 * (m + 1) * TERMS;
    assert_eq!(got.terms[..split], expected.terms);
    assert_eq!(got.dgate[..3 * m], expected.dgate);
    let tails = [&got.terms[split..], &got.dgate[3 * m..]];
    assert!(tails.concat().iter().all(|&x| x == 0.0));
    for (got, expected) in got.dlogits.chunks(5 * k).zip(expected.dlogits.chunks(3 * k)) {
        assert_eq!(got[..3 * k], *expected);
        assert!(got[3 * k..].iter().all(|&x| x == 0.0));
    }

    inputs.valid = 0.0;
    let none = run(&ragged, &inputs);
    assert!([none.terms, none.dlogits, none.dgate].concat().iter().all(|&x| x == 0.0), "no valid row at all");
}

#[test]
fn huge_logits_reach_the_right_limits() {
    let kernel = kernel(2, 2, 3, Teacher::Gated);
    let inputs = Inputs {
        // Row 0: branch 0 is certain of class 0, branch 1 of class 2. Row 1: both are certain of class 1.
        logits: vec![1e4, -1e4, 0.0, -1e4, 1e4, 0.0, -1e4, 0.0, 1e4, -1e4, 1e4, 0.0],
        labels: vec![0, 1],
        weight: 1.0,
        valid: 2.0,
        cross_entropy: 1.0,
        gate: vec![1e4, -1e4, -1e4, 1e4],
        given: Vec::new(),
    };
    let outputs = run(&kernel, &inputs);
    // The gate chooses branch 0 in row 0: the teacher is right, and branch 1 loses 2e4 by cross-entropy and T^2 2e4/T
    // by KL.
    let row0 = [[0.0, 0.0, 0.0, 0.0], [2e4, 6e4, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]].concat();
    assert_eq!(outputs.terms, [row0, vec![0.0; 3 * TERMS]].concat());
    // Only branch 1 in row 0 is pushed from class 2 to class 0, by CE with 1 and by KL with T; the mean halves it.
    let mut dlogits = vec![0.0; 12];
    dlogits[6] = -2.0;
    dlogits[8] = 2.0;
    assert_eq!(outputs.dlogits, dlogits);
    assert_eq!(outputs.dgate, vec![0.0; 4]);

    for teacher in [Teacher::None, Teacher::Gated, Teacher::Mean, Teacher::Peers, Teacher::Given] {
        let kernel = DistillationLoss { teacher, ..self::kernel(8, 4, 1000, teacher) };
        let outputs = run(&kernel, &random_inputs(&kernel, 1e4));
        assert!([outputs.terms, outputs.dlogits, outputs.dgate].concat().iter().all(|x| x.is_finite()));
    }
}

/// One sample of one network.
fn single(logits: Vec<f32>, label: u32) -> Inputs {
    let (gate, given) = (Vec::new(), Vec::new());
    Inputs { logits, labels: vec![label], weight: 1.0, valid: 1.0, cross_entropy: 1.0, gate, given }
}

#[test]
fn errors_count_classes_in_front() {
    let kernel = DistillationLoss { gradient: false, ..kernel(1, 1, 7, Teacher::Mean) };
    let nan = f32::NAN;
    let cases: [(&str, [f32; 7], u32, [f32; 2]); 8] = [
        ("largest", [0.0, 1.0, 5.0, 2.0, 3.0, 4.0, -1.0], 2, [0.0, 0.0]),
        ("second", [0.0, 1.0, 5.0, 2.0, 3.0, 4.0, -1.0], 5, [1.0, 0.0]),
        ("fifth", [0.0, 1.0, 5.0, 2.0, 3.0, 4.0, -1.0], 1, [1.0, 0.0]),
        ("sixth", [0.0, 1.0, 5.0, 2.0, 3.0, 4.0, -1.0], 0, [1.0, 1.0]),
        ("first of equals", [1.0; 7], 0, [0.0, 0.0]),
        ("sixth of equals", [1.0; 7], 5, [1.0, 1.0]),
        ("label is no number", [0.0, nan, 0.0, 0.0, 0.0, 0.0, 0.0], 1, [1.0, 1.0]),
        ("another is no number", [0.0, nan, 1.0, 0.0, 0.0, 0.0, 0.0], 2, [1.0, 0.0]),
    ];
    for (what, logits, label, expected) in cases {
        let inputs = single(logits.to_vec(), label);
        let outputs = run(&kernel, &inputs);
        for network in outputs.terms.chunks(TERMS) {
            assert_eq!(network[2..], expected, "{what}");
        }
    }
    let few = DistillationLoss { classes: 3, ..kernel };
    let inputs = single(vec![nan; 3], 0);
    assert_eq!(run(&few, &inputs).terms[2..4], [1.0, 1.0], "no number is wrong even among fewer than five classes");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let kernel = kernel(3, 37, 11, Teacher::Gated);
    let inputs = random_inputs(&kernel, 2.0);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of this size");
        pool.install(|| run(&kernel, &inputs))
    };
    assert_eq!(on(1), on(3));
}
