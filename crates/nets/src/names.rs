//! Translation of other PyTorch implementations' names to those used here: torchvision's for residual networks, and
//! those of the best-known DenseNet for CIFAR.

/// This project's name of the parameter or running statistic that a PyTorch implementation calls `name`:
///
/// | there | here |
/// |---|---|
/// | `module.` in front (`DataParallel`) | nothing |
/// | `shortcut.0`, `shortcut.1` of a block | `downsample.0`, `downsample.1` |
/// | `linear`, `classifier` | `fc` |
/// | `transD.bn`, `transD.conv` | `transD.bn1`, `transD.conv1` |
/// | `features.conv0` | `conv1` |
/// | `features.denseblockD.denselayerI.normJ`, `.convJ`, I from 1 | `denseD.(I-1).bnJ`, `.convJ` |
/// | `features.transitionD.norm`, `.conv` | `transD.bn1`, `transD.conv1` |
/// | `features.norm5`, `features.norm_final` | `bn` |
///
/// The same holds behind `branches.I.`. Any other name, the project's own included, stays as it is, so the mapping is
/// idempotent.
pub fn own_name(name: &str) -> String {
    let mut rest = name;
    while let Some(inner) = rest.strip_prefix("module.") {
        rest = inner;
    }
    let parts: Vec<&str> = rest.split('.').collect();
    let own = match parts[..] {
        ["branches", branch, ref layer @ ..] => own_layer(layer).map(|layer| format!("branches.{branch}.{layer}")),
        _ => own_layer(&parts),
    };
    own.unwrap_or_else(|| rest.to_owned())
}

/// The project's name of a layer's tensor, where it differs.
fn own_layer(parts: &[&str]) -> Option<String> {
    match *parts {
        ["linear" | "classifier", leaf] => Some(format!("fc.{leaf}")),
        [ref block @ .., "shortcut", layer @ ("0" | "1"), leaf] if !block.is_empty() => {
            Some(format!("{}.downsample.{layer}.{leaf}", block.join(".")))
        }
        [transition, "bn" | "norm", leaf] if numbered(transition, "trans").is_some() => {
            Some(format!("{transition}.bn1.{leaf}"))
        }
        [transition, "conv", leaf] if numbered(transition, "trans").is_some() => {
            Some(format!("{transition}.conv1.{leaf}"))
        }
        ["features", ref layer @ ..] => own_dense_layer(layer),
        _ => None,
    }
}

/// The project's name of a tensor of torchvision's DenseNet, given without the `features.` in front.
fn own_dense_layer(parts: &[&str]) -> Option<String> {
    match *parts {
        ["conv0", leaf] => Some(format!("conv1.{leaf}")),
        ["norm5" | "norm_final", leaf] => Some(format!("bn.{leaf}")),
        [block, layer, operation, leaf] => {
            let block = numbered(block, "denseblock")?;
            let layer = numbered(layer, "denselayer")?.checked_sub(1)?;
            let operation = match numbered(operation, "norm") {
                Some(number) => format!("bn{number}"),
                None => format!("conv{}", numbered(operation, "conv")?),
            };
            Some(format!("dense{block}.{layer}.{operation}.{leaf}"))
        }
        [transition, operation @ ("norm" | "conv"), leaf] => {
            let operation = if operation == "norm" { "bn1" } else { "conv1" };
            Some(format!("trans{}.{operation}.{leaf}", numbered(transition, "transition")?))
        }
        _ => None,
    }
}

/// The number in a part that is `stem` followed by a number.
fn numbered(part: &str, stem: &str) -> Option<usize> {
    part.strip_prefix(stem)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tensor::{Graph, Spec};

    use super::own_name;
    use crate::{Builder, Mode, Model, architecture, names, resnet::Shortcut};

    #[test]
    fn names_of_other_implementations_become_ours() {
        for (theirs, ours) in [
            ("module.conv1.weight", "conv1.weight"),
            ("module.module.linear.bias", "fc.bias"),
            ("layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"),
            ("module.layer3.11.shortcut.1.running_var", "layer3.11.downsample.1.running_var"),
            ("classifier.weight", "fc.weight"),
            ("trans2.bn.running_mean", "trans2.bn1.running_mean"),
            ("trans1.conv.weight", "trans1.conv1.weight"),
            ("features.conv0.weight", "conv1.weight"),
            ("features.denseblock1.denselayer1.norm1.weight", "dense1.0.bn1.weight"),
            ("module.features.denseblock3.denselayer31.conv2.weight", "dense3.30.conv2.weight"),
            ("features.transition2.norm.bias", "trans2.bn1.bias"),
            ("features.transition1.conv.weight", "trans1.conv1.weight"),
            ("features.norm5.bias", "bn.bias"),
            ("features.norm_final.running_var", "bn.running_var"),
            ("branches.2.linear.weight", "branches.2.fc.weight"),
            ("module.branches.1.layer3.0.shortcut.1.bias", "branches.1.layer3.0.downsample.1.bias"),
            ("branches.1.features.denseblock3.denselayer2.norm2.bias", "branches.1.dense3.1.bn2.bias"),
        ] {
            assert_eq!(own_name(theirs), ours, "{theirs}");
            assert_eq!(own_name(ours), ours);
        }
    }

    #[test]
    fn what_is_none_of_these_stays() {
        for name in [
            "",
            "module",
            "features.conv9.weight",
            "features.denseblock1.denselayer0.norm1.weight",
            "features.denseblock1.denselayer2.relu.weight",
            "layer1.0.shortcut.2.weight",
            "shortcut.0.weight",
            "linear.weight.extra",
            "transition.bn.weight",
            "gate.fc.weight",
            "branches.1",
        ] {
            assert_eq!(own_name(name), name);
        }
    }

    #[test]
    fn the_names_of_every_network_are_their_own_also_in_branches() {
        for net in names() {
            let architecture = architecture(net, Shortcut::B).expect("a common network");
            let (mut graph, mut model) = (Graph::new(), Model::new());
            let size = architecture.image_size();
            let mut x = graph.input("image", Spec::f32([1, 1, size, size, 4]));
            let mut builder = Builder::new(&mut graph, &mut model, Mode::Inference);
            builder.set_image(x);
            for stage in 0..architecture.stages().len() {
                x = architecture.stage(stage, &mut builder, x).expect("the image fits");
            }
            architecture.classifier(&mut builder, x, 10).expect("the features fit");
            for param in model.params().entries() {
                let branch = format!("branches.3.{}", param.name);
                assert_eq!([own_name(&param.name), own_name(&branch)], [param.name.clone(), branch], "{net}");
            }
        }
    }
}
