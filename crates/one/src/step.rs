//! Whole steps: training (forward, loss, gradients, update) and evaluation, each one graph.

use nets::{Architecture, Mode, Model, Result};
use tensor::kernels::elementwise::Fill;
use tensor::kernels::sum_columns::AccumulateColumns;
use tensor::optim::{SgdConfig, SgdInputs};
use tensor::{Bank, DType, Device, Graph, Program, Spec, Var};

use crate::kernels::distillation_loss::{DistillationLoss, TERMS, Teacher};
use crate::kernels::predictions::Predict;
use crate::metrics::LossWeights;
use crate::network::{Config, Heads, record};
use crate::predictions::Predictions;

/// Optimiser of the parameters: stochastic gradient descent.
pub type Optimizer = SgdConfig;

/// Inputs that a step is recorded on.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Images `[1, N, H, W, 4]`. If they are F16, so are activations and their gradients, and the loss is scaled.
    pub image: Var,
    /// Labels `[N]`.
    pub labels: Var,
    /// Logits `[1, N, K]` of a trained network, for [`Teacher::Given`].
    pub teacher: Option<Var>,
}

impl From<(Var, Var)> for Batch {
    /// Images and labels, without a teacher from outside.
    fn from((image, labels): (Var, Var)) -> Self {
        Self { image, labels, teacher: None }
    }
}

/// A recorded training step.
#[derive(Debug)]
pub struct Training {
    /// The network's outputs.
    pub heads: Heads,
    /// `[3]`, fed: weight of the distillation term, number of valid rows, weight of the cross-entropies.
    pub settings: Var,
    /// The optimiser's inputs.
    pub optimizer: SgdInputs,
    /// Terms of each sample `[N, (M + 1) TERMS]`; see [`DistillationLoss`].
    pub terms: Var,
    totals: Totals,
}

/// A recorded evaluation step.
#[derive(Debug)]
pub struct Evaluation {
    /// The network's outputs.
    pub heads: Heads,
    /// `[3]`, fed: weight of the distillation term, number of valid rows, weight of the cross-entropies.
    pub settings: Var,
    totals: Totals,
    predictions: Table,
}

/// The predictions for a whole split, which the device collects.
#[derive(Debug)]
struct Table {
    bank: Bank,
    kernel: Predict,
    /// `[2]`, fed: the first row to write, number of valid samples.
    position: Var,
}

/// Sums of the terms, which the device accumulates until they are taken.
#[derive(Debug)]
struct Totals {
    bank: Bank,
    words: usize,
}

impl Totals {
    fn record(graph: &mut Graph, terms: Var, batch: usize, branches: usize) -> Result<Self> {
        let totals = Self::new("metrics", branches)?;
        totals.accumulate(graph, terms, batch)?;
        Ok(totals)
    }

    /// Sums, initially empty.
    fn new(name: &str, branches: usize) -> Result<Self> {
        let words = (branches + 1) * TERMS;
        let bank = Bank::new(name);
        bank.reserve(words)?;
        Ok(Self { bank, words })
    }

    fn state(&self, graph: &mut Graph) -> Result<Var> {
        Ok(graph.state(&self.bank, 0, Spec::f32([self.words]), false)?)
    }

    /// Records the addition of the terms' sums over `rows` rows.
    fn accumulate(&self, graph: &mut Graph, terms: Var, rows: usize) -> Result<()> {
        let totals = self.state(graph)?;
        graph.launch_into(AccumulateColumns { rows, columns: self.words }, &[terms], &[Some(totals)])?;
        Ok(())
    }

    fn read(&self, device: &Device) -> Result<Vec<f32>> {
        let words = self.bank.read(device)?;
        Ok(words.into_iter().take(self.words).map(f32::from_bits).collect())
    }

    fn write(&self, device: &Device, totals: &[f32]) -> Result<()> {
        let mut words = vec![0; self.words];
        for (word, total) in words.iter_mut().zip(totals) {
            *word = total.to_bits();
        }
        Ok(self.bank.write(device, 0, &words)?)
    }

    fn take(&self, device: &Device) -> Result<Vec<f32>> {
        let totals = self.read(device)?;
        self.write(device, &[])?;
        Ok(totals)
    }
}

/// Records the loss and returns its outputs, the terms first.
fn record_loss(
    graph: &mut Graph,
    heads: &Heads,
    batch: Batch,
    config: &Config,
    gradient: bool,
) -> Result<(Var, Vec<Var>)> {
    let [branches, batch_size, classes] = logits_shape(graph, heads);
    let settings = graph.input("loss settings", Spec::f32([3]));
    let &Config { temperature, teacher, distill, .. } = config;
    let kernel = DistillationLoss { branches, batch: batch_size, classes, temperature, teacher, distill, gradient };
    let mut inputs = vec![heads.logits, batch.labels, settings];
    inputs.extend(heads.gate);
    if teacher == Teacher::Given {
        inputs.extend(batch.teacher);
    }
    Ok((settings, graph.launch(kernel, &inputs)?))
}

fn logits_shape(graph: &Graph, heads: &Heads) -> [usize; 3] {
    let &[branches, batch, classes] = graph.shape(heads.logits) else {
        unreachable!("classifiers give three axes");
    };
    [branches, batch, classes]
}

/// Records a whole training step. If the graph [shares](Graph::share) its work with other processes, the fed number
/// of valid rows is that of all their batches together; gradients and totals are then the same everywhere.
///
/// # Errors
/// When the configuration is out of range, the image does not fit the architecture, or the configuration wants a
/// teacher's logits and there are none.
pub fn training(
    graph: &mut Graph,
    model: &mut Model,
    architecture: &dyn Architecture,
    batch: impl Into<Batch>,
    config: &Config,
    optimizer: Optimizer,
) -> Result<Training> {
    let batch = batch.into();
    let heads = record(graph, model, architecture, Mode::Training, batch.image, config)?;
    let (settings, outputs) = record_loss(graph, &heads, batch, config, true)?;
    let terms = outputs[0];
    let rows = graph.shape(terms)[0];
    let totals = Totals::new("metrics", config.branches)?;
    let shared = graph.sharing().is_some().then(|| Totals::new("metrics of a step", config.branches)).transpose()?;
    match &shared {
        None => totals.accumulate(graph, terms, rows)?,
        Some(step) => {
            let fresh = step.state(graph)?;
            graph.launch_into(Fill { words: step.words, value: 0.0 }, &[], &[Some(fresh)])?;
            step.accumulate(graph, terms, rows)?;
        }
    }
    let seeded: Vec<Var> = [heads.logits].into_iter().chain(heads.gate).collect();
    let mut seeds = outputs[1..=seeded.len()].to_vec();
    let mut loss_scale = None;
    if graph.spec(batch.image).dtype == DType::F16 {
        let (scaled, scale) = graph.scale_loss(&seeds)?;
        (seeds, loss_scale) = (scaled, Some(scale));
    }
    let seeds: Vec<(Var, Var)> = seeded.into_iter().zip(seeds).collect();
    let gradients = graph.backward(&seeds)?;
    graph.place_gradients(model.params(), &heads.parameters, &gradients)?;
    if let Some(step) = &shared {
        graph.sum_over_processes(model.params(), &step.bank)?;
        let everybodys = step.state(graph)?;
        totals.accumulate(graph, everybodys, 1)?;
    }
    let optimizer = graph.sgd(model.params(), optimizer, loss_scale)?;
    Ok(Training { heads, settings, optimizer, terms, totals })
}

/// Records an evaluation step on a split of `images` images, with running statistics. A teacher from outside takes no
/// part: the loss is then the cross-entropy.
///
/// # Errors
/// When the configuration is out of range, or the image does not fit the architecture.
pub fn evaluation(
    graph: &mut Graph,
    model: &mut Model,
    architecture: &dyn Architecture,
    batch: impl Into<Batch>,
    config: &Config,
    images: usize,
) -> Result<Evaluation> {
    let batch = batch.into();
    let alone = Config { teacher: Teacher::None, ..*config };
    let config = if config.teacher == Teacher::Given { &alone } else { config };
    let heads = record(graph, model, architecture, Mode::Inference, batch.image, config)?;
    let (settings, outputs) = record_loss(graph, &heads, batch, config, false)?;
    let totals = Totals::record(graph, outputs[0], graph.shape(outputs[0])[0], config.branches)?;
    let predictions = Table::record(graph, &heads, batch.labels, images)?;
    Ok(Evaluation { heads, settings, totals, predictions })
}

impl Table {
    fn record(graph: &mut Graph, heads: &Heads, labels: Var, images: usize) -> Result<Self> {
        let [members, batch, classes] = logits_shape(graph, heads);
        let kernel = Predict { members, batch, classes, rows: images, gated: heads.gate.is_some() };
        let bank = Bank::new("predictions");
        bank.reserve(images * kernel.columns())?;
        let table = graph.state(&bank, 0, Spec::f32([images, kernel.columns()]), false)?;
        let position = graph.input("position in the table of predictions", Spec::u32([2]));
        let mut inputs = vec![heads.logits, labels, position];
        inputs.extend(heads.gate);
        graph.launch_into(kernel, &inputs, &[Some(table)])?;
        Ok(Self { bank, kernel, position })
    }
}

impl Training {
    /// Feeds the settings that change from step to step: `[rate, momentum, weight decay]`, and the weights of the
    /// loss terms.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed(&self, program: &mut Program, sgd: [f32; 3], weights: LossWeights, rows: usize) -> Result<()> {
        program.feed_f32(self.optimizer.hyper, &sgd)?;
        feed_settings(program, self.settings, weights, rows)
    }

    /// Waits for the device and takes the sums of the terms since they were last taken.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn take_totals(&self, device: &Device) -> Result<Vec<f32>> {
        self.totals.take(device)
    }

    /// Waits for the device and copies the sums of the terms, which keep growing.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn totals(&self, device: &Device) -> Result<Vec<f32>> {
        self.totals.read(device)
    }

    /// Waits for the device and copies the state of the loss scale, in mixed precision.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn loss_scale(&self, device: &Device) -> Result<Option<[f32; 4]>> {
        Ok(self.optimizer.loss_scale.as_ref().map(|scale| scale.read(device)).transpose()?)
    }

    /// Sets the sums of the terms to those of [`Training::totals`], so that an interrupted epoch continues to the
    /// same bits.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn restore_totals(&self, device: &Device, totals: &[f32]) -> Result<()> {
        self.totals.write(device, totals)
    }
}

impl Evaluation {
    /// Feeds the weights of the loss terms (they affect only the reported loss) and the batch's images: `rows` of
    /// them from `first` on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed(&self, program: &mut Program, weights: LossWeights, first: usize, rows: usize) -> Result<()> {
        let position = [first, rows].map(|x| u32::try_from(x).expect("splits have less than 2^32 images"));
        program.feed_u32(self.predictions.position, &position)?;
        feed_settings(program, self.settings, weights, rows)
    }

    /// Waits for the device and takes the sums of the terms since they were last taken.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn take_totals(&self, device: &Device) -> Result<Vec<f32>> {
        self.totals.take(device)
    }

    /// Waits for the device and copies the predictions for the first `images` images.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn predictions(&self, device: &Device, images: usize) -> Result<Predictions> {
        let table = self.predictions.bank.read(device)?.into_iter().map(f32::from_bits).collect();
        Ok(Predictions::new(self.predictions.kernel, table, images))
    }
}

fn feed_settings(program: &mut Program, settings: Var, weights: LossWeights, rows: usize) -> Result<()> {
    let LossWeights { cross_entropy, distillation } = weights;
    program.feed_f32(settings, &[distillation as f32, rows as f32, cross_entropy as f32])?;
    Ok(())
}
