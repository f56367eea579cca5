//! The order of small sums: those that do not depend on each other share a dispatch.

use super::rewrite::{overlap, place};
use super::{Graph, Node, Var};
use crate::error::Result;
use crate::graph::work::Work;
use crate::kernels::sum_partials::SumPartials;

/// Nodes that wait: sums for others to share a dispatch with, and work of the host without results that reads their
/// outputs.
#[derive(Debug, Default)]
struct Waiting {
    sums: Vec<Node>,
    readers: Vec<Node>,
}

/// ```text
/// a -> [sum_partials] ..  b -> [sum_partials] ..  c -> [sum_partials] -> [reader]
///     =>      .. a, b, c -> [sum_partials] -> [reader]
/// ```
///
/// A sum waits until something needs it, and takes others that wait with it, as far as a kernel may bind their tensors.
/// Returns how many sums run in another one's dispatch.
///
/// # Errors
/// When the joined sum does not take its operands.
pub(super) fn share_dispatches(graph: &mut Graph) -> Result<usize> {
    let nodes = std::mem::take(&mut graph.nodes);
    let count = nodes.len();
    let mut waiting = Waiting::default();
    for node in nodes {
        if node.kernel::<SumPartials>().is_some() && !waiting.concern(graph, &node) {
            waiting.sums.push(node);
        } else if node.outputs.is_empty() && waiting.concern(graph, &node) {
            waiting.readers.push(node);
        } else {
            waiting.release(graph, &node)?;
            graph.nodes.push(node);
        }
    }
    waiting.release_all(graph)?;
    Ok(count - graph.nodes.len())
}

/// Tells whether two tensors are the same, or lie in the same words of a bank.
fn coincide(graph: &Graph, a: Var, b: Var) -> bool {
    a == b
        || matches!((place(graph, a), place(graph, b)), (Some((one, a)), Some((other, b)))
            if one == other && overlap(&a, &b))
}

/// Tells whether `later` must run behind `earlier`: it reads or writes what that writes, or writes what that reads.
fn must_follow(graph: &Graph, later: &Node, earlier: &Node) -> bool {
    let any = |a: &[Var], b: &[Var]| a.iter().any(|&a| b.iter().any(|&b| coincide(graph, a, b)));
    any(&later.inputs, &earlier.outputs)
        || any(&later.outputs, &earlier.outputs)
        || any(&later.outputs, &earlier.inputs)
}

impl Waiting {
    /// Tells whether a node must run behind one that waits.
    fn concern(&self, graph: &Graph, node: &Node) -> bool {
        self.sums.iter().chain(&self.readers).any(|earlier| must_follow(graph, node, earlier))
    }

    /// Lets go what must run before `node`. Work of the host that reads nothing ends what such readers have begun.
    fn release(&mut self, graph: &mut Graph, node: &Node) -> Result<()> {
        let ends = node.work.host().is_some() && node.inputs.is_empty();
        if self.readers.iter().any(|reader| ends || must_follow(graph, node, reader)) {
            return self.release_all(graph);
        }
        while let Some(last) = self.sums.iter().rposition(|sum| must_follow(graph, node, sum)) {
            self.record(graph, last)?;
        }
        Ok(())
    }

    /// Lets go everything.
    fn release_all(&mut self, graph: &mut Graph) -> Result<()> {
        while let Some(last) = self.sums.len().checked_sub(1) {
            self.record(graph, last)?;
        }
        Ok(())
    }

    /// Records one of the sums together with others that wait, and then the readers for which all sums are there, in
    /// their order.
    fn record(&mut self, graph: &mut Graph, index: usize) -> Result<()> {
        let mut sum = self.sums.remove(index);
        if let Some(mut kernel) = sum.kernel::<SumPartials>() {
            self.sums.retain(|other| {
                let joined = other.kernel::<SumPartials>().is_some_and(|other| kernel.join(&other));
                if joined {
                    sum.inputs.extend_from_slice(&other.inputs);
                    sum.outputs.extend_from_slice(&other.outputs);
                }
                !joined
            });
            sum.work = Work::Kernel(kernel.into());
        }
        graph.check_operands(&sum.work, "input", &sum.work.inputs(), &sum.inputs)?;
        graph.check_operands(&sum.work, "output", &sum.work.outputs(), &sum.outputs)?;
        graph.nodes.push(sum);
        let ready =
            self.readers.iter().take_while(|reader| !self.sums.iter().any(|sum| must_follow(graph, reader, sum)));
        let ready = ready.count();
        graph.nodes.extend(self.readers.drain(..ready));
        Ok(())
    }
}
