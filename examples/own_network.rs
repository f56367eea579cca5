//! Your own network, trained by on-the-fly native ensemble: three branches, a gate, and distillation, on the built-in
//! dataset.
//!
//! ```text
//! cargo run --example own_network
//! ```
//!
//! A network is its stages and a classifier. The stages before the fan-out are shared by all branches; the rest, the
//! gate, the loss and every gradient follow from the recording.

use data::LoadOptions;
use nets::{Architecture, Builder, ConvSpec, Model};
use one::{Config, LossWeights, Metrics, Optimizer};
use tensor::ops::Pool2d;
use tensor::{Device, Graph, Spec, Var};

const BATCH: usize = 32;
const EPOCHS: usize = 4;

/// Three convolutions, with one pooling layer between them.
#[derive(Debug)]
struct Small;

impl Architecture for Small {
    fn name(&self) -> String {
        "small".to_owned()
    }

    fn stages(&self) -> Vec<String> {
        ["stem", "middle", "top"].map(str::to_owned).to_vec()
    }

    fn stage(&self, index: usize, net: &mut Builder<'_>, x: Var) -> nets::Result<Var> {
        let filters = 8 << index;
        let stride = if index == 0 { 1 } else { 2 };
        let y = net.conv(&format!("stage{index}.conv"), x, ConvSpec::three(filters, stride))?;
        let y = net.batch_norm(&format!("stage{index}.bn"), y, None, true)?;
        match index {
            0 => net.max_pool(y, Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] }),
            _ => Ok(y),
        }
    }

    fn classifier(&self, net: &mut Builder<'_>, x: Var, classes: usize) -> nets::Result<Var> {
        let pooled = net.global_average_pool(x)?;
        net.linear("fc", pooled, classes)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::cpu();
    let options = LoadOptions { limit_train: Some(640), limit_test: Some(1), ..LoadOptions::default() };
    let dataset = data::load("shapes", &options)?;
    let size = dataset.train.size;

    // The step, recorded once: forward, the fused loss, all gradients, and the update.
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let image = graph.input("image", Spec::f32([1, BATCH, size, size, 4]));
    let labels = graph.input("labels", Spec::u32([BATCH]));
    let config = Config::paper(&Small, 3, dataset.classes.len());
    let step = one::training(&mut graph, &mut model, &Small, (image, labels), &config, Optimizer { nesterov: true })?;
    let mut program = graph.compile(&device)?;
    model.initialize(&device, 0)?;
    println!("{} parameters in training, {} of one branch", model.parameters(None), model.parameters(Some(0)));

    let weights = LossWeights::default();
    let mut losses = Vec::new();
    for epoch in 0..EPOCHS {
        for batch in 0..dataset.train.len() / BATCH {
            let images = batch * BATCH..(batch + 1) * BATCH;
            let pixels = images.clone().flat_map(|image| dataset.train.image(image)).flat_map(|pixel| {
                let [r, g, b, _] = pixel.to_le_bytes();
                let normal = |c: usize, byte: u8| (f32::from(byte) / 255.0 - dataset.mean[c]) / dataset.std[c];
                [normal(0, r), normal(1, g), normal(2, b), 0.0]
            });
            program.feed_f32(image, &pixels.collect::<Vec<f32>>())?;
            program.feed_u32(labels, &dataset.train.labels[images])?;
            step.feed(&mut program, [0.05, 0.9, 1e-4], weights, BATCH)?;
            program.run()?;
        }
        let mut metrics = Metrics::new(&config);
        metrics.add(&step.take_totals(&device)?, dataset.train.len());
        losses.push(metrics.loss(weights));
        let errors: Vec<String> = metrics.top1_errors().iter().map(|error| format!("{error:.1}")).collect();
        println!("epoch {epoch}: loss {:.3}, errors of the branches {} %", metrics.loss(weights), errors.join(", "));
    }
    // A pure function of the seed, so this either holds on every run or on none.
    assert!(losses[EPOCHS - 1] < 0.95 * losses[0], "it does not learn: {losses:?}");
    Ok(())
}
