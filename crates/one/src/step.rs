//! Whole steps: training (forward, loss, gradients, update) and evaluation, each one graph.

use nets::{Architecture, Mode, Model, Result};
use tensor::kernels::sum_columns::AccumulateColumns;
use tensor::optim::{SgdConfig, SgdInputs};
use tensor::{Bank, Device, Graph, Program, Spec, Var};

use crate::kernels::ensemble_distillation::{EnsembleDistillation, TERMS};
use crate::network::{Config, Heads, record};

/// What updates the parameters: stochastic gradient descent.
pub type Optimizer = SgdConfig;

/// A recorded training step.
#[derive(Debug)]
pub struct Training {
    /// The network's outputs.
    pub heads: Heads,
    /// `[2]`, fed: weight of the distillation term, number of valid rows.
    pub settings: Var,
    /// The optimiser's inputs.
    pub optimizer: SgdInputs,
    /// Terms of each sample `[N, (M + 1) TERMS]`; see [`EnsembleDistillation`].
    pub terms: Var,
    totals: Totals,
}

/// A recorded evaluation step.
#[derive(Debug)]
pub struct Evaluation {
    /// The network's outputs.
    pub heads: Heads,
    /// `[2]`, fed: weight of the distillation term, number of valid rows.
    pub settings: Var,
    totals: Totals,
}

/// Sums of the terms, which accumulate on the device until they are taken.
#[derive(Debug)]
struct Totals {
    bank: Bank,
    words: usize,
}

impl Totals {
    fn record(graph: &mut Graph, terms: Var, batch: usize, branches: usize) -> Result<Self> {
        let words = (branches + 1) * TERMS;
        let bank = Bank::new("metrics");
        bank.reserve(words)?;
        let totals = graph.state(&bank, 0, Spec::f32([words]), false)?;
        graph.launch_into(AccumulateColumns { rows: batch, columns: words }, &[terms], &[Some(totals)])?;
        Ok(Self { bank, words })
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

/// Records the loss; returns its outputs, of which the terms are the first.
fn record_loss(
    graph: &mut Graph,
    heads: &Heads,
    labels: Var,
    config: &Config,
    gradient: bool,
) -> Result<(Var, Vec<Var>)> {
    let &[branches, batch, classes] = graph.shape(heads.logits) else {
        unreachable!("classifiers give three axes");
    };
    let settings = graph.input("loss settings", Spec::f32([2]));
    let &Config { temperature, teacher, distill, .. } = config;
    let kernel = EnsembleDistillation { branches, batch, classes, temperature, teacher, distill, gradient };
    let mut inputs = vec![heads.logits, labels, settings];
    inputs.extend(heads.gate);
    Ok((settings, graph.launch(kernel, &inputs)?))
}

/// Records a whole training step on `image` `[1, N, H, W, 4]` and `labels` `[N]`.
///
/// # Errors
/// When the configuration is out of range, or the image does not fit the architecture.
pub fn training(
    graph: &mut Graph,
    model: &mut Model,
    architecture: &dyn Architecture,
    (image, labels): (Var, Var),
    config: &Config,
    optimizer: Optimizer,
) -> Result<Training> {
    let heads = record(graph, model, architecture, Mode::Training, image, config)?;
    let (settings, outputs) = record_loss(graph, &heads, labels, config, true)?;
    let terms = outputs[0];
    let totals = Totals::record(graph, terms, graph.shape(terms)[0], config.branches)?;
    let mut seeds = vec![(heads.logits, outputs[1])];
    if let Some(gate) = heads.gate {
        seeds.push((gate, outputs[2]));
    }
    let gradients = graph.backward(&seeds)?;
    graph.place_gradients(model.params(), &heads.parameters, &gradients)?;
    let optimizer = graph.sgd(model.params(), optimizer)?;
    Ok(Training { heads, settings, optimizer, terms, totals })
}

/// Records an evaluation step on `image` `[1, N, H, W, 4]` and `labels` `[N]`, with running statistics.
///
/// # Errors
/// As [`training`].
pub fn evaluation(
    graph: &mut Graph,
    model: &mut Model,
    architecture: &dyn Architecture,
    (image, labels): (Var, Var),
    config: &Config,
) -> Result<Evaluation> {
    let heads = record(graph, model, architecture, Mode::Inference, image, config)?;
    let (settings, outputs) = record_loss(graph, &heads, labels, config, false)?;
    let totals = Totals::record(graph, outputs[0], graph.shape(outputs[0])[0], config.branches)?;
    Ok(Evaluation { heads, settings, totals })
}

impl Training {
    /// Feeds what changes from step to step: `[rate, momentum, weight decay]`, and the weight of the distillation term.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed(&self, program: &mut Program, sgd: [f32; 3], distillation: f32, rows: usize) -> Result<()> {
        program.feed_f32(self.optimizer.hyper, &sgd)?;
        program.feed_f32(self.settings, &[distillation, rows as f32])?;
        Ok(())
    }

    /// Waits for the device, and takes the sums of the terms since they were last taken.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn take_totals(&self, device: &Device) -> Result<Vec<f32>> {
        self.totals.take(device)
    }

    /// Waits for the device, and copies the sums of the terms, which go on growing.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn totals(&self, device: &Device) -> Result<Vec<f32>> {
        self.totals.read(device)
    }

    /// Sets the sums of the terms to what [`Training::totals`] gave: an interrupted epoch goes on to the same bits.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn restore_totals(&self, device: &Device, totals: &[f32]) -> Result<()> {
        self.totals.write(device, totals)
    }
}

impl Evaluation {
    /// Feeds the weight of the distillation term (it only enters the reported loss) and the number of valid rows.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed(&self, program: &mut Program, distillation: f32, rows: usize) -> Result<()> {
        program.feed_f32(self.settings, &[distillation, rows as f32])?;
        Ok(())
    }

    /// Waits for the device, and takes the sums of the terms since they were last taken.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn take_totals(&self, device: &Device) -> Result<Vec<f32>> {
        self.totals.take(device)
    }
}
