//! From graph to program: what is dropped, what shares memory, what is refused and how that is said.

mod common;

use nets::resnet::Shortcut;
use nets::{Model, architecture};
use one::{Config, LossWeights};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tensor::device::open;
use tensor::kernels::elementwise::{Add, Copy, Fill, Scale};
use tensor::ops::{BatchNorm, Conv2d};
use tensor::optim::SgdConfig;
use tensor::{
    Bank, CompileOptions, Cost, Device, Error, Form, Graph, Kernel, Kind, Launch, Params, Slice, SliceMut, Spec,
    Target, Var,
};

const WORDS: usize = 5;

fn input(graph: &mut Graph) -> Var {
    graph.input("x", Spec::f32([WORDS]))
}

fn scale(graph: &mut Graph, x: Var, factor: f32) -> Var {
    graph.launch_one(Scale { words: WORDS, factor }, &[x]).expect("the shapes fit")
}

fn add(graph: &mut Graph, a: Var, b: Var) -> Var {
    graph.launch_one(Add { words: WORDS }, &[a, b]).expect("the shapes fit")
}

/// The message of an error that must be there.
#[track_caller]
fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("this must be refused").to_string()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn kernels_that_nothing_needs_are_dropped() {
    let mut graph = Graph::new();
    let x = input(&mut graph);
    let needed = scale(&mut graph, x, 2.0);
    let dead = scale(&mut graph, needed, 3.0);
    add(&mut graph, dead, x);
    let kept = scale(&mut graph, needed, 5.0);
    graph.keep(kept);
    assert_eq!(graph.kernels().count(), 4);
    let mut program = graph.compile(&Device::cpu()).expect("compiles");
    assert_eq!(program.work().len(), 2);
    program.feed_f32(x, &[1.0, 2.0, 3.0, 4.0, 5.0]).expect("fits");
    program.run().expect("runs");
    assert_eq!(program.read_f32(kept).expect("kept"), [10.0, 20.0, 30.0, 40.0, 50.0]);
    assert!(program.read_f32(dead).is_err());
}

#[test]
fn a_kernel_that_writes_state_is_never_dropped() {
    let (mut graph, bank) = (Graph::new(), Bank::new("state"));
    bank.reserve(WORDS).expect("the bank is new");
    let state = graph.state(&bank, 0, Spec::f32([WORDS]), false).expect("fits");
    graph.launch_into(Fill { words: WORDS, value: 2.5 }, &[], &[Some(state)]).expect("fits");
    let mut program = graph.compile(&Device::cpu()).expect("compiles");
    program.run().expect("runs");
    assert_eq!(program.read_f32(state).expect("state is readable"), [2.5; WORDS]);
}

/// One operation of a random graph: which tensors it reads (modulo those there are), and what it does.
#[derive(Debug, Clone)]
enum Operation {
    Scale(usize, f32),
    Add(usize, usize),
}

fn operations() -> impl Strategy<Value = Vec<(Operation, bool)>> {
    let operation = prop_oneof![
        (0..64usize, -2..3i8).prop_map(|(x, factor)| Operation::Scale(x, f32::from(factor))),
        (0..64usize, 0..64usize).prop_map(|(a, b)| Operation::Add(a, b)),
    ];
    // One tensor in four is kept.
    prop::collection::vec((operation, (0..4u8).prop_map(|draw| draw == 0)), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        rng_seed: RngSeed::Fixed(0x0a11),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// If two live tensors shared a slot, one of them would hold the other's values.
    #[test]
    fn slots_are_never_shared_by_live_tensors(operations in operations()) {
        let mut graph = Graph::new();
        let x = input(&mut graph);
        let values: Vec<f32> = (1..=WORDS as u8).map(f32::from).collect();
        let mut tensors = vec![(x, values.clone(), true)];
        for (operation, kept) in operations {
            let at = |i: usize| tensors[i % tensors.len()].clone();
            let (var, expected) = match operation {
                Operation::Scale(i, factor) => {
                    let (x, values, _) = at(i);
                    (scale(&mut graph, x, factor), values.iter().map(|value| factor * value).collect())
                }
                Operation::Add(i, j) => {
                    let ((a, a_values, _), (b, b_values, _)) = (at(i), at(j));
                    (add(&mut graph, a, b), a_values.iter().zip(&b_values).map(|(a, b)| a + b).collect())
                }
            };
            if kept {
                graph.keep(var);
            }
            tensors.push((var, expected, kept));
        }
        let options = CompileOptions { poison: true, ..CompileOptions::default() };
        let mut program = graph.compile_with(&Device::cpu(), options).expect("every graph compiles");
        prop_assert!(program.memory().planned <= program.memory().unshared);
        // The second run finds what the first one left.
        for _ in 0..2 {
            program.feed_f32(x, &values).expect("fits");
            program.run().expect("runs");
            for (var, expected, _) in tensors.iter().filter(|(.., kept)| *kept) {
                prop_assert_eq!(&program.read_f32(*var).expect("kept"), expected);
            }
        }
    }
}

#[test]
fn slots_are_reused() {
    let mut graph = Graph::new();
    let mut x = input(&mut graph);
    for _ in 0..10 {
        x = scale(&mut graph, x, 2.0);
    }
    graph.keep(x);
    let memory = graph.compile(&Device::cpu()).expect("compiles").memory();
    assert_eq!((memory.unshared, memory.planned, memory.largest), (40 * WORDS, 8 * WORDS, 4 * WORDS));
}

/// A training step of a network on the CPU's graph.
fn training(name: &str, branches: usize, batch: usize) -> (Graph, Model, one::Training, [Var; 2]) {
    let architecture = architecture(name, Shortcut::B).expect("known");
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let image = graph.input("image", Spec::f32([1, batch, 32, 32, 4]));
    let labels = graph.input("labels", Spec::u32([batch]));
    let config = Config::paper(architecture.as_ref(), branches, 10);
    let optimizer = SgdConfig { nesterov: true };
    let step = one::training(&mut graph, &mut model, architecture.as_ref(), (image, labels), &config, optimizer)
        .expect("the network can be recorded");
    (graph, model, step, [image, labels])
}

/// Slots that begin as NaN change no bit: no kernel reads what none wrote.
#[test]
fn poisoned_memory_changes_nothing_of_a_step() {
    let parameters = [false, true].map(|poison| {
        let device = Device::cpu();
        let (graph, model, step, [image, labels]) = training("resnet8", 3, 4);
        let mut program =
            graph.compile_with(&device, CompileOptions { poison, ..CompileOptions::default() }).expect("compiles");
        let memory = program.memory();
        assert!(memory.planned < memory.unshared / 2 && memory.largest <= memory.planned, "{memory:?}");
        model.initialize(&device, 1).expect("initial values");
        let pixels: Vec<f32> = (0..4 * 1024 * 4).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        program.feed_f32(image, &pixels).expect("fits");
        program.feed_u32(labels, &[1, 3, 5, 7]).expect("fits");
        for _ in 0..2 {
            step.feed(&mut program, [0.1, 0.9, 1e-4], LossWeights::default(), 4).expect("fits");
            program.run().expect("runs");
        }
        let params = model.params();
        [params.values(), params.velocities(), params.running()].map(|bank| bank.read(&device).expect("readable"))
    });
    assert!(parameters[0].iter().flatten().all(|&word| f32::from_bits(word).is_finite()));
    assert!(parameters[0] == parameters[1], "poison in unused memory reached the parameters");
}

/// A program in another one's slots computes what it computes in its own, and allocates none.
#[test]
fn programs_that_run_by_turns_share_memory() {
    let device = Device::cpu();
    let record = |graph: &mut Graph, length: usize| {
        let x = input(graph);
        let mut y = x;
        for _ in 0..length {
            let scaled = scale(graph, y, 2.0);
            y = add(graph, scaled, y);
        }
        graph.keep(y);
        (x, y)
    };
    let (mut large, mut small) = (Graph::new(), Graph::new());
    let ((x, y), (u, v)) = (record(&mut large, 5), record(&mut small, 2));
    let mut owner = large.compile(&device).expect("compiles");
    let mut guest = small.compile_beside(&owner, CompileOptions::default()).expect("compiles");
    for round in [1.0, 2.0] {
        owner.feed_f32(x, &[round; WORDS]).expect("fits");
        owner.run().expect("runs");
        assert_eq!(owner.read_f32(y).expect("kept"), [round * 243.0; WORDS]);
        guest.feed_f32(u, &[round; WORDS]).expect("fits");
        guest.run().expect("runs");
        assert_eq!(guest.read_f32(v).expect("kept"), [round * 9.0; WORDS]);
    }
    // The guest's results lie in the owner's slots.
    assert_ne!(owner.read_f32(y).expect("readable"), [2.0 * 243.0; WORDS]);
}

/// Between a convolution and the next, batch-norm and ReLU are computed as the next one reads: no kernel writes them.
#[test]
fn a_batch_norm_that_only_convolutions_read_has_no_tensor() {
    let (graph, ..) = training("resnet8", 1, 4);
    let live: Vec<&str> = graph.live_kernels().expect("plans").iter().map(Form::name).collect();
    let count = |name: &str| live.iter().filter(|&&other| other == name).count();
    // Nine convolutions with a batch-norm each, whose sums they take; three batch-norms are the first ones of a block,
    // and two are on its shortcut, and are computed as the sum is.
    assert_eq!((count("conv2d_forward"), count("batch_norm_stats"), count("batch_norm_apply")), (9, 0, 4));
    assert_eq!((count("batch_norm_stats_finalize"), count("batch_norm_grad_input")), (9, 9));
    // The gradients of those on shortcuts and of the last one, before the pooling, are no convolution's.
    assert_eq!(count("batch_norm_grad"), 3);
}

/// Nobody has to remember a call: an update knows from the beginning which weights decay, and the loss its scale.
#[test]
fn state_holds_what_training_begins_with() {
    let device = Device::cpu();
    let (mut graph, mut params) = (Graph::new(), Params::new());
    let declared = [("weight", true), ("bias", false)].map(|(name, decay)| {
        let spec = Spec::f32([3]);
        params.declare(name, spec.clone(), Kind::Trained { decay }).expect("new");
        let index = params.entries().len() - 1;
        let offset = params.entries()[index].offset;
        let values = params.values().clone();
        (index, graph.state(&values, offset, spec, true).expect("fits"))
    });
    let gradients = graph.backward(&[]).expect("nothing to do");
    graph.place_gradients(&params, &declared, &gradients).expect("zeros");
    let x = input(&mut graph);
    let (_, scale) = graph.scale_loss(&[x]).expect("floats");
    let update = graph.sgd(&params, SgdConfig { nesterov: false }, Some(scale)).expect("two parameters");
    let mut program = graph.compile(&device).expect("compiles");
    params.values().write(&device, 0, &vec![1.0f32.to_bits(); params.values().words()]).expect("fits");
    program.feed_f32(update.hyper, &[0.1, 0.9, 0.5]).expect("three settings");
    program.run().expect("runs");
    let values = declared.map(|(_, var)| program.read_f32(var).expect("state"));
    assert_eq!(values, [[0.95; 3], [1.0; 3]]);
    let [factor, ..] = update.loss_scale.expect("recorded").read(&device).expect("state");
    assert!(factor >= 1.0, "the loss is multiplied by {factor}");
}

/// Members run in the same dispatches: branches cost no more of them, but for the gate's.
#[test]
fn branches_cost_hardly_a_dispatch() {
    let dispatches = |branches| training("resnet32", branches, 128).0.live_kernels().expect("plans").len();
    let (one, three) = (dispatches(1), dispatches(3));
    eprintln!("dispatches of a training step of ResNet-32: {one} alone, {three} with 3 branches");
    assert!(three * 10 <= one * 11 + 100, "{three} dispatches with 3 branches, {one} alone");
}

#[test]
fn a_profile_counts_times_and_rates_every_family() {
    let mut devices = common::gpus(None);
    devices.push(Device::cpu());
    for device in devices {
        let mut graph = Graph::new();
        let x = graph.input("x", Spec::f32([1, 2, 4, 4, 4]));
        let w = graph.input("w", Spec::f32([1, 3, 3, 4, 8]));
        let y = graph.conv2d(x, w, Conv2d { padding: [1, 1], ..Conv2d::default() }).expect("fits");
        let words = graph.spec(y).words();
        let z = graph.launch_one(Scale { words, factor: 2.0 }, &[y]).expect("fits");
        let sum = graph.launch_one(Add { words }, &[y, z]).expect("fits");
        graph.keep(sum);
        let mut program = graph.compile(&device).expect("compiles");
        program.feed_f32(x, &[1.0; 128]).expect("fits");
        program.feed_f32(w, &[1.0; 288]).expect("fits");
        let rows = program.profile(3).unwrap_or_else(|error| panic!("{error}"));
        let mut counts: Vec<(&str, usize)> = rows.iter().map(|row| (row.kernel, row.count)).collect();
        counts.sort_unstable();
        assert_eq!(counts, [("conv2d_forward", 1), ("elementwise", 2)], "{}", device.name());
        for row in &rows {
            assert!(row.time.as_nanos() > 0, "{}: no time in {row:?}", device.name());
            assert!(row.gflops() > 0.0 && row.gigabytes() > 0.0, "{}: {row:?}", device.name());
        }
        let convolution = rows.iter().find(|row| row.kernel == "conv2d_forward").expect("counted above");
        assert_eq!(convolution.cost, Cost { flops: 2 * 256 * 36, bytes: 4 * (128 + 288 + 256) });
        assert!(rows.windows(2).all(|pair| pair[0].time >= pair[1].time), "the longest first");
        assert_eq!(program.read_f32(sum).expect("kept")[21 * 8], 3.0 * 36.0, "{}: a profile runs", device.name());
    }
}

/// A kernel that leaves its last element unwritten.
#[derive(Debug)]
struct Forgetful;

impl Kernel for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([WORDS])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([1, WORDS])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32()[..WORDS - 1].copy_from_slice(&inputs[0].f32()[..WORDS - 1]);
    }

    fn launch(&self, _: &Target) -> Launch {
        let wgsl = "@group(0) @binding(0) var<storage, read> x: array<f32>;
            @group(0) @binding(1) var<storage, read_write> y: array<f32>;
            @compute @workgroup_size(1) fn main() { for (var i = 0; i < 4; i++) { y[i] = x[i]; } }";
        Launch::new(wgsl, 1, 1, 1)
    }
}

#[test]
fn a_checked_run_finds_the_first_kernel_whose_output_is_not_finite() {
    let mut devices = common::gpus(None);
    devices.push(Device::cpu());
    for device in devices {
        let mut graph = Graph::new();
        let x = input(&mut graph);
        let fine = scale(&mut graph, x, 2.0);
        let overflows = scale(&mut graph, fine, 4.0);
        let last = add(&mut graph, overflows, x);
        graph.keep(last);
        let mut program = graph.compile(&device).expect("compiles");
        program.feed_f32(x, &[1.0; WORDS]).expect("fits");
        assert_eq!(program.run_checked().expect("runs"), None, "{}", device.name());
        assert_eq!(program.read_f32(last).expect("kept"), [9.0; WORDS], "a checked run runs");
        program.feed_f32(x, &[1.0, 2.0, 1e38, -1e38, 0.0]).expect("fits");
        let found = program.run_checked().expect("runs").expect("8e38 is no float");
        assert_eq!((found.dispatch, found.dispatches, found.output, found.element), (1, 3, 0, 2), "{found:?}");
        assert_says(
            &found.to_string(),
            &["elementwise f32[5] -> f32[5]", "dispatch 2 of 3", "output 0 holds inf at [2]"],
        );

        // Poison finds what a kernel does not write, even where an earlier run left a number.
        let mut graph = Graph::new();
        let x = input(&mut graph);
        let y = graph.launch_one(Forgetful, &[x]).expect("fits");
        graph.keep(y);
        let mut program = graph
            .compile_with(&device, CompileOptions { poison: true, ..CompileOptions::default() })
            .expect("compiles");
        let found = program.run_checked().expect("runs").expect("poison");
        assert_says(&found.to_string(), &["forgetful", "NaN at [0,4]"]);
    }
}

#[test]
fn banks_are_copied_on_the_device() {
    let mut devices = common::gpus(None);
    devices.push(Device::cpu());
    for device in devices {
        let bank = Bank::with_data("state", &device, &[1, 2, 3]).expect("fits");
        let copy = bank.alike();
        copy.copy_from(&device, &bank).expect("fits");
        bank.write(&device, 0, &[7]).expect("fits");
        assert_eq!(copy.read(&device).expect("readable")[..4], [1, 2, 3, 0], "{}", device.name());
        bank.copy_from(&device, &copy).expect("fits");
        assert_eq!(bank.read(&device).expect("readable")[..4], [1, 2, 3, 0]);
        assert_says(&message(Bank::new("empty").copy_from(&device, &bank)), &["empty", "0 words", "64 words"]);
    }
}

#[test]
fn reading_and_feeding_say_what_is_wrong() {
    let mut graph = Graph::new();
    let x = input(&mut graph);
    let between = scale(&mut graph, x, 2.0);
    let kept = scale(&mut graph, between, 2.0);
    graph.keep(kept);
    let mut program = graph.compile(&Device::cpu()).expect("compiles");
    assert_says(&message(program.read_f32(between)), &["not kept"]);
    assert_says(&message(program.feed_f32(between, &[0.0; WORDS])), &["not kept"]);
    assert_says(&message(program.feed_f32(x, &[0.0; 4])), &["tensor x", "f32[5]", "4 elements"]);
    assert_says(&message(program.feed_u32(x, &[0; WORDS])), &["tensor x", "f32[5]", "U32"]);
    assert_says(&message(program.read_u32(x)), &["tensor x", "f32[5]", "U32"]);
}

#[test]
fn clashing_shapes_are_named_with_their_operation() {
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([1, 2, 8, 8, 4]));
    let flat = graph.input("flat", Spec::f32([1, 2, 4]));
    let w = graph.input("w", Spec::f32([1, 3, 3, 5, 8]));
    let matrix = graph.input("matrix", Spec::f32([2, 5, 3]));
    let bias = graph.input("bias", Spec::f32([2, 3]));
    let vector = graph.input("vector", Spec::f32([1, 7]));

    let spec = Conv2d::default();
    assert_says(&message(graph.conv2d(x, w, spec)), &["conv2d", "4 channels", "[1, 3, 3, 5, 8]"]);
    assert_says(&message(graph.conv2d(flat, w, spec)), &["conv2d", "[1, 2, 4]"]);
    assert_says(&message(graph.conv2d(x, w, Conv2d { groups: 0, ..spec })), &["conv2d", "0 groups"]);
    let narrow = graph.input("narrow", Spec::f32([1, 1, 9, 4, 8]));
    assert_says(&message(graph.conv2d(x, narrow, spec)), &["conv2d", "too small", "1x9"]);
    assert_says(&message(graph.conv2d(x, narrow, Conv2d { stride: [0, 1], ..spec })), &["conv2d", "stride [0, 1]"]);
    assert_says(&message(graph.linear(flat, matrix, bias)), &["linear", "[1, 2, 4]", "[2, 5, 3]"]);
    assert_says(&message(graph.global_average_pool(flat)), &["global_average_pool", "[1, 2, 4]"]);
    assert_says(&message(graph.shortcut_a(x, 3, 2)), &["shortcut_a", "4 channels to 3"]);
    assert_says(&message(graph.shortcut_a(x, 8, 0)), &["shortcut_a", "stride 0"]);
    assert_says(&message(graph.set_shape(flat, [3, 3])), &["set_shape", "f32[1,2,4]", "[3, 3]"]);
    let norm = BatchNorm {
        gamma: vector,
        beta: vector,
        running_mean: vector,
        running_var: vector,
        residual: None,
        relu: false,
        eps: 1e-5,
        momentum: 0.1,
        training: true,
    };
    assert_says(&message(graph.batch_norm(x, norm)), &["batch_norm", "[1, 2, 8, 8, 4]", "[1, 7]"]);
    let four = graph.input("four", Spec::f32([1, 4]));
    let norm = BatchNorm { gamma: four, beta: four, running_mean: four, running_var: four, ..norm };
    let residual = BatchNorm { residual: Some(flat), ..norm };
    assert_says(&message(graph.batch_norm(x, residual)), &["batch_norm", "residual", "[1, 2, 4]"]);
    // Statistics are updated, so they must be state.
    assert_says(&message(graph.batch_norm(x, norm).and_then(|_| graph.compile(&Device::cpu()))), &["fed tensor"]);

    assert_says(
        &message(graph.launch(Add { words: 8 }, &[flat, x])),
        &["elementwise", "input 1", "f32[8]", "f32[1,2,8,8,4]"],
    );
    assert_says(&message(graph.launch(Add { words: 8 }, &[flat])), &["elementwise", "2 inputs", "got 1"]);
    assert_says(&message(graph.backward(&[(x, flat)])), &["gradient", "f32[1,2,4]", "f32[1,2,8,8,4]"]);
}

#[test]
fn a_bank_is_read_or_written_by_a_kernel_but_not_both() {
    let (mut graph, bank) = (Graph::new(), Bank::new("state"));
    let spec = Spec::f32([64]);
    let [a, b] = [0, 1].map(|_| {
        let offset = bank.reserve(64).expect("the bank is new");
        graph.state(&bank, offset, spec.clone(), false)
    });
    let (a, b) = (a.expect("fits"), b.expect("fits"));
    graph.launch_into(Copy { words: 64 }, &[a], &[Some(b)]).expect("recorded: the plan sees it");
    assert_says(&message(graph.compile(&Device::cpu())), &["elementwise", "bank state", "both read and written"]);

    let mut graph = Graph::new();
    assert_says(&message(graph.state(&bank, 128, spec.clone(), false)), &["state", "word 128", "128 words"]);
    assert_says(&message(graph.state(&bank, 3, spec.clone(), false)), &["word 3"]);
    graph.state(&bank, 0, spec, false).expect("fits");
    graph.compile(&Device::cpu()).expect("compiles");
    assert_says(&message(bank.reserve(1)), &["state", "cannot grow"]);
}

#[test]
fn an_unknown_device_is_refused_with_those_there_are() {
    let error = open("abacus").expect_err("no adapter is called that");
    assert!(matches!(error, Error::NoSuchDevice { .. }), "{error:?}");
    assert_says(&error.to_string(), &["abacus", "cpu"]);
}

/// A tensor above the adapter's limit, of which only the limit is ever allocated.
#[test]
fn a_tensor_above_the_binding_limit_is_refused() {
    const LARGEST_TRIED: u64 = 512 << 20;
    for device in common::gpus(None) {
        let limit = device.max_binding_bytes();
        if limit > LARGEST_TRIED {
            eprintln!("{}: not tried, since its limit of {} MiB is too much for a test", device.name(), limit >> 20);
            continue;
        }
        let mut graph = Graph::new();
        let huge = graph.launch_one(Fill { words: limit as usize / 4 + 1, value: 1.0 }, &[]).expect("recorded");
        graph.keep(huge);
        let mebibytes = format!("{} MiB", limit >> 20);
        assert_says(&message(graph.compile(&device)), &["elementwise", &mebibytes, "--batch"]);
    }
}

/// A kernel whose WGSL is what the test wants.
#[derive(Debug)]
struct Sketch(&'static str);

impl Kernel for Sketch {
    fn name(&self) -> &'static str {
        "sketch"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([WORDS])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 0)
    }

    fn reference(&self, _inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        outputs[0].f32().fill(0.0);
    }

    fn launch(&self, _: &Target) -> Launch {
        Launch::new(self.0, 0, 1, 1)
    }
}

#[test]
fn wgsl_that_does_not_compile_is_an_error_with_the_kernels_name() {
    let wrong = [
        ("it does not parse", "@compute fn main( {"),
        ("a type is wrong", "@compute @workgroup_size(1) fn main() { let x: f32 = true; }"),
        ("there is no entry point", "@compute @workgroup_size(1) fn other() {}"),
        ("the workgroup is too large", "@compute @workgroup_size(70000) fn main() {}"),
        (
            "a binding is missing in the launch",
            "@group(0) @binding(1) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(1) fn main() { y[0] = 1.0; }",
        ),
    ];
    let right = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1) fn main() { for (var i = 0; i < 5; i++) { y[i] = 3.0; } }";
    for device in common::gpus(None) {
        let compile = |wgsl| -> tensor::Result<_> {
            let mut graph = Graph::new();
            let y = graph.launch_one(Sketch(wgsl), &[])?;
            graph.keep(y);
            Ok((graph.compile(&device)?, y))
        };
        for (what, wgsl) in wrong {
            let error = compile(wgsl).map(|_| ()).expect_err(what);
            assert_says(&error.to_string(), &["kernel sketch", device.name()]);
        }
        // The device is none the worse for it.
        let (mut program, y) = compile(right).unwrap_or_else(|error| panic!("{error}"));
        program.run().expect("runs");
        assert_eq!(program.read_f32(y).expect("kept"), [3.0; WORDS]);
    }
}
