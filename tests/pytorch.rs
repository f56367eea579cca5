//! Whole networks against PyTorch: the golden files of `tools/goldens.py` hold every logit, loss term and gradient of a
//! training step in double precision, the running statistics after it, and the loss over ten steps.

mod common;

use std::collections::HashMap;
use std::path::Path;

use nets::densenet::DenseNetBc;
use nets::imagenet::{self, ImageNetResNet};
use nets::resnet::{Block, CifarResNet, Shortcut};
use nets::resnext::CifarResNeXt;
use nets::{Architecture, Model, NamedTensor};
use one::kernels::distillation_loss::TERMS;
use one::{Config, LossWeights, Metrics, Teacher};
use safetensors::{Dtype, SafeTensors};
use tensor::optim::SgdConfig;
use tensor::{CompileOptions, Device, Graph, Kind, Program, Spec, Var};

/// A golden file: what the network is, and its tensors.
struct Golden {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let bytes = std::fs::read(&path).expect("golden files are committed in tests/fixtures");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a golden file is a safetensors file");
        let metadata = header.metadata().clone().expect("a golden file has metadata");
        let file = SafeTensors::deserialize(&bytes).expect("a golden file is a safetensors file");
        let tensors = file.iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => {
                    view.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4")))).collect()
                }
                Dtype::F64 => view.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().expect("8"))).collect(),
                Dtype::I32 => {
                    view.data().chunks(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().expect("4")))).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self { tensors: tensors.collect(), metadata }
    }

    fn text(&self, key: &str) -> &str {
        &self.metadata[key]
    }

    fn number(&self, key: &str) -> usize {
        self.text(key).parse().expect("a whole number in the metadata")
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name} in the golden file")).1
    }

    fn architecture(&self) -> Box<dyn Architecture> {
        let shortcut = if self.text("shortcut") == "a" { Shortcut::A } else { Shortcut::B };
        match self.metadata.get("family").map(String::as_str) {
            Some("resnext") => Box::new(CifarResNeXt {
                blocks: self.number("blocks"),
                cardinality: self.number("cardinality"),
                width: self.number("width"),
                stem: self.number("stem"),
                shortcut,
            }),
            Some("densenet") => Box::new(DenseNetBc { layers: self.number("layers"), growth: self.number("growth") }),
            Some("imagenet") => Box::new(ImageNetResNet {
                block: imagenet::Block::Basic,
                blocks: [self.number("blocks"); 4],
                stem: self.number("stem"),
                shortcut,
            }),
            _ => Box::new(CifarResNet {
                block: if self.text("block") == "basic" { Block::Basic } else { Block::Bottleneck },
                blocks: self.number("blocks"),
                width: self.number("width"),
                shortcut,
            }),
        }
    }

    fn config(&self) -> Config {
        let teacher = match self.text("teacher") {
            "gate" => Teacher::Gated,
            "mean" => Teacher::Mean,
            _ => Teacher::None,
        };
        let branches = self.number("branches");
        let stages = self.architecture().stages();
        let fan_out = stages.iter().position(|stage| stage == self.text("fan_out")).expect("a stage");
        Config { branches, fan_out, classes: 10, temperature: 3.0, teacher, distill: branches > 1 }
    }

    /// Shape `[1, N, H, W, 4]` of the image.
    fn image_shape(&self) -> [usize; 5] {
        let [n, _, h, w] = self.tensors["input"].0[..] else { panic!("images have four axes in PyTorch") };
        [1, n, h, w, 4]
    }

    /// The image from NCHW.
    fn image(&self) -> Vec<f32> {
        let [_, batch, height, width, _] = self.image_shape();
        let area = height * width;
        let mut image = vec![0.0; batch * area * 4];
        for (i, &value) in self.values("input").iter().enumerate() {
            let (n, c, pixel) = (i / (3 * area), i / area % 3, i % area);
            image[(n * area + pixel) * 4 + c] = value as f32;
        }
        image
    }

    /// The initial parameters and running statistics, under the model's names.
    fn state(&self) -> Vec<NamedTensor> {
        let outputs = ["input", "labels", "gate", "teacher_logits", "loss_curve"];
        let is_state = |name: &str| {
            !outputs.contains(&name)
                && !["grad.", "after.", "eval.", "logits.", "loss"].iter().any(|prefix| name.starts_with(prefix))
        };
        let tensors = self.tensors.iter().filter(|(name, _)| is_state(name));
        tensors
            .map(|(name, (shape, values))| NamedTensor {
                name: name.clone(),
                shape: shape.clone(),
                data: values.iter().map(|&value| value as f32).collect(),
            })
            .collect()
    }
}

/// A golden network on a device, its initial state loaded.
struct Run {
    golden: Golden,
    model: Model,
    step: one::Training,
    program: Program,
    gradients: Vec<(String, Var)>,
}

impl Run {
    fn new(name: &str, device: &Device) -> Self {
        let golden = Golden::open(name);
        let (architecture, config) = (golden.architecture(), golden.config());
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let batch = golden.number("batch");
        let image = graph.input("image", Spec::f32(golden.image_shape()));
        let labels = graph.input("labels", Spec::u32([batch]));
        let sgd = SgdConfig { nesterov: true };
        let step = one::training(&mut graph, &mut model, &*architecture, (image, labels), &config, sgd)
            .expect("the golden network can be recorded");
        graph.keep(step.heads.logits);
        graph.keep(step.terms);
        let params = model.params();
        let trained = params.entries().iter().filter(|param| matches!(param.kind, Kind::Trained { .. }));
        let gradients: Vec<(String, Var)> = trained
            .map(|param| {
                let var = graph.state(params.gradients(), param.offset, param.spec.clone(), false);
                (param.name.clone(), var.expect("gradients lie where their parameters do"))
            })
            .collect();
        let mut program = graph
            .compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() })
            .unwrap_or_else(|error| panic!("{}: {error}", device.name()));
        model.initialize(device, 0).expect("initial values");
        model.load(device, &golden.state()).unwrap_or_else(|error| panic!("{name}: {error}"));
        program.feed_f32(image, &golden.image()).expect("image");
        let classes: Vec<u32> = golden.values("labels").iter().map(|&label| label as u32).collect();
        program.feed_u32(labels, &classes).expect("labels");
        Self { golden, model, step, program, gradients }
    }

    /// One step at this learning rate; returns the mean loss before its update.
    fn step(&mut self, rate: f32) -> f64 {
        let batch = self.golden.number("batch");
        self.step.feed(&mut self.program, [rate, 0.9, 1e-4], LossWeights::default(), batch).expect("settings");
        self.program.run().expect("a step runs");
        let totals = self.step.take_totals(self.program.device()).expect("totals");
        let mut metrics = Metrics::new(&self.golden.config());
        metrics.add(&totals, batch);
        metrics.loss(LossWeights::default())
    }

    /// A device tensor with its member axis, as PyTorch's tensor of each branch: name and values.
    fn by_name(&self, tensors: Vec<NamedTensor>) -> HashMap<String, Vec<f32>> {
        tensors.into_iter().map(|tensor| (tensor.name, tensor.data)).collect()
    }
}

/// Largest difference relative to the largest magnitude of the golden tensor (at least `floor`).
fn difference(got: &[f32], want: &[f64], floor: f64) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(floor, |max, value| max.max(value.abs()));
    let worst = got.iter().zip(want).map(|(&g, &w)| {
        assert!(g.is_finite(), "got {g} for {w}");
        (f64::from(g) - w).abs()
    });
    worst.fold(0.0, f64::max) / scale
}

/// Logits, loss, every gradient and the running statistics of one step.
fn one_step(name: &str, device: &Device) {
    let mut run = Run::new(name, device);
    // At rate 0 the update leaves the parameters, so that the gradients can be read through the velocities as well.
    let loss = run.step(0.0);
    let golden = &run.golden;
    let want = golden.values("loss")[0];
    assert!((loss - want).abs() < 1e-5 * want.abs(), "{name}: loss {loss}, PyTorch {want}");

    let logits = run.program.read_f32(run.step.heads.logits).expect("logits were kept");
    let branches = golden.number("branches");
    for (i, branch) in logits.chunks(logits.len() / branches).enumerate() {
        let error = difference(branch, golden.values(&format!("logits.{i}")), 1e-6);
        assert!(error < 1e-5, "{name}: logits of branch {i} differ by {error:.2e}");
    }
    let terms = run.program.read_f32(run.step.terms).expect("terms were kept");
    assert_eq!(terms.len(), golden.number("batch") * (branches + 1) * TERMS);

    // Gradients lie in the parameters' layout: written into the velocities, they are exported under PyTorch's names.
    let device = run.program.device().clone();
    for (param, var) in &run.gradients {
        let values = run.program.read_f32(*var).expect("gradients are state");
        let param = run.model.params().get(param).expect("the parameter exists");
        let words: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
        run.model.params().velocities().write(&device, param.offset, &words).expect("velocities");
    }
    let gradients = run.by_name(run.model.velocities(&device).expect("velocities"));
    let expected = golden.tensors.keys().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(gradients.len(), expected, "{name}: number of gradients");
    let mut worst: (f64, String) = (0.0, String::new());
    for (param, values) in &gradients {
        // A bias in front of a batch-norm has no gradient but rounding; it is compared with the largest of its kind.
        let floor = if param == "gate.fc.bias" { 1e-2 } else { 1e-7 };
        let error = difference(values, golden.values(&format!("grad.{param}")), floor);
        if error > worst.0 {
            worst = (error, param.clone());
        }
    }
    eprintln!("{name} on {}: largest gradient error {:.2e} ({})", device.name(), worst.0, worst.1);
    assert!(worst.0 < 1e-4, "{name}: gradient of {} differs by {:.2e}", worst.1, worst.0);

    let state = run.by_name(run.model.state(&device).expect("state"));
    let after = golden.tensors.keys().filter_map(|name| name.strip_prefix("after."));
    for statistic in after {
        let error = difference(&state[statistic], golden.values(&format!("after.{statistic}")), 1e-3);
        assert!(error < 1e-5, "{name}: {statistic} differs by {error:.2e}");
    }
}

fn loss_curve(name: &str, device: &Device) {
    let mut run = Run::new(name, device);
    let want = run.golden.values("loss_curve").to_vec();
    let mut worst = 0.0f64;
    for (step, want) in want.iter().enumerate() {
        let got = run.step(0.05);
        let error = (got - want).abs() / want;
        worst = worst.max(error);
        assert!(error < 1e-3, "{name} on {}: loss of step {step} is {got}, PyTorch {want}", device.name());
    }
    eprintln!("{name} on {}: loss curve within {worst:.2e}", device.name());
}

fn evaluation(name: &str, device: &Device) {
    let golden = Golden::open(name);
    let (architecture, config) = (golden.architecture(), golden.config());
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let batch = golden.number("batch");
    let image = graph.input("image", Spec::f32(golden.image_shape()));
    let labels = graph.input("labels", Spec::u32([batch]));
    let step =
        one::evaluation(&mut graph, &mut model, &*architecture, (image, labels), &config, batch).expect("recorded");
    graph.keep(step.heads.logits);
    let mut program =
        graph.compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() }).expect("compiles");
    model.load(device, &golden.state()).expect("the golden state fits");
    program.feed_f32(image, &golden.image()).expect("image");
    program.feed_u32(labels, &vec![0; batch]).expect("labels");
    step.feed(&mut program, LossWeights::default(), 0, batch).expect("settings");
    program.run().expect("runs");
    let logits = program.read_f32(step.heads.logits).expect("kept");
    for (i, branch) in logits.chunks(logits.len() / config.branches).enumerate() {
        let error = difference(branch, golden.values(&format!("eval.logits.{i}")), 1e-6);
        assert!(error < 1e-5, "{name} on {}: evaluation logits of branch {i} differ by {error:.2e}", device.name());
    }
}

const FILES: [&str; 6] = [
    "one_resnet8.safetensors",
    "one_resnet8_a.safetensors",
    "bottleneck.safetensors",
    "resnext.safetensors",
    "densenet.safetensors",
    "imagenet.safetensors",
];

#[test]
fn a_step_on_the_cpu_device_is_pytorchs() {
    FILES.iter().for_each(|name| one_step(name, &Device::cpu()));
}

#[test]
fn evaluation_on_the_cpu_device_is_pytorchs() {
    FILES.iter().for_each(|name| evaluation(name, &Device::cpu()));
}

#[test]
fn ten_steps_on_the_cpu_device_are_pytorchs() {
    loss_curve(FILES[0], &Device::cpu());
}

#[test]
fn gpus_are_pytorchs_too() {
    for device in common::gpus(None) {
        FILES.iter().for_each(|name| one_step(name, &device));
        FILES.iter().for_each(|name| evaluation(name, &device));
        loss_curve(FILES[0], &device);
    }
}
