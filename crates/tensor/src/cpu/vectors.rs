//! Vectors of whatever width the machine has, chosen when the program runs (crate `pulp`): the binary itself is built
//! for the oldest machine of its kind.

use std::sync::OnceLock;

use pulp::{Arch, Simd, WithSimd};

/// Takes narrower vectors than the machine has, so that one machine can test and time the code of others. The crate
/// `gemm`, which chooses by itself, is not concerned.
const VARIABLE: &str = "ONFLY_VECTORS";

/// The widest vectors that the machine has, or those that `ONFLY_VECTORS` names.
pub(super) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| chosen().unwrap_or_default())
}

/// Checks that `ONFLY_VECTORS`, if it is set, names vectors that the machine has.
pub(crate) fn check() -> Result<(), String> {
    chosen().map(|_| ())
}

fn chosen() -> Result<Arch, String> {
    match std::env::var(VARIABLE) {
        Err(_) => Ok(Arch::new()),
        Ok(name) => {
            named(&name).ok_or(format!("{VARIABLE}={name} is none of what this machine has: {}", names().join(", ")))
        }
    }
}

fn named(name: &str) -> Option<Arch> {
    kinds().into_iter().find_map(|(known, arch)| (known == name).then_some(arch))
}

fn names() -> Vec<&'static str> {
    kinds().into_iter().map(|(name, _)| name).collect()
}

/// The vectors that this machine has, the narrowest first.
fn kinds() -> Vec<(&'static str, Arch)> {
    let mut kinds = vec![("none", Arch::Scalar)];
    #[cfg(target_arch = "x86_64")]
    kinds.extend(pulp::x86::V3::try_new().map(|simd| ("avx2", Arch::V3(simd))));
    #[cfg(target_arch = "x86_64")]
    kinds.extend(pulp::x86::V4::try_new().map(|simd| ("avx512", Arch::V4(simd))));
    #[cfg(target_arch = "aarch64")]
    kinds.extend(pulp::aarch64::Neon::try_new().map(|simd| ("neon", Arch::Neon(simd))));
    kinds
}

/// Plain loops, compiled for the widest vectors that the machine has. They compute the same bits, since nothing is
/// reordered or fused.
pub(super) trait Loops {
    /// Runs them. Implementations are `#[inline(always)]`, or they are compiled for the oldest machine after all.
    fn run(self);
}

/// Runs loops.
pub(super) fn wide(loops: impl Loops) {
    struct Wide<L>(L);
    impl<L: Loops> WithSimd for Wide<L> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            self.0.run();
        }
    }
    arch().dispatch(Wide(loops));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_names() {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        let lanes: Vec<usize> = kinds().into_iter().map(|(_, arch)| arch.dispatch(Lanes)).collect();
        assert!(lanes.is_sorted_by(|a, b| a < b), "{lanes:?}");
        assert_eq!(lanes.last(), Some(&Arch::new().dispatch(Lanes)), "the widest is what is taken unasked");
        assert!(named("mmx").is_none() && named("none").is_some());
    }

    /// This machine runs the other tests with its widest vectors; other machines would run narrower ones.
    #[test]
    fn narrower_vectors_pass_the_same_tests() {
        for name in names().into_iter().rev().skip(1) {
            let program = std::env::current_exe().expect("this program");
            let arguments = ["kernels::", "cpu::", "--skip", "vectors_pass_the_same_tests"];
            let output = std::process::Command::new(program).args(arguments).env(VARIABLE, name).output();
            let output = output.expect("started");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("column_sums"), "{name}: {text}");
        }
    }
}
