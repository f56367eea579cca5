//! The trained network that knowledge distillation learns from.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nets::{Mode, Model, NamedTensor};
use tensor::{Device, Graph, Var};

use crate::failure::usage;
use crate::options::config::{Config, Network};
use crate::run::checkpoint;

/// A trained network: branch 0 of its file.
#[derive(Debug)]
pub struct Teacher {
    /// Its network.
    pub network: Network,
    file: PathBuf,
    classes: usize,
    state: Vec<NamedTensor>,
}

impl Teacher {
    /// Reads the teacher of a run; `None` if its method has none. `config` must be settled.
    ///
    /// # Errors
    /// When the file cannot be read, does not say what network it is of, or was trained on other classes or pixels.
    pub fn read(config: &Config) -> Result<Option<Self>> {
        let Some(file) = &config.teacher else { return Ok(None) };
        let checkpoint = checkpoint::read(file)?;
        let classes = config.classes.unwrap_or_default();
        let shown = file.display();
        let network = match (&checkpoint.header, &config.teacher_net) {
            (Some(header), given) => {
                if given.as_ref().is_some_and(|net| *net != header.network.net) {
                    return Err(usage(format!(
                        "the teacher {shown} is of {}: leave --teacher-net out",
                        header.network.net
                    )));
                }
                if header.classes != classes {
                    bail!(
                        "the teacher {shown} tells {} classes apart, and {} has {classes}",
                        header.classes,
                        config.data
                    );
                }
                if (Some(header.mean), Some(header.std)) != (config.mean, config.std) {
                    bail!(
                        "the teacher {shown} was trained on pixels of mean {} and deviation {}: give --mean and \
                         --std so",
                        triple(header.mean),
                        triple(header.std)
                    );
                }
                header.network.alone()
            }
            (None, Some(net)) => Network { net: net.clone(), ..config.network.alone() },
            (None, None) => {
                return Err(usage(format!("{shown} does not say what network it is of: give --teacher-net")));
            }
        };
        network.architecture()?;
        let state = nets::deployed(&checkpoint.state, 0);
        Ok(Some(Self { network, file: file.clone(), classes, state }))
    }

    /// Records it on images `[1, N, H, W, 4]`, in evaluation mode: its logits `[1, N, K]`.
    ///
    /// # Errors
    /// When the images do not fit it.
    pub fn record(&self, graph: &mut Graph, model: &mut Model, image: Var) -> Result<Var> {
        let architecture = self.network.architecture()?;
        let alone = one::Config::independent(1, self.classes);
        Ok(one::record(graph, model, &*architecture, Mode::Inference, image, &alone)?.logits)
    }

    /// Loads its weights.
    ///
    /// # Errors
    /// When they are not of this network, or the device fails.
    pub fn load(&self, device: &Device, model: &Model) -> Result<()> {
        let context = || format!("cannot use the teacher {}", self.file.display());
        model.load(device, &self.state).with_context(context)
    }
}

fn triple(values: [f64; 3]) -> String {
    values.map(|value| value.to_string()).join(",")
}
