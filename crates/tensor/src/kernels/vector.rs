//! Vectors of whatever width the machine has, chosen when the program runs (crate `pulp`): the binary itself is built for the
//! oldest machine of its kind.

use pulp::{Arch, Simd, WithSimd};

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
    Arch::new().dispatch(Wide(loops));
}
