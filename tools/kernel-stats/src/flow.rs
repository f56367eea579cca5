//! Loops and conditions of a shader, and how often the compiler assumes that each of its blocks runs.

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
    successors: Vec<Vec<usize>>,
    /// For each block, the blocks that every way from it to the end goes through, itself included.
    after: Vec<BTreeSet<usize>>,
    /// In the order of their heads.
    pub loops: Vec<Loop>,
    /// For each block, how often it is assumed to run.
    pub weights: Vec<f64>,
}

impl Flow {
    /// Finds loops and conditions.
    pub fn of(listing: &Listing) -> Self {
        let blocks = &listing.blocks;
        let mut successors = vec![Vec::new(); blocks.len()];
        for (to, block) in blocks.iter().enumerate() {
            block.predecessors.iter().for_each(|&from| successors[from].push(to));
        }
        let after = post_dominators(&successors);
        let mut flow = Self { successors, after, loops: loops(blocks), weights: Vec::new() };
        flow.weights = flow.weigh(blocks);
        flow
    }

    /// As the compiler weighs blocks (`collect_preasm_stats` in Mesa's `aco_statistics.cpp`): a loop runs 8 times, one inside
    /// it 4 times, one deeper twice; a condition that holds for all lanes or for none, half of the time; one that lanes decide
    /// on their own is entered by some lane three times out of four.
    fn weigh(&self, blocks: &[Block]) -> Vec<f64> {
        let mut weights = vec![1.0; blocks.len()];
        for (i, weight) in weights.iter_mut().enumerate() {
            let depth = self.loops.iter().filter(|inside| inside.blocks.contains(&i)).count();
            *weight *= (0..depth).map(|level| [8.0, 4.0].get(level).unwrap_or(&2.0)).product::<f64>();
        }
        for (i, block) in blocks.iter().enumerate() {
            for inside in self.condition(i) {
                weights[inside] *= if block.diverges { 0.75 } else { 0.5 };
            }
        }
        weights
    }

    /// The blocks of both sides of the condition at a block's end; none where it only decides whether a loop goes on.
    fn condition(&self, block: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let successors = &self.successors[block];
        if successors.len() < 2 {
            return found;
        }
        // Of the blocks that are reached in any case, the nearest has most of the others behind it.
        let meeting = self.after[block].iter().filter(|&&other| other != block).max_by_key(|&&i| self.after[i].len());
        let around = self.loops.iter().filter(|around| around.blocks.contains(&block)).min_by_key(|l| l.blocks.len());
        if let Some(around) = around {
            let leaves = |to: &usize| !around.blocks.contains(to) || *to == around.head;
            if meeting.is_none_or(leaves) || successors.iter().any(leaves) {
                return found;
            }
        }
        let mut open: Vec<usize> = successors.clone();
        while let Some(next) = open.pop() {
            if Some(&next) != meeting && found.insert(next) {
                open.extend(&self.successors[next]);
            }
        }
        found
    }

    /// The blocks of a loop that are in none of its inner loops.
    pub fn own_blocks(&self, of: &Loop) -> Vec<usize> {
        let inner = self.loops.iter().filter(|other| other.head != of.head && of.blocks.contains(&other.head));
        let inner: BTreeSet<usize> = inner.flat_map(|inner| inner.blocks.iter().copied()).collect();
        of.blocks.difference(&inner).copied().collect()
    }
}

/// The natural loops: of a block that control comes back to, all blocks on the ways from there to where it comes back from.
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

fn post_dominators(successors: &[Vec<usize>]) -> Vec<BTreeSet<usize>> {
    let all: BTreeSet<usize> = (0..successors.len()).collect();
    let mut after: Vec<BTreeSet<usize>> = vec![all; successors.len()];
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
