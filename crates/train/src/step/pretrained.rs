//! A trained network to be used: what a file of weights holds, or one branch of it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use nets::{Mode, Model, NamedTensor, deployed};
use one::Heads;
use tensor::{Device, Graph, Var};

use crate::failure::usage;
use crate::options::args::Branches;
use crate::run::checkpoint::{self, Header};
use crate::show::words::describe;

/// A network, and what is needed to use it.
#[derive(Debug)]
pub struct Pretrained {
    pub header: Header,
    pub state: Vec<NamedTensor>,
    branch: Branches,
}

impl Pretrained {
    /// Reads a file that a run or `export` wrote, and takes one branch of it as a separate network, or all.
    ///
    /// # Errors
    /// When the file cannot be read, does not say what network it is of, lacks parts of it, or has no such branch.
    pub fn read(file: &Path, branch: Branches) -> Result<Self> {
        let checkpoint = checkpoint::read(file)?;
        let shown = file.display();
        let Some(header) = checkpoint.header else {
            bail!(
                "{shown} does not say what network it is of: take a run's best.safetensors, or what `train export` \
                 wrote (a run that begins with --init {shown} makes one)"
            )
        };
        let branches = header.network.branches;
        let (header, state) = match branch {
            Branches::All => (header, checkpoint.state),
            Branches::One(branch) if branch < branches => {
                let state = deployed(&checkpoint.state, branch);
                (header.of_branch(branch), state)
            }
            Branches::One(branch) => {
                let there_are = match branches {
                    1 => "branch 0 only".to_owned(),
                    _ => format!("branches 0 to {}", branches - 1),
                };
                return Err(usage(format!("there is no branch {branch} in {shown}, which has {there_are}")));
            }
        };
        let trained = Self { header, state, branch };
        trained.check().with_context(|| format!("cannot use {shown}"))?;
        Ok(trained)
    }

    /// Makes sure that the state is all of the network's.
    fn check(&self) -> Result<()> {
        if self.header.classes < 2 || self.header.std.iter().any(|&std| !(std > 0.0 && std.is_finite())) {
            bail!("it does not say how many classes it tells apart and how its images are normalised");
        }
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let size = self.header.size()?;
        let image = graph.input("image", tensor::Spec::f32([1, 1, size, size, 4]));
        self.record(&mut graph, &mut model, image)?;
        Ok(model.load(&Device::cpu(), &self.state)?)
    }

    /// Records it, in evaluation mode, on images `[1, N, H, W, 4]`.
    ///
    /// # Errors
    /// When the images do not fit it.
    pub fn record(&self, graph: &mut Graph, model: &mut Model, image: Var) -> Result<Heads> {
        let (architecture, method) = (self.header.network.architecture()?, self.header.method_config()?);
        Ok(one::record(graph, model, &*architecture, Mode::Inference, image, &method)?)
    }

    /// Describes it in words.
    pub fn describe(&self) -> String {
        let network = describe(&self.header.network);
        match self.branch {
            Branches::One(branch) => format!("branch {branch} of {network}"),
            Branches::All if self.header.gate && self.header.network.branches > 1 => format!("{network}, and the gate"),
            Branches::All => network,
        }
    }

    /// Name of class `index`.
    pub fn class(&self, index: usize) -> String {
        self.header.class_names.get(index).cloned().unwrap_or_else(|| format!("class {index}"))
    }
}
