//! The variants of kernels that were measured to be the fastest on an adapter.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::kernel::{Form, Launch, Target};

/// The variants to run instead of those that the static rule takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// Index among a kernel's candidates, by the [`key`] of these.
    variants: BTreeMap<u64, usize>,
}

impl Choices {
    /// Takes variant `variant` wherever a kernel's candidates have this [`key`]; 0 is the static rule's.
    pub fn choose(&mut self, key: u64, variant: usize) {
        if variant == 0 {
            self.variants.remove(&key);
        } else {
            self.variants.insert(key, variant);
        }
    }

    /// Number of kernels that run another variant than the static rule's.
    pub fn len(&self) -> usize {
        self.variants.len()
    }

    /// Tells whether every kernel runs the static rule's variant.
    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }

    /// The launch of `kernel` on an adapter like `target`.
    pub fn launch(&self, kernel: &Form, target: &Target) -> Launch {
        if self.is_empty() {
            return kernel.launch(target);
        }
        let mut candidates = kernel.candidates(target);
        let variant = self.variant(&candidates);
        candidates.swap_remove(variant)
    }

    fn variant(&self, candidates: &[Launch]) -> usize {
        self.variants.get(&key(candidates)).copied().filter(|&variant| variant < candidates.len()).unwrap_or(0)
    }

    /// The kernels' [`key`]s and variants, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (u64, usize)> {
        self.variants.iter().map(|(&key, &variant)| (key, variant))
    }

    /// Those that concern any of `kernels`.
    #[must_use]
    pub fn among<'a>(&self, kernels: impl IntoIterator<Item = &'a Form>, target: &Target) -> Self {
        let mut found = Self::default();
        if !self.is_empty() {
            for kernel in kernels {
                let candidates = kernel.candidates(target);
                found.choose(key(&candidates), self.variant(&candidates));
            }
        }
        found
    }

    /// A number that differs where the choices do. On one adapter and driver, the same choices give the same bits.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        for (key, variant) in &self.variants {
            let _ = write!(hash, "{key:016x} {variant} ");
        }
        hash.0
    }
}

/// The identity of a kernel's candidates: a hash of all that they are made of, sources and grids. A choice among other
/// candidates, of an earlier version or another shape, thus is never found.
pub fn key(candidates: &[Launch]) -> u64 {
    let mut hash = Fnv::default();
    for launch in candidates {
        let _ = write!(hash, "candidate");
        for pass in launch.passes() {
            hash.take(pass.source().as_bytes());
            let _ = write!(hash, "{} {:?} {} {}", pass.entry, pass.bindings, pass.workgroups, pass.subgroups);
        }
    }
    hash.0
}

/// FNV-1a over words of eight bytes, of which the last one of a text is filled with zeros: a kernel's candidates are
/// some hundred kilobytes.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn take(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
            // The product carries nothing down, so that high bits would never reach low ones.
            self.0 = mixed ^ mixed >> 32;
        }
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.take(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_equal_in_their_fingerprint_alone() {
        let mut choices = Choices::default();
        let none = choices.fingerprint();
        choices.choose(7, 1);
        let one = choices.fingerprint();
        assert_ne!(none, one);
        choices.choose(7, 2);
        assert_ne!(one, choices.fingerprint());
        choices.choose(7, 0);
        assert_eq!((choices.fingerprint(), choices.len()), (none, 0));
    }
}
