//! The shaders that the steps of the networks use, in every specialisation.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use nets::resnet::Shortcut;
use nets::{Model, architecture};
use one::Config;
use serde::{Deserialize, Serialize};
use tensor::optim::SgdConfig;
use tensor::{Graph, Kernel, Spec, Target};

use crate::spirv;

/// What steps are recorded from.
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    /// Names of networks.
    pub networks: &'a [String],
    /// Branches of the ensemble.
    pub branches: usize,
    /// Images per step.
    pub batch: usize,
}

/// One shader to compile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The kernel and its shapes, or the name of a case.
    pub name: String,
    /// The entry point.
    pub entry: String,
    /// Storage buffers in group 0.
    pub bindings: usize,
    /// The shader.
    pub spirv: Vec<u32>,
}

/// Collects shaders by their text, so that each is compiled once.
#[derive(Debug, Default)]
struct Collector {
    seen: BTreeSet<(String, &'static str)>,
    names: BTreeMap<String, usize>,
    jobs: Vec<Job>,
}

impl Collector {
    fn add(&mut self, name: &str, kernel: &dyn Kernel) -> Result<()> {
        let launch = kernel.launch(&Target::HARDWARE);
        let source = launch.source();
        if self.seen.contains(&(source.clone(), launch.entry)) {
            return Ok(());
        }
        let spirv = spirv::translate(&source, launch.entry).map_err(|error| error.context(name.to_owned()))?;
        let count = self.names.entry(name.to_owned()).or_default();
        *count += 1;
        let name = if *count == 1 { name.to_owned() } else { format!("{name} ({count})") };
        self.jobs.push(Job { name, entry: launch.entry.to_owned(), bindings: launch.bindings.len(), spirv });
        self.seen.insert((source, launch.entry));
        Ok(())
    }
}

/// The shaders of the networks' training and evaluation steps whose names contain every one of `filters`.
pub fn of_steps(steps: Steps<'_>, filters: &[String]) -> Result<Vec<Job>> {
    let mut collector = Collector::default();
    for network in steps.networks {
        let net = architecture(network, Shortcut::B)?;
        let config = Config::paper(net.as_ref(), steps.branches, 10);
        for training in [true, false] {
            let (mut graph, mut model) = (Graph::new(), Model::new());
            let image = graph.input("image", Spec::f32([1, steps.batch, 32, 32, 4]));
            let labels = graph.input("labels", Spec::u32([steps.batch]));
            let (net, sample) = (net.as_ref(), (image, labels));
            if training {
                one::training(&mut graph, &mut model, net, sample, &config, SgdConfig { nesterov: true })?;
            } else {
                one::evaluation(&mut graph, &mut model, net, sample, &config, 1)?;
            }
            for kernel in graph.kernels() {
                let name = kernel.describe();
                if filters.iter().all(|filter| name.contains(filter.as_str())) {
                    collector.add(&name, kernel.as_ref())?;
                }
            }
        }
    }
    Ok(collector.jobs)
}

/// The shaders of the table of cases whose names contain every one of `filters`.
pub fn of_cases(filters: &[String]) -> Result<Vec<Job>> {
    let mut collector = Collector::default();
    for case in cases::all() {
        if filters.iter().all(|filter| case.name.contains(filter.as_str())) {
            collector.add(&case.name, case.kernel.as_ref())?;
        }
    }
    Ok(collector.jobs)
}
