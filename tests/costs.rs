//! Parameters and operations of networks, against the table of the method's page: every digit given there.

use nets::resnet::Shortcut;
use nets::{Macs, Mode, Model, architecture};
use one::Config;
use tensor::{Graph, Spec};

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
