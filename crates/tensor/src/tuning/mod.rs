//! Choosing among a kernel's variants by measuring them on an adapter.
//!
//! [`Form::launch`] takes the variant that a static rule thinks the fastest. [`measure`] times all of
//! [`Form::candidates`], and [`Choices`](crate::Choices) hold what was found; a device that is given them
//! ([`Device::tuned`](crate::Device::tuned)) runs the variants that they name. Nothing here reads or writes files.

mod measure;
mod operands;

use std::collections::BTreeSet;

use crate::kernel::{Form, Target};

pub use crate::kernel::choices::key;
pub use measure::{Candidate, Measured, Outcome, measure, measure_all};
pub(crate) use operands::Operands;

/// Kernels whose candidates on `target` are several, each once.
pub fn tunable<'a>(kernels: impl IntoIterator<Item = &'a Form>, target: &Target) -> Vec<(u64, Form)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for kernel in kernels {
        let candidates = kernel.candidates(target);
        let key = key(&candidates);
        if candidates.len() > 1 && seen.insert(key) {
            found.push((key, kernel.clone()));
        }
    }
    found
}
