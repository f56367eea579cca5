//! The methods against each other, on a small network and every device: what must be the same run is the same bits.

mod common;

use nets::resnet::{Block, CifarResNet, Shortcut};
use nets::{Decay, Mode, Model, NamedTensor, member_name};
use one::{Batch, Config, LossWeights, Metrics, Network, Teacher};
use tensor::optim::SgdConfig;
use tensor::{CompileOptions, Device, Graph, Kind, Program, Rng, Spec, Var};

const BATCH: usize = 12;
const CLASSES: usize = 10;
const SIZE: usize = 16;
const STEPS: usize = 4;
const NET: CifarResNet = CifarResNet { block: Block::Basic, blocks: 1, width: 8, shortcut: Shortcut::B };

fn devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu()];
    devices.extend(common::gpus(None));
    devices
}

/// A batch of noise, the same for the same step.
fn batch(step: usize) -> (Vec<f32>, Vec<u32>) {
    let mut rng = Rng::new(&[0xba7c4, step as u64]);
    let image = (0..BATCH * SIZE * SIZE * 4).map(|i| if i % 4 == 3 { 0.0 } else { rng.normal() as f32 });
    let image = image.collect();
    (image, (0..BATCH).map(|_| rng.below(CLASSES) as u32).collect())
}

/// A network in training by some method.
struct Run {
    device: Device,
    config: Config,
    model: Model,
    teacher: Model,
    step: one::Training,
    program: Program,
    image: Var,
    labels: Var,
    weights: LossWeights,
}

impl Run {
    fn new(device: &Device, config: Config, seed: u64) -> Self {
        let (mut graph, mut model, mut teacher) = (Graph::new(), Model::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, BATCH, SIZE, SIZE, 4]));
        let labels = graph.input("labels", Spec::u32([BATCH]));
        let logits = (config.teacher == Teacher::Given).then(|| {
            let alone = Config::independent(1, CLASSES);
            one::record(&mut graph, &mut teacher, &NET, Mode::Inference, image, &alone).expect("recorded").logits
        });
        let batch = Batch { image, labels, teacher: logits };
        let sgd = SgdConfig { nesterov: true };
        let step = one::training(&mut graph, &mut model, &NET, batch, &config, sgd).expect("recorded");
        let program = graph
            .compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() })
            .unwrap_or_else(|error| panic!("{}: {error}", device.name()));
        model.initialize(device, seed).expect("initial values");
        if logits.is_some() {
            teacher.initialize(device, 99).expect("initial values");
        }
        let weights = LossWeights::default();
        Self { device: device.clone(), config, model, teacher, step, program, image, labels, weights }
    }

    /// Takes a step, and returns its terms.
    fn step(&mut self, number: usize) -> Metrics {
        let (image, labels) = batch(number);
        self.program.feed_f32(self.image, &image).expect("image");
        self.program.feed_u32(self.labels, &labels).expect("labels");
        self.step.feed(&mut self.program, [0.05, 0.9, 1e-4], self.weights, BATCH).expect("settings");
        self.program.run().unwrap_or_else(|error| panic!("{error}"));
        let mut metrics = Metrics::new(&self.config);
        metrics.add(&self.step.take_totals(&self.device).expect("totals"), BATCH);
        metrics
    }

    fn train(mut self) -> Self {
        for number in 0..STEPS {
            self.step(number);
        }
        self
    }

    fn state(&self) -> Vec<NamedTensor> {
        self.model.state(&self.device).expect("state")
    }
}

/// The tensors of one member under plain names, sorted; shared ones belong to all.
fn member(state: &[NamedTensor], index: usize) -> Vec<(String, Vec<u32>)> {
    let plain: Vec<&NamedTensor> = state.iter().filter(|tensor| !tensor.name.starts_with("branches.")).collect();
    let mut found: Vec<(String, Vec<u32>)> = plain
        .into_iter()
        .map(|tensor| {
            let name = member_name(&tensor.name, index);
            let own = state.iter().find(|tensor| tensor.name == name).unwrap_or(tensor);
            (tensor.name.clone(), own.data.iter().map(|value| value.to_bits()).collect())
        })
        .collect();
    found.sort();
    found
}

fn assert_same(what: &str, a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for ((name, a), (other, b)) in a.iter().zip(b) {
        assert_eq!(name, other, "{what}");
        let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(a.len() == b.len() && differing == 0, "{what}: {differing} of {} words of {name} differ", a.len());
    }
}

#[test]
fn an_ensemble_trains_as_separate_networks_do() {
    for device in devices() {
        // Pipelines take long to compile on software adapters.
        let counts: &[usize] = if device.is_gpu() { &[3] } else { &[2, 3, 5] };
        for &members in counts {
            let together = Run::new(&device, Config::independent(members, CLASSES), 40).train().state();
            for i in 0..members {
                let alone = Run::new(&device, Config::independent(1, CLASSES), 40 + i as u64).train().state();
                let what = format!("{}: member {i} of {members}", device.name());
                assert_same(&what, &member(&together, i), &member(&alone, 0));
            }
        }
    }
}

#[test]
fn one_branch_without_distillation_is_the_plain_network() {
    for device in devices() {
        let one = Config { distill: false, ..Config::paper(&NET, 1, CLASSES) };
        let plain = Run::new(&device, Config::independent(1, CLASSES), 3).train().state();
        assert_same(device.name(), &member(&Run::new(&device, one, 3).train().state(), 0), &member(&plain, 0));
    }
}

#[test]
fn identical_networks_teach_each_other_nothing() {
    for device in devices() {
        let name = device.name();
        let mut run = Run::new(&device, Config::mutual(2, CLASSES), 3);
        let mut state = run.state();
        for i in 0..state.len() {
            let twin = member_name(&state[i].name, 1);
            if let Some(index) = state.iter().position(|tensor| tensor.name == twin) {
                state[index].data = state[i].data.clone();
            }
        }
        run.model.load(&device, &state).expect("the same names");
        for number in 0..STEPS {
            let distillation = run.step(number).distillation();
            assert_eq!(distillation.to_bits(), 0f64.to_bits(), "{name}: step {number} distils {distillation}");
        }
        let plain = Run::new(&device, Config::independent(1, CLASSES), 3).train().state();
        for i in 0..2 {
            assert_same(&format!("{name}: network {i}"), &member(&run.state(), i), &member(&plain, 0));
        }
        let different = Run::new(&device, Config::mutual(2, CLASSES), 3).step(0).distillation();
        assert!(different > 1e-4, "{name}: different networks do learn from each other, {different}");
    }
}

#[test]
fn a_teacher_is_approached_and_stays_what_it_is() {
    for device in devices() {
        let name = device.name();
        let values = |run: &Run| run.teacher.params().values().read(&device).expect("the teacher's parameters");
        let statistics = |run: &Run| run.teacher.params().running().read(&device).expect("its running statistics");
        let mut run = Run::new(&device, Config::student(CLASSES), 3);
        run.weights = LossWeights { cross_entropy: 0.0, distillation: 1.0 };
        let before = (values(&run), statistics(&run));
        let losses: Vec<f64> = (0..8).map(|_| run.step(0).distillation()).collect();
        assert!(losses[7] < 0.5 * losses[0], "{name}: the student does not approach its teacher: {losses:?}");
        assert!(before == (values(&run), statistics(&run)), "{name}: the teacher changed");

        let mut run = Run::new(&device, Config::student(CLASSES), 3);
        run.weights.distillation = 0.0;
        let plain = Run::new(&device, Config::independent(1, CLASSES), 3).train().state();
        assert_same(&format!("{name}: a teacher of weight 0"), &member(&run.train().state(), 0), &member(&plain, 0));
    }
}

#[test]
fn weight_decay_can_leave_out_all_but_weights() {
    for (decay, expected) in [(Decay::All, &[true, true][..]), (Decay::Weights, &[true, false][..])] {
        let (mut graph, mut model) = (Graph::new(), Model::with_decay(decay));
        let image = graph.input("image", Spec::f32([1, BATCH, SIZE, SIZE, 4]));
        let config = Config::paper(&NET, 3, CLASSES);
        one::record(&mut graph, &mut model, &NET, Mode::Training, image, &config).expect("recorded");
        for param in model.params().entries() {
            let Kind::Trained { decay } = param.kind else { continue };
            let weight = param.name.ends_with(".weight") && param.spec.shape.len() > 2;
            assert_eq!(decay, expected[usize::from(!weight)], "{} under {decay:?}", param.name);
        }
    }
}

#[test]
fn predictions_count_what_the_loss_counts() {
    for device in devices() {
        let config = Config::paper(&NET, 3, CLASSES);
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, BATCH, SIZE, SIZE, 4]));
        let labels = graph.input("labels", Spec::u32([BATCH]));
        let images = 2 * BATCH - 5;
        let step = one::evaluation(&mut graph, &mut model, &NET, (image, labels), &config, images).expect("recorded");
        let mut program = graph
            .compile_with(&device, CompileOptions { poison: true, ..CompileOptions::default() })
            .expect("compiles");
        model.initialize(&device, 5).expect("initial values");
        for (number, rows) in [(0, BATCH), (1, BATCH - 5)] {
            let (pixels, classes) = batch(number);
            program.feed_f32(image, &pixels).expect("image");
            program.feed_u32(labels, &classes).expect("labels");
            step.feed(&mut program, LossWeights::default(), number * BATCH, rows).expect("settings");
            program.run().unwrap_or_else(|error| panic!("{error}"));
        }
        let mut metrics = Metrics::new(&config);
        metrics.add(&step.take_totals(&device).expect("totals"), images);
        let found = step.predictions(&device, images).expect("predictions");
        assert_eq!((found.images(), found.members()), (images, 3));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{}: {a}, {b}", device.name());
        for i in 0..3 {
            close(found.cross_entropy(Network::Member(i)), metrics.cross_entropy(i));
            close(found.top_k_error(Network::Member(i), 1), metrics.top1_errors()[i]);
            close(found.top_k_error(Network::Member(i), 5), metrics.top5_errors()[i]);
        }
        close(found.cross_entropy(Network::Gated), metrics.ensemble_cross_entropy().expect("an ensemble"));
        close(found.top_k_error(Network::Gated, 1), metrics.ensemble_top1_error().expect("an ensemble"));
        close(found.mean_shares().iter().sum(), 1.0);
        let calibration = found.calibration_error(Network::MeanProbabilities);
        assert!((0.0..=100.0).contains(&calibration), "{calibration}");
    }
}
