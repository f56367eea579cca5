//! Parameters and operations of networks, against the table of the method's page: every digit given there.

use nets::resnet::Shortcut;
use nets::{Mode, Model, architecture};
use one::Config;
use tensor::{Graph, Spec};

/// Deployed parameters (without branches), training parameters with the gate, and forward FLOPs of one image.
fn cost(name: &str, shortcut: Shortcut, branches: usize, classes: usize) -> (usize, usize, u64) {
    let architecture = architecture(name, shortcut).expect("the network is known");
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let image = graph.input("image", Spec::f32([1, 1, 32, 32, 4]));
    let config = Config::paper(architecture.as_ref(), branches, classes);
    let heads = one::record(&mut graph, &mut model, architecture.as_ref(), Mode::Training, image, &config)
        .expect("the network can be recorded");
    (model.parameters(Some(0)), model.parameters(None), heads.macs.flops())
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
    assert_eq!(format!("{:.2}", cost("resnet32", Shortcut::A, 3, 100).2 as f64 / 1e8), "2.27");
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
