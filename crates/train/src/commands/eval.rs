//! Test errors of a checkpoint.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use data::{Dataset, LoadOptions, Pictures};
use nets::Model;
use one::LossWeights;
use tensor::{DType, Device};

use crate::args::{EvalArgs, Shortcut};
use crate::checkpoint::{self, Checkpoint};
use crate::commands::perturb;
use crate::config::{Network, processors};
use crate::evaluation::evaluate;
use crate::failure::usage;
use crate::feeding::Normalisation;
use crate::output::line;
use crate::overview::{cost, describe, describe_device, flops, grouped};
use crate::programs::{EvaluationProgram, Recipe};
use crate::run_dir::check_target;
use crate::source::Purpose;
use crate::{interrupt, source, table};

/// A checkpoint, and what it is measured with.
#[derive(Debug)]
pub(super) struct Subject {
    pub checkpoint: Checkpoint,
    pub network: Network,
    pub device: Device,
    pub dataset: Dataset<Arc<Pictures>>,
    pub normalisation: Normalisation,
    /// Threads that prepare batches.
    pub workers: usize,
}

impl Subject {
    /// Reads the weights, opens the device and loads the images, of the training split the first `limit_train` (0 for
    /// none).
    ///
    /// # Errors
    /// When the weights or the data cannot be read or do not fit each other.
    pub(super) fn load(args: &EvalArgs, limit_train: Option<usize>) -> Result<Self> {
        let checkpoint = checkpoint::read(&args.weights)?;
        let network = network(args, &checkpoint)?;
        let header = checkpoint.header.as_ref();
        let device = tensor::device::open(&args.device)?;
        let name = args.dataset.data.as_deref().or(header.map(|header| header.data.as_str())).unwrap_or("cifar10");
        let options = LoadOptions {
            data_dir: args.dataset.data_dir.clone(),
            limit_train,
            limit_test: args.dataset.limit_test,
            seed: 0,
            classes: args.dataset.classes.or(header.filter(|header| header.data == name).map(|header| header.classes)),
            strict: args.dataset.strict,
            ..LoadOptions::default()
        };
        let usual = header.and_then(|header| header.image_size).unwrap_or(network.architecture()?.image_size());
        // Whether test images are seen as a whole is part of how a network was trained.
        let trained = header.filter(|header| header.data == name).and_then(|header| header.augment);
        let purpose = Purpose {
            device: &device,
            asked: args.dataset.image_size,
            usual,
            augment: trained,
            stream: args.dataset.stream.unwrap_or_default(),
        };
        let share = |pictures| anyhow::Ok(Arc::new(pictures));
        let dataset = source::load(name, &options, purpose)?.try_map(share, share)?;
        let classes = dataset.classes.len();
        if let Some(header) = header.filter(|header| header.classes != classes) {
            bail!("{} tells {} classes apart, and {name} has {classes}", args.weights.display(), header.classes);
        }
        let own = |given: Option<[f64; 3]>, trained: Option<[f64; 3]>, default: [f32; 3]| {
            given.or(trained).unwrap_or(default.map(f64::from))
        };
        let normalisation = Normalisation {
            mean: own(args.dataset.mean, header.map(|header| header.mean), dataset.mean),
            std: own(args.dataset.std, header.map(|header| header.std), dataset.std),
        };
        let workers = args.dataset.workers.unwrap_or_else(processors);
        Ok(Self { checkpoint, network, device, dataset, normalisation, workers })
    }
}

/// Prints the test errors of each branch and of the ensemble.
///
/// # Errors
/// When the weights or the data cannot be read or do not fit each other.
pub fn run(args: &EvalArgs) -> Result<()> {
    if args.perturbation.perturb {
        return perturb::run(args);
    }
    if let Some(path) = &args.logits {
        check_target("--logits", path)?;
    }
    let Subject { checkpoint, network, device, dataset, normalisation, workers } = Subject::load(args, Some(0))?;
    let classes = dataset.classes.len();
    let method = match &checkpoint.header {
        Some(header) => network.method_config(header.method, header.gate, classes)?,
        None => one::Config::independent(1, classes),
    };
    let architecture = network.architecture()?;
    let mut model = Model::new();
    let recipe = Recipe {
        architecture: &*architecture,
        method: &method,
        normalisation,
        batch: args.batch,
        workers,
        precision: DType::F32,
        checks: false,
        sharing: None,
        part: (0, 1),
    };
    let cost = cost(&network, &method, dataset.test.size())?;
    let mut program = EvaluationProgram::new(&device, &mut model, recipe, dataset.test)?;
    model.load(&device, &checkpoint.state).with_context(|| format!("cannot use {}", args.weights.display()))?;
    if args.logits.is_some() {
        program.gather_outputs();
    }
    interrupt::catch()?;
    let Some(found) = evaluate(&mut program, LossWeights::default(), |_| ())? else {
        bail!("interrupted before the errors were known")
    };
    if let Some((path, outputs)) = args.logits.as_deref().zip(program.outputs()) {
        outputs.write(path)?;
    }

    line(format!(
        "{}, {}, {} test images, {}",
        describe(&network),
        dataset.name,
        grouped(found.predictions.images()),
        describe_device(&device)
    ))?;
    line(table::evaluation(&found))?;
    let ensemble = match network.branches {
        1 => String::new(),
        _ => format!("; TrCost {} in training, and of an ensemble", flops(cost.training)),
    };
    line(format!("FLOPs of one image: TeCost {} deployed{ensemble}", flops(cost.deployed)))
}

/// The network that the weights say they are of, or that the options name.
fn network(args: &EvalArgs, checkpoint: &Checkpoint) -> Result<Network> {
    let shortcut = args.shortcut.unwrap_or(Shortcut::B);
    let Some(header) = &checkpoint.header else {
        let Some(net) = &args.net else {
            return Err(usage(format!("{} does not say what network it is of: give --net", args.weights.display())));
        };
        let network = Network { net: net.clone(), shortcut, branches: 1, fan_out: "input".to_owned() };
        network.architecture()?;
        return Ok(network);
    };
    let other_net = args.net.as_ref().is_some_and(|net| *net != header.network.net);
    if other_net || args.shortcut.is_some_and(|shortcut| shortcut != header.network.shortcut) {
        return Err(usage(format!(
            "{} is of {} with shortcuts {:?}: leave --net and --shortcut out",
            args.weights.display(),
            header.network.net,
            header.network.shortcut
        )));
    }
    Ok(header.network.clone())
}
