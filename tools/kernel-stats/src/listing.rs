//! The compiler's own listing of a shader (`ACO_DEBUG=perfinfo`): basic blocks with their predecessors, each
//! instruction with the cycles that the compiler estimates for it, and the sums from which it computes latency and
//! inverse throughput. Unlike a disassembly, it has the same form for every GPU and contains the blocks of the
//! control flow.

use std::collections::BTreeMap;

/// A parsed shader.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Blocks, in program order.
    pub blocks: Vec<Block>,
    /// The sums behind the compiler's statistics, by name.
    pub sums: BTreeMap<String, f64>,
}

/// A basic block.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Indices of the blocks that control comes from.
    pub predecessors: Vec<usize>,
    /// Indices of the blocks that lanes come from in the program as written: where lanes diverge, the two sides run
    /// one after the other.
    pub lane_predecessors: Vec<usize>,
    /// True if lanes diverge at its end.
    pub diverges: bool,
    /// Instructions, in program order.
    pub instructions: Vec<Instruction>,
}

/// A machine instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Names of its operations: two for a dual-issued instruction, else one.
    pub operations: Vec<String>,
    /// Cycles until the next one issues, as the compiler estimates.
    pub cycles: f64,
}

impl Instruction {
    /// Multiply-adds per lane.
    pub fn multiply_adds(&self) -> usize {
        self.operations.iter().map(|name| multiply_adds(name)).sum()
    }

    /// Number of operations, of which a dual-issued instruction has two.
    pub fn count(&self) -> usize {
        self.operations.len()
    }
}

/// Floating-point multiply-adds of an operation.
fn multiply_adds(name: &str) -> usize {
    let name = name.strip_prefix("v_dual_").or_else(|| name.strip_prefix("v_")).unwrap_or("");
    let float = ["f32", "f16", "f64"].iter().any(|kind| name.contains(kind));
    if !float {
        0
    } else if name.starts_with("pk_fma") || name.starts_with("dot2") {
        2
    } else {
        usize::from(["fma", "mad", "mac"].iter().any(|stem| name.starts_with(stem)))
    }
}

/// The text between `start` and `end`, or nothing.
fn between<'a>(line: &'a str, start: &str, end: &str) -> &'a str {
    line.split_once(start).map_or("", |(_, rest)| rest.split_once(end).map_or(rest, |(inside, _)| inside))
}

/// The names of blocks in a list of them.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| name.starts_with("BB"))
}

/// `( 12 clk)   v1 = v_add_u32 s0, v1`; a dual-issued instruction has a `::` between its two operations.
fn instruction(line: &str) -> Option<Instruction> {
    let (cycles, text) = line.trim_start().strip_prefix('(')?.split_once("clk)")?;
    let cycles = cycles.trim().parse().ok()?;
    let operations = text.split("::").map(|half| half.split_once(" = ").map_or(half, |(_, right)| right));
    let operations = operations.filter_map(|half| half.split_whitespace().next().map(str::to_owned)).collect();
    Some(Instruction { operations, cycles })
}

impl Listing {
    /// Parses a listing; other lines are skipped.
    pub fn parse(text: &str) -> Self {
        let mut listing = Self::default();
        let mut indices = BTreeMap::new();
        let (mut edges, mut lane_edges) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let last = listing.blocks.len().wrapping_sub(1);
            if let Some(name) = line.strip_prefix("BB").filter(|number| number.parse::<usize>().is_ok()) {
                indices.insert(format!("BB{name}"), listing.blocks.len());
                listing.blocks.push(Block::default());
            } else if let Some(block) = listing.blocks.last_mut() {
                if line.starts_with("/*") {
                    block.diverges = between(line, "kind:", "*/").split(',').any(|kind| kind.trim() == "branch");
                    edges.extend(names(between(line, "linear preds:", "/")).map(|from| (last, from)));
                    lane_edges.extend(names(between(line, "logical preds:", "/")).map(|from| (last, from)));
                } else if let Some(instruction) = instruction(line) {
                    block.instructions.push(instruction);
                } else if let Some((name, Ok(value))) = line.split_once(": ").map(|(name, value)| (name, value.parse()))
                {
                    listing.sums.insert(name.to_owned(), value);
                }
            }
        }
        let found = |edges: Vec<(usize, &str)>| {
            edges.into_iter().filter_map(|(to, from)| Some((to, *indices.get(from)?))).collect::<Vec<_>>()
        };
        found(edges).iter().for_each(|&(to, from)| listing.blocks[to].predecessors.push(from));
        found(lane_edges).iter().for_each(|&(to, from)| listing.blocks[to].lane_predecessors.push(from));
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_block_by_block() {
        let listing = Listing::parse(include_str!("../fixtures/conv2d_grad_weight.txt"));
        let predecessors: Vec<_> = listing.blocks.iter().map(|block| block.predecessors.clone()).collect();
        let expected = [vec![], vec![0], vec![1, 5], vec![2], vec![3, 4], vec![4], vec![2], vec![6], vec![0, 7, 6]];
        assert_eq!(predecessors, expected);
        let diverging: Vec<_> = (0..listing.blocks.len()).filter(|&i| listing.blocks[i].diverges).collect();
        assert_eq!(diverging, [6]);
        let lengths: Vec<_> = listing.blocks.iter().map(|block| block.instructions.len()).collect();
        assert_eq!(lengths, [5, 30, 2, 19, 40, 2, 4, 17, 3]);
        assert_eq!(listing.sums["latency"], 6524.5);
        assert_eq!(listing.sums["num_waves"], 16.0);
        let wait = &listing.blocks[4].instructions[16];
        assert_eq!(*wait, Instruction { operations: vec!["s_waitcnt".to_owned()], cycles: 313.0 });
    }

    #[test]
    fn both_sides_of_a_parting_precede_where_lanes_meet() {
        let text = "BB4\n/* logical preds: BB0, BB2, / linear preds: BB2, / kind: uniform, merge, */\n";
        let text =
            format!("BB0\n/* kind: branch, */\nBB2\n/* logical preds: BB0, / linear preds: BB0, / kind: */\n{text}");
        let blocks = Listing::parse(&text).blocks;
        assert_eq!((&blocks[2].predecessors, &blocks[2].lane_predecessors), (&vec![1], &vec![0, 1]));
    }

    #[test]
    fn multiply_adds_are_counted_as_what_they_are() {
        let count = |text: &str| {
            let instruction = instruction(text).unwrap_or_else(|| panic!("{text:?} is no instruction"));
            (instruction.multiply_adds(), instruction.count())
        };
        assert_eq!(count("\t(  1 clk)   v7 = v_fmac_f32 s1, v2, v7"), (1, 1));
        assert_eq!(count("\t( 12 clk)   v7 = v_fma_f32 s1, v2, v7"), (1, 1));
        assert_eq!(count("\t(  1 clk)   v7 = v_fmamk_f32 s1, v7, 0x40000000"), (1, 1));
        assert_eq!(count("\t(  1 clk)   v7 = v_fma_mix_f32 v1, lo(v2), v7"), (1, 1));
        assert_eq!(count("\t(  1 clk)   v7 = v_pk_fma_f16 v1, v2, v7"), (2, 1));
        assert_eq!(count("\t(  1 clk)   v7 = v_dot2_f32_f16 v1, v2, v7"), (2, 1));
        assert_eq!(count("\t(  1 clk)   v1 = v_dual_fmac_f32 s1, v2, v1 ::v4 = v_dual_fmac_f32 s1, v3, v4"), (2, 2));
        assert_eq!(count("\t(  1 clk)   v1 = v_dual_fmac_f32 s1, v2, v1 ::v4 = v_dual_mov_b32 0"), (1, 2));
        assert_eq!(count("\t(  4 clk)   v1 = v_mad_u32_u24 v1, 3, v2"), (0, 1));
        assert_eq!(count("\t(  2 clk)   v1 = v_mul_f32 v1, v2"), (0, 1));
        assert_eq!(count("\t(  1 clk)   s_endpgm"), (0, 1));
    }
}
