//! Kernels of a network's training step, for benches only.

use std::collections::HashMap;

use nets::Model;
use nets::resnet::{CifarResNet, Shortcut};
use one::Config;
use tensor::optim::SgdConfig;
use tensor::{DType, Form, Graph, Spec};

use crate::{Case, Fill};

/// Each different kernel in a training step of ResNet-32 with three branches, and how often it occurs there.
pub fn layers(batch: usize) -> Vec<Case> {
    let net = CifarResNet::new(32, Shortcut::B).expect("32 is a valid depth");
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let image = graph.input("image", Spec::f32([1, batch, 32, 32, 4]));
    let labels = graph.input("labels", Spec::u32([batch]));
    let config = Config::paper(&net, 3, 10);
    let optimizer = SgdConfig { nesterov: true };
    one::training(&mut graph, &mut model, &net, (image, labels), &config, optimizer).expect("the network is valid");

    let mut index = HashMap::new();
    let mut kernels: Vec<(Form, usize)> = Vec::new();
    for kernel in graph.live_kernels().expect("the network is valid") {
        // Variants of the same shapes differ in their fields.
        let i = *index.entry(format!("{kernel:?}")).or_insert_with(|| {
            kernels.push((kernel, 0));
            kernels.len() - 1
        });
        kernels[i].1 += 1;
    }
    kernels.into_iter().map(|(kernel, count)| case(kernel, count)).collect()
}

/// Values that suit every operand: positive where a root is taken, labels that are valid classes.
fn case(kernel: Form, count: usize) -> Case {
    let fill = |spec: &Spec| match spec.dtype {
        DType::F32 | DType::F16 => Fill::Uniform(0.5, 1.5),
        DType::U32 => Fill::Below(10),
    };
    let inputs = kernel.inputs().iter().map(fill).collect();
    let outputs = kernel.outputs();
    let updated = outputs.iter().enumerate().filter(|(i, _)| kernel.updates(*i));
    let updates = updated.map(|(_, spec)| fill(spec)).collect();
    let name = format!("{} (x{count})", kernel.describe());
    Case { name, kernel, inputs, updates, tolerance: 0.0, quick: false }
}
