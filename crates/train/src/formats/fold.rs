//! Batch-norms of a trained network folded into the convolutions and linear layers before them, and back.
//!
//! With running statistics, `gamma (W x + b - mean) / sqrt(var + eps) + beta` is `W' x + b'` with `W' = s W`, `b' =
//! beta + s (b - mean)`, `s = gamma / sqrt(var + eps)`. A batch-norm whose input anything else reads, or that stands in
//! front of its convolution as in DenseNet, stays.
//!
//! A folded convolution has a bias, and its batch-norm has nothing. Back, the batch-norm takes the bias, and is
//! otherwise one that changes nothing: so a folded file can be read wherever any other can.

use std::collections::HashMap;

use nets::{Layer, NamedTensor, Operation, member_name};

/// A batch-norm's parameters and running statistics.
const PARTS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// A batch-norm, and what it can be folded into, by the names of their parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub layer: String,
    pub norm: String,
    /// True if the layer has a bias of its own.
    linear: bool,
    epsilon: f32,
    members: usize,
}

/// The batch-norms that can be folded.
pub fn pairs(layers: &[Layer]) -> Vec<Pair> {
    let readers = |of| layers.iter().flat_map(|layer| &layer.inputs).filter(|&&input| input == of).count();
    let pair = |norm: &Layer| {
        let Operation::BatchNorm { name, epsilon, .. } = &norm.operation else { return None };
        let &input = norm.inputs.first()?;
        let before = layers.iter().find(|layer| layer.output == input)?;
        let (layer, linear) = match &before.operation {
            Operation::Conv { name, .. } => (name, false),
            Operation::Linear { name } => (name, true),
            _ => return None,
        };
        let members = norm.members;
        let (layer, norm, epsilon) = (layer.clone(), name.clone(), *epsilon);
        (readers(input) == 1 && before.members == members).then_some(Pair { layer, norm, linear, epsilon, members })
    };
    layers.iter().filter_map(pair).collect()
}

type Tensors = HashMap<String, NamedTensor>;

fn take(tensors: &mut Tensors, name: &str) -> Result<NamedTensor, String> {
    tensors.remove(name).ok_or_else(|| format!("it has no {name}"))
}

fn by_name(state: Vec<NamedTensor>) -> Tensors {
    state.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
}

fn in_order(tensors: Tensors) -> Vec<NamedTensor> {
    let mut state: Vec<NamedTensor> = tensors.into_values().collect();
    state.sort_by(|a, b| a.name.cmp(&b.name));
    state
}

fn vector(name: String, data: Vec<f32>) -> NamedTensor {
    NamedTensor { name, shape: vec![data.len()], data }
}

/// The state with every batch-norm folded that can be; ordered by name.
///
/// # Errors
/// When a tensor is missing, in half a sentence.
pub fn fold(layers: &[Layer], state: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, String> {
    let mut tensors = by_name(state);
    for pair in pairs(layers) {
        for member in 0..pair.members {
            let name = |layer: &str, part: &str| member_name(&format!("{layer}.{part}"), member);
            let mut weight = take(&mut tensors, &name(&pair.layer, "weight"))?;
            let bias_name = name(&pair.layer, "bias");
            let [gamma, beta, mean, var] = PARTS.map(|part| take(&mut tensors, &name(&pair.norm, part)));
            let (gamma, beta, mean, var) = (gamma?.data, beta?.data, mean?.data, var?.data);
            let bias = if pair.linear { take(&mut tensors, &bias_name)?.data } else { vec![0.0; gamma.len()] };
            let row = weight.data.len() / gamma.len();
            let mut folded = Vec::with_capacity(gamma.len());
            for (k, weights) in weight.data.chunks_exact_mut(row).enumerate() {
                let scale = f64::from(gamma[k]) / (f64::from(var[k]) + f64::from(pair.epsilon)).sqrt();
                weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
                folded.push((f64::from(beta[k]) + scale * (f64::from(bias[k]) - f64::from(mean[k]))) as f32);
            }
            tensors.insert(weight.name.clone(), weight);
            tensors.insert(bias_name.clone(), vector(bias_name, folded));
        }
    }
    Ok(in_order(tensors))
}

/// The state with a batch-norm behind every layer that one was folded into; ordered by name.
///
/// # Errors
/// When a tensor is missing, in half a sentence.
pub fn unfold(layers: &[Layer], state: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, String> {
    let mut tensors = by_name(state);
    for pair in pairs(layers) {
        for member in 0..pair.members {
            let name = |layer: &str, part: &str| member_name(&format!("{layer}.{part}"), member);
            let bias = take(&mut tensors, &name(&pair.layer, "bias"))?;
            let channels = bias.data.len();
            // With a variance of 1 this takes what is added to it back out.
            let gamma = (1.0 + f64::from(pair.epsilon)).sqrt() as f32;
            let mut beta = vec![0.0; channels];
            if pair.linear {
                tensors.insert(bias.name.clone(), bias);
            } else {
                beta = bias.data;
            }
            let values = [vec![gamma; channels], beta, vec![0.0; channels], vec![1.0; channels]];
            for (part, data) in PARTS.into_iter().zip(values) {
                let name = name(&pair.norm, part);
                tensors.insert(name.clone(), vector(name, data));
            }
        }
    }
    Ok(in_order(tensors))
}

#[cfg(test)]
mod tests {
    use nets::resnet::Shortcut;
    use nets::{Mode, Model};
    use tensor::{Device, Graph, Spec, Var};

    use super::*;

    /// A network of two branches with a gate, on two images, and its state with statistics of every kind.
    fn network(net: &str) -> (Graph, Model, one::Heads, Var) {
        let architecture = nets::architecture(net, Shortcut::B).expect("known");
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let image = graph.input("image", Spec::f32([1, 2, 16, 16, 4]));
        let config = one::Config::paper(&*architecture, 2, 5);
        let heads = one::record(&mut graph, &mut model, &*architecture, Mode::Inference, image, &config);
        (graph, model, heads.expect("recorded"), image)
    }

    fn outputs(net: &str, state: &[NamedTensor]) -> Vec<f32> {
        let device = Device::cpu();
        let (mut graph, model, heads, image) = network(net);
        let gate = heads.gate.expect("gated");
        graph.keep(heads.logits);
        graph.keep(gate);
        let mut program = graph.compile(&device).expect("compiled");
        model.load(&device, state).expect("fits");
        let pixels: Vec<f32> = (0..2 * 16 * 16 * 4).map(|i| if i % 4 == 3 { 0.0 } else { (i as f32).sin() }).collect();
        program.feed_f32(image, &pixels).expect("fed");
        program.run().expect("run");
        let mut outputs = program.read_f32(heads.logits).expect("read");
        outputs.extend(program.read_f32(gate).expect("read"));
        outputs
    }

    fn state(net: &str) -> Vec<NamedTensor> {
        let device = Device::cpu();
        let (_, model, ..) = network(net);
        model.initialize(&device, 3).expect("initialised");
        let mut state = model.state(&device).expect("read");
        for tensor in state.iter_mut().filter(|tensor| tensor.shape.len() == 1) {
            let positive = tensor.name.ends_with("running_var");
            for (i, value) in tensor.data.iter_mut().enumerate() {
                let wave = 0.4 * ((i + tensor.name.len()) as f32).sin();
                *value += if positive { wave.abs() } else { wave };
            }
        }
        state
    }

    #[test]
    fn a_folded_network_computes_the_same_and_has_fewer_tensors() {
        for (net, folded_norms) in [("resnet8", 9), ("resnext11-2x4d", 13), ("densenet-bc-10-4", 3)] {
            let (.., heads, _) = network(net);
            let pairs = pairs(&heads.layers);
            let norms: usize = pairs.iter().filter(|pair| !pair.linear).count();
            assert!(norms > 0 && pairs.iter().any(|pair| pair.norm == "gate.bn"), "{net}: {pairs:?}");
            let state = state(net);
            let folded = fold(&heads.layers, state.clone()).expect("complete");
            assert!(folded.len() < state.len(), "{net}");
            let back = unfold(&heads.layers, folded.clone()).expect("complete");
            assert_eq!(back.len(), state.len(), "{net}");
            let (before, after) = (outputs(net, &state), outputs(net, &back));
            let largest = before.iter().fold(0f32, |most, value| most.max(value.abs()));
            for (a, b) in before.iter().zip(&after) {
                assert!((a - b).abs() < 1e-5 * largest.max(1.0), "{net}: {a} and {b}");
            }
            assert_eq!(norms, folded_norms, "{net}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let (.., heads, _) = network("resnet8");
        let mut state = state("resnet8");
        state.retain(|tensor| tensor.name != "branches.1.layer3.0.bn1.bias");
        let problem = fold(&heads.layers, state.clone()).expect_err("incomplete");
        assert_eq!(problem, "it has no branches.1.layer3.0.bn1.bias");
        assert_eq!(unfold(&heads.layers, state).expect_err("not folded"), "it has no conv1.bias");
    }
}
