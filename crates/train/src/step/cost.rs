//! The cost of a network: parameters, operations and memory, counted without a device.

use anyhow::Result;
use nets::{Macs, Mode, Model};
use tensor::{Graph, Spec};

use crate::options::config::Network;

/// Parameters and operations of a network, deployed and in training.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Trained values of the target network alone.
    pub deployed_parameters: usize,
    /// Trained values of all branches, without the gate's.
    pub training_parameters: usize,
    /// Trained values of the gate.
    pub gate_parameters: usize,
    /// Operations on one image, forward.
    pub deployed: Macs,
    /// Operations on one image, forward, of all branches.
    pub training: Macs,
}

/// Counts a network's parameters, and its operations on an image of `size` by `size` pixels.
///
/// # Errors
/// When there is no such network, or the image is too small for it.
pub fn cost(network: &Network, method: &one::Config, size: usize) -> Result<Cost> {
    let architecture = network.architecture()?;
    let count = |method: &one::Config| -> Result<(Model, Macs)> {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, 1, size, size, 4]));
        let heads = one::record(&mut graph, &mut model, &*architecture, Mode::Inference, image, method)?;
        Ok((model, heads.macs))
    };
    let single = one::Config { branches: 1, teacher: one::Teacher::None, distill: false, ..*method };
    let ((alone, deployed), (all, training)) = (count(&single)?, count(method)?);
    let gate_parameters = gate_parameters(&all);
    Ok(Cost {
        deployed_parameters: alone.parameters(None),
        training_parameters: all.parameters(None) - gate_parameters,
        gate_parameters,
        deployed,
        training,
    })
}

/// Trained values of the gate.
fn gate_parameters(model: &Model) -> usize {
    let trained = |kind| matches!(kind, tensor::Kind::Trained { .. });
    let entries = model.params().entries().iter();
    entries.filter(|param| trained(param.kind) && param.name.starts_with("gate.")).map(|param| param.spec.words()).sum()
}

/// Memory of the activations of a training step and of an evaluation step on `batch` images of `size` by `size` pixels,
/// in bytes, without a device.
///
/// # Errors
/// When there is no such network, or the images are too small for it.
pub fn activation_memory(network: &Network, method: &one::Config, batch: usize, size: usize) -> Result<(usize, usize)> {
    let architecture = network.architecture()?;
    let record = |training: bool| -> Result<usize> {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, batch, size, size, 4]));
        let sample = (image, graph.input("labels", Spec::u32([batch])));
        if training {
            let optimizer = one::Optimizer { nesterov: true };
            one::training(&mut graph, &mut model, &*architecture, sample, method, optimizer)?;
        } else {
            one::evaluation(&mut graph, &mut model, &*architecture, sample, method, batch)?;
        }
        Ok(graph.footprint()?.activations() as usize)
    };
    Ok((record(true)?, record(false)?))
}
