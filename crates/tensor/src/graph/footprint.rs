//! Device memory that programs need, known before anything is allocated.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::graph::plan::plan;
use crate::graph::{Graph, Home, Var};
use crate::state::bank::Bank;

/// The memory of one program or of several that share banks. Sizes are in bytes.
#[derive(Debug, Clone, Default)]
pub struct Footprint {
    /// Tensors that the host feeds.
    pub inputs: u64,
    /// The largest tensor that a kernel binds.
    pub largest_binding: u64,
    /// Slots of the temporaries.
    slots: Vec<u64>,
    banks: BTreeMap<usize, Bank>,
    /// Temporaries with the kernel that writes each, and their sizes.
    temporaries: Vec<(String, u64)>,
}

fn bytes(words: usize) -> u64 {
    4 * words as u64
}

impl Graph {
    /// Memory that the graph needs once it is compiled. Banks count with the size that they have by then.
    ///
    /// # Errors
    /// When the graph cannot be compiled.
    pub fn footprint(&self) -> Result<Footprint> {
        let (graph, _) = self.fused()?;
        let plan = plan(&graph)?;
        let mut footprint =
            Footprint { slots: plan.slot_words.iter().map(|&words| bytes(words)).collect(), ..Footprint::default() };
        for variable in &graph.variables {
            match &variable.home {
                Home::Temporary => {}
                Home::Fed(_) => footprint.inputs += bytes(variable.spec.words()),
                Home::State(bank, _) => {
                    footprint.banks.insert(bank.id(), bank.clone());
                }
            }
        }
        for node in plan.order.iter().map(|&index| &graph.nodes[index]) {
            let size = |var: &Var| bytes(graph.spec(*var).words());
            let bound = node.inputs.iter().chain(&node.outputs).map(size).max();
            footprint.largest_binding = footprint.largest_binding.max(bound.unwrap_or(0));
            for var in node.outputs.iter().filter(|var| graph.is_temporary(**var)) {
                footprint.temporaries.push((format!("{} of {}", graph.spec(*var), node.work.name()), size(var)));
            }
        }
        Ok(footprint)
    }
}

impl Footprint {
    /// Two programs of which the other one is compiled beside this one ([`Graph::compile_beside`]): it takes this one's
    /// slots as far as they reach. Banks that both use count once.
    #[must_use]
    pub fn lending(mut self, mut other: Self) -> Self {
        let mut lent = self.slots.clone();
        lent.sort_unstable();
        other.slots.sort_unstable_by(|a, b| b.cmp(a));
        self.slots.extend(other.slots.into_iter().filter(|slot| lent.pop_if(|lent| *lent >= *slot).is_none()));
        self.inputs += other.inputs;
        self.largest_binding = self.largest_binding.max(other.largest_binding);
        self.banks.extend(other.banks);
        self.temporaries.extend(other.temporaries);
        self
    }

    /// Slots of the temporaries.
    pub fn activations(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// Banks: parameters, gradients, data.
    pub fn state(&self) -> u64 {
        self.banks.values().map(|bank| bytes(bank.words())).sum()
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.activations() + self.inputs + self.state()
    }

    /// The largest buffer that will be allocated.
    pub fn largest_buffer(&self) -> u64 {
        let banks = self.banks.values().map(|bank| bytes(bank.words()));
        banks.chain(self.slots.iter().copied()).max().unwrap_or(0)
    }

    /// The `count` largest tensors and banks, with what each is; those of one shape and kernel count once.
    pub fn largest(&self, count: usize) -> Vec<(String, u64)> {
        let banks = self.banks.values().map(|bank| (bank.name().to_owned(), bytes(bank.words())));
        let mut all: Vec<(String, u64)> = self.temporaries.iter().cloned().chain(banks).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.dedup();
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise::Scale;
    use crate::shape::Spec;

    #[test]
    fn what_programs_share_counts_once() {
        let bank = Bank::new("state");
        bank.reserve(128).expect("new");
        let program = |words: usize| {
            let mut graph = Graph::new();
            let x = graph.input("x", Spec::f32([words]));
            let y = graph.launch_one(Scale { words, factor: 2.0 }, &[x]).expect("recorded");
            let state = graph.state(&bank, 0, Spec::f32([words]), false).expect("fits");
            graph.launch_into(Scale { words, factor: 2.0 }, &[y], &[Some(state)]).expect("recorded");
            graph.footprint().expect("planned")
        };
        let both = program(8).lending(program(100));
        assert_eq!((both.activations(), both.inputs, both.state(), both.total()), (432, 432, 512, 1376));
        assert_eq!((both.largest_binding, both.largest_buffer()), (400, 512));
        assert_eq!(
            program(100).lending(program(8)).activations(),
            400,
            "the small one has room in the large one's slot"
        );
        let largest = both.largest(2);
        assert_eq!(largest[0], ("state".to_owned(), 512));
        assert!(largest[1].0.contains("f32[100]") && largest[1].1 == 400, "{largest:?}");
    }
}
