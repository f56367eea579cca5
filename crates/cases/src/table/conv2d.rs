//! Convolutions and their gradients.

use tensor::kernels::batch_norm::Activation::{self, Linear, Relu, ReluOfSum};
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

/// A geometry, and the variants of each kernel that it is tested in beside the plain ones.
struct Row {
    name: &'static str,
    geometry: ConvGeometry,
    /// The activation of the batch-norm whose sums the gradient of the input takes along.
    norm: Activation,
    /// Adds another gradient to that of the input.
    addend: bool,
    /// Adds one where the sums of a batch-norm are taken along, too.
    addend_behind: bool,
    /// The convolution and the gradient of its weights read an input that is normalised on the way.
    normalised: bool,
    /// That convolution takes statistics of its output, too.
    statistics_of_normalised: bool,
}

fn row(name: &'static str, norm: Activation, geometry: ConvGeometry) -> Row {
    let (addend, addend_behind, normalised, statistics_of_normalised) = (false, false, false, false);
    Row { name, geometry, norm, addend, addend_behind, normalised, statistics_of_normalised }
}

impl Row {
    fn addend(self) -> Self {
        Self { addend: true, ..self }
    }

    fn addend_behind(self) -> Self {
        Self { addend_behind: true, ..self }
    }

    fn normalised(self) -> Self {
        Self { normalised: true, ..self }
    }

    fn statistics_of_normalised(self) -> Self {
        Self { normalised: true, statistics_of_normalised: true, ..self }
    }
}

fn rows() -> Vec<Row> {
    vec![
        // Shapes of residual networks: the image, a stage, the way into the next, branches, shortcuts.
        row("image", Relu, ConvGeometry { channels: 4, height: 32, width: 32, ..BASE }),
        row("stage", ReluOfSum, BASE).addend().addend_behind().normalised(),
        row("down", Linear, ConvGeometry { stride: [2, 2], filters: 32, ..BASE }),
        row(
            "members",
            Relu,
            ConvGeometry { members: 3, input_members: 3, channels: 64, filters: 64, batch: 1, ..BASE },
        )
        .addend(),
        row("fan_out", ReluOfSum, ConvGeometry { members: 3, stride: [2, 2], filters: 32, ..BASE })
            .statistics_of_normalised(),
        row("shortcut", Linear, ConvGeometry { kernel: [1, 1], padding: [0, 0], stride: [2, 2], filters: 32, ..BASE })
            .addend()
            .addend_behind(),
        row("pointwise", Relu, ConvGeometry { kernel: [1, 1], padding: [0, 0], members: 2, filters: 20, ..BASE })
            .statistics_of_normalised(),
        row(
            "stem",
            ReluOfSum,
            ConvGeometry { kernel: [7, 7], padding: [3, 3], stride: [2, 2], channels: 4, height: 18, ..BASE },
        )
        .addend()
        .normalised(),
        // Shapes they lack: extents, strides and paddings that differ by axis, edges of tiles, groups.
        row(
            "uneven",
            Linear,
            ConvGeometry { kernel: [2, 5], padding: [0, 3], stride: [3, 2], height: 11, width: 5, ..BASE },
        ),
        row(
            "groups",
            Relu,
            ConvGeometry { groups: 2, channels: 24, filters: 40, height: 5, width: 3, members: 2, ..BASE },
        )
        .addend()
        .normalised(),
        // ResNeXt: groups of 4, of 8 on the way into a stage with branches, of 64.
        row(
            "groups_of_4",
            ReluOfSum,
            ConvGeometry { groups: 32, channels: 128, filters: 128, height: 4, width: 4, ..BASE },
        )
        .statistics_of_normalised(),
        row(
            "groups_of_8",
            Linear,
            ConvGeometry { groups: 4, channels: 32, filters: 32, stride: [2, 2], height: 6, members: 3, ..BASE },
        )
        .addend()
        .normalised(),
        row(
            "groups_of_64",
            Relu,
            ConvGeometry { groups: 2, channels: 128, filters: 128, batch: 1, height: 3, width: 5, ..BASE },
        ),
        // Rows of several tiles and of none, more filters than a tile has, tiles of whole images with some missing,
        // classes of a stride with one row more than others.
        row("wide", ReluOfSum, ConvGeometry { height: 6, width: 70, channels: 20, filters: 72, batch: 1, ..BASE })
            .addend()
            .addend_behind()
            .normalised(),
        row("wider", Linear, ConvGeometry { height: 3, width: 300, channels: 8, filters: 8, batch: 1, ..BASE }),
        row("images", Relu, ConvGeometry { batch: 7, height: 7, width: 4, channels: 36, filters: 24, ..BASE }).addend(),
        row(
            "odd_down",
            ReluOfSum,
            ConvGeometry { batch: 3, height: 7, width: 9, stride: [2, 2], channels: 24, ..BASE },
        )
        .statistics_of_normalised(),
        row("one_pixel", Linear, ConvGeometry { batch: 17, height: 1, width: 1, ..BASE }).addend().addend_behind(),
        // Channels that do not come in fours.
        row("scalar", Relu, ConvGeometry { channels: 3, filters: 5, stride: [2, 1], height: 7, members: 2, ..BASE })
            .statistics_of_normalised(),
        row(
            "depthwise",
            ReluOfSum,
            ConvGeometry { channels: 6, filters: 6, groups: 6, kernel: [3, 2], padding: [2, 0], ..BASE },
        )
        .addend()
        .normalised(),
        row("mixed", Linear, ConvGeometry { channels: 8, filters: 10, members: 2, input_members: 2, batch: 1, ..BASE }),
    ]
}

/// Every kernel on every geometry.
pub fn cases() -> Vec<Case> {
    let cases = rows().into_iter().flat_map(|row| row.cases()).map(|case| {
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

impl Row {
    fn cases(&self) -> Vec<Case> {
        let &Row { name, geometry, norm, addend, .. } = self;
        let [rows, columns] = geometry.output_extent();
        let taps = geometry.kernel[0] * geometry.kernel[1];
        // Lengths of the three reductions.
        let forward = taps * geometry.channels / geometry.groups;
        let backward = taps * geometry.filters / geometry.groups * geometry.members;
        let pixels = geometry.batch * rows * columns;

        let plain = Conv2dForward { geometry, normalised: false, statistics: false };
        let statistics = Conv2dForward { statistics: true, ..plain };
        let weight = Conv2dGradWeight { geometry, normalised: false };
        let input = Conv2dGradInput { geometry, addend, norm: None };
        let behind = Conv2dGradInput { geometry, addend: self.addend_behind, norm: Some(norm) };
        let mut cases = vec![
            Case::new(format!("conv2d_forward/{name}"), plain, forward),
            Case::new(format!("conv2d_forward/{name}/statistics"), statistics, forward),
            Case::new(format!("conv2d_grad_input/{name}"), input, backward),
            Case::new(format!("conv2d_grad_input/{name}/{norm:?}"), behind, backward),
            Case::new(format!("conv2d_grad_weight/{name}"), weight, pixels),
        ];
        if self.normalised {
            let kernel = Conv2dForward { geometry, normalised: true, statistics: self.statistics_of_normalised };
            cases.push(normalised(Case::new(format!("conv2d_forward/{name}/normalised"), kernel, forward)));
            let kernel = Conv2dGradWeight { geometry, normalised: true };
            cases.push(normalised(Case::new(format!("conv2d_grad_weight/{name}/normalised"), kernel, pixels)));
        }
        cases
    }
}

/// Fills what normalises the input: a mean and a deviation that are not those of the input let the ReLU close.
fn normalised(case: Case) -> Case {
    case.input(2, Fill::Normal(0.3, 0.2)).input(3, Fill::Normal(1.0, 0.4)).input(4, Fill::Normal(0.2, 0.5))
}
