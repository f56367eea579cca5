//! The memory plan: which kernels run, and which slot every temporary tensor occupies, by liveness.

use crate::error::{Error, Result};
use crate::graph::{Graph, Home, Var};

/// The nodes that a compiled graph runs, and the offsets of its temporaries.
#[derive(Debug)]
pub struct Plan {
    /// Indices of the live nodes, in recorded order.
    pub order: Vec<usize>,
    /// The slot of each variable that has one.
    pub slots: Vec<Option<usize>>,
    /// Size of each slot in words.
    pub slot_words: Vec<usize>,
    /// Size of the temporaries if none shared a slot, in words.
    pub unshared_words: usize,
}

impl Plan {
    /// Size of all slots together, in words.
    pub fn words(&self) -> usize {
        self.slot_words.iter().sum()
    }
}

/// Drops kernels that nothing needs, and assigns slots. A slot is reused as soon as its tensor was read for the last
/// time: by the smallest free one that holds it, or else the largest, which grows.
///
/// # Errors
/// When a kernel reads a temporary that nothing wrote before, or reads and writes the same bank.
pub fn plan(graph: &Graph) -> Result<Plan> {
    let order = live_nodes(graph);
    let temporary = |var: Var| graph.is_temporary(var);
    let mut last_use = vec![0; graph.variables.len()];
    for (step, &index) in order.iter().enumerate() {
        let node = &graph.nodes[index];
        for var in node.inputs.iter().chain(&node.outputs) {
            last_use[var.0] = step;
        }
    }
    for var in &graph.kept {
        last_use[var.0] = usize::MAX;
    }

    let mut slots: Vec<Option<usize>> = vec![None; graph.variables.len()];
    let mut slot_words: Vec<usize> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut unshared_words = 0;
    for (step, &index) in order.iter().enumerate() {
        let node = &graph.nodes[index];
        check_operands(graph, index)?;
        for &var in &node.inputs {
            if temporary(var) && slots[var.0].is_none() {
                return Err(Error::Compile(format!("{} reads a tensor before it is written", node.work.describe())));
            }
        }
        for &var in node.outputs.iter().filter(|&&var| temporary(var)) {
            let words = graph.spec(var).words();
            unshared_words += words;
            let best = free
                .iter()
                .enumerate()
                .min_by_key(|&(_, &slot)| (slot_words[slot] < words, slot_words[slot].abs_diff(words)));
            let slot = match best.map(|(position, _)| position) {
                Some(position) => free.swap_remove(position),
                None => {
                    slot_words.push(0);
                    slot_words.len() - 1
                }
            };
            slot_words[slot] = slot_words[slot].max(words);
            slots[var.0] = Some(slot);
        }
        let mut ending: Vec<Var> = node.inputs.iter().chain(&node.outputs).copied().collect();
        ending.sort_unstable();
        ending.dedup();
        for var in ending {
            if temporary(var) && last_use[var.0] == step {
                free.extend(slots[var.0]);
            }
        }
    }
    Ok(Plan { order, slots, slot_words, unshared_words })
}

/// Nodes that write state or kept tensors, the host's work, and all that these need.
pub(crate) fn live_nodes(graph: &Graph) -> Vec<usize> {
    let mut needed = vec![false; graph.variables.len()];
    for var in &graph.kept {
        needed[var.0] = true;
    }
    let mut order: Vec<usize> = (0..graph.nodes.len())
        .rev()
        .filter(|&index| {
            let node = &graph.nodes[index];
            let live =
                node.work.host().is_some() || node.outputs.iter().any(|&var| needed[var.0] || !graph.is_temporary(var));
            if live {
                for var in &node.inputs {
                    needed[var.0] = true;
                }
            }
            live
        })
        .collect();
    order.reverse();
    order
}

/// A bank may be read or written by a kernel, not both, and written parts may not overlap: a GPU forbids it, and the
/// CPU device relies on it.
fn check_operands(graph: &Graph, index: usize) -> Result<()> {
    let node = &graph.nodes[index];
    let place = |var: Var| match &graph.variables[var.0].home {
        Home::State(bank, offset) => Some((bank.id(), *offset, graph.spec(var).words(), bank)),
        _ => None,
    };
    let fail = |what: String| Err(Error::Compile(format!("kernel {}: {what}", node.work.name())));
    for (i, &output) in node.outputs.iter().enumerate() {
        if matches!(graph.variables[output.0].home, Home::Fed(_)) {
            return fail(format!("output {i} is a fed tensor"));
        }
        let Some((id, offset, words, bank)) = place(output) else { continue };
        if node.inputs.iter().filter_map(|&var| place(var)).any(|(other, ..)| other == id) {
            return fail(format!("bank {} is both read and written", bank.name()));
        }
        for &other in &node.outputs[i + 1..] {
            if let Some((other_id, other_offset, other_words, _)) = place(other)
                && other_id == id
                && offset < other_offset + other_words
                && other_offset < offset + words
            {
                return fail(format!("two outputs overlap in bank {}", bank.name()));
            }
        }
    }
    Ok(())
}
