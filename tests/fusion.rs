//! A fused step against the same step as it was recorded: the loss, every gradient and every running statistic, of
//! every architecture on every device. Tensors that somebody wants to see are computed either way.

mod common;

use half::f16;
use nets::densenet::DenseNetBc;
use nets::imagenet::{self, ImageNetResNet};
use nets::resnet::{Block, CifarResNet, Shortcut};
use nets::resnext::CifarResNeXt;
use nets::{Architecture, Model};
use one::{Config, LossWeights, Metrics};
use tensor::ops::{BatchNorm, Conv2d};
use tensor::optim::SgdConfig;
use tensor::{Bank, CompileOptions, DType, Device, Graph, Kind, Param, Rng, Spec, Var};

const BATCH: usize = 6;
const CLASSES: usize = 10;
const SIZE: usize = 16;
/// Tensors whose values are smaller than this share of the largest of their kind are held to that share: they are
/// differences of such values, such as the gradient of a bias before a normalisation.
const FLOOR: f32 = 1e-2;
/// Of the largest element of a tensor. Both steps take the same sums, some of them in other chunks; the longest has
/// 1536 terms, and the depth of the networks adds to it.
const TOLERANCE: f64 = 2e-4;
/// The same for the loss where activations are stored in 16 bits.
const HALVES: f64 = 2e-3;

fn devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu()];
    devices.extend(common::gpus(None));
    devices
}

fn architectures() -> Vec<(&'static str, Box<dyn Architecture>)> {
    let (width, shortcut) = (8, Shortcut::B);
    let basic = |shortcut| Box::new(CifarResNet { block: Block::Basic, blocks: 1, width, shortcut });
    vec![
        ("ResNet, shortcuts of convolutions", basic(Shortcut::B)),
        ("ResNet, shortcuts without parameters", basic(Shortcut::A)),
        ("ResNet of bottlenecks", Box::new(CifarResNet { block: Block::Bottleneck, blocks: 1, width, shortcut })),
        ("ResNeXt", Box::new(CifarResNeXt { blocks: 1, cardinality: 2, width: 8, stem: 8, shortcut })),
        ("DenseNet-BC", Box::new(DenseNetBc { layers: 2, growth: 4 })),
        (
            "ResNet for ImageNet",
            Box::new(ImageNetResNet { block: imagenet::Block::Basic, blocks: [1; 4], stem: 8, shortcut }),
        ),
    ]
}

/// The architectures to compare on a device. A software adapter compiles the pipelines of one in half a minute, and so
/// runs the first, or all if the environment asks for it.
fn compared_on(device: &Device) -> Vec<(&'static str, Box<dyn Architecture>)> {
    let all = architectures();
    let few = device.is_gpu() && std::env::var_os("ONFLY_ALL_VARIANTS").is_none();
    let count = if few { 1 } else { all.len() };
    all.into_iter().take(count).collect()
}

/// State after a step.
struct Step {
    loss: f64,
    gradients: Vec<f32>,
    running: Vec<f32>,
    params: Vec<Param>,
    fired: Vec<&'static str>,
    dispatches: usize,
}

/// Noise as memory holds it.
fn pixels(dtype: DType) -> Vec<u32> {
    let mut rng = Rng::new(&[0xf05e]);
    let values = (0..BATCH * SIZE * SIZE * 4).map(|i| if i % 4 == 3 { 0.0 } else { rng.normal() as f32 });
    match dtype {
        DType::F16 => bytemuck::pod_collect_to_vec(&values.map(f16::from_f32).collect::<Vec<f16>>()),
        _ => values.map(f32::to_bits).collect(),
    }
}

fn step(device: &Device, net: &dyn Architecture, config: &Config, dtype: DType, fuse: bool) -> Step {
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let images = Bank::with_data("images", device, &pixels(dtype)).expect("there is memory");
    let image = graph.state(&images, 0, Spec::new(dtype, [1, BATCH, SIZE, SIZE, 4]), false).expect("fits");
    let labels = graph.input("labels", Spec::u32([BATCH]));
    let sgd = SgdConfig { nesterov: true };
    let step = one::training(&mut graph, &mut model, net, (image, labels), config, sgd).expect("recorded");
    let mut program = graph
        .compile_with(device, CompileOptions { fuse, poison: true })
        .unwrap_or_else(|error| panic!("{}: {error}", device.name()));
    model.initialize(device, 3).expect("initial values");
    let of_class = |i: usize| (i * 7 % CLASSES) as u32;
    program.feed_u32(labels, &(0..BATCH).map(of_class).collect::<Vec<u32>>()).expect("labels");
    step.feed(&mut program, [0.05, 0.9, 1e-4], LossWeights::default(), BATCH).expect("settings");
    program.run().unwrap_or_else(|error| panic!("{error}"));
    let mut metrics = Metrics::new(config);
    metrics.add(&step.take_totals(device).expect("totals"), BATCH);
    let read = |bank: &Bank| -> Vec<f32> { bytemuck::cast_vec(bank.read(device).expect("read")) };
    Step {
        loss: metrics.loss(LossWeights::default()),
        gradients: read(model.params().gradients()),
        running: read(model.params().running()),
        params: model.params().entries().to_vec(),
        fired: program.fired().keys().copied().collect(),
        dispatches: program.work().len(),
    }
}

/// The largest error of any tensor, as a share of its largest element, with its name.
fn worst(fused: &Step, plain: &Step) -> (f64, String) {
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let floors = [&plain.running, &plain.gradients].map(|all| FLOOR * largest(all));
    let of = |param: &Param| {
        let (fused, plain, floor) = match param.kind {
            Kind::Running => (&fused.running, &plain.running, floors[0]),
            _ => (&fused.gradients, &plain.gradients, floors[1]),
        };
        let range = param.offset..param.offset + param.spec.words();
        let largest = largest(&plain[range.clone()]).max(floor);
        let errors = fused[range.clone()].iter().zip(&plain[range]).map(|(a, b)| f64::from((a - b).abs() / largest));
        let error = errors.fold(0.0, |most, error| if error.is_nan() { f64::INFINITY } else { f64::max(most, error) });
        (error, param.name.clone())
    };
    fused.params.iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0)).expect("networks have parameters")
}

#[test]
fn a_fused_step_is_the_recorded_one() {
    let mut rules = std::collections::BTreeSet::new();
    for device in devices() {
        for (name, net) in compared_on(&device) {
            let shared = Config::paper(net.as_ref(), 3, CLASSES);
            let methods = [("ONE", shared), ("DML", Config::mutual(2, CLASSES))];
            for (what, config) in methods.into_iter().take(if device.is_gpu() { 1 } else { 2 }) {
                let [fused, plain] = [true, false].map(|fuse| step(&device, net.as_ref(), &config, DType::F32, fuse));
                let (error, tensor) = worst(&fused, &plain);
                let place = format!("{}: {name}, {what}", device.name());
                eprintln!(
                    "{place}: {} dispatches instead of {}, error {error:.1e} in {tensor}",
                    fused.dispatches, plain.dispatches
                );
                assert!(error <= TOLERANCE, "{place}: {tensor} differs by {error:.1e} of its largest element");
                let difference = (fused.loss - plain.loss).abs() / plain.loss;
                assert!(difference <= 1e-5, "{place}: loss {} instead of {}", fused.loss, plain.loss);
                assert!(plain.fired.is_empty(), "{place}: nothing was to be fused");
                assert!(fused.dispatches < plain.dispatches, "{place}: nothing was fused");
                rules.extend(fused.fired);
            }
        }
    }
    assert_eq!(rules.len(), tensor::fuse::names().count(), "some rule never fired: {rules:?}");
}

#[test]
fn so_it_is_in_16_bits() {
    for device in devices() {
        for (name, net) in compared_on(&device) {
            let config = Config::paper(net.as_ref(), 3, CLASSES);
            let [fused, plain] = [true, false].map(|fuse| step(&device, net.as_ref(), &config, DType::F16, fuse));
            let difference = (fused.loss - plain.loss).abs() / plain.loss;
            eprintln!("{}: {name}: losses differ by {difference:.1e}", device.name());
            assert!(difference <= HALVES, "{}: {name}: {} instead of {}", device.name(), fused.loss, plain.loss);
        }
    }
}

/// A convolution, a normalisation with a ReLU, and another convolution, with the gradient of everything.
struct Recorded {
    graph: Graph,
    x: Var,
    normalised: Var,
    between: Var,
    bank: Bank,
}

fn recorded() -> Recorded {
    let mut graph = Graph::new();
    let bank = Bank::new("parameters");
    let state = |words: usize| bank.reserve(words).expect("new");
    let places: Vec<(usize, Spec)> =
        [vec![1, 3, 3, 4, 8], vec![1, 8], vec![1, 8], vec![1, 8], vec![1, 8], vec![1, 3, 3, 8, 8]]
            .into_iter()
            .map(|shape| {
                let spec = Spec::f32(shape);
                (state(spec.words()), spec)
            })
            .collect();
    let vars = places.into_iter().map(|(offset, spec)| graph.state(&bank, offset, spec, true).expect("fits"));
    let [w, gamma, beta, running_mean, running_var, v]: [Var; 6] = vars.collect::<Vec<_>>().try_into().expect("six");
    let x = graph.input("x", Spec::f32([1, 2, 8, 8, 4]));
    let spec = Conv2d { padding: [1, 1], ..Conv2d::default() };
    let y = graph.conv2d(x, w, spec).expect("fits");
    let norm = BatchNorm {
        gamma,
        beta,
        running_mean,
        running_var,
        residual: None,
        relu: true,
        eps: 1e-5,
        momentum: 0.1,
        training: true,
    };
    let normalised = graph.batch_norm(y, norm).expect("fits");
    let z = graph.conv2d(normalised, v, spec).expect("fits");
    let gradients = graph.backward(&[(z, z)]).expect("z has its own shape");
    let between = gradients.of(normalised).expect("it needs a gradient");
    graph.keep(gradients.of(w).expect("it needs a gradient"));
    Recorded { graph, x, normalised, between, bank }
}

/// Rules leave alone what is kept: a normalised tensor that is computed as it is read, and the gradient before a mask.
#[test]
fn what_is_kept_is_there_and_right() {
    for device in devices() {
        let read = |fuse: bool, keep: bool| {
            let Recorded { mut graph, x, normalised, between, bank } = recorded();
            if keep {
                graph.keep(normalised);
                graph.keep(between);
            }
            let mut program = graph.compile_with(&device, CompileOptions { fuse, poison: true }).expect("compiles");
            let values = |count: usize| (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0);
            bank.write(&device, 0, &values(bank.words()).map(f32::to_bits).collect::<Vec<u32>>()).expect("fits");
            program.feed_f32(x, &values(512).collect::<Vec<f32>>()).expect("fits");
            program.run().unwrap_or_else(|error| panic!("{error}"));
            let fired: Vec<&str> = program.fired().keys().copied().collect();
            (fired, [normalised, between].map(|var| program.read_f32(var)))
        };
        let (fired, values) = read(true, false);
        assert!(fired.contains(&"mask and sums on write") && fired.contains(&"normalise on read"), "{fired:?}");
        assert!(values.iter().all(Result::is_err), "neither is computed");
        let (fired, values) = read(true, true);
        assert!(!fired.contains(&"mask and sums on write"), "{fired:?}");
        let (_, plain) = read(false, true);
        for (value, plain) in values.into_iter().zip(plain) {
            let (value, plain) = (value.expect("kept"), plain.expect("kept"));
            let largest = plain.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let close = value.iter().zip(&plain).all(|(a, b)| (a - b).abs() <= 1e-5 * largest);
            assert!(largest > 0.0 && close, "{}", device.name());
        }
    }
}
