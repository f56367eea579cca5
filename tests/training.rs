//! Twenty steps of a small ensemble on the built-in dataset, batches made by the augmentation kernel: GPUs learn as
//! the CPU device does, and the same seed gives the same bits.

mod common;

use std::sync::OnceLock;

use data::{Augment, Augmentation, Dataset, LoadOptions, PADDING, Pick, Sampler, image_words, pack_image, shards};
use nets::Model;
use nets::resnet::{Block, CifarResNet, Shortcut};
use one::{Config, LossWeights, Metrics};
use tensor::optim::SgdConfig;
use tensor::{Bank, CompileOptions, DType, Device, Graph, Program, Spec, Target, Var};

const STEPS: usize = 20;
const BATCH: usize = 16;
const BRANCHES: usize = 3;
const IMAGES: usize = 96;

fn dataset() -> &'static Dataset {
    static DATASET: OnceLock<Dataset> = OnceLock::new();
    DATASET.get_or_init(|| {
        let options = LoadOptions { limit_train: Some(IMAGES), limit_test: Some(1), ..LoadOptions::default() };
        data::load("shapes", &options).expect("the dataset is built in")
    })
}

/// A compiled training step that makes its batches on the device.
struct Run {
    device: Device,
    model: Model,
    config: Config,
    step: one::Training,
    program: Program,
    picks: Var,
}

/// Everything that a run leaves behind.
#[derive(PartialEq)]
struct Outcome {
    losses: Vec<f64>,
    /// Parameters, velocities and running statistics.
    state: [Vec<u32>; 3],
}

impl Run {
    fn new(device: &Device) -> Self {
        Self::in_precision(device, DType::F32)
    }

    fn in_precision(device: &Device, precision: DType) -> Self {
        let data = dataset();
        let (mut graph, mut model) = (Graph::new(), Model::new());
        // Two shards: the second one's images are found, too.
        let (pixels, images) = (data.train.pixels_per_image(), data.train.len());
        let words = image_words(data.train.size);
        let shard_images = shards(images, words, images / 2 * words).expect("two shards suffice");
        let mut inputs = Vec::new();
        let mut first = 0;
        for &count in &shard_images {
            let mut packed = vec![0; count * words];
            let shard = &data.train.pixels[first * pixels..][..count * pixels];
            shard.chunks(pixels).zip(packed.chunks_mut(words)).for_each(|(image, packed)| pack_image(image, packed));
            let bank = Bank::with_data("images", device, &packed).expect("memory");
            let spec = Spec::u32([count, words]);
            inputs.push(graph.state(&bank, 0, spec, false).expect("the shard fills its bank"));
            first += count;
        }
        let bank = Bank::with_data("labels", device, &data.train.labels).expect("memory");
        inputs.push(graph.state(&bank, 0, Spec::u32([images]), false).expect("the labels fill their bank"));
        let picks = graph.input("picks", Spec::u32([BATCH, 2]));
        inputs.push(picks);
        let (size, mean, std) = (data.train.size, data.mean, data.std);
        let augment = Augment { shard_images, size, batch: BATCH, padding: PADDING, mean, std };
        let batch = graph.launch_as(precision, augment, &inputs).expect("the operands fit");
        let net = CifarResNet { block: Block::Basic, blocks: 1, width: 8, shortcut: Shortcut::B };
        let config = Config::paper(&net, BRANCHES, data.classes.len());
        let optimizer = SgdConfig { nesterov: true };
        let step = one::training(&mut graph, &mut model, &net, (batch[0], batch[1]), &config, optimizer)
            .expect("the network can be recorded");
        let program = graph
            .compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() })
            .unwrap_or_else(|error| panic!("{}: {error}", device.name()));
        Self { device: device.clone(), model, config, step, program, picks }
    }

    /// Starts anew from a seed and takes all steps.
    fn train(&mut self, seed: u64) -> Outcome {
        self.model.initialize(&self.device, seed).expect("initial values");
        if let Some(scale) = &self.step.optimizer.loss_scale {
            scale.reset(&self.device).expect("the state is written");
        }
        let sampler = Sampler::new(seed, IMAGES, BATCH, Augmentation::Padded).expect("several batches");
        let epochs = (0..).map(|epoch| sampler.epoch(epoch));
        let batches: Vec<Vec<Pick>> =
            epochs.flat_map(|epoch| epoch.iter().map(<[Pick]>::to_vec).collect::<Vec<_>>()).take(STEPS).collect();
        let losses = batches.iter().map(|picks| {
            self.program.feed_u32(self.picks, picks.as_flattened()).expect("picks");
            self.step.feed(&mut self.program, [0.02, 0.9, 1e-4], LossWeights::default(), BATCH).expect("settings");
            self.program.run().unwrap_or_else(|error| panic!("{error}"));
            let mut metrics = Metrics::new(&self.config);
            metrics.add(&self.step.take_totals(&self.device).expect("totals"), BATCH);
            metrics.loss(LossWeights::default())
        });
        let losses = losses.collect();
        let params = self.model.params();
        let banks = [params.values(), params.velocities(), params.running()];
        Outcome { losses, state: banks.map(|bank| bank.read(&self.device).expect("readable")) }
    }
}

fn assert_same_bits(what: &str, a: &Outcome, b: &Outcome) {
    assert_eq!(a.losses, b.losses, "{what}: losses");
    for (name, (a, b)) in ["parameters", "velocities", "running statistics"].iter().zip(a.state.iter().zip(&b.state)) {
        let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(a.len() == b.len() && differing == 0, "{what}: {differing} of {} words of {name} differ", a.len());
    }
}

/// The run that all others are compared with.
fn on_the_cpu() -> &'static Outcome {
    static OUTCOME: OnceLock<Outcome> = OnceLock::new();
    OUTCOME.get_or_init(|| Run::new(&Device::cpu()).train(7))
}

#[test]
fn the_cpu_device_learns_and_repeats_itself() {
    let first = on_the_cpu();
    let mut run = Run::new(&Device::cpu());
    let second = run.train(7);
    assert_same_bits("a second program", first, &second);
    assert_same_bits("the same program again", first, &run.train(7));
    assert!(run.train(8) != *first, "another seed must give another run");
    let (early, late): (f64, f64) = (first.losses[..5].iter().sum(), first.losses[STEPS - 5..].iter().sum());
    eprintln!("loss {:.3} to {:.3}", first.losses[0], first.losses[STEPS - 1]);
    assert!(late < early, "the loss does not fall: {:?}", first.losses);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let outcome = pool.install(|| Run::new(&Device::cpu()).train(7));
        assert_same_bits(&format!("{threads} threads"), on_the_cpu(), &outcome);
    }
}

#[test]
fn gpus_learn_as_the_cpu_device_does_and_repeat_themselves() {
    for device in common::gpus(None) {
        let mut run = Run::new(&device);
        let first = run.train(7);
        let mut worst = 0.0f64;
        for (step, (got, expected)) in first.losses.iter().zip(&on_the_cpu().losses).enumerate() {
            let error = (got - expected).abs() / expected;
            worst = worst.max(error);
            assert!(error < 0.01, "{}: loss of step {step} is {got}, on the CPU {expected}", device.name());
        }
        eprintln!("{}: loss curve within {worst:.1e} of the CPU's", device.name());
        assert_same_bits(device.name(), &first, &run.train(7));
    }
}

/// Activations in 16 bits: every device learns along the curve of 32 bits, and repeats itself; GPUs both with 16-bit
/// floats in shaders, where the adapter has them, and with two of them in a word.
#[test]
fn mixed_precision_learns_along_the_same_curve_and_repeats_itself() {
    let mut devices = vec![Device::cpu()];
    for target in [Target::HARDWARE, Target::SOFTWARE] {
        let floats = |device: &Device| device.target().is_some_and(|own| own.shader_f16);
        let natural = common::gpus(None).into_iter().filter(|device| !target.shader_f16 || floats(device));
        let names: Vec<String> = natural.map(|device| device.name().to_owned()).collect();
        devices
            .extend(common::gpus(Some(target)).into_iter().filter(|device| names.iter().any(|n| n == device.name())));
    }
    for device in devices {
        let mut run = Run::in_precision(&device, DType::F16);
        let first = run.train(7);
        let mut worst = 0.0f64;
        for (step, (got, expected)) in first.losses.iter().zip(&on_the_cpu().losses).enumerate() {
            let error = (got - expected).abs() / expected;
            worst = worst.max(error);
            assert!(error < 0.03, "{}: loss of step {step} is {got}, in 32 bits {expected}", device.name());
        }
        let scale = run.step.loss_scale(&device).expect("readable").expect("the loss is scaled");
        eprintln!("{}, 16 bits: loss curve within {worst:.1e} of 32 bits, scale {scale:?}", device.name());
        assert!(scale[1] + scale[3] > 0.0 && scale[3] < 5.0, "{}: loss scale {scale:?}", device.name());
        assert!(first != *on_the_cpu(), "16 bits must leave a trace");
        assert_same_bits(device.name(), &first, &run.train(7));
    }
}
