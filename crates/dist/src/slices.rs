//! Division of a sum among the ranks, and the order of its terms.

use std::ops::Range;

/// Elements that are summed over all ranks before the next ones are: they stay in the innermost cache.
const BLOCK: usize = 2048;

/// The part of `len` elements that rank `rank` of `size` sums. The parts are consecutive, and differ in length by at
/// most one element.
pub(crate) fn slice(len: usize, size: usize, rank: usize) -> Range<usize> {
    let (each, more) = (len / size, len % size);
    let start = rank * each + rank.min(more);
    start..start + each + usize::from(rank < more)
}

/// Adds the values of all ranks in the order of the ranks: those of rank `rank` are `own`, those of the others are in
/// `others`, one after another. `sum` is as long as `own`.
pub(crate) fn sum_in_order(rank: usize, own: &[f32], others: &[f32], sum: &mut [f32]) {
    let len = own.len();
    let size = 1 + others.len().checked_div(len).unwrap_or(0);
    let part = |of: usize| match of {
        _ if of == rank => own,
        _ if of < rank => &others[of * len..][..len],
        _ => &others[(of - 1) * len..][..len],
    };
    for start in (0..len).step_by(BLOCK) {
        let block = start..len.min(start + BLOCK);
        let sum = &mut sum[block.clone()];
        sum.copy_from_slice(&part(0)[block.clone()]);
        for of in 1..size {
            for (sum, value) in sum.iter_mut().zip(&part(of)[block.clone()]) {
                *sum += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_each_other_and_leave_nothing_out() {
        for size in 1..9 {
            for len in [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 1_000_003] {
                let mut end = 0;
                for rank in 0..size {
                    let slice = slice(len, size, rank);
                    assert_eq!(slice.start, end, "rank {rank} of {size}, {len} elements");
                    assert!(slice.len() == len / size || slice.len() == len.div_ceil(size));
                    end = slice.end;
                }
                assert_eq!(end, len, "{size} ranks");
            }
        }
    }

    #[test]
    fn a_sum_is_made_in_the_order_of_the_ranks_whoever_makes_it() {
        // Each value is lost beside the next larger one: (1 + 2^24) is 2^24, and (2^24 - 2^24) + 1 is 1.
        let big = 16_777_216.0;
        let ranks = [1.0, big, -big, 1.0f32];
        let expected = ((ranks[0] + ranks[1]) + ranks[2]) + ranks[3];
        assert_eq!(expected, 1.0);
        assert_eq!(((ranks[1] + ranks[2]) + ranks[3]) + ranks[0], 2.0, "the order must tell");
        for len in [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            for rank in 0..4 {
                let own = vec![ranks[rank]; len];
                let others: Vec<f32> = (0..4).filter(|r| *r != rank).flat_map(|r| vec![ranks[r]; len]).collect();
                let mut sum = vec![f32::NAN; len];
                sum_in_order(rank, &own, &others, &mut sum);
                assert!(sum.iter().all(|value| *value == expected), "made by rank {rank}, {len} elements");
            }
        }
    }

    #[test]
    fn every_element_is_the_sum_of_its_own() {
        let (own, others) = ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0, 100.0, 200.0, 300.0]);
        let mut sum = [0.0; 3];
        sum_in_order(1, &own, &others, &mut sum);
        assert_eq!(sum, [111.0, 222.0, 333.0]);
    }

    #[test]
    fn an_empty_slice_has_an_empty_sum() {
        sum_in_order(0, &[], &[], &mut []);
    }
}
