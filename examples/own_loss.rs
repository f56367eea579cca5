//! Your own loss: cross-entropy against smoothed labels (Szegedy et al., "Rethinking the Inception architecture",
//! 2016) instead of the fused one, for a plain ResNet.
//!
//! ```text
//! cargo run --example own_loss
//! ```
//!
//! A loss is a kernel that gives its value and the gradient of the logits. [`tensor::Graph::backward`] begins there.

use data::LoadOptions;
use nets::resnet::{Block, CifarResNet, Shortcut};
use nets::{Mode, Model};
use tensor::optim::SgdConfig;
use tensor::{Binding, Cost, Device, Graph, Kernel, Launch, Slice, SliceMut, Spec, Target};

const BATCH: usize = 32;
const EPOCHS: usize = 4;
const SMOOTHING: f32 = 0.1;

/// Logits `[1, N, K]`, labels U32 `[N]` -> losses `[N]`, gradient of their mean `[1, N, K]`. With the target
/// `q = (1 - s) onehot + s / K`: `loss = -sum_k q_k log p_k`, `dz = (p - q) / N`.
#[derive(Debug, Clone, Copy)]
struct SmoothedCrossEntropy {
    batch: usize,
    classes: usize,
}

const SHADER: &str = "
// smoothed cross-entropy: loss = -sum_k q_k log p_k, dz = (p - q) / N, q = (1 - s) onehot + s / K.
// Shapes: logits and gradient [N, K], labels [N], losses [N].
// Tiles: one sample per thread. Workgroup: 64 threads. Grid: ceil(N / 64) workgroups.
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let n = (group.x + group.y * GRID_ROW) * 64u + thread;
    if n >= BATCH {
        return;
    }
    var peak = logits[n * CLASSES];
    for (var k = 1u; k < CLASSES; k += 1u) {
        peak = max(peak, logits[n * CLASSES + k]);
    }
    var sum = 0.0;
    for (var k = 0u; k < CLASSES; k += 1u) {
        sum += exp(logits[n * CLASSES + k] - peak);
    }
    var loss = 0.0;
    for (var k = 0u; k < CLASSES; k += 1u) {
        let log_p = logits[n * CLASSES + k] - peak - log(sum);
        let q = SMOOTHING / f32(CLASSES) + select(0.0, 1.0 - SMOOTHING, k == labels[n]);
        loss -= q * log_p;
        gradient[n * CLASSES + k] = (exp(log_p) - q) / f32(BATCH);
    }
    losses[n] = loss;
}
";

impl Kernel for SmoothedCrossEntropy {
    fn name(&self) -> &'static str {
        "smoothed_cross_entropy"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([1, self.batch, self.classes]), Spec::u32([self.batch])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.batch]), Spec::f32([1, self.batch, self.classes])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, 8 * self.batch * self.classes)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (losses, gradient) = outputs.split_at_mut(1);
        let rows = inputs[0].f32().chunks_exact(self.classes).zip(gradient[0].f32().chunks_exact_mut(self.classes));
        for (((z, dz), &label), loss) in rows.zip(inputs[1].u32()).zip(losses[0].f32()) {
            let peak = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = z.iter().map(|z| (z - peak).exp()).sum();
            *loss = 0.0;
            for (k, (z, dz)) in z.iter().zip(dz).enumerate() {
                let log_p = z - peak - sum.ln();
                let right = if k == label as usize { 1.0 - SMOOTHING } else { 0.0 };
                let q = SMOOTHING / self.classes as f32 + right;
                *loss -= q * log_p;
                *dz = (log_p.exp() - q) / self.batch as f32;
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        let mut launch = Launch::new(SHADER, 2, 2, self.batch.div_ceil(64))
            .size("BATCH", self.batch)
            .size("CLASSES", self.classes)
            .float("SMOOTHING", SMOOTHING);
        launch.bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output(0), Binding::Output(1)];
        launch
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::cpu();
    let options = LoadOptions { limit_train: Some(640), limit_test: Some(1), ..LoadOptions::default() };
    let dataset = data::load("shapes", &options)?;
    let (size, classes) = (dataset.train.size, dataset.classes.len());

    let (mut graph, mut model) = (Graph::new(), Model::new());
    let image = graph.input("image", Spec::f32([1, BATCH, size, size, 4]));
    let labels = graph.input("labels", Spec::u32([BATCH]));
    let net = CifarResNet { block: Block::Basic, blocks: 1, width: 8, shortcut: Shortcut::A };
    let plain = one::Config::independent(1, classes);
    let heads = one::record(&mut graph, &mut model, &net, Mode::Training, image, &plain)?;
    let loss = graph.launch(SmoothedCrossEntropy { batch: BATCH, classes }, &[heads.logits, labels])?;
    graph.keep(loss[0]);
    let gradients = graph.backward(&[(heads.logits, loss[1])])?;
    graph.place_gradients(model.params(), &heads.parameters, &gradients)?;
    let update = graph.sgd(model.params(), SgdConfig { nesterov: true }, None)?;
    let mut program = graph.compile(&device)?;
    model.initialize(&device, 0)?;

    let steps = dataset.train.len() / BATCH;
    let mut means = Vec::new();
    for epoch in 0..EPOCHS {
        let mut sum = 0.0;
        for step in 0..steps {
            let images = step * BATCH..(step + 1) * BATCH;
            let pixels = images.clone().flat_map(|image| dataset.train.image(image)).flat_map(|pixel| {
                let [r, g, b, _] = pixel.to_le_bytes();
                let normal = |c: usize, byte: u8| (f32::from(byte) / 255.0 - dataset.mean[c]) / dataset.std[c];
                [normal(0, r), normal(1, g), normal(2, b), 0.0]
            });
            program.feed_f32(image, &pixels.collect::<Vec<f32>>())?;
            program.feed_u32(labels, &dataset.train.labels[images])?;
            program.feed_f32(update.hyper, &[0.05, 0.9, 1e-4])?;
            program.run()?;
            sum += program.read_f32(loss[0])?.iter().sum::<f32>() / BATCH as f32;
        }
        means.push(sum / steps as f32);
        println!("epoch {epoch}: smoothed cross-entropy {:.3}", means[epoch]);
    }
    assert!(means[EPOCHS - 1] < 0.95 * means[0], "it does not learn: {means:?}");
    Ok(())
}
