//! The network of the method: shared stages, the gate at the fan-out point, branches, a classifier each.

use nets::{Architecture, Builder, Layer, Macs, Mode, Model, Result};
use tensor::{Error, Graph, Var};

use crate::kernels::distillation_loss::Teacher;
use crate::predictions::Network;

/// Configuration built around an architecture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Number of branches, from 1 to 8; of whole networks if the fan-out is 0.
    pub branches: usize,
    /// The stage at which branches begin; 0 shares nothing.
    pub fan_out: usize,
    /// Classes.
    pub classes: usize,
    /// Temperature T of the distillation.
    pub temperature: f32,
    /// Source that the branches learn from, beside the labels.
    pub teacher: Teacher,
    /// True if the teacher is distilled into the branches.
    pub distill: bool,
}

impl Config {
    /// On-the-fly native ensemble as in the paper: a gated teacher, T = 3, and branches from the architecture's last
    /// stage on; with one branch, a plain network.
    pub fn paper(architecture: &dyn Architecture, branches: usize, classes: usize) -> Self {
        let teacher = if branches > 1 { Teacher::Gated } else { Teacher::None };
        let fan_out = architecture.default_fan_out();
        Self { branches, fan_out, classes, temperature: 3.0, teacher, distill: branches > 1 }
    }

    /// Whole networks, trained at once and independent of each other; with one, the plain network.
    pub fn independent(networks: usize, classes: usize) -> Self {
        let teacher = Teacher::None;
        Self { branches: networks, fan_out: 0, classes, temperature: 1.0, teacher, distill: false }
    }

    /// Deep mutual learning: whole networks that learn from each other, T = 1.
    pub fn mutual(networks: usize, classes: usize) -> Self {
        Self { teacher: Teacher::Peers, distill: true, ..Self::independent(networks, classes) }
    }

    /// Knowledge distillation from a trained network into a plain one, T = 3.
    pub fn student(classes: usize) -> Self {
        Self { teacher: Teacher::Given, distill: true, temperature: 3.0, ..Self::independent(1, classes) }
    }

    /// The fusion of members that the method calls its ensemble: the teacher's, or else the mean of the
    /// probabilities. For a single network, the network itself.
    pub fn ensemble(&self) -> Network {
        match (self.branches, self.teacher) {
            (1, _) => Network::Member(0),
            (_, Teacher::Gated) => Network::Gated,
            (_, Teacher::Mean) => Network::MeanLogits,
            (_, Teacher::None | Teacher::Peers | Teacher::Given) => Network::MeanProbabilities,
        }
    }

    fn check(&self, stages: usize) -> Result<()> {
        let problem = if self.branches == 0 || self.branches > MAX_BRANCHES {
            format!("{} branches; there can be 1 to {MAX_BRANCHES}", self.branches)
        } else if self.branches == 1 && self.teacher == Teacher::Peers {
            "one network; mutual learning needs at least two".to_owned()
        } else if self.fan_out >= stages {
            format!("fan-out at stage {}; the stages are 0 to {}", self.fan_out, stages - 1)
        } else if self.classes < 2 {
            format!("{} classes; at least 2 are needed", self.classes)
        } else if self.temperature.is_nan() || self.temperature <= 0.0 {
            format!("temperature {}; it must be above 0", self.temperature)
        } else {
            return Ok(());
        };
        Err(Error::Shape { op: "network", problem }.into())
    }
}

/// Most branches that the loss kernel takes.
pub const MAX_BRANCHES: usize = 8;

/// Outputs of a recorded network.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Logits of the branches `[M, N, K]`.
    pub logits: Var,
    /// Activations of the gate before its softmax `[N, M]`, for a gated teacher.
    pub gate: Option<Var>,
    /// The parameters in the graph: index in `Params::entries`, and tensor.
    pub parameters: Vec<(usize, Var)>,
    /// Multiply-accumulates of one image, forward, in all members and the gate.
    pub macs: Macs,
    /// The network's layers, the gate included.
    pub layers: Vec<Layer>,
}

/// Records the network on `image` `[1, N, H, W, 4]`.
///
/// # Errors
/// When the configuration is out of range, or the image does not fit the architecture.
pub fn record(
    graph: &mut Graph,
    model: &mut Model,
    architecture: &dyn Architecture,
    mode: Mode,
    image: Var,
    config: &Config,
) -> Result<Heads> {
    let stages = architecture.stages().len();
    config.check(stages)?;
    let mut net = Builder::new(graph, model, mode);
    net.set_image(image);
    let mut x = image;
    let mut gate = None;
    for stage in 0..stages {
        if stage == config.fan_out {
            if config.teacher == Teacher::Gated {
                gate = Some(record_gate(&mut net, x, config.branches)?);
            }
            net.set_members(config.branches);
        }
        x = architecture.stage(stage, &mut net, x)?;
    }
    let logits = architecture.classifier(&mut net, x, config.classes)?;
    let macs = net.macs();
    let (parameters, layers) = net.finish();
    Ok(Heads { logits, gate, parameters, macs, layers })
}

/// The gate: global average pool, linear layer, batch-norm over the batch, ReLU. The softmax is the loss kernel's.
fn record_gate(net: &mut Builder<'_>, features: Var, branches: usize) -> Result<Var> {
    let pooled = net.global_average_pool(features)?;
    let scores = net.linear("gate.fc", pooled, branches)?;
    let gate = net.batch_norm("gate.bn", scores, None, true)?;
    let batch = net.graph().shape(gate)[1];
    Ok(net.graph().set_shape(gate, [batch, branches])?)
}
