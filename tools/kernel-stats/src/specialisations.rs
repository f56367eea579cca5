//! The shaders of the networks' steps, in every specialisation.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use data::{Augment, PADDING, image_words};
use nets::resnet::Shortcut;
use nets::{Model, architecture};
use one::Config;
use serde::{Deserialize, Serialize};
use tensor::optim::SgdConfig;
use tensor::{DType, Form, Graph, Spec, Target};

use crate::predict::Step;
use crate::spirv;

/// Training images.
const IMAGES: usize = 50_000;

/// Configuration of the recorded steps.
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    /// Names of networks.
    pub networks: &'a [String],
    /// Branches of the ensemble.
    pub branches: usize,
    /// Images per step.
    pub batch: usize,
    /// Storage of activations and their gradients.
    pub precisions: &'a [DType],
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

/// Choice of shaders.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Strings that names must all contain.
    pub filters: &'a [String],
    /// True for all variants that may be the fastest, not only the one that is launched.
    pub candidates: bool,
}

/// Collects shaders by their text, so that each is compiled once.
#[derive(Debug)]
struct Collector<'a> {
    selection: Selection<'a>,
    seen: BTreeSet<(String, &'static str)>,
    names: BTreeMap<String, usize>,
    jobs: Vec<Job>,
}

impl<'a> Collector<'a> {
    fn new(selection: Selection<'a>) -> Self {
        Self { selection, seen: BTreeSet::new(), names: BTreeMap::new(), jobs: Vec::new() }
    }

    fn add(&mut self, name: &str, kernel: &Form) -> Result<()> {
        if !self.selection.filters.iter().all(|filter| name.contains(filter.as_str())) {
            return Ok(());
        }
        let mut launches = kernel.candidates(&Target::HARDWARE);
        if !self.selection.candidates {
            launches.truncate(1);
        }
        for launch in launches {
            let source = launch.source();
            if self.seen.contains(&(source.clone(), launch.entry)) {
                continue;
            }
            let spirv = spirv::translate(&source, launch.entry).map_err(|error| error.context(name.to_owned()))?;
            let count = self.names.entry(name.to_owned()).or_default();
            *count += 1;
            let name = if *count == 1 { name.to_owned() } else { format!("{name} ({count})") };
            self.jobs.push(Job { name, entry: launch.entry.to_owned(), bindings: launch.bindings.len(), spirv });
            self.seen.insert((source, launch.entry));
        }
        Ok(())
    }
}

/// The shaders of the networks' training and evaluation steps.
pub fn of_steps(steps: Steps<'_>, selection: Selection<'_>) -> Result<Vec<Job>> {
    let mut collector = Collector::new(selection);
    for &precision in steps.precisions {
        for network in steps.networks {
            for training in [true, false] {
                for kernel in record(steps, precision, network, training)?.live_kernels()? {
                    collector.add(&kernel.describe(), &kernel)?;
                }
            }
        }
    }
    Ok(collector.jobs)
}

/// The kernels of the table of cases, and of the networks' training and evaluation steps.
pub fn kernels(steps: Steps<'_>) -> Result<Vec<(String, Form)>> {
    let mut kernels: Vec<_> = cases::all().into_iter().map(|case| (case.name, case.kernel)).collect();
    for &precision in steps.precisions {
        for network in steps.networks {
            for training in [true, false] {
                let live = record(steps, precision, network, training)?.live_kernels()?;
                kernels.extend(live.into_iter().map(|kernel| (kernel.describe(), kernel)));
            }
        }
    }
    Ok(kernels)
}

/// The training steps, with the cost of each kernel.
pub fn training_steps(steps: Steps<'_>) -> Result<Vec<Step>> {
    let mut all = Vec::new();
    for &precision in steps.precisions {
        for network in steps.networks {
            let kernels = record(steps, precision, network, true)?.live_kernels()?;
            let passes = |kernel: &Form| kernel.launch(&Target::HARDWARE).passes().count();
            let kernels = kernels.iter().map(|kernel| (kernel.describe(), kernel.cost(), passes(kernel)));
            let name = format!(
                "{network}, {} branches, activations of {}",
                steps.branches,
                match precision {
                    DType::F16 => "16 bits",
                    _ => "32 bits",
                }
            );
            all.push(Step { name, batch: steps.batch, kernels: kernels.collect() });
        }
    }
    Ok(all)
}

/// Records a step on CIFAR-10, whose training images are one binding.
fn record(steps: Steps<'_>, precision: DType, network: &str, training: bool) -> Result<Graph> {
    let (mut graph, mut model) = (Graph::new(), Model::new());
    let shard = graph.input("images", Spec::u32([IMAGES, image_words(32)]));
    let labels = graph.input("labels", Spec::u32([IMAGES]));
    let picks = graph.input("picks", Spec::u32([steps.batch, 2]));
    let augment = Augment {
        shard_images: vec![IMAGES],
        size: 32,
        batch: steps.batch,
        padding: PADDING,
        mean: [0.4914, 0.4822, 0.4465],
        std: [0.2470, 0.2435, 0.2616],
    };
    let sample = graph.launch_as(precision, augment, &[shard, labels, picks])?;
    let sample = (sample[0], sample[1]);
    let net = architecture(network, Shortcut::B)?;
    let config = Config::paper(net.as_ref(), steps.branches, 10);
    if training {
        one::training(&mut graph, &mut model, net.as_ref(), sample, &config, SgdConfig { nesterov: true })?;
    } else {
        one::evaluation(&mut graph, &mut model, net.as_ref(), sample, &config, IMAGES)?;
    }
    Ok(graph)
}

/// The shaders of the table of cases.
pub fn of_cases(selection: Selection<'_>) -> Result<Vec<Job>> {
    let mut collector = Collector::new(selection);
    for case in cases::all() {
        collector.add(&case.name, &case.kernel)?;
    }
    Ok(collector.jobs)
}
