//! A model's state: declared by the builder, initialised from a seed, read and loaded under PyTorch's names.

use std::collections::HashMap;

use tensor::{Device, Kind, Param, Params, Rng, Spec};

use crate::error::{Error, Result};
use crate::layout::Layout;

/// Initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// The same value everywhere.
    Constant(f32),
}

/// Choice of the parameters that weight decay applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decay {
    /// All of them, as PyTorch's optimisers do unless told otherwise.
    #[default]
    All,
    /// The weights of convolutions and linear layers: not batch-norms, not biases.
    Weights,
}

/// Properties of a parameter beyond its place in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Declaration {
    pub layout: Layout,
    pub init: Init,
}

/// One tensor under its public name, in PyTorch's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// `layer3.0.conv1.weight`; `branches.1.layer3.0.conv1.weight` for the second branch.
    pub name: String,
    /// Shape in PyTorch.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

/// Kind of state that [`Model::load_start`] recognised and loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The whole network, all branches and the gate.
    Everything,
    /// A single network, loaded into the shared stages and branch 0 of several.
    Target,
}

/// Kind of state to read: the values, or the optimiser's velocities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Values,
    Velocities,
}

/// Prefix of the gate's names; no single network has them.
const GATE: &str = "gate.";
/// Prefix of the names of all branches but the first.
const BRANCHES: &str = "branches.";

/// The parameters and running statistics of a network and its branches.
#[derive(Debug, Default)]
pub struct Model {
    params: Params,
    declarations: HashMap<String, Declaration>,
    decay: Decay,
}

/// The public name of a member's tensor. Branch 0 is the target network and keeps the plain names.
pub fn member_name(name: &str, member: usize) -> String {
    if member == 0 { name.to_owned() } else { format!("{BRANCHES}{member}.{name}") }
}

/// The network that remains of `state` without the gate and all branches but `branch`: the branch's own stages and
/// the shared ones, under plain names, in the target network's order. Without such a branch, the target network.
pub fn deployed(state: &[NamedTensor], branch: usize) -> Vec<NamedTensor> {
    let tensors: HashMap<&str, &NamedTensor> = state.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let plain = state.iter().filter(|tensor| !tensor.name.starts_with(GATE) && !tensor.name.starts_with(BRANCHES));
    plain
        .map(|target| {
            let own = tensors.get(member_name(&target.name, branch).as_str());
            NamedTensor { name: target.name.clone(), ..own.copied().unwrap_or(target).clone() }
        })
        .collect()
}

impl Model {
    /// A model without parameters; recording a network declares them.
    pub fn new() -> Self {
        Self::default()
    }

    /// A model without parameters; those declared later are subject to this weight decay.
    pub fn with_decay(decay: Decay) -> Self {
        Self { decay, ..Self::default() }
    }

    /// The parameters that weight decay applies to.
    pub fn decay(&self) -> Decay {
        self.decay
    }

    /// The parameters' storage.
    pub fn params(&self) -> &Params {
        &self.params
    }

    pub(crate) fn declare(&mut self, name: &str, spec: Spec, kind: Kind, declaration: Declaration) -> Result<usize> {
        self.params.declare(name, spec, kind)?;
        self.declarations.insert(name.to_owned(), declaration);
        let index = self.params.entries().iter().position(|param| param.name == name);
        Ok(index.expect("the parameter was declared just now"))
    }

    fn declaration(&self, param: &Param) -> &Declaration {
        self.declarations.get(&param.name).expect("every parameter of a model is declared by its builder")
    }

    /// Number of trained values (without padding) of the whole model, or of one branch with everything shared.
    pub fn parameters(&self, branch: Option<usize>) -> usize {
        let trained = self.params.entries().iter().filter(|param| matches!(param.kind, Kind::Trained { .. }));
        trained
            .filter(|param| branch.is_none() || !param.name.starts_with(GATE))
            .map(|param| {
                let members = param.spec.members();
                let one: usize =
                    self.declaration(param).layout.torch_shape(param.spec.words() / members).iter().product();
                one * if branch.is_some() { 1 } else { members }
            })
            .sum()
    }

    /// Sets every parameter to its initial value, a pure function of the seed, its name and its member, and every
    /// velocity to zero. Member i of seed s begins as member 0 of seed s + i.
    ///
    /// # Errors
    /// When the device fails.
    pub fn initialize(&self, device: &Device, seed: u64) -> Result<()> {
        for param in self.params.entries() {
            let declaration = self.declaration(param);
            let words = param.spec.words() / param.spec.members();
            let mut stored = Vec::with_capacity(param.spec.words());
            for member in 0..param.spec.members() {
                let count = declaration.layout.torch_shape(words).iter().product();
                let mut rng = Rng::named(&param.name, &[seed.wrapping_add(member as u64)]);
                let torch: Vec<f32> = (0..count)
                    .map(|_| match declaration.init {
                        Init::Normal(std) => (std * rng.normal()) as f32,
                        Init::Uniform(bound) => (bound * (2.0 * rng.uniform() - 1.0)) as f32,
                        Init::Constant(value) => value,
                    })
                    .collect();
                stored.extend(declaration.layout.store(&torch, words));
            }
            self.params.write(device, param, &stored)?;
        }
        let velocities = self.params.velocities();
        velocities.write(device, 0, &vec![0; velocities.words()])?;
        Ok(())
    }

    /// All parameters and running statistics, in declared order, branch after branch.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state(&self, device: &Device) -> Result<Vec<NamedTensor>> {
        self.export(device, Part::Values)
    }

    /// The optimiser's velocities, under the names of their parameters.
    ///
    /// # Errors
    /// When the device fails.
    pub fn velocities(&self, device: &Device) -> Result<Vec<NamedTensor>> {
        self.export(device, Part::Velocities)
    }

    fn export(&self, device: &Device, part: Part) -> Result<Vec<NamedTensor>> {
        let trained: Vec<f32> = floats(match part {
            Part::Values => self.params.values().read(device)?,
            Part::Velocities => self.params.velocities().read(device)?,
        });
        let running: Vec<f32> = floats(self.params.running().read(device)?);
        let mut tensors = Vec::new();
        for param in self.params.entries() {
            let bank = match (param.kind, part) {
                (Kind::Trained { .. }, _) => &trained,
                (Kind::Running, Part::Values) => &running,
                (Kind::Running, Part::Velocities) => continue,
            };
            let layout = self.declaration(param).layout;
            let words = param.spec.words() / param.spec.members();
            for member in 0..param.spec.members() {
                let start = param.offset + member * words;
                tensors.push(NamedTensor {
                    name: member_name(&param.name, member),
                    shape: layout.torch_shape(words),
                    data: layout.to_torch(&bank[start..start + words]),
                });
            }
        }
        Ok(tensors)
    }

    /// Loads parameters and running statistics by their public names.
    ///
    /// # Errors
    /// When names are missing, unexpected or wrongly shaped (all are listed, and nothing is loaded), or the device
    /// fails.
    pub fn load(&self, device: &Device, tensors: &[NamedTensor]) -> Result<()> {
        self.import(device, tensors, Part::Values, Loaded::Everything)
    }

    /// Loads weights to begin training with, over initial values. A state with a gate or several branches must be
    /// that of the very same network, as in [`Model::load`]. A state with neither is that of one network: it must
    /// have exactly the names of the target network, and fills the shared stages and branch 0. The other branches and
    /// the gate keep their values. Velocities are left alone.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_start(&self, device: &Device, tensors: &[NamedTensor]) -> Result<Loaded> {
        let several = self.params.entries().iter().any(|param| param.spec.members() > 1);
        let one_given = !tensors.iter().any(|t| t.name.starts_with(GATE) || t.name.starts_with(BRANCHES));
        let extent = if several && one_given { Loaded::Target } else { Loaded::Everything };
        self.import(device, tensors, Part::Values, extent)?;
        Ok(extent)
    }

    /// Loads the optimiser's velocities.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_velocities(&self, device: &Device, tensors: &[NamedTensor]) -> Result<()> {
        self.import(device, tensors, Part::Velocities, Loaded::Everything)
    }

    fn import(&self, device: &Device, tensors: &[NamedTensor], part: Part, extent: Loaded) -> Result<()> {
        let mut given: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        let mut ready: Vec<(&Param, Vec<f32>)> = Vec::new();
        let wanted = |param: &&Param| part == Part::Values || matches!(param.kind, Kind::Trained { .. });
        for param in self.params.entries().iter().filter(wanted) {
            let layout = self.declaration(param).layout;
            let words = param.spec.words() / param.spec.members();
            let shape = layout.torch_shape(words);
            let mut stored = Vec::with_capacity(param.spec.words());
            let members = match extent {
                Loaded::Everything => param.spec.members(),
                Loaded::Target if param.name.starts_with(GATE) => continue,
                Loaded::Target => 1,
            };
            for member in 0..members {
                let name = member_name(&param.name, member);
                match given.remove(name.as_str()) {
                    None => missing.push(name),
                    Some(tensor) if tensor.shape != shape => {
                        misshapen.push(format!("{name} is {:?} instead of {shape:?}", tensor.shape));
                    }
                    Some(tensor) => stored.extend(layout.store(&tensor.data, words)),
                }
            }
            ready.push((param, stored));
        }
        let mut unexpected: Vec<&str> = given.into_keys().collect();
        unexpected.sort_unstable();
        let mut problems = Vec::new();
        let mut list = |what: &str, names: &[String]| {
            if !names.is_empty() {
                problems.push(format!("{what}: {}", names.join(", ")));
            }
        };
        list("missing", &missing);
        list("unexpected", &unexpected.into_iter().map(str::to_owned).collect::<Vec<_>>());
        list("wrongly shaped", &misshapen);
        if !problems.is_empty() {
            return Err(Error::State(problems.join("; ")));
        }
        for (param, stored) in ready {
            let bank = match part {
                Part::Values => self.params.bank(param.kind),
                Part::Velocities => self.params.velocities(),
            };
            let words: Vec<u32> = stored.iter().map(|value| value.to_bits()).collect();
            bank.write(device, param.offset, &words)?;
        }
        Ok(())
    }
}

fn floats(words: Vec<u32>) -> Vec<f32> {
    words.into_iter().map(f32::from_bits).collect()
}

#[cfg(test)]
mod tests {
    use tensor::{Device, Graph, Spec};

    use super::*;
    use crate::{Builder, Mode};

    /// A shared linear layer and classifiers of two branches, with a gate if asked for.
    fn two_branches(device: &Device, seed: u64, gate: bool) -> Model {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let x = graph.input("features", Spec::f32([1, 1, 3]));
        let mut net = Builder::new(&mut graph, &mut model, Mode::Inference);
        let x = net.linear("shared", x, 4).expect("recorded");
        if gate {
            net.linear("gate.fc", x, 2).expect("recorded");
        }
        net.set_members(2);
        net.linear("fc", x, 5).expect("recorded");
        model.initialize(device, seed).expect("initialised");
        model
    }

    fn state(model: &Model, device: &Device) -> HashMap<String, Vec<f32>> {
        model.state(device).expect("read").into_iter().map(|tensor| (tensor.name, tensor.data)).collect()
    }

    #[test]
    fn a_state_of_one_network_fills_what_is_shared_and_branch_0() {
        let device = Device::cpu();
        let source = two_branches(&device, 7, true).state(&device).expect("read");
        let model = two_branches(&device, 0, true);
        let before = state(&model, &device);

        let other = deployed(&source, 1);
        let names: Vec<&str> = other.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["shared.weight", "shared.bias", "fc.weight", "fc.bias"]);
        assert_eq!(model.load_start(&device, &other).expect("fits"), Loaded::Target);
        let after = state(&model, &device);
        let source: HashMap<String, Vec<f32>> = source.into_iter().map(|t| (t.name, t.data)).collect();
        for (name, values) in &after {
            match name.as_str() {
                "shared.weight" | "shared.bias" => assert_eq!(values, &source[name], "{name}"),
                "fc.weight" | "fc.bias" => assert_eq!(values, &source[&format!("branches.1.{name}")], "{name}"),
                _ => assert_eq!(values, &before[name], "{name}"),
            }
        }
    }

    #[test]
    fn a_state_of_several_branches_is_loaded_as_a_whole_or_not_at_all() {
        let device = Device::cpu();
        let source = two_branches(&device, 7, true);
        let model = two_branches(&device, 0, true);
        let before = state(&model, &device);
        for gone in ["gate.fc.bias", "fc.weight", "branches.1.fc.bias"] {
            let mut part = source.state(&device).expect("read");
            part.retain(|tensor| tensor.name != gone);
            let error = model.load_start(&device, &part).expect_err("not whole").to_string();
            assert!(error.contains(&format!("missing: {gone}")), "{error}");
        }
        let without_gate = two_branches(&device, 7, false).state(&device).expect("read");
        model.load_start(&device, &without_gate).expect_err("the gate is missing");
        assert_eq!(state(&model, &device), before, "nothing is loaded");
        let whole = source.state(&device).expect("read");
        assert_eq!(model.load_start(&device, &whole).expect("fits"), Loaded::Everything);
        assert_eq!(state(&model, &device), state(&source, &device));
    }

    #[test]
    fn a_deployed_network_has_plain_names_and_no_gate() {
        let names = ["conv1.weight", "branches.1.fc.bias", "fc.bias", "gate.fc.weight", "layer3.0.gate.weight"];
        let tensors = names.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]);
        let state: Vec<NamedTensor> = tensors
            .map(|(&name, value)| NamedTensor { name: name.to_owned(), shape: vec![1], data: vec![value] })
            .collect();
        for (branch, bias) in [(0, 3.0), (1, 2.0)] {
            let found = deployed(&state, branch);
            let names: Vec<&str> = found.iter().map(|tensor| tensor.name.as_str()).collect();
            assert_eq!(names, ["conv1.weight", "fc.bias", "layer3.0.gate.weight"]);
            assert_eq!(found[1].data, [bias]);
        }
    }
}
