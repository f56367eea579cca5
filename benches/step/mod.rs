//! Whole steps, recorded and compiled.

use nets::resnet::Shortcut;
use nets::{Model, architecture};
use one::{Config, LossWeights};
use tensor::optim::SgdConfig;
use tensor::{Cost, Device, Graph, Program, Rng, Spec, Var};

/// Lists the networks whose steps are measured.
const NETS: &str = "ONFLY_BENCH_NETS";
const DEFAULT_NETS: &str = "resnet20:1,resnet32:1,resnet32:3";
/// Classes of all networks.
const CLASSES: usize = 10;

/// Networks to measure: name and number of branches.
pub fn networks() -> Vec<(String, usize)> {
    let list = std::env::var(NETS).unwrap_or_else(|_| DEFAULT_NETS.to_owned());
    let network = |item: &str| {
        let (name, branches) = item.trim().split_once(':')?;
        Some((name.to_owned(), branches.parse().ok()?))
    };
    let parsed = list.split(',').map(|item| {
        network(item)
            .unwrap_or_else(|| panic!("{NETS} should list name:branches, such as {DEFAULT_NETS}; got \"{item}\""))
    });
    parsed.collect()
}

/// A step with everything that it was recorded from.
pub struct Step {
    pub graph: Graph,
    model: Model,
    kind: Kind,
    inputs: [Var; 2],
}

/// Kind of step.
enum Kind {
    Training(one::Training),
    Evaluation(one::Evaluation),
}

impl Step {
    /// Records a step of a network by its name.
    pub fn record(name: &str, branches: usize, training: bool, batch: usize) -> nets::Result<Self> {
        let net = architecture(name, Shortcut::B)?;
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let size = net.image_size();
        let image = graph.input("image", Spec::f32([1, batch, size, size, 4]));
        let labels = graph.input("labels", Spec::u32([batch]));
        let inputs = [image, labels];
        let config = Config::paper(net.as_ref(), branches, CLASSES);
        let kind = if training {
            let optimizer = SgdConfig { nesterov: true };
            let step = one::training(&mut graph, &mut model, net.as_ref(), (image, labels), &config, optimizer)?;
            Kind::Training(step)
        } else {
            Kind::Evaluation(one::evaluation(&mut graph, &mut model, net.as_ref(), (image, labels), &config, batch)?)
        };
        Ok(Self { graph, model, kind, inputs })
    }

    /// Operations and bytes of one step.
    pub fn cost(&self) -> tensor::Result<Cost> {
        let mut total = Cost::default();
        for kernel in self.graph.live_kernels()? {
            let cost = kernel.cost();
            total.flops += cost.flops;
            total.bytes += cost.bytes;
        }
        Ok(total)
    }

    /// Compiled, with random images and labels.
    pub fn compile(&self, device: &Device) -> nets::Result<Program> {
        let mut program = self.graph.compile(device)?;
        let [image, labels] = self.inputs;
        let mut rng = Rng::new(&[0xbe9c]);
        let pixels: Vec<f32> = (0..self.graph.spec(image).words()).map(|_| rng.normal() as f32).collect();
        let batch = self.graph.spec(labels).words();
        let classes: Vec<u32> = (0..batch).map(|_| rng.below(CLASSES) as u32).collect();
        program.feed_f32(image, &pixels)?;
        program.feed_u32(labels, &classes)?;
        self.model.initialize(device, 0)?;
        self.feed(&mut program)?;
        Ok(program)
    }

    /// Feeds the inputs that change from step to step, beside the images: rates and weights.
    pub fn feed(&self, program: &mut Program) -> nets::Result<()> {
        let batch = self.graph.spec(self.inputs[1]).words();
        match &self.kind {
            Kind::Training(step) => step.feed(program, [1e-3, 0.9, 1e-4], LossWeights::default(), batch),
            Kind::Evaluation(step) => step.feed(program, LossWeights::default(), 0, batch),
        }
    }
}
