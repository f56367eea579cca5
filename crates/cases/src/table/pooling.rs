//! Pooling over windows, and what joins and copies channels and members.

use tensor::Rng;
use tensor::kernels::concat::{Concat, SliceChannels};
use tensor::kernels::expand_members::ExpandMembers;
use tensor::kernels::pool2d::{Pool2d, Pool2dGrad, PoolGeometry, Pooling};

use super::{Case, Fill};

/// The max-pool of ImageNet networks at a small size; the others differ from it in what matters.
const BASE: PoolGeometry = PoolGeometry {
    images: 2,
    height: 8,
    width: 8,
    channels: 16,
    kernel: [3, 3],
    stride: [2, 2],
    padding: [1, 1],
    pooling: Pooling::Max,
};

/// Small integers: windows have several maxima, and the first must win.
fn ties(words: usize) -> Fill {
    let mut rng = Rng::new(&[0x71e5]);
    Fill::Words((0..words).map(|_| (rng.below(4) as f32 - 2.0).to_bits()).collect())
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let halves = PoolGeometry { kernel: [2, 2], padding: [0, 0], pooling: Pooling::Average, ..BASE };
    for (name, geometry) in [
        ("max", BASE),
        ("max_odd", PoolGeometry { height: 7, width: 11, channels: 6, ..BASE }),
        (
            "max_uneven",
            PoolGeometry { kernel: [2, 5], stride: [3, 1], padding: [0, 2], channels: 3, height: 5, ..BASE },
        ),
        ("max_gaps", PoolGeometry { kernel: [2, 1], stride: [3, 2], padding: [1, 0], images: 1, height: 11, ..BASE }),
        ("max_pixel", PoolGeometry { height: 1, width: 1, channels: 5, images: 3, ..BASE }),
        ("average", halves),
        ("average_odd", PoolGeometry { height: 5, width: 3, channels: 150, ..halves }),
        ("average_padded", PoolGeometry { pooling: Pooling::Average, channels: 1, height: 11, ..BASE }),
    ] {
        let quick = ["max", "max_uneven", "average", "average_padded"].contains(&name);
        let (forward, gradient) = (Pool2d { geometry }, Pool2dGrad { geometry });
        let area = geometry.kernel[0] * geometry.kernel[1];
        cases.push(Case::new(format!("pool2d/{name}"), forward, area).quick(quick));
        let mut case = Case::new(format!("pool2d_grad/{name}"), gradient, area);
        if geometry.pooling == Pooling::Max {
            let words = geometry.images * geometry.height * geometry.width * geometry.channels;
            case = case.input(1, ties(words));
        }
        cases.push(case.quick(quick));
    }
    for (rows, left, right) in [(64, 24, 12), (17, 950, 40), (5, 3, 11), (1, 1, 1), (133, 6, 2)] {
        let shape = format!("{rows}x{left}+{right}");
        let channels = left + right;
        let quick = [64, 5].contains(&rows);
        cases.push(Case::new(format!("concat/{shape}"), Concat { rows, channels: [left, right] }, 1).quick(quick));
        for (first, count) in [(0, left), (left, right)] {
            let slice = SliceChannels { rows, channels, first, count };
            let case = Case::new(format!("slice_channels/{shape} {first}..{}", first + count), slice, 1);
            cases.push(case.quick(quick && first > 0));
        }
    }
    for (members, words) in [(3, 1028), (2, 17), (1, 4)] {
        let case = Case::new(format!("expand_members/{members}x{words}"), ExpandMembers { members, words }, 1);
        cases.push(case.quick(members > 1));
    }
    cases
}
