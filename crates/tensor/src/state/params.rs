//! Parameters and running statistics by name, each kind in flat banks.

use std::collections::HashMap;

use crate::device::{ALIGNMENT, Device};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::shape::Spec;
use crate::state::bank::Bank;

/// The role of a named tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Trained by gradient descent; weight decay applies or not.
    Trained {
        /// True if weight decay applies to it.
        decay: bool,
    },
    /// A running statistic: updated by the forward pass, never by a gradient.
    Running,
}

/// One named tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name, unique in the set.
    pub name: String,
    /// Shape with the member axis in front.
    pub spec: Spec,
    /// Its role.
    pub kind: Kind,
    /// First word in its bank; the same in the banks of values, gradients and velocities.
    pub offset: usize,
}

/// The tensors of a model that outlive a step: one flat bank each of values, gradients and velocities (momentum) of the
/// trained ones, and one of running statistics.
#[derive(Debug)]
pub struct Params {
    entries: Vec<Param>,
    index: HashMap<String, usize>,
    values: Bank,
    gradients: Bank,
    velocities: Bank,
    running: Bank,
}

impl Default for Params {
    fn default() -> Self {
        Self::new()
    }
}

impl Params {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: HashMap::new(),
            values: Bank::new("parameters"),
            gradients: Bank::new("gradients"),
            velocities: Bank::new("velocities"),
            running: Bank::new("running statistics"),
        }
    }

    /// Declares a tensor, or finds the one of this name.
    ///
    /// # Errors
    /// When the name is taken by another shape or kind, or memory was laid out already.
    pub fn declare(&mut self, name: &str, spec: Spec, kind: Kind) -> Result<&Param> {
        if let Some(&i) = self.index.get(name) {
            let known = &self.entries[i];
            if known.spec != spec || known.kind != kind {
                return Err(Error::Parameter {
                    name: name.to_owned(),
                    problem: format!("declared as {:?} {}, then as {kind:?} {spec}", known.kind, known.spec),
                });
            }
            return Ok(&self.entries[i]);
        }
        let offset = match kind {
            Kind::Running => self.running.reserve(spec.words())?,
            Kind::Trained { .. } => {
                self.gradients.reserve(spec.words())?;
                self.velocities.reserve(spec.words())?;
                self.values.reserve(spec.words())?
            }
        };
        self.index.insert(name.to_owned(), self.entries.len());
        self.entries.push(Param { name: name.to_owned(), spec, kind, offset });
        Ok(&self.entries[self.entries.len() - 1])
    }

    /// All tensors, in the order of their declaration.
    pub fn entries(&self) -> &[Param] {
        &self.entries
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.index.get(name).map(|&i| &self.entries[i])
    }

    /// The bank that holds a tensor's values.
    pub fn bank(&self, kind: Kind) -> &Bank {
        match kind {
            Kind::Trained { .. } => &self.values,
            Kind::Running => &self.running,
        }
    }

    /// Values of the trained tensors.
    pub fn values(&self) -> &Bank {
        &self.values
    }

    /// Gradients of the trained tensors.
    pub fn gradients(&self) -> &Bank {
        &self.gradients
    }

    /// Velocities (momentum) of the trained tensors.
    pub fn velocities(&self) -> &Bank {
        &self.velocities
    }

    /// Running statistics.
    pub fn running(&self) -> &Bank {
        &self.running
    }

    /// Which 64-word blocks of the trained tensors weight decay applies to: 1 or 0 for each.
    pub fn decay_blocks(&self) -> Vec<f32> {
        let mut blocks = vec![0.0; self.values.words() / ALIGNMENT];
        for param in &self.entries {
            if param.kind == (Kind::Trained { decay: true }) {
                let first = param.offset / ALIGNMENT;
                blocks[first..first + param.spec.words().div_ceil(ALIGNMENT)].fill(1.0);
            }
        }
        blocks
    }

    /// Writes a tensor's values on the device.
    ///
    /// # Errors
    /// When the length differs from the tensor's, or the device fails.
    pub fn write(&self, device: &Device, param: &Param, values: &[f32]) -> Result<()> {
        if values.len() != param.spec.words() {
            return Err(Error::Parameter {
                name: param.name.clone(),
                problem: format!("it is {}, and {} values were given", param.spec, values.len()),
            });
        }
        self.bank(param.kind).write(device, param.offset, bytemuck::cast_slice(values))
    }
}

impl Graph {
    /// The values of a named tensor; a trained one needs a gradient.
    ///
    /// # Errors
    /// When the parameter's bank does not hold it.
    pub fn param(&mut self, params: &Params, param: &Param) -> Result<Var> {
        let trained = matches!(param.kind, Kind::Trained { .. });
        self.state(params.bank(param.kind), param.offset, param.spec.clone(), trained)
    }
}
