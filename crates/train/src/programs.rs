//! The two programs of a run, training step and evaluation step. They share the model's banks and read their batches
//! from images that lie on the device: a step is fed with picks only.

use anyhow::{Context, Result};
use data::{Augment, Images, PADDING, Pick};
use nets::{Architecture, Model};
use one::{Batch, Evaluation, LossWeights, Metrics, Optimizer, Training};
use tensor::{Bank, CompileOptions, Device, Error, Footprint, Graph, Program, Spec, Var};

use crate::evaluation::Evaluated;
use crate::outputs::Outputs;
use crate::teacher::Teacher;

/// How pixels in 0 to 1 are normalised: mean and standard deviation of the channels.
#[derive(Debug, Clone, Copy)]
pub struct Normalisation {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// A split's images and labels on the device. Copies share them.
#[derive(Debug, Clone)]
struct Split {
    shards: Vec<Bank>,
    shard_images: Vec<usize>,
    labels: Bank,
    size: usize,
}

impl Split {
    /// Banks for the images, which take memory only when they are written.
    fn declare(device: &Device, name: &str, images: &Images) -> Result<Self> {
        let words = images.pixels_per_image();
        let max_words = usize::try_from(device.max_binding_bytes() / 4).unwrap_or(usize::MAX);
        let shard_images = data::shards(images.len(), words, max_words)?;
        let bank = |name: String, words: usize| -> Result<Bank> {
            let bank = Bank::new(name);
            bank.reserve(words)?;
            Ok(bank)
        };
        let shards = shard_images.iter().enumerate();
        let shards = shards.map(|(i, count)| bank(format!("{name} images, shard {i}"), count * words));
        let shards = shards.collect::<Result<Vec<_>>>()?;
        let labels = bank(format!("{name} labels"), images.len())?;
        Ok(Self { shards, shard_images, labels, size: images.size })
    }

    fn upload(device: &Device, name: &str, images: &Images) -> Result<Self> {
        let split = Self::declare(device, name, images)?;
        let mut rest = images.pixels.as_slice();
        for (bank, count) in split.shards.iter().zip(&split.shard_images) {
            let (shard, tail) = rest.split_at(count * images.pixels_per_image());
            bank.write(device, 0, shard)?;
            rest = tail;
        }
        split.labels.write(device, 0, &images.labels)?;
        Ok(split)
    }

    fn images(&self) -> usize {
        self.shard_images.iter().sum()
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
        inputs.push(graph.state(&self.labels, 0, Spec::u32([self.images()]), false)?);
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
    /// Whether every kernel's outputs are looked at, and memory begins as NaN.
    pub checks: bool,
}

impl Recipe<'_> {
    fn options(&self) -> CompileOptions {
        CompileOptions { poison: self.checks }
    }
}

/// Runs a step, with every kernel's outputs looked at or not.
fn run(program: &mut Program, checks: bool) -> Result<()> {
    match if checks { program.run_checked()? } else { return Ok(program.run()?) } {
        None => Ok(()),
        Some(found) => Err(Error::NotFinite(Box::new(found)).into()),
    }
}

/// The training step.
#[derive(Debug)]
pub struct TrainingProgram {
    pub program: Program,
    pub step: Training,
    picks: Var,
    checks: bool,
}

/// A training step that is recorded: its graph, what feeds and reads it, its picks, and the model of its teacher.
struct RecordedTraining {
    graph: Graph,
    step: Training,
    picks: Var,
    trained: Model,
}

fn record_training(
    split: &Split,
    model: &mut Model,
    recipe: Recipe<'_>,
    nesterov: bool,
    teacher: Option<&Teacher>,
) -> Result<RecordedTraining> {
    let mut graph = Graph::new();
    let picks = graph.input("picks", Spec::u32([recipe.batch, 2]));
    let (image, labels) = split.record(&mut graph, picks, recipe.normalisation)?;
    let mut trained = Model::new();
    let logits = teacher.map(|teacher| teacher.record(&mut graph, &mut trained, image)).transpose()?;
    let batch = Batch { image, labels, teacher: logits };
    let step = one::training(&mut graph, model, recipe.architecture, batch, recipe.method, Optimizer { nesterov })?;
    Ok(RecordedTraining { graph, step, picks, trained })
}

/// What changes from step to step.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings {
    pub rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub weights: LossWeights,
}

impl TrainingProgram {
    /// Uploads the training images, and compiles the step; `teacher` is what it distils from.
    ///
    /// # Errors
    /// When the device cannot hold or run it, or the teacher's weights do not fit its network.
    pub fn new(
        device: &Device,
        model: &mut Model,
        recipe: Recipe<'_>,
        images: Images,
        nesterov: bool,
        teacher: Option<&Teacher>,
    ) -> Result<Self> {
        let split = Split::upload(device, "training", &images)?;
        // The step needs much memory, and the images are on the device now.
        drop(images);
        let RecordedTraining { graph, step, picks, trained } =
            record_training(&split, model, recipe, nesterov, teacher)?;
        let program = graph.compile_with(device, recipe.options()).context("cannot prepare the training step")?;
        if let Some(teacher) = teacher {
            teacher.load(device, &trained)?;
        }
        step.optimizer.initialize(device, model.params())?;
        Ok(Self { program, step, picks, checks: recipe.checks })
    }

    /// The evaluation of the same model on `images`, in the memory of the training step: the two run by turns.
    ///
    /// # Errors
    /// When the device cannot hold or run it.
    pub fn evaluation(&self, model: &mut Model, recipe: Recipe<'_>, images: &Images) -> Result<EvaluationProgram> {
        let split = Split::upload(self.program.device(), "evaluation", images)?;
        EvaluationProgram::on_split(model, recipe, split, |graph| graph.compile_beside(&self.program, recipe.options()))
    }

    /// Runs a step on these picks.
    ///
    /// # Errors
    /// When the device fails, or a check does.
    pub fn run(&mut self, picks: &[Pick], settings: StepSettings) -> Result<()> {
        self.feed(picks, settings)?;
        run(&mut self.program, self.checks)
    }

    /// Feeds a step without running it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed(&mut self, picks: &[Pick], settings: StepSettings) -> Result<()> {
        self.program.feed_u32(self.picks, picks.as_flattened())?;
        let sgd = [settings.rate, settings.momentum, settings.weight_decay].map(|x| x as f32);
        self.step.feed(&mut self.program, sgd, settings.weights, picks.len())?;
        Ok(())
    }
}

/// The evaluation step, with running statistics.
#[derive(Debug)]
pub struct EvaluationProgram {
    pub program: Program,
    step: Evaluation,
    split: Split,
    picks: Var,
    batches: data::Evaluation,
    method: one::Config,
    outputs: Option<Outputs>,
    checks: bool,
}

fn record_evaluation(split: &Split, model: &mut Model, recipe: Recipe<'_>) -> Result<(Graph, Evaluation, Var)> {
    let mut graph = Graph::new();
    let picks = graph.input("picks", Spec::u32([recipe.batch, 2]));
    let sample = split.record(&mut graph, picks, recipe.normalisation)?;
    let step = one::evaluation(&mut graph, model, recipe.architecture, sample, recipe.method, split.images())?;
    graph.keep(step.heads.logits);
    step.heads.gate.into_iter().for_each(|gate| graph.keep(gate));
    Ok((graph, step, picks))
}

/// The memory of a run's programs and of its images; nothing is allocated. `train` and `test` are the recipes of training and
/// of evaluation, each with its images.
///
/// # Errors
/// When the programs cannot be recorded.
pub fn footprint(
    device: &Device,
    train: (Recipe<'_>, &Images),
    test: (Recipe<'_>, &[&Images]),
    teacher: Option<&Teacher>,
) -> Result<(Footprint, Model)> {
    let mut model = Model::new();
    let split = Split::declare(device, "training", train.1)?;
    let mut all = record_training(&split, &mut model, train.0, true, teacher)?.graph.footprint()?;
    for images in test.1 {
        let split = Split::declare(device, "evaluation", images)?;
        let recipe = Recipe { batch: test.0.batch.min(images.len()), ..test.0 };
        all = all.lending(record_evaluation(&split, &mut model, recipe)?.0.footprint()?);
    }
    Ok((all, model))
}

impl EvaluationProgram {
    /// Uploads the images, and compiles the step. The batch is no larger than the split.
    ///
    /// # Errors
    /// When the device cannot hold or run it.
    pub fn new(device: &Device, model: &mut Model, recipe: Recipe<'_>, images: &Images) -> Result<Self> {
        let split = Split::upload(device, "evaluation", images)?;
        Self::on_split(model, recipe, split, |graph| graph.compile(device))
    }

    /// The evaluation of another network on the same images.
    ///
    /// # Errors
    /// As [`EvaluationProgram::new`].
    pub fn of_another(&self, model: &mut Model, recipe: Recipe<'_>) -> Result<Self> {
        Self::on_split(model, recipe, self.split.clone(), |graph| graph.compile(self.program.device()))
    }

    fn on_split(
        model: &mut Model,
        recipe: Recipe<'_>,
        split: Split,
        compile: impl FnOnce(&Graph) -> tensor::Result<Program>,
    ) -> Result<Self> {
        let images = split.images();
        let batch = recipe.batch.min(images);
        let batches = data::Evaluation::new(images, batch)?;
        let recipe = Recipe { batch, ..recipe };
        let (graph, step, picks) = record_evaluation(&split, model, recipe)?;
        let program = compile(&graph).context("cannot prepare the evaluation step")?;
        let &Recipe { method, checks, .. } = &recipe;
        Ok(Self { program, step, split, picks, batches, method: *method, outputs: None, checks })
    }

    /// What is built around the network.
    pub fn method(&self) -> &one::Config {
        &self.method
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.batches.steps()
    }

    /// Has the steps that follow gather the networks' outputs.
    pub fn gather_outputs(&mut self) {
        self.outputs = Some(Outputs::new(self.method.branches, self.method.classes));
    }

    /// Outputs that were gathered.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Runs step `index`; its sums add to those of the steps before. Returns how many images it took.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&mut self, index: usize, first: usize, weights: LossWeights) -> Result<usize> {
        let batch = self.batches.step(index);
        self.program.feed_u32(self.picks, batch.picks.as_flattened())?;
        self.step.feed(&mut self.program, weights, first, batch.valid)?;
        run(&mut self.program, self.checks)?;
        if let Some(outputs) = &mut self.outputs {
            let gate = self.step.heads.gate.map(|gate| self.program.read_f32(gate)).transpose()?;
            outputs.append(&self.program.read_f32(self.step.heads.logits)?, gate.as_deref(), batch.valid);
        }
        Ok(batch.valid)
    }

    /// Takes what the steps have found over `images` images.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn take(&self, images: usize) -> Result<Evaluated> {
        let device = self.program.device();
        let mut metrics = Metrics::new(&self.method);
        metrics.add(&self.step.take_totals(device)?, images);
        Ok(Evaluated { metrics, predictions: self.step.predictions(device, images)?, ensemble: self.method.ensemble() })
    }
}
