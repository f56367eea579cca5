//! Cost of a network.

use anyhow::Result;

use crate::options::args::{InfoArgs, Method};
use crate::options::config::Network;
use crate::output::line;
use crate::show::words::{describe, flops, grouped, mebibytes};
use crate::step::cost::{activation_memory, cost};

/// Prints a network's stages, parameters, operations and memory.
///
/// # Errors
/// When there is no such network.
pub fn run(args: &InfoArgs) -> Result<()> {
    let network = Network::new(&args.network, Method::One)?;
    let method = network.method_config(Method::One, true, args.classes)?;
    let architecture = network.architecture()?;
    let size = args.image.unwrap_or_else(|| architecture.image_size());
    let stages = architecture.stages();
    let (shared, copied) = stages.split_at(method.fan_out);
    let shared = if shared.is_empty() { "none".to_owned() } else { shared.join(", ") };
    let cost = cost(&network, &method, size)?;
    let (training, evaluation) = activation_memory(&network, &method, args.batch, size)?;
    let millions = |n: usize| format!("{} ({:.3} M)", grouped(n), n as f64 / 1e6);
    let entry = |what: &str, is: String| line(format!("{what:<12} {is}"));
    entry("network", format!("{}, {} classes, {size}x{size} images", describe(&network), args.classes))?;
    match network.branches {
        1 => entry("stages", stages.join(", "))?,
        k => entry("stages", format!("shared: {shared}; in {k} branches: {}, classifier", copied.join(", ")))?,
    }
    entry("parameters", format!("{} deployed", millions(cost.deployed_parameters)))?;
    let whole = cost.training_parameters + cost.gate_parameters;
    match cost.gate_parameters {
        0 => entry("", format!("{} in training", millions(whole)))?,
        gate => entry("", format!("{} in training, of which {} are the gate's", millions(whole), grouped(gate)))?,
    }
    entry("FLOPs", format!("{} deployed (TeCost)", flops(cost.deployed)))?;
    entry("", format!("{} in training (TrCost; 2 per multiply-accumulate, one image, forward)", flops(cost.training)))?;
    entry(
        "memory",
        format!(
            "activations at batch {}: {} in training, {} in evaluation",
            args.batch,
            mebibytes(training),
            mebibytes(evaluation)
        ),
    )
}
