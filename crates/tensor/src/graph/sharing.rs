//! Programs that share their work with other processes: each computes on its part of a batch, and sums are taken over
//! all.
//!
//! A step sums its gradients over the processes, in parts that travel while the step goes on; batch-norms may normalise
//! over the batches of all processes together. Who the processes are, and how they are reached, the engine does not
//! know.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::work::HostWork;
use crate::graph::{Graph, Home, Var};
use crate::kernels::batch_norm::{Chunks, merge_chunks};
use crate::shape::Spec;
use crate::state::bank::Bank;
use crate::state::params::{Kind, Params};

/// Why an exchange failed, in a sentence.
pub type Failure = String;

/// Other processes that run the same program on their parts of the data. Every process makes the same calls in the same
/// order. Sums are taken in the order of the processes, and all of them get the same bits.
pub trait Exchange: std::fmt::Debug + Send + Sync {
    /// Number of processes W.
    fn processes(&self) -> usize;

    /// The statistics of all processes, one after another: W times as long as `own`.
    ///
    /// # Errors
    /// When a process cannot be reached any more.
    fn gather_statistics(&self, own: Vec<f32>) -> std::result::Result<Vec<f32>, Failure>;

    /// The sum of everybody's statistics.
    ///
    /// # Errors
    /// When a process cannot be reached any more.
    fn sum_statistics(&self, own: Vec<f32>) -> std::result::Result<Vec<f32>, Failure>;

    /// Begins the sum of a part of what a step has found; `last` is true of its last part.
    ///
    /// # Errors
    /// When a process cannot be reached any more.
    fn begin_sum(&self, own: Vec<f32>, last: bool) -> std::result::Result<(), Failure>;

    /// The sum of the part that was begun first of those that have not ended.
    ///
    /// # Errors
    /// When a process cannot be reached any more.
    fn end_sum(&self) -> std::result::Result<Vec<f32>, Failure>;
}

/// The way that processes share the work of a [`Graph`].
#[derive(Debug, Clone)]
pub struct Sharing {
    /// The processes.
    pub exchange: Arc<dyn Exchange>,
    /// True if batch-norms normalise over the batches of all processes together.
    pub batch_norm: bool,
    /// Parts in which the gradients are summed, each as soon as it is there.
    pub parts: usize,
}

fn failed(what: &'static str) -> impl Fn(Failure) -> Error {
    move |problem| Error::Exchange { what, problem }
}

/// Sums of the chunks of a batch-norm's rows -> those of the processes' rows: `partials [P, M, 2, C]` -> `[W, M, 2,
/// C]`.
#[derive(Debug, Clone)]
pub(crate) struct GatherMoments {
    /// The processes.
    pub exchange: Arc<dyn Exchange>,
    /// Members M.
    pub members: usize,
    /// Channels C.
    pub channels: usize,
    /// The rows of a process.
    pub chunks: Chunks,
}

impl HostWork for GatherMoments {
    fn name(&self) -> &'static str {
        "gather_moments"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.chunks.count(), self.members, 2, self.channels])]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.exchange.processes(), self.members, 2, self.channels])]
    }

    fn run(&self, inputs: &[Vec<f32>], outputs: &mut [Vec<f32>]) -> Result<()> {
        let own = merge_chunks(&inputs[0], self.members, self.channels, self.chunks);
        let all = self.exchange.gather_statistics(own).map_err(failed("normalise over the batches of all ranks"))?;
        outputs[0].copy_from_slice(&all);
        Ok(())
    }
}

/// The mean over the processes of sums that each took over its own rows.
#[derive(Debug)]
struct MeanOfSums {
    exchange: Arc<dyn Exchange>,
    specs: Vec<Spec>,
}

impl HostWork for MeanOfSums {
    fn name(&self) -> &'static str {
        "mean_of_sums"
    }

    fn inputs(&self) -> Vec<Spec> {
        self.specs.clone()
    }

    fn outputs(&self) -> Vec<Spec> {
        self.specs.clone()
    }

    fn run(&self, inputs: &[Vec<f32>], outputs: &mut [Vec<f32>]) -> Result<()> {
        let sums = self.exchange.sum_statistics(inputs.concat());
        let mut sums = sums.map_err(failed("normalise over the batches of all ranks"))?;
        let share = 1.0 / self.exchange.processes() as f32;
        sums.iter_mut().for_each(|sum| *sum *= share);
        split(&sums, outputs);
        Ok(())
    }
}

/// Begins the sum over the processes of `inputs`, each multiplied by a factor.
#[derive(Debug)]
struct BeginSum {
    exchange: Arc<dyn Exchange>,
    specs: Vec<Spec>,
    factors: Vec<f32>,
    last: bool,
}

impl HostWork for BeginSum {
    fn name(&self) -> &'static str {
        "begin_sum_over_ranks"
    }

    fn inputs(&self) -> Vec<Spec> {
        self.specs.clone()
    }

    fn outputs(&self) -> Vec<Spec> {
        Vec::new()
    }

    fn run(&self, inputs: &[Vec<f32>], _: &mut [Vec<f32>]) -> Result<()> {
        let mut all = Vec::with_capacity(inputs.iter().map(Vec::len).sum());
        for (input, &factor) in inputs.iter().zip(&self.factors) {
            all.extend(input.iter().map(|value| value * factor));
        }
        self.exchange.begin_sum(all, self.last).map_err(failed("sum the gradients over all ranks"))
    }
}

/// Waits for the sum that was begun first, and writes it to where its terms were.
#[derive(Debug)]
struct EndSum {
    exchange: Arc<dyn Exchange>,
    specs: Vec<Spec>,
}

impl HostWork for EndSum {
    fn name(&self) -> &'static str {
        "sum_over_ranks"
    }

    fn inputs(&self) -> Vec<Spec> {
        Vec::new()
    }

    fn outputs(&self) -> Vec<Spec> {
        self.specs.clone()
    }

    fn run(&self, _: &[Vec<f32>], outputs: &mut [Vec<f32>]) -> Result<()> {
        let sums = self.exchange.end_sum().map_err(failed("sum the gradients over all ranks"))?;
        split(&sums, outputs);
        Ok(())
    }
}

fn split(all: &[f32], parts: &mut [Vec<f32>]) {
    let mut rest = all;
    for part in parts {
        let (own, tail) = rest.split_at(part.len());
        part.copy_from_slice(own);
        rest = tail;
    }
}

/// Ranges of whole parameters, about equally long, the last parameters first: their gradients are there first.
fn parts(params: &Params, count: usize) -> Vec<Range<usize>> {
    let words = params.gradients().words();
    let mut starts: Vec<usize> = params
        .entries()
        .iter()
        .filter(|param| matches!(param.kind, Kind::Trained { .. }))
        .map(|param| param.offset)
        .collect();
    starts.sort_unstable();
    let mut parts = Vec::with_capacity(count);
    let mut end = words;
    for left in (1..count).rev() {
        let wanted = end * left / (left + 1);
        let start = starts.iter().copied().filter(|&start| start < end).min_by_key(|start| start.abs_diff(wanted));
        match start {
            Some(start) if start > 0 => {
                parts.push(start..end);
                end = start;
            }
            _ => break,
        }
    }
    parts.push(0..end);
    parts
}

impl Graph {
    /// Shares the work of all nodes recorded from now on with other processes.
    pub fn share(&mut self, sharing: Sharing) {
        self.sharing = Some(sharing);
    }

    /// The way the work is shared with other processes, if it is.
    pub fn sharing(&self) -> Option<&Sharing> {
        self.sharing.as_ref()
    }

    /// The processes over whose batches batch-norms normalise, if there are several.
    fn batch_norm_exchange(&self) -> Option<Arc<dyn Exchange>> {
        self.sharing.as_ref().filter(|sharing| sharing.batch_norm).map(|sharing| Arc::clone(&sharing.exchange))
    }

    /// Tells whether batch-norms normalise over the batches of several processes.
    pub(crate) fn shares_batch_norm(&self) -> bool {
        self.batch_norm_exchange().is_some()
    }

    /// The sums `partials [P, M, 2, C]` from which a batch-norm's statistics follow, or those of all processes in their
    /// place, where they normalise together.
    ///
    /// # Errors
    /// When the operands do not fit.
    pub(crate) fn share_moments(
        &mut self,
        partials: Var,
        [members, channels]: [usize; 2],
        chunks: Chunks,
    ) -> Result<(Var, Chunks)> {
        let Some(exchange) = self.batch_norm_exchange() else { return Ok((partials, chunks)) };
        let all = Chunks { rows: chunks.rows * exchange.processes(), chunk: chunks.rows };
        let work = GatherMoments { exchange, members, channels, chunks };
        Ok((self.host(work, &[partials], &[None])?[0], all))
    }

    /// Sums that a batch-norm's gradients follow from, or the means of all processes' in their place, where they
    /// normalise together: the mean over the rows of a process is then that over all rows, and summing the parameters'
    /// gradients over the processes gives the sums.
    ///
    /// # Errors
    /// When the operands do not fit.
    pub(crate) fn share_sums(&mut self, sums: [Var; 2]) -> Result<[Var; 2]> {
        let Some(exchange) = self.batch_norm_exchange() else { return Ok(sums) };
        let specs = sums.iter().map(|&var| self.spec(var).clone()).collect();
        let shared = self.host(MeanOfSums { exchange, specs }, &sums, &[None, None])?;
        Ok([shared[0], shared[1]])
    }

    /// If the work is shared: sums the bank of gradients and `totals` over the processes, and takes the mean of the
    /// running statistics, unless they are the same everywhere. Every part of the gradients begins to travel behind the
    /// kernel that completes it; all are there when what is recorded next runs.
    ///
    /// # Errors
    /// When the graph does not take it.
    pub fn sum_over_processes(&mut self, params: &Params, totals: &Bank) -> Result<()> {
        let Some(Sharing { exchange, batch_norm, parts: count }) = self.sharing.clone() else { return Ok(()) };
        let parts = parts(params, count.max(1));
        let mut ends = Vec::new();
        for (index, range) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            let whole = |graph: &mut Self, bank: &Bank| graph.state(bank, 0, Spec::f32([bank.words()]), false);
            let mut vars = vec![self.state(params.gradients(), range.start, Spec::f32([range.len()]), false)?];
            let mut factors = vec![1.0];
            if last {
                vars.push(whole(self, totals)?);
                factors.push(1.0);
                if !batch_norm && params.running().words() > 0 {
                    vars.push(whole(self, params.running())?);
                    factors.push(1.0 / exchange.processes() as f32);
                }
            }
            let specs: Vec<Spec> = vars.iter().map(|&var| self.spec(var).clone()).collect();
            let begin = BeginSum { exchange: Arc::clone(&exchange), specs: specs.clone(), factors, last };
            self.host(begin, &vars, &[])?;
            if !last {
                self.move_last_behind(params.gradients(), range);
            }
            ends.push((EndSum { exchange: Arc::clone(&exchange), specs }, vars));
        }
        for (end, vars) in ends {
            let outputs: Vec<Option<Var>> = vars.into_iter().map(Some).collect();
            self.host(end, &[], &outputs)?;
        }
        Ok(())
    }

    /// Moves the kernel that was recorded last behind the last one that writes to a part of a bank.
    fn move_last_behind(&mut self, bank: &Bank, range: &Range<usize>) {
        let writes = |&var: &Var| match &self.variables[var.0].home {
            Home::State(other, offset) => other.id() == bank.id() && range.contains(offset),
            _ => false,
        };
        let behind = self.nodes.iter().rposition(|node| node.outputs.iter().any(writes)).map_or(0, |index| index + 1);
        self.nodes[behind..].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_parameters_and_cover_the_bank_from_its_end() {
        let mut params = Params::new();
        for (i, words) in [100, 64, 1000, 3, 500, 64].into_iter().enumerate() {
            params.declare(&format!("p{i}"), Spec::f32([words]), Kind::Trained { decay: true }).expect("new");
        }
        let starts: Vec<usize> = params.entries().iter().map(|param| param.offset).collect();
        for count in 1..9 {
            let parts = parts(&params, count);
            assert!(parts.len() <= count && (count < 2 || parts.len() > 1), "{parts:?}");
            assert_eq!(parts[0].end, params.gradients().words());
            assert_eq!(parts[parts.len() - 1].start, 0);
            assert!(parts.windows(2).all(|pair| pair[0].start == pair[1].end && !pair[1].is_empty()), "{parts:?}");
            assert!(parts.iter().all(|part| starts.contains(&part.start)), "{parts:?}");
        }
    }
}
