//! Kernels without a reduction: elementwise ones, the parameter-free shortcut.

use tensor::kernels::elementwise::{Add, Copy, Fill as FillWith, Scale};
use tensor::kernels::shortcut_a::{ShortcutA, ShortcutAGrad};

use super::Case;

/// All cases.
pub fn cases() -> Vec<Case> {
    let cases = [
        Case::new("elementwise/add 2048", Add { words: 2048 }, 1),
        Case::new("elementwise/add 1037", Add { words: 1037 }, 1),
        Case::new("elementwise/scale 1036", Scale { words: 1036, factor: -0.75 }, 1),
        Case::new("elementwise/scale 1", Scale { words: 1, factor: 1e-3 }, 1),
        Case::new("elementwise/copy 515", Copy { words: 515 }, 1),
        Case::new("elementwise/fill 1028", FillWith { words: 1028, value: 2.5 }, 1),
        Case::new("elementwise/fill 3", FillWith { words: 3, value: -1.0 }, 1),
    ];
    let mut cases: Vec<Case> = cases.map(|case| case.quick(true)).into();
    // Vectors of four; no channel added; odd sizes, an odd number of added channels; more stride than width.
    for (members, batch, height, width, channels, filters, stride, addend) in [
        (1, 2, 8, 8, 16, 32, 2, false),
        (3, 1, 4, 6, 8, 8, 1, false),
        (2, 1, 7, 5, 4, 8, 2, true),
        (1, 3, 5, 11, 3, 8, 3, true),
        (2, 1, 3, 2, 1, 1, 5, true),
    ] {
        let shape = format!("{members}x{batch}x{height}x{width}x{channels}->{filters}/{stride}");
        let quick = height == 8 || stride == 3;
        let forward = ShortcutA { members, batch, height, width, channels, filters, stride };
        cases.push(Case::new(format!("shortcut_a/{shape}"), forward, 1).quick(quick));
        let grad = ShortcutAGrad { members, batch, height, width, channels, filters, stride, addend };
        cases.push(Case::new(format!("shortcut_a_grad/{shape} addend={addend}"), grad, 1).quick(quick));
    }
    cases
}
