//! The two programs of a run, training step and evaluation step. They share the model's banks, and are fed as
//! [`crate::step::feeding`] says.

use std::sync::Arc;

use anyhow::{Context, Result};
use data::{Epoch, Missing, Pictures};
use nets::{Architecture, Model};
use one::{Batch, Evaluation, LossWeights, Metrics, Optimizer, Training};
use tensor::{CompileOptions, DType, Device, Error, Footprint, Graph, Program, Sharing};

use crate::step::evaluated::Evaluated;
use crate::step::feeding::{Fed, Normalisation, Sample, Split, Stream};
use crate::step::logits::Outputs;
use crate::step::teacher::Teacher;

/// Specification that a step is recorded from.
#[derive(Debug, Clone, Copy)]
pub struct StepSpec<'a> {
    pub architecture: &'a dyn Architecture,
    pub method: &'a one::Config,
    pub normalisation: Normalisation,
    /// Type of the activations.
    pub precision: DType,
    pub batch: usize,
    /// Threads that prepare batches, where images are streamed.
    pub workers: usize,
    /// True if every kernel's outputs are looked at, and memory begins as NaN.
    pub checks: bool,
    /// Sharing of the training with other ranks, if there are any.
    pub sharing: Option<&'a Sharing>,
    /// The part of the images that is evaluated, and the number of parts.
    pub part: (usize, usize),
}

impl<'a> StepSpec<'a> {
    /// The evaluation of a whole split by this process alone, in 32 bits, with steps of `batch` images.
    pub fn evaluation(
        architecture: &'a dyn Architecture,
        method: &'a one::Config,
        normalisation: Normalisation,
        batch: usize,
        workers: usize,
    ) -> Self {
        Self {
            architecture,
            method,
            normalisation,
            precision: DType::F32,
            batch,
            workers,
            checks: false,
            sharing: None,
            part: (0, 1),
        }
    }

    /// Images in a step of all ranks.
    fn rows(&self) -> usize {
        self.batch * self.sharing.map_or(1, |sharing| sharing.exchange.processes())
    }

    fn options(&self) -> CompileOptions {
        CompileOptions { poison: self.checks, ..CompileOptions::default() }
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
    /// Stream of prepared batches, where images are streamed.
    pub stream: Option<Stream>,
    fed: Fed,
    /// Images in a step of all ranks.
    rows: usize,
    checks: bool,
}

/// A training step that is recorded: its graph, what feeds and reads it, and the model of its teacher.
struct RecordedTraining {
    graph: Graph,
    step: Training,
    fed: Fed,
    trained: Model,
}

fn record_training(
    split: &Split,
    model: &mut Model,
    spec: StepSpec<'_>,
    nesterov: bool,
    teacher: Option<&Teacher>,
) -> Result<RecordedTraining> {
    let mut graph = Graph::new();
    if let Some(sharing) = spec.sharing {
        graph.share(sharing.clone());
    }
    let Sample { fed, image, labels } = split.record(&mut graph, spec.batch, spec.normalisation, spec.precision)?;
    let mut trained = Model::new();
    let logits = teacher.map(|teacher| teacher.record(&mut graph, &mut trained, image)).transpose()?;
    let batch = Batch { image, labels, teacher: logits };
    let step = one::training(&mut graph, model, spec.architecture, batch, spec.method, Optimizer { nesterov })?;
    Ok(RecordedTraining { graph, step, fed, trained })
}

/// Settings that change from step to step.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings {
    pub rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub weights: LossWeights,
}

impl TrainingProgram {
    /// Uploads the training images, or has workers prepare them, and compiles the step; `teacher` is what it distils
    /// from.
    ///
    /// # Errors
    /// When the device cannot hold or run it, or the teacher's weights do not fit its network.
    pub fn new(
        device: &Device,
        model: &mut Model,
        spec: StepSpec<'_>,
        images: Arc<Pictures>,
        nesterov: bool,
        teacher: Option<&Teacher>,
    ) -> Result<Self> {
        let split = Split::upload(device, "training", &images)?;
        let stream = Stream::new(&images, Missing::Replace, spec.workers)?;
        // The step needs much memory, and images that do not come in a stream are on the device now.
        drop(images);
        let RecordedTraining { graph, step, fed, trained } = record_training(&split, model, spec, nesterov, teacher)?;
        let program = graph.compile_with(device, spec.options()).context("cannot prepare the training step")?;
        if let Some(teacher) = teacher {
            teacher.load(device, &trained)?;
        }
        Ok(Self { program, step, stream, fed, rows: spec.rows(), checks: spec.checks })
    }

    /// The evaluation of the same model, in the memory of the training step: the two run alternately.
    ///
    /// # Errors
    /// When the device cannot run it.
    pub fn evaluation(&self, model: &mut Model, spec: StepSpec<'_>, measured: EvalImages) -> Result<EvaluationProgram> {
        EvaluationProgram::on(measured, model, spec, |graph| graph.compile_beside(&self.program, spec.options()))
    }

    /// Runs a step of an epoch.
    ///
    /// # Errors
    /// When an image cannot be had, the device fails, or a check does.
    pub fn run(&mut self, epoch: &Epoch, step: usize, settings: StepSettings) -> Result<()> {
        self.feed(epoch, step, settings)?;
        self.run_fed(settings)
    }

    /// Runs a step on what was fed last.
    ///
    /// # Errors
    /// When the device fails, or a check does.
    pub fn run_fed(&mut self, settings: StepSettings) -> Result<()> {
        self.set(settings)?;
        run(&mut self.program, self.checks)
    }

    /// Feeds a step without running it.
    ///
    /// # Errors
    /// When an image cannot be had, or the device fails.
    pub fn feed(&mut self, epoch: &Epoch, step: usize, settings: StepSettings) -> Result<()> {
        match &mut self.stream {
            None => self.fed.feed_picks(&mut self.program, epoch.step(step))?,
            Some(stream) => {
                stream.feed(&mut self.program, self.fed, epoch, step)?;
            }
        }
        self.set(settings)
    }

    fn set(&mut self, settings: StepSettings) -> Result<()> {
        let sgd = [settings.rate, settings.momentum, settings.weight_decay].map(|x| x as f32);
        self.step.feed(&mut self.program, sgd, settings.weights, self.rows)?;
        Ok(())
    }
}

/// Images that are evaluated: where they are on the device, and what of them stays with the host.
#[derive(Debug, Clone)]
pub struct EvalImages {
    split: Split,
    labels: Arc<[u32]>,
    streamed: Option<Arc<Pictures>>,
}

impl EvalImages {
    /// Uploads images that are not streamed; the host's copy goes, if nobody else has it.
    ///
    /// # Errors
    /// When the device cannot hold them.
    pub fn upload(device: &Device, images: Arc<Pictures>) -> Result<Self> {
        Ok(Self {
            split: Split::upload(device, "evaluation", &images)?,
            labels: images.labels().into(),
            streamed: images.is_streamed().then_some(images),
        })
    }
}

/// The evaluation step, with running statistics.
#[derive(Debug)]
pub struct EvaluationProgram {
    pub program: Program,
    step: Evaluation,
    measured: EvalImages,
    /// Stream of prepared batches, where images are streamed.
    pub stream: Option<Stream>,
    fed: Fed,
    batches: data::Evaluation,
    order: Epoch,
    method: one::Config,
    outputs: Option<Outputs>,
    checks: bool,
}

fn record_evaluation(split: &Split, model: &mut Model, spec: StepSpec<'_>) -> Result<(Graph, Evaluation, Fed)> {
    let mut graph = Graph::new();
    let Sample { fed, image, labels } = split.record(&mut graph, spec.batch, spec.normalisation, spec.precision)?;
    let sample = (image, labels);
    let step = one::evaluation(&mut graph, model, spec.architecture, sample, spec.method, split.images())?;
    graph.keep(step.heads.logits);
    step.heads.gate.into_iter().for_each(|gate| graph.keep(gate));
    Ok((graph, step, fed))
}

/// The memory of a run's programs and of its images; nothing is allocated. `train` and `test` are the specifications of
/// training and of evaluation, each with its images.
///
/// # Errors
/// When the programs cannot be recorded.
pub fn footprint(
    device: &Device,
    train: (StepSpec<'_>, &Pictures),
    test: (StepSpec<'_>, &[&Pictures]),
    teacher: Option<&Teacher>,
) -> Result<(Footprint, Model)> {
    let mut model = Model::new();
    let split = Split::declare(device, "training", train.1)?;
    let mut all = record_training(&split, &mut model, train.0, true, teacher)?.graph.footprint()?;
    for images in test.1 {
        let split = Split::declare(device, "evaluation", images)?;
        let spec = StepSpec { batch: test.0.batch.min(images.len()), ..test.0 };
        all = all.lending(record_evaluation(&split, &mut model, spec)?.0.footprint()?);
    }
    Ok((all, model))
}

impl EvaluationProgram {
    /// Uploads the images, or has workers prepare them, and compiles the step. The batch is no larger than the split.
    ///
    /// # Errors
    /// When the device cannot hold or run it.
    pub fn new(device: &Device, model: &mut Model, spec: StepSpec<'_>, images: Arc<Pictures>) -> Result<Self> {
        Self::on(EvalImages::upload(device, images)?, model, spec, |graph| graph.compile(device))
    }

    /// The evaluation of another network on the same images.
    ///
    /// # Errors
    /// As [`EvaluationProgram::new`].
    pub fn of_another(&self, model: &mut Model, spec: StepSpec<'_>) -> Result<Self> {
        Self::on(self.measured.clone(), model, spec, |graph| graph.compile(self.program.device()))
    }

    fn on(
        measured: EvalImages,
        model: &mut Model,
        spec: StepSpec<'_>,
        compile: impl FnOnce(&Graph) -> tensor::Result<Program>,
    ) -> Result<Self> {
        let images = measured.split.images();
        let batch = spec.batch.min(images);
        let batches = data::Evaluation::new(images, batch)?.part(spec.part.0, spec.part.1);
        let spec = StepSpec { batch, ..spec };
        let (graph, step, fed) = record_evaluation(&measured.split, model, spec)?;
        let program = compile(&graph).context("cannot prepare the evaluation step")?;
        let stream = measured.streamed.as_ref().map(|images| Stream::new(images, Missing::LeaveOut, spec.workers));
        let stream = stream.transpose()?.flatten();
        let &StepSpec { method, checks, .. } = &spec;
        Ok(Self {
            program,
            step,
            measured,
            stream,
            fed,
            batches,
            order: batches.epoch(),
            method: *method,
            outputs: None,
            checks,
        })
    }

    /// The method's setup around the network.
    pub fn method(&self) -> &one::Config {
        &self.method
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.batches.steps()
    }

    /// Lets the steps that follow gather the networks' outputs.
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
    /// When an image cannot be had, or the device fails.
    pub fn run(&mut self, index: usize, first: usize, weights: LossWeights) -> Result<usize> {
        let labels = match &mut self.stream {
            None => {
                let batch = self.batches.step(index);
                self.fed.feed_picks(&mut self.program, &batch.picks)?;
                &self.measured.labels[self.batches.images(index)]
            }
            Some(stream) => stream.feed(&mut self.program, self.fed, &self.order, index)?,
        };
        let valid = labels.len();
        self.step.feed(&mut self.program, weights, first, valid)?;
        run(&mut self.program, self.checks)?;
        if let Some(outputs) = &mut self.outputs {
            let gate = self.step.heads.gate.map(|gate| self.program.read_f32(gate)).transpose()?;
            outputs.append(&self.program.read_f32(self.step.heads.logits)?, gate.as_deref(), labels);
        }
        Ok(valid)
    }

    /// Forgets what the steps have found.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn forget(&self) -> Result<()> {
        self.step.take_totals(self.program.device())?;
        Ok(())
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
