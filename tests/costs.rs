//! Costs of networks: parameters and operations against the table of the method's page, every digit given there;
//! memory traffic and dispatches of a step against what an engine that fuses well needs.

use std::collections::BTreeMap;

use nets::resnet::Shortcut;
use nets::{Macs, Mode, Model, architecture};
use one::Config;
use tensor::optim::SgdConfig;
use tensor::{DType, Form, Graph, Spec, Target};

/// A network at its own image size, and its multiply-accumulates.
fn record(name: &str, shortcut: Shortcut, branches: usize, classes: usize) -> (Model, Macs) {
    let architecture = architecture(name, shortcut).expect("the network is known");
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let size = architecture.image_size();
    let image = graph.input("image", Spec::f32([1, 1, size, size, 4]));
    let config = Config::paper(architecture.as_ref(), branches, classes);
    let heads = one::record(&mut graph, &mut model, architecture.as_ref(), Mode::Training, image, &config)
        .expect("the network can be recorded");
    (model, heads.macs)
}

/// Deployed parameters (without branches), training parameters with the gate, and forward FLOPs of one image.
fn cost(name: &str, shortcut: Shortcut, branches: usize, classes: usize) -> (usize, usize, u64) {
    let (model, macs) = record(name, shortcut, branches, classes);
    (model.parameters(Some(0)), model.parameters(None), macs.flops())
}

/// In units of 1e8, rounded to four digits behind the point.
fn hundred_millions(flops: u64) -> String {
    format!("{:.4}", flops as f64 / 1e8)
}

#[test]
fn deployed_parameters() {
    let table = [
        ("resnet32", 100, 472_756),
        ("resnet32", 10, 466_906),
        ("resnet110", 100, 1_736_564),
        ("resnet110", 10, 1_730_714),
        ("resnet164", 100, 1_727_284),
        ("resnet164", 10, 1_704_154),
        ("resnext29-8x64d", 10, 34_426_698),
        ("densenet-bc-190-40", 10, 25_624_430),
        ("resnet18", 1000, 11_689_512),
        ("resnext50-32x4d", 1000, 25_028_904),
        // As their papers and torchvision give them.
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
        ("densenet-bc-100-12", 10, 769_162),
    ];
    for (name, classes, parameters) in table {
        assert_eq!(cost(name, Shortcut::B, 1, classes).0, parameters, "{name}, {classes} classes");
        assert_eq!(cost(name, Shortcut::B, 3, classes).0, parameters, "{name}, {classes} classes, branch 0 of 3");
    }
}

#[test]
fn operations_alone_and_with_three_branches() {
    let table =
        [("resnet32", "1.3826", "2.2846"), ("resnet110", "5.0631", "8.4188"), ("resnet164", "4.9534", "8.2889")];
    for (name, single, three) in table {
        assert_eq!(hundred_millions(cost(name, Shortcut::B, 1, 100).2), single, "{name}");
        assert_eq!(hundred_millions(cost(name, Shortcut::B, 3, 100).2), three, "{name}, 3 branches");
    }
    let table = [
        ("resnext29-8x64d", 100, "107.75", "182.91"),
        ("densenet-bc-190-40", 100, "186.04", "210.30"),
        ("resnet18", 1000, "36.28", "52.74"),
        ("resnext50-32x4d", 1000, "84.61", "119.31"),
    ];
    for (name, classes, single, three) in table {
        let rounded = |branches| format!("{:.2}", cost(name, Shortcut::B, branches, classes).2 as f64 / 1e8);
        assert_eq!((rounded(1).as_str(), rounded(3).as_str()), (single, three), "{name}");
    }
    assert_eq!(format!("{:.2}", cost("resnet32", Shortcut::A, 3, 100).2 as f64 / 1e8), "2.27");
}

#[test]
fn channels_at_the_gate() {
    let table = [
        ("resnet32", 32),
        ("resnext29-8x64d", 512),
        ("densenet-bc-190-40", 950),
        ("resnet18", 256),
        ("resnext50-32x4d", 1024),
    ];
    for (name, channels) in table {
        let model = record(name, Shortcut::B, 3, 10).0;
        let gate = model.params().get("gate.fc.weight").expect("a gated network");
        assert_eq!(gate.spec.shape, [1, channels, 3], "{name}");
    }
}

#[test]
fn resnet32_by_number_of_branches() {
    let flops = ["1.3826", "1.8336", "2.2846", "2.7357", "3.1867"];
    let millions = ["0.473", "0.833", "1.193", "1.553", "1.914"];
    for (branches, (flops, millions)) in (1..).zip(flops.iter().zip(millions)) {
        let (_, training, operations) = cost("resnet32", Shortcut::B, branches, 100);
        assert_eq!(hundred_millions(operations), *flops, "{branches} branches");
        assert_eq!(format!("{:.3}", training as f64 / 1e6), millions, "{branches} branches");
    }
}

/// The kernels of a step of ResNet-32 with three branches at batch 128.
fn step_kernels(training: bool, dtype: DType) -> Vec<Form> {
    let net = architecture("resnet32", Shortcut::B).expect("known");
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let image = graph.input("image", Spec::new(dtype, [1, 128, 32, 32, 4]));
    let labels = graph.input("labels", Spec::u32([128]));
    let config = Config::paper(net.as_ref(), 3, 100);
    let operands = (image, labels);
    if training {
        let sgd = SgdConfig { nesterov: true };
        one::training(&mut graph, &mut model, net.as_ref(), operands, &config, sgd).expect("recorded");
    } else {
        one::evaluation(&mut graph, &mut model, net.as_ref(), operands, &config, 10_000).expect("recorded");
    }
    graph.live_kernels().expect("planned")
}

/// Bytes are those of every kernel's operands, each read once and written once (updated state both), the partial sums
/// of batch-norms and of weights included; what a kernel reads again, such as the rows around a convolution's tile, is
/// its cache's matter. The unit is all outputs of convolutions together, those of the three branches and of the
/// shortcuts included. An engine that runs each operation by itself moves 22 times that.
#[test]
fn bytes_of_a_training_step() {
    let kernels = step_kernels(true, DType::F32);
    let outputs: usize = kernels
        .iter()
        .filter(|kernel| kernel.name() == "conv2d_forward")
        .map(|kernel| kernel.outputs()[0].bytes())
        .sum();
    let bytes: u64 = kernels.iter().map(|kernel| kernel.cost().bytes).sum();
    let times = bytes as f64 / outputs as f64;
    let mut families: BTreeMap<&str, u64> = BTreeMap::new();
    for kernel in &kernels {
        *families.entry(kernel.name()).or_default() += kernel.cost().bytes;
    }
    eprintln!("{} MB of outputs; a training step moves {times:.2} times that:", outputs / 1_000_000);
    for (family, bytes) in families {
        eprintln!("  {family:<28} {:.2}", bytes as f64 / outputs as f64);
    }
    assert!(times <= 14.0, "a training step moves {times:.2} times the convolutions' outputs");

    let halves: u64 = step_kernels(true, DType::F16).iter().map(|kernel| kernel.cost().bytes).sum();
    let share = halves as f64 / bytes as f64;
    eprintln!("  with activations of 16 bits, {share:.3} of these bytes");
    assert!(share <= 0.6, "16 bits move {share:.3} of the bytes that 32 bits do");
}

/// As a GPU runs them: there, tiles take the sums that batch-norms need.
#[test]
fn dispatches_of_a_step() {
    let dispatches = |training| -> usize {
        let passes = |kernel: &Form| kernel.launch(&Target::HARDWARE).passes().count();
        step_kernels(training, DType::F32).iter().map(passes).sum()
    };
    let (training, evaluation) = (dispatches(true), dispatches(false));
    eprintln!("dispatches: {training} in training, {evaluation} in evaluation");
    assert!(training <= 230, "{training} dispatches in training");
    assert!(evaluation <= 80, "{evaluation} dispatches in evaluation");
}
