//! A graph being rewritten: its nodes with the writer and the readers of every tensor, kept true while rules change
//! nodes ([`super::fuse`]).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::{Graph, Home, Node, Var};
use crate::error::Result;
use crate::graph::plan::live_nodes;
use crate::graph::work::HostWork;
use crate::graph::work::Work;
use crate::kernel::Kernel;
use crate::shape::Spec;

/// Part of a bank that a node writes.
#[derive(Debug, Clone)]
struct Write {
    node: usize,
    bank: usize,
    words: Range<usize>,
}

/// The live nodes of a graph. A node keeps its index while others are removed.
#[derive(Debug)]
pub(super) struct Rewrite {
    graph: Graph,
    nodes: Vec<Option<Node>>,
    /// The node that writes each tensor last.
    writers: Vec<Option<usize>>,
    /// The nodes that read each tensor, one entry for each operand.
    readers: Vec<Vec<usize>>,
    /// Nodes' writes to banks.
    writes: Vec<Write>,
    /// Nodes that are to run just before another one.
    moved: BTreeMap<usize, Vec<usize>>,
}

impl Rewrite {
    /// The live nodes of `graph`.
    pub fn new(graph: &Graph) -> Self {
        let nodes = live_nodes(graph).into_iter().map(|index| Some(graph.nodes[index].clone())).collect();
        let count = graph.variables.len();
        let graph = Graph {
            variables: graph.variables.clone(),
            kept: graph.kept.clone(),
            sharing: graph.sharing.clone(),
            ..Graph::default()
        };
        let mut rewrite = Self {
            graph,
            nodes,
            writers: vec![None; count],
            readers: vec![Vec::new(); count],
            writes: Vec::new(),
            moved: BTreeMap::new(),
        };
        for index in 0..rewrite.nodes.len() {
            rewrite.enter(index);
        }
        rewrite
    }

    /// Number of nodes, removed ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node that was not removed.
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes[index].as_ref()
    }

    /// The kernel of a node, if it is a `K`.
    pub fn kernel<K: Kernel + Clone>(&self, node: usize) -> Option<K> {
        self.node(node).and_then(Node::kernel)
    }

    /// The inputs of a node.
    pub fn inputs(&self, node: usize) -> Vec<Var> {
        self.node(node).map_or_else(Vec::new, |node| node.inputs.clone())
    }

    /// The outputs of a node.
    pub fn outputs(&self, node: usize) -> Vec<Var> {
        self.node(node).map_or_else(Vec::new, |node| node.outputs.clone())
    }

    /// The work that a node is for the host, if it is a `W`.
    pub fn host<W: HostWork + Clone>(&self, node: usize) -> Option<W> {
        let work: &dyn Any = self.node(node)?.work.host()?;
        work.downcast_ref().cloned()
    }

    /// The node that writes a tensor.
    pub fn writer(&self, var: Var) -> Option<usize> {
        self.writers[var.0]
    }

    /// The node that writes a tensor with its kernel, if that is a `K`.
    pub fn written_by<K: Kernel + Clone>(&self, var: Var) -> Option<(usize, K)> {
        let index = self.writers[var.0]?;
        self.kernel(index).map(|kernel| (index, kernel))
    }

    /// The nodes that read a tensor.
    pub fn readers(&self, var: Var) -> &[usize] {
        &self.readers[var.0]
    }

    /// Tells whether a tensor can be read from outside of the kernels: it is kept, fed or state.
    pub fn is_observed(&self, var: Var) -> bool {
        self.graph.kept.contains(&var) || !self.graph.is_temporary(var)
    }

    /// Tells whether `node` alone needs a tensor.
    pub fn is_read_only_by(&self, var: Var, node: usize) -> bool {
        self.readers(var) == [node] && !self.is_observed(var)
    }

    /// Tells whether tensors that are read at node `one` hold the same values at node `other`.
    pub fn are_same(&self, vars: &[Var], one: usize, other: usize) -> bool {
        let between = one.min(other)..one.max(other);
        vars.iter().all(|&var| match place(&self.graph, var) {
            Some((bank, words)) => !self
                .writes
                .iter()
                .any(|write| write.bank == bank && overlap(&write.words, &words) && between.contains(&write.node)),
            None => self.writers[var.0].is_none_or(|writer| writer < between.start),
        })
    }

    /// A new temporary.
    pub fn temporary(&mut self, spec: Spec) -> Var {
        self.writers.push(None);
        self.readers.push(Vec::new());
        self.graph.variable(spec, Home::Temporary, false)
    }

    /// Gives a tensor another shape, for a writer and readers that are replaced.
    pub fn set_spec(&mut self, var: Var, spec: Spec) {
        self.graph.variables[var.0].spec = spec;
    }

    /// Puts a kernel with other operands in the place of a node's. Where an activation lies in 16 bits, so do all.
    ///
    /// # Errors
    /// When the operands are not what the kernel declares.
    pub fn replace(
        &mut self,
        node: usize,
        kernel: impl Kernel + 'static,
        inputs: &[Var],
        outputs: &[Var],
    ) -> Result<()> {
        let work = Work::Kernel(self.graph.form(kernel, inputs)?);
        self.graph.check_operands(&work, "input", &work.inputs(), inputs)?;
        self.graph.check_operands(&work, "output", &work.outputs(), outputs)?;
        self.set(node, Node { work, inputs: inputs.to_vec(), outputs: outputs.to_vec() });
        Ok(())
    }

    /// Puts other work of the host in the place of a node's, with the same operands.
    pub fn replace_host(&mut self, node: usize, work: impl HostWork + 'static) {
        if let Some(Node { inputs, outputs, .. }) = self.nodes[node].clone() {
            self.set(node, Node { work: Work::Host(Arc::new(work)), inputs, outputs });
        }
    }

    /// Removes a node, which nothing needs any more.
    pub fn remove(&mut self, node: usize) {
        self.leave(node);
        self.nodes[node] = None;
    }

    fn set(&mut self, index: usize, node: Node) {
        self.leave(index);
        self.nodes[index] = Some(node);
        self.enter(index);
    }

    /// Takes a node out of the tables.
    fn leave(&mut self, index: usize) {
        let Some(node) = &self.nodes[index] else { return };
        for var in &node.inputs {
            self.readers[var.0].retain(|&reader| reader != index);
        }
        for var in &node.outputs {
            self.writers[var.0].take_if(|writer| *writer == index);
        }
        self.writes.retain(|write| write.node != index);
    }

    /// Puts a node into the tables.
    fn enter(&mut self, index: usize) {
        let Some(node) = &self.nodes[index] else { return };
        for var in &node.inputs {
            self.readers[var.0].push(index);
        }
        for &var in &node.outputs {
            self.writers[var.0] = Some(index);
            if let Some((bank, words)) = place(&self.graph, var) {
                self.writes.push(Write { node: index, bank, words });
            }
        }
    }

    /// Moves nodes, in their order, to just before another one.
    pub fn move_before(&mut self, nodes: &[usize], before: usize) {
        self.moved.entry(before).or_default().extend(nodes);
    }

    /// The rewritten graph, without nodes that nothing needs any more.
    pub fn finish(mut self) -> Graph {
        let moved: BTreeSet<usize> = self.moved.values().flatten().copied().collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        for index in (0..self.nodes.len()).filter(|index| !moved.contains(index)) {
            order.extend(self.moved.remove(&index).unwrap_or_default());
            order.push(index);
        }
        self.graph.nodes = order.into_iter().filter_map(|index| self.nodes[index].take()).collect();
        self.graph.nodes = live_nodes(&self.graph).into_iter().map(|index| self.graph.nodes[index].clone()).collect();
        self.graph
    }
}

impl Node {
    /// The kernel, if it is a `K`, in whatever width its activations are stored.
    pub fn kernel<K: Kernel + Clone>(&self) -> Option<K> {
        self.work.kernel()?.kernel().cloned()
    }
}

/// The bank that a tensor lies in, and its words there.
pub(super) fn place(graph: &Graph, var: Var) -> Option<(usize, Range<usize>)> {
    let variable = &graph.variables[var.0];
    match &variable.home {
        Home::State(bank, offset) => Some((bank.id(), *offset..*offset + variable.spec.words())),
        _ => None,
    }
}

/// Tells whether two ranges have a word in common.
pub(super) fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}
