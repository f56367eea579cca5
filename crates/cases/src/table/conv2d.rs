//! Convolutions and their gradients.

use tensor::kernels::batch_norm::Activation;
use tensor::kernels::conv2d::{Conv2dForward, Conv2dGradInput, Conv2dGradWeight, ConvGeometry};

use super::{Case, Fill};

/// A small 3x3 convolution of a single member; the others differ from it in what matters.
const BASE: ConvGeometry = ConvGeometry {
    members: 1,
    input_members: 1,
    batch: 2,
    height: 8,
    width: 8,
    channels: 16,
    filters: 16,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    groups: 1,
};

/// In a quick check: a stage of a network, a way down with ragged tiles, and channels that do not come in fours, each
/// with others of what the kernels do beside; compiling their variants takes long.
const QUICK: [&str; 11] = [
    "conv2d_forward/stage",
    "conv2d_forward/stage/statistics",
    "conv2d_forward/odd_down/normalised",
    "conv2d_forward/scalar",
    "conv2d_grad_input/stage/ReluOfSum",
    "conv2d_grad_input/members/Relu",
    "conv2d_grad_input/odd_down",
    "conv2d_grad_input/scalar/Relu",
    "conv2d_grad_weight/stage",
    "conv2d_grad_weight/odd_down/normalised",
    "conv2d_grad_weight/scalar",
];

fn geometries() -> Vec<(&'static str, ConvGeometry)> {
    vec![
        // What residual networks use: the image, a stage, the way into the next, branches, shortcuts.
        ("image", ConvGeometry { channels: 4, height: 32, width: 32, ..BASE }),
        ("stage", BASE),
        ("down", ConvGeometry { stride: [2, 2], filters: 32, ..BASE }),
        ("members", ConvGeometry { members: 3, input_members: 3, channels: 64, filters: 64, batch: 1, ..BASE }),
        ("fan_out", ConvGeometry { members: 3, stride: [2, 2], filters: 32, ..BASE }),
        ("shortcut", ConvGeometry { kernel: [1, 1], padding: [0, 0], stride: [2, 2], filters: 32, ..BASE }),
        ("pointwise", ConvGeometry { kernel: [1, 1], padding: [0, 0], members: 2, filters: 20, ..BASE }),
        ("stem", ConvGeometry { kernel: [7, 7], padding: [3, 3], stride: [2, 2], channels: 4, height: 18, ..BASE }),
        // What they do not: extents, strides and paddings that differ by axis, edges of tiles, groups.
        ("uneven", ConvGeometry { kernel: [2, 5], padding: [0, 3], stride: [3, 2], height: 11, width: 5, ..BASE }),
        ("groups", ConvGeometry { groups: 2, channels: 24, filters: 40, height: 5, width: 3, members: 2, ..BASE }),
        // ResNeXt: groups of 4, of 8 on the way into a stage with branches, of 64.
        ("groups_of_4", ConvGeometry { groups: 32, channels: 128, filters: 128, height: 4, width: 4, ..BASE }),
        (
            "groups_of_8",
            ConvGeometry { groups: 4, channels: 32, filters: 32, stride: [2, 2], height: 6, members: 3, ..BASE },
        ),
        (
            "groups_of_64",
            ConvGeometry { groups: 2, channels: 128, filters: 128, batch: 1, height: 3, width: 5, ..BASE },
        ),
        // Rows of several tiles and of none, more filters than a tile has, tiles of whole images with some missing,
        // classes of a stride with one row more than others.
        ("wide", ConvGeometry { height: 6, width: 70, channels: 20, filters: 72, batch: 1, ..BASE }),
        ("wider", ConvGeometry { height: 3, width: 300, channels: 8, filters: 8, batch: 1, ..BASE }),
        ("images", ConvGeometry { batch: 7, height: 7, width: 4, channels: 36, filters: 24, ..BASE }),
        ("odd_down", ConvGeometry { batch: 3, height: 7, width: 9, stride: [2, 2], channels: 24, ..BASE }),
        ("one_pixel", ConvGeometry { batch: 17, height: 1, width: 1, ..BASE }),
        // Channels that do not come in fours.
        ("scalar", ConvGeometry { channels: 3, filters: 5, stride: [2, 1], height: 7, members: 2, ..BASE }),
        ("depthwise", ConvGeometry { channels: 6, filters: 6, groups: 6, kernel: [3, 2], padding: [2, 0], ..BASE }),
        ("mixed", ConvGeometry { channels: 8, filters: 10, members: 2, input_members: 2, batch: 1, ..BASE }),
    ]
}

/// Every kernel on every geometry.
pub fn cases() -> Vec<Case> {
    let geometries = geometries().into_iter().enumerate();
    let cases = geometries.flat_map(|(index, (name, geometry))| on(index, name, geometry));
    let cases = cases.map(|case| {
        let quick = QUICK.contains(&case.name.as_str());
        case.quick(quick)
    });
    let mut cases: Vec<Case> = cases.collect();
    let geometry = ConvGeometry { batch: 16, ..BASE };
    cases.push(Case::new("conv2d_grad_weight/parts", Conv2dGradWeight { geometry, normalised: false }, 256));
    let geometry = ConvGeometry { batch: 15, channels: 2, ..BASE };
    cases.push(Case::new("conv2d_grad_weight/scalar_parts", Conv2dGradWeight { geometry, normalised: false }, 256));
    cases
}

/// The kernels on the geometry of this index; the input gradient alternating between with and without an addend.
fn on(index: usize, name: &str, geometry: ConvGeometry) -> Vec<Case> {
    let mut cases = Vec::new();
    let taps = geometry.kernel[0] * geometry.kernel[1];
    let [rows, columns] = geometry.output_extent();
    let forward = taps * geometry.channels / geometry.groups;
    let backward = taps * geometry.filters / geometry.groups * geometry.members;
    cases.push(Case::new(
        format!("conv2d_forward/{name}"),
        Conv2dForward { geometry, normalised: false, statistics: false },
        forward,
    ));
    // With a normalised input: a mean and a deviation that are not those of the input, to let the ReLU close.
    if index % 3 == 1 || geometry.channels == 3 || geometry.members > geometry.input_members {
        let normalised = |case: Case| {
            let case = case.input(2, Fill::Normal(0.3, 0.2)).input(3, Fill::Normal(1.0, 0.4));
            Case { name: case.name.clone() + "/normalised", ..case.input(4, Fill::Normal(0.2, 0.5)) }
        };
        let kernel = Conv2dForward { geometry, normalised: true, statistics: index.is_multiple_of(2) };
        cases.push(normalised(Case::new(format!("conv2d_forward/{name}"), kernel, forward)));
        let kernel = Conv2dGradWeight { geometry, normalised: true };
        let pixels = geometry.batch * rows * columns;
        cases.push(normalised(Case::new(format!("conv2d_grad_weight/{name}"), kernel, pixels)));
    }
    let kernel = Conv2dGradInput { geometry, addend: index % 2 == 1, norm: None };
    cases.push(Case::new(format!("conv2d_grad_input/{name}"), kernel, backward));
    let kernel = Conv2dForward { geometry, normalised: false, statistics: true };
    cases.push(Case::new(format!("conv2d_forward/{name}/statistics"), kernel, forward));
    let norm = [Activation::Relu, Activation::ReluOfSum, Activation::Linear][index % 3];
    let kernel = Conv2dGradInput { geometry, addend: index % 4 == 1 && norm != Activation::Relu, norm: Some(norm) };
    let name_of_norm = format!("conv2d_grad_input/{name}/{norm:?}");
    cases.push(Case::new(name_of_norm, kernel, backward));
    let pixels = geometry.batch * rows * columns;
    cases.push(Case::new(
        format!("conv2d_grad_weight/{name}"),
        Conv2dGradWeight { geometry, normalised: false },
        pixels,
    ));
    cases
}
