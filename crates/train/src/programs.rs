//! The two programs of a run, training step and evaluation step. They share the model's banks and read their batches
//! from images that lie on the device: a step is fed with picks only.

use anyhow::{Context, Result};
use data::{Augment, Images, PADDING, Pick};
use nets::{Architecture, Model};
use one::{Evaluation, Metrics, Optimizer, Training};
use tensor::{Bank, Device, Graph, Program, Spec, Var};

/// How pixels in 0 to 1 are normalised: mean and standard deviation of the channels.
#[derive(Debug, Clone, Copy)]
pub struct Normalisation {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// A split's images and labels on the device.
#[derive(Debug)]
struct Split {
    shards: Vec<Bank>,
    shard_images: Vec<usize>,
    labels: Bank,
    size: usize,
}

impl Split {
    fn upload(device: &Device, name: &str, images: &Images) -> Result<Self> {
        let words = images.pixels_per_image();
        let max_words = usize::try_from(device.max_binding_bytes() / 4).unwrap_or(usize::MAX);
        let shard_images = data::shards(images.len(), words, max_words)?;
        let mut rest = images.pixels.as_slice();
        let mut shards = Vec::with_capacity(shard_images.len());
        for (i, count) in shard_images.iter().enumerate() {
            let (shard, tail) = rest.split_at(count * words);
            shards.push(Bank::with_data(format!("{name} images, shard {i}"), device, shard)?);
            rest = tail;
        }
        let labels = Bank::with_data(format!("{name} labels"), device, &images.labels)?;
        Ok(Self { shards, shard_images, labels, size: images.size })
    }

    /// Records the batch: images `[1, N, H, W, 4]` and labels `[N]` of the picks `[N, 2]`.
    fn record(&self, graph: &mut Graph, picks: Var, normalisation: Normalisation) -> Result<(Var, Var)> {
        let batch = graph.shape(picks)[0];
        let kernel = Augment {
            shard_images: self.shard_images.clone(),
            size: self.size,
            batch,
            padding: PADDING,
            mean: normalisation.mean.map(|x| x as f32),
            std: normalisation.std.map(|x| x as f32),
        };
        let mut inputs = Vec::with_capacity(5);
        for (shard, &count) in self.shards.iter().zip(&self.shard_images) {
            inputs.push(graph.state(shard, 0, Spec::u32([count, self.size, self.size]), false)?);
        }
        let count = self.shard_images.iter().sum();
        inputs.push(graph.state(&self.labels, 0, Spec::u32([count]), false)?);
        inputs.push(picks);
        let outputs = graph.launch(kernel, &inputs)?;
        Ok((outputs[0], outputs[1]))
    }
}

/// What a step is recorded from.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    pub architecture: &'a dyn Architecture,
    pub method: &'a one::Config,
    pub normalisation: Normalisation,
    pub batch: usize,
}

/// The training step.
#[derive(Debug)]
pub struct TrainingProgram {
    pub program: Program,
    pub step: Training,
    picks: Var,
}

/// What changes from step to step.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings {
    pub rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    /// Weight of the distillation term.
    pub distillation: f64,
}

impl TrainingProgram {
    /// Uploads the training images, and compiles the step.
    ///
    /// # Errors
    /// When the device cannot hold or run it.
    pub fn new(
        device: &Device,
        model: &mut Model,
        recipe: Recipe<'_>,
        images: &Images,
        nesterov: bool,
    ) -> Result<Self> {
        let split = Split::upload(device, "training", images)?;
        let mut graph = Graph::new();
        let picks = graph.input("picks", Spec::u32([recipe.batch, 2]));
        let batch = split.record(&mut graph, picks, recipe.normalisation)?;
        let step = one::training(&mut graph, model, recipe.architecture, batch, recipe.method, Optimizer { nesterov })?;
        let program = graph.compile(device).context("cannot prepare the training step")?;
        step.optimizer.initialize(device, model.params())?;
        Ok(Self { program, step, picks })
    }

    /// Runs a step on these picks.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self, picks: &[Pick], settings: StepSettings) -> Result<()> {
        self.feed(picks, settings)?;
        Ok(self.program.run()?)
    }

    /// Feeds a step without running it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed(&mut self, picks: &[Pick], settings: StepSettings) -> Result<()> {
        self.program.feed_u32(self.picks, picks.as_flattened())?;
        let sgd = [settings.rate, settings.momentum, settings.weight_decay].map(|x| x as f32);
        self.step.feed(&mut self.program, sgd, settings.distillation as f32, picks.len())?;
        Ok(())
    }
}

/// The evaluation step, with running statistics.
#[derive(Debug)]
pub struct EvaluationProgram {
    pub program: Program,
    step: Evaluation,
    picks: Var,
    batches: data::Evaluation,
    branches: usize,
}

impl EvaluationProgram {
    /// Uploads the test images, and compiles the step. The batch is no larger than the split.
    ///
    /// # Errors
    /// When the device cannot hold or run it.
    pub fn new(device: &Device, model: &mut Model, recipe: Recipe<'_>, images: &Images) -> Result<Self> {
        let batch = recipe.batch.min(images.len());
        let batches = data::Evaluation::new(images.len(), batch)?;
        let split = Split::upload(device, "test", images)?;
        let mut graph = Graph::new();
        let picks = graph.input("picks", Spec::u32([batch, 2]));
        let sample = split.record(&mut graph, picks, recipe.normalisation)?;
        let step = one::evaluation(&mut graph, model, recipe.architecture, sample, recipe.method)?;
        let program = graph.compile(device).context("cannot prepare the evaluation step")?;
        Ok(Self { program, step, picks, batches, branches: recipe.method.branches })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.batches.steps()
    }

    /// Runs step `index`; its sums add to those of the steps before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self, index: usize, distillation: f64) -> Result<usize> {
        let batch = self.batches.step(index);
        self.program.feed_u32(self.picks, batch.picks.as_flattened())?;
        self.step.feed(&mut self.program, distillation as f32, batch.valid)?;
        self.program.run()?;
        Ok(batch.valid)
    }

    /// Takes what the steps have summed up over `samples` samples.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn take(&self, samples: usize) -> Result<Metrics> {
        let mut metrics = Metrics::new(self.branches);
        metrics.add(&self.step.take_totals(self.program.device())?, samples);
        Ok(metrics)
    }
}
