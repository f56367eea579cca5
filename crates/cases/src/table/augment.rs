//! Augmentation: crops, flips, shards.

use data::{Augment, pack};

use super::{Case, Fill};

/// A case whose picks go through the images, the flips and every offset of the padding.
fn case(name: &str, shard_images: &[usize], size: usize, batch: usize, padding: usize) -> Case {
    let images: usize = shard_images.iter().sum();
    let offsets = 2 * padding + 1;
    let picks = (0..batch).flat_map(|n| {
        let augmentation = pack(n % offsets, n / offsets % offsets, (n + n / offsets) % 2 == 1);
        // 7 visits every image where it does not divide their number.
        [(7 * n % images) as u32, augmentation]
    });
    let kernel = Augment {
        shard_images: shard_images.to_vec(),
        size,
        batch,
        padding,
        mean: [0.4914, 0.4822, 0.4465],
        std: [0.2470, 0.2435, 0.2616],
    };
    let shards = shard_images.len();
    let mut case = Case::new(format!("augment/{name}"), kernel, 1)
        .input(shards, Fill::Below(10))
        .input(shards + 1, Fill::Words(picks.collect()));
    for shard in 0..shards {
        case = case.input(shard, Fill::Below(u32::MAX));
    }
    case
}

/// The table's part.
pub fn cases() -> Vec<Case> {
    vec![
        case("cifar, every offset, two shards", &[5, 4], 32, 81, 4).quick(true),
        case("three shards, odd size", &[3, 1, 2], 11, 27, 2).quick(true),
        case("one shard, one image", &[1], 5, 9, 1),
        case("padding beyond the image", &[2, 3], 3, 50, 5),
        case("no padding, one pixel", &[6], 1, 13, 0),
    ]
}
