//! Vectors of whatever width the machine has, chosen when the program runs (crate `pulp`): the binary itself is built for the
//! oldest machine of its kind.

use pulp::{Arch, Simd, WithSimd};

/// Runs `work` compiled for the widest vectors that this machine has: plain loops in it become loops over them. It computes the
/// same bits, since nothing is reordered or fused.
#[inline(always)]
pub(super) fn wide<R>(work: impl FnOnce() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnOnce() -> R> WithSimd for Work<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Work(work))
}
