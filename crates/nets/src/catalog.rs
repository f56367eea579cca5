//! Networks by name.

use crate::Architecture;
use crate::densenet::DenseNetBc;
use crate::error::{Error, Result};
use crate::imagenet::ImageNetResNet;
use crate::resnet::{CifarResNet, Shortcut};
use crate::resnext::CifarResNeXt;

/// The common names; other valid depths, cardinalities and widths are known, too.
const NAMES: [&str; 14] = [
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet164",
    "resnext29-8x64d",
    "densenet-bc-40-12",
    "densenet-bc-100-12",
    "densenet-bc-190-40",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50-32x4d",
];

/// The common names, those for 32x32 images first; other valid depths, cardinalities and widths are known, too.
pub fn names() -> Vec<&'static str> {
    NAMES.to_vec()
}

/// The architecture of this name.
///
/// * `resnet18`, `resnet34`, `resnet50` and `resnext50-CxWd` are the networks for ImageNet.
/// * Any other `resnetD` is for 32x32 images: it has basic blocks and D = 6n+2 layers; where only D = 9n+2 fits, as for
///   164, it has bottlenecks.
/// * `resnextD-CxWd` has D = 9n+2 layers, cardinality C and group width W.
/// * `densenet-bc-L-k` has L = 6n+4 layers and growth rate k.
///
/// `shortcut` is for residual networks.
///
/// # Errors
/// When the name is unknown; the error says what is wrong with it and names the nearest known one.
pub fn architecture(name: &str, shortcut: Shortcut) -> Result<Box<dyn Architecture>> {
    let found: Option<Box<dyn Architecture>> = match parse(name) {
        Some(Family::ResNet(depth)) => match ImageNetResNet::resnet(depth, shortcut) {
            Some(net) => Some(Box::new(net)),
            None => CifarResNet::new(depth, shortcut).map(|net| Box::new(net) as _),
        },
        Some(Family::ResNeXt([50, cardinality, width])) => {
            ImageNetResNet::resnext50(cardinality, width, shortcut).map(|net| Box::new(net) as _)
        }
        Some(Family::ResNeXt([depth, cardinality, width])) => {
            CifarResNeXt::new(depth, cardinality, width, shortcut).map(|net| Box::new(net) as _)
        }
        Some(Family::DenseNet([depth, growth])) => DenseNetBc::new(depth, growth).map(|net| Box::new(net) as _),
        None => None,
    };
    found.ok_or_else(|| Error::UnknownNetwork { name: name.to_owned(), hint: hint(name) })
}

/// The family and the numbers of a name.
enum Family {
    /// Depth.
    ResNet(usize),
    /// Depth, cardinality, width of a group.
    ResNeXt([usize; 3]),
    /// Depth, growth rate.
    DenseNet([usize; 2]),
}

fn parse(name: &str) -> Option<Family> {
    if let Some(sizes) = name.strip_prefix("resnext") {
        let (depth, rest) = sizes.split_once('-')?;
        let (cardinality, width) = rest.strip_suffix('d')?.split_once('x')?;
        return Some(Family::ResNeXt([depth.parse().ok()?, cardinality.parse().ok()?, width.parse().ok()?]));
    }
    if let Some(sizes) = name.strip_prefix("densenet-bc-") {
        let (depth, growth) = sizes.split_once('-')?;
        return Some(Family::DenseNet([depth.parse().ok()?, growth.parse().ok()?]));
    }
    name.strip_prefix("resnet")?.parse().ok().map(Family::ResNet)
}

/// The depth nearest to `depth` that `admits` accepts; of two equally near ones, the smaller.
fn nearest(depth: usize, admits: impl Fn(usize) -> bool) -> usize {
    (1..=1202).filter(|&d| admits(d)).min_by_key(|d| d.abs_diff(depth)).unwrap_or(depth)
}

/// The fault of an unknown name, and a suggestion.
fn hint(name: &str) -> String {
    let shortcut = Shortcut::default();
    match parse(name) {
        Some(Family::ResNet(depth)) => {
            let known = |d| ImageNetResNet::resnet(d, shortcut).is_some() || CifarResNet::new(d, shortcut).is_some();
            format!(
                "the depth must be 6n+2 (basic blocks) or 9n+2 (bottlenecks), from 8 to 1202, or 18, 34 or 50 (for \
                 ImageNet); did you mean resnet{}?",
                nearest(depth, known)
            )
        }
        Some(Family::ResNeXt([depth, cardinality, width])) => {
            let known = |d| d == 50 || CifarResNeXt::new(d, 8, 64, shortcut).is_some();
            let (cardinality, width) = if CifarResNeXt::new(29, cardinality, width, shortcut).is_some() {
                (cardinality, width)
            } else {
                (8, 64)
            };
            format!(
                "the depth must be 9n+2, or 50 (for ImageNet), and cardinality times width from 1 to 4096; did you \
                 mean \
                 resnext{}-{cardinality}x{width}d?",
                nearest(depth, known)
            )
        }
        Some(Family::DenseNet([depth, growth])) => format!(
            "the depth must be 6n+4, from 10 to 604, and the growth rate from 1 to 512; did you mean \
             densenet-bc-{}-{}?",
            nearest(depth, |d| DenseNetBc::new(d, 12).is_some()),
            growth.clamp(1, 512)
        ),
        None => {
            let meant = closest(name, NAMES).map_or_else(String::new, |known| format!("did you mean {known}? "));
            format!(
                "{meant}known are {}, and other depths, cardinalities and widths of resnetD, resnextD-CxWd and \
                 densenet-bc-L-k",
                NAMES.join(", ")
            )
        }
    }
}

/// The known name most like `name`, if any is close enough. A name that continues `name` is the nearest; otherwise at
/// most half of the letters may differ.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = |known: &str| if known.starts_with(name) { 0 } else { distance(name, known) };
    let nearest = known.into_iter().min_by_key(|known| far(known))?;
    (far(nearest) <= name.len() / 2).then_some(nearest)
}

/// Number of letters to insert, remove or replace to turn `b` into `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::{architecture, names};
    use crate::resnet::Shortcut;

    #[test]
    fn networks_know_their_names() {
        let others =
            ["resnet8", "resnet29", "resnext29-16x64d", "resnext20-2x8d", "resnext50-8x4d", "densenet-bc-10-3"];
        for name in names().into_iter().chain(others) {
            assert_eq!(architecture(name, Shortcut::B).expect("a known name").name(), name);
        }
        assert_eq!(architecture("resnet50", Shortcut::B).expect("known").image_size(), 224);
        assert_eq!(architecture("resnet44", Shortcut::B).expect("known").image_size(), 32);
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        for (name, meant) in [
            ("resnet23", "did you mean resnet20?"),
            ("resnet36", "did you mean resnet34?"),
            ("resnet5000", "did you mean resnet1202?"),
            ("resnext30-8x64d", "did you mean resnext29-8x64d?"),
            ("resnext29-0x64d", "did you mean resnext29-8x64d?"),
            ("densenet-bc-101-24", "did you mean densenet-bc-100-24?"),
            ("densnet-190-40", "did you mean densenet-bc-190-40?"),
            ("resnt32", "did you mean resnet32?"),
            ("resnext29", "did you mean resnext29-8x64d?"),
            ("vgg", "known are resnet20, "),
        ] {
            let error = architecture(name, Shortcut::B).expect_err("an unknown name").to_string();
            assert!(error.contains(meant), "{name}: {error}");
        }
    }
}
