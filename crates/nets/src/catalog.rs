//! Networks by name.

use crate::Architecture;
use crate::error::{Error, Result};
use crate::resnet::{CifarResNet, Shortcut};

/// The names that are commonly used; any valid depth is known, too.
pub fn names() -> Vec<&'static str> {
    vec!["resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet164"]
}

/// The architecture of this name. `resnetD` has basic blocks and D = 6n+2 layers; where only D = 9n+2 fits, as for 164,
/// it has bottlenecks.
///
/// # Errors
/// When the name is unknown, with what is wrong with it.
pub fn architecture(name: &str, shortcut: Shortcut) -> Result<Box<dyn Architecture>> {
    let unknown = |hint: String| Err(Error::UnknownNetwork { name: name.to_owned(), hint });
    let Some(depth) = name.strip_prefix("resnet") else {
        return unknown(format!("known are {} and other depths of resnet", names().join(", ")));
    };
    let Ok(depth) = depth.parse::<usize>() else {
        return unknown(format!("the depth \"{depth}\" is no number; known are {}", names().join(", ")));
    };
    match CifarResNet::new(depth, shortcut) {
        Some(net) => Ok(Box::new(net)),
        None => {
            let nearest = (1..=200).map(|n: usize| 6 * n + 2).min_by_key(|d| d.abs_diff(depth));
            unknown(format!(
                "the depth must be 6n+2 (basic blocks) or 9n+2 (bottlenecks), at most 1202; did you mean resnet{}?",
                nearest.unwrap_or(32)
            ))
        }
    }
}
