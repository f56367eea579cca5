//! Loops and conditions of a shader, and the compiler's assumption of how often each of its blocks runs.

use std::collections::BTreeSet;

use crate::listing::{Block, Listing};

/// A loop: its head, and all of its blocks.
#[derive(Debug, Clone)]
pub struct Loop {
    head: usize,
    /// Indices of its blocks, those of inner loops among them.
    pub blocks: BTreeSet<usize>,
}

/// The control flow of a listing.
#[derive(Debug)]
pub struct Flow {
    /// Loops, in the order of their heads.
    pub loops: Vec<Loop>,
    /// For each block, the number of times it is assumed to run.
    pub weights: Vec<f64>,
}

impl Flow {
    /// Finds loops and conditions.
    ///
    /// Blocks are weighted as in the compiler (`collect_preasm_stats` in Mesa's `aco_statistics.cpp`): a loop runs 8
    /// times, one inside it 4 times, one deeper twice; a condition that holds for all lanes or for none, half of the
    /// time; one that differs between lanes is entered by some lane three times out of four.
    pub fn of(listing: &Listing) -> Self {
        let blocks = &listing.blocks;
        let loops = loops(blocks);
        let of_control = Ways::new(blocks.iter().map(|block| &block.predecessors));
        let of_lanes = Ways::new(blocks.iter().map(|block| &block.lane_predecessors));
        let mut weights = vec![1.0; blocks.len()];
        for (i, block) in blocks.iter().enumerate() {
            let depth = loops.iter().filter(|around| around.blocks.contains(&i)).count();
            weights[i] *= (0..depth).map(|level| [8.0, 4.0].get(level).unwrap_or(&2.0)).product::<f64>();
            let (ways, share) = if block.diverges { (&of_lanes, 0.75) } else { (&of_control, 0.5) };
            ways.condition(i, &loops).into_iter().for_each(|inside| weights[inside] *= share);
        }
        Self { loops, weights }
    }

    /// The blocks of a loop that are in none of its inner loops.
    pub fn own_blocks(&self, of: &Loop) -> Vec<usize> {
        let inner = self.loops.iter().filter(|other| other.head != of.head && of.blocks.contains(&other.head));
        let inner: BTreeSet<usize> = inner.flat_map(|inner| inner.blocks.iter().copied()).collect();
        of.blocks.difference(&inner).copied().collect()
    }
}

/// The natural loops: for a block that control returns to, all blocks on the paths from it to a block that jumps
/// back.
fn loops(blocks: &[Block]) -> Vec<Loop> {
    let heads = (0..blocks.len()).filter(|&head| blocks[head].predecessors.iter().any(|&from| from >= head));
    heads
        .map(|head| {
            let mut found = BTreeSet::from([head]);
            let mut open: Vec<usize> = blocks[head].predecessors.iter().copied().filter(|&from| from >= head).collect();
            while let Some(block) = open.pop() {
                if found.insert(block) {
                    open.extend(&blocks[block].predecessors);
                }
            }
            Loop { head, blocks: found }
        })
        .collect()
}

/// The paths through a shader.
#[derive(Debug)]
struct Ways {
    successors: Vec<Vec<usize>>,
    /// For each block, the blocks on every path from it to the end, itself included.
    after: Vec<BTreeSet<usize>>,
}

impl Ways {
    fn new<'a>(predecessors: impl ExactSizeIterator<Item = &'a Vec<usize>>) -> Self {
        let mut successors = vec![Vec::new(); predecessors.len()];
        for (to, predecessors) in predecessors.enumerate() {
            predecessors.iter().for_each(|&from| successors[from].push(to));
        }
        let after = after(&successors);
        Self { successors, after }
    }

    /// The blocks that depend on the condition at a block's end: both sides of it, up to where they meet. If the
    /// condition ends the loop around it, the side that does so.
    fn condition(&self, block: usize, loops: &[Loop]) -> BTreeSet<usize> {
        let successors = &self.successors[block];
        if successors.len() < 2 {
            return BTreeSet::new();
        }
        let around = loops.iter().filter(|around| around.blocks.contains(&block)).min_by_key(|l| l.blocks.len());
        let ending = successors.iter().find(|&&side| around.is_some_and(|around| self.ends(side, around)));
        if let Some(&side) = ending {
            return self.reached(&[side], None, around);
        }
        // Of the blocks that are reached in any case, the nearest has most of the others after it.
        let meeting = self.after[block].iter().filter(|&&other| other != block).max_by_key(|&&i| self.after[i].len());
        self.reached(successors, meeting.copied(), around)
    }

    /// Tells whether a loop ends at one of its blocks.
    fn ends(&self, side: usize, around: &Loop) -> bool {
        let inside = self.reached(&[side], None, Some(around));
        side != around.head && !inside.iter().any(|&block| self.successors[block].contains(&around.head))
    }

    /// The blocks reached from `from` before `end`, without leaving a loop or starting its next iteration.
    fn reached(&self, from: &[usize], end: Option<usize>, around: Option<&Loop>) -> BTreeSet<usize> {
        let passes = |block: usize| {
            Some(block) != end && around.is_none_or(|around| around.blocks.contains(&block) && block != around.head)
        };
        let mut found = BTreeSet::new();
        let mut open = from.to_vec();
        while let Some(next) = open.pop() {
            if passes(next) && found.insert(next) {
                open.extend(&self.successors[next]);
            }
        }
        found
    }
}

fn after(successors: &[Vec<usize>]) -> Vec<BTreeSet<usize>> {
    let all: BTreeSet<usize> = (0..successors.len()).collect();
    let mut after = vec![all; successors.len()];
    loop {
        let mut changed = false;
        for block in (0..successors.len()).rev() {
            let mut shared = successors[block].iter().map(|&next| &after[next]);
            let mut new = shared.next().cloned().unwrap_or_default();
            shared.for_each(|other| new.retain(|i| other.contains(i)));
            new.insert(block);
            if new != after[block] {
                after[block] = new;
                changed = true;
            }
        }
        if !changed {
            return after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks as `(predecessors of control, of lanes, diverges)`.
    fn weights(blocks: &[(&[usize], &[usize], bool)]) -> Vec<f64> {
        let blocks = blocks.iter().map(|&(control, lanes, diverges)| Block {
            predecessors: control.to_vec(),
            lane_predecessors: lanes.to_vec(),
            diverges,
            instructions: Vec::new(),
        });
        Flow::of(&Listing { blocks: blocks.collect(), ..Listing::default() }).weights
    }

    /// The compiler's own sum proves that the weights are the compiler's.
    #[test]
    fn the_latency_of_a_real_shader_comes_out() {
        let listing = Listing::parse(include_str!("../fixtures/conv2d_grad_weight.txt"));
        let flow = Flow::of(&listing);
        assert_eq!(flow.weights, [1.0, 0.5, 4.0, 4.0, 16.0, 4.0, 0.5, 0.375, 1.0]);
        let cycles = |block: &Block| block.instructions.iter().map(|instruction| instruction.cycles).sum::<f64>();
        let latency: f64 = listing.blocks.iter().zip(&flow.weights).map(|(block, weight)| weight * cycles(block)).sum();
        assert_eq!(latency, listing.sums["latency"]);
        let own: Vec<_> = flow.loops.iter().map(|of| flow.own_blocks(of)).collect();
        assert_eq!(own, [vec![2, 3, 5], vec![4]]);
    }

    #[test]
    fn both_sides_of_a_uniform_condition_run_half_of_the_time() {
        assert_eq!(
            weights(&[(&[], &[], false), (&[0], &[0], false), (&[0], &[0], false), (&[1, 2], &[1, 2], false)]),
            [1.0, 0.5, 0.5, 1.0]
        );
    }

    /// Control runs one side after the other, lanes only one of the two.
    #[test]
    fn both_sides_where_lanes_part_run_three_times_out_of_four() {
        assert_eq!(
            weights(&[(&[], &[], true), (&[0], &[0], false), (&[1, 0], &[0], false), (&[2], &[1, 2], false)]),
            [1.0, 0.75, 0.75, 1.0]
        );
    }

    /// `loop { if lane_is_done { break; } work }` inside a divergent condition, as in `global_average_pool_grad`.
    #[test]
    fn what_ends_a_loop_is_its_condition_and_the_rest_is_not() {
        let blocks: [(&[usize], &[usize], bool); 6] = [
            (&[], &[], true),
            (&[0], &[0], false),
            (&[1, 4], &[1, 4], true),
            (&[2], &[2], false),
            (&[3], &[2], false),
            (&[0, 3], &[0, 3], false),
        ];
        assert_eq!(weights(&blocks), [1.0, 0.75, 6.0, 4.5, 6.0, 1.0]);
    }

    #[test]
    fn loops_in_loops_run_eight_four_and_two_times() {
        let blocks: [(&[usize], &[usize], bool); 6] = [
            (&[], &[], false),
            (&[0, 4], &[0, 4], false),
            (&[1, 3], &[1, 3], false),
            (&[2, 3], &[2, 3], false),
            (&[3], &[3], false),
            (&[4], &[4], false),
        ];
        assert_eq!(weights(&blocks), [1.0, 8.0, 32.0, 64.0, 8.0, 1.0]);
    }
}
