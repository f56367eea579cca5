//! Classification errors, counted on the device.

use crate::kernel::{Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shape::Spec;

/// `logits [M, N, K]`, `labels [N]`, `count [1]`; updates `errors [M, 2]`: adds the number of top-1 and of top-k errors
/// among the first `count` samples (the rest of a ragged last batch is padding).
///
/// The rank of a sample is the number of classes whose logit is larger than its label's, or equal with a smaller index.
/// A top-k error is a rank of k or more. Nothing is larger than NaN, and a label with a NaN logit, or one that is no
/// class, is an error for every k.
#[derive(Debug, Clone, PartialEq)]
pub struct TopKErrors {
    /// Members M.
    pub members: usize,
    /// Samples N.
    pub batch: usize,
    /// Classes K.
    pub classes: usize,
    /// The k of the second count.
    pub k: usize,
}

/// An integer in the order of the floats, NaN on top and both zeros equal: `shaders/top_k_errors.wgsl` compares bits,
/// too, because GPU compilers may assume that no float is NaN.
fn order(logit: f32) -> u32 {
    let bits = logit.to_bits();
    if logit.is_nan() {
        u32::MAX
    } else if bits >> 31 == 1 {
        // -0.0 becomes the key of 0.0.
        (!bits).wrapping_add(1)
    } else {
        bits | 0x8000_0000
    }
}

impl TopKErrors {
    fn rank(&self, logits: &[f32], label: usize) -> usize {
        let Some(own) = logits.get(label).copied().filter(|logit| !logit.is_nan()) else { return usize::MAX };
        let own = order(own);
        let ahead = |(class, logit): &(usize, &f32)| {
            let other = order(**logit);
            other > own || (other == own && *class < label)
        };
        logits.iter().enumerate().filter(ahead).count()
    }
}

impl Kernel for TopKErrors {
    fn name(&self) -> &'static str {
        "top_k_errors"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.members, self.batch, self.classes]), Spec::u32([self.batch]), Spec::u32([1])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::u32([self.members, 2])]
    }

    fn updates(&self, _index: usize) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.members * self.batch * self.classes)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (logits, labels) = (inputs[0].f32(), inputs[1].u32());
        let count = (inputs[2].u32()[0] as usize).min(self.batch);
        let members = logits.chunks_exact(self.batch * self.classes);
        for (logits, errors) in members.zip(outputs[0].u32().chunks_exact_mut(2)) {
            for (logits, &label) in logits.chunks_exact(self.classes).zip(labels).take(count) {
                let rank = self.rank(logits, label as usize);
                errors[0] += u32::from(rank >= 1);
                errors[1] += u32::from(rank >= self.k);
            }
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        Launch::new(include_str!("../../../../shaders/top_k_errors.wgsl"), 3, 1, self.members)
            .size("BATCH", self.batch)
            .size("CLASSES", self.classes)
            .size("TOP", self.k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(kernel: &TopKErrors, logits: &[f32], labels: &[u32], count: u32, before: &[u32]) -> Vec<u32> {
        let mut errors = before.to_vec();
        let inputs = [Slice::F32(logits), Slice::U32(labels), Slice::U32(&[count])];
        kernel.reference(&inputs, &mut [SliceMut::U32(&mut errors)]);
        errors
    }

    #[test]
    fn ranks_ties_padding_and_nan() {
        let nan = f32::NAN;
        let logits = [
            [0.1, 0.9, 0.5, -1.0],   // label 1: rank 0
            [0.9, 0.9, 0.9, 0.0],    // label 2: rank 2, by the indices of its equals
            [-0.0, 0.0, -3.0, -9.0], // label 0: rank 0, the zeros are equal
            [0.0, -0.0, -3.0, -9.0], // label 1: rank 1
            [0.0, nan, 1.0, -5.0],   // label 2: rank 1
            [1.0, nan, 0.0, 0.0],    // label 1: error for every k
            [1.0, 0.0, 0.0, 0.0],    // label 7 is no class: error for every k
            [0.0, 0.0, 0.0, 9.0],    // beyond the count
        ];
        let labels = [1, 2, 0, 1, 2, 1, 7, 0];
        let kernel = TopKErrors { members: 1, batch: 8, classes: 4, k: 2 };
        assert_eq!(count(&kernel, logits.as_flattened(), &labels, 7, &[10, 20]), [15, 23]);
        let kernel = TopKErrors { k: 9, ..kernel };
        assert_eq!(count(&kernel, logits.as_flattened(), &labels, 7, &[0, 0]), [5, 2]);
    }

    #[test]
    fn the_order_is_that_of_the_floats() {
        let ascending = [f32::NEG_INFINITY, -2.0, -1e-40, 0.0, 1e-40, 3.0, f32::INFINITY, f32::NAN];
        assert!(ascending.is_sorted_by(|a, b| order(*a) < order(*b)));
        assert_eq!(order(-0.0), order(0.0));
    }
}
