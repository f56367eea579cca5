//! Test errors of a checkpoint.

use anyhow::{Context, Result, bail};
use nets::Model;
use one::LossWeights;

use crate::commands::eval_input::EvalInput;
use crate::commands::perturb;
use crate::interrupt;
use crate::options::args::EvalArgs;
use crate::output::line;
use crate::run::files::check_target;
use crate::show::table;
use crate::show::words::{describe, describe_device, flops, grouped};
use crate::step::cost::cost;
use crate::step::evaluation::evaluate;
use crate::step::programs::{EvaluationProgram, StepSpec};

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
    let EvalInput { checkpoint, network, device, dataset, normalisation, workers } = EvalInput::load(args, Some(0))?;
    let classes = dataset.classes.len();
    let method = match &checkpoint.header {
        Some(header) => network.method_config(header.method, header.gate, classes)?,
        None => one::Config::independent(1, classes),
    };
    let architecture = network.architecture()?;
    let mut model = Model::new();
    let spec = StepSpec::evaluation(&*architecture, &method, normalisation, args.batch, workers);
    let cost = cost(&network, &method, dataset.test.size())?;
    let mut program = EvaluationProgram::new(&device, &mut model, spec, dataset.test)?;
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
