//! Test errors of a checkpoint.

use anyhow::{Context, Result, bail};
use data::LoadOptions;
use nets::Model;

use crate::args::{EvalArgs, Shortcut};
use crate::checkpoint::{self, Checkpoint, Header};
use crate::config::Network;
use crate::evaluation::evaluate;
use crate::failure::usage;
use crate::output::line;
use crate::overview::{describe, describe_device, grouped};
use crate::programs::{EvaluationProgram, Normalisation, Recipe};
use crate::{interrupt, source, table};

/// Prints the test errors of each branch and of the ensemble.
///
/// # Errors
/// When the weights or the data cannot be read or do not fit each other.
pub fn run(args: &EvalArgs) -> Result<()> {
    let checkpoint = checkpoint::read(&args.weights)?;
    let network = network(args, &checkpoint)?;
    let header = checkpoint.header.as_ref();
    let device = tensor::device::open(&args.device)?;
    let name = args.dataset.data.as_deref().or(header.map(|header| header.data.as_str())).unwrap_or("cifar10");
    let options = LoadOptions {
        data_dir: args.dataset.data_dir.clone(),
        limit_train: Some(0),
        limit_test: args.dataset.limit_test,
        seed: 0,
        classes: args.dataset.classes.or(header.filter(|header| header.data == name).map(|header| header.classes)),
    };
    let dataset = source::load(name, &options)?;
    let classes = dataset.classes.len();
    if let Some(header) = header.filter(|header| header.classes != classes) {
        bail!("{} tells {} classes apart, and {name} has {classes}", args.weights.display(), header.classes);
    }
    let teacher = header.map_or(one::Teacher::None, Header::teacher);
    let method = network.method(teacher, classes)?;
    let architecture = network.architecture()?;
    let own = |given: Option<[f64; 3]>, trained: Option<[f64; 3]>, default: [f32; 3]| {
        given.or(trained).unwrap_or(default.map(f64::from))
    };
    let normalisation = Normalisation {
        mean: own(args.dataset.mean, header.map(|header| header.mean), dataset.mean),
        std: own(args.dataset.std, header.map(|header| header.std), dataset.std),
    };
    let mut model = Model::new();
    let recipe = Recipe { architecture: &*architecture, method: &method, normalisation, batch: args.batch };
    let mut program = EvaluationProgram::new(&device, &mut model, recipe, &dataset.test)?;
    model.load(&device, &checkpoint.state).with_context(|| format!("cannot use {}", args.weights.display()))?;
    interrupt::catch()?;
    let Some(metrics) = evaluate(&mut program, 1.0, |_| ())? else { bail!("interrupted before the errors were known") };

    line(format!(
        "{}, {name}, {} test images, {}",
        describe(&network),
        grouped(metrics.samples),
        describe_device(&device)
    ))?;
    line(format!("{:<10} {:>11} {:>11} {:>14}", "", "top-1 error", "top-5 error", "cross-entropy"))?;
    let row = |name: &str, top1: f64, top5: f64, loss: f64| {
        line(format!("{name:<10} {top1:>9.2} % {top5:>9.2} % {loss:>14.4}"))
    };
    let (top1, top5) = (metrics.top1_errors(), metrics.top5_errors());
    for i in 0..metrics.branches() {
        row(&format!("branch {i}"), top1[i], top5[i], metrics.cross_entropy(i))?;
    }
    if metrics.branches() > 1 {
        let (top1, top5) = table::ensemble_errors(&metrics);
        row("ensemble", top1, top5, metrics.ensemble_cross_entropy())?;
    }
    Ok(())
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
