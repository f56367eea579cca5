//! Input of `eval`: a checkpoint and the images of a dataset.

use std::sync::Arc;

use anyhow::{Result, bail};
use data::{Dataset, LoadOptions, Pictures};
use tensor::Device;

use crate::failure::usage;
use crate::machine::processors;
use crate::options::args::{EvalArgs, Shortcut};
use crate::options::config::Network;
use crate::run::checkpoint::{self, Checkpoint};
use crate::step::feeding::Normalisation;
use crate::step::source::{self, Purpose};

/// A checkpoint, and what it is measured with.
#[derive(Debug)]
pub(super) struct EvalInput {
    pub checkpoint: Checkpoint,
    pub network: Network,
    pub device: Device,
    pub dataset: Dataset<Arc<Pictures>>,
    pub normalisation: Normalisation,
    /// Threads that prepare batches.
    pub workers: usize,
}

impl EvalInput {
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
        // The view of test images, whole or from nearer, is part of how a network was trained.
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
