//! Collectives, built of exchanges between all ranks.
//!
//! Each begins with a header from every rank to every other one: its kind and its length. Ranks that disagree are
//! therefore told so, every message is as long as its receiver expects, and a rank that hangs is known to all.

use std::mem;

use crate::exchange::{Mpi, Part};
use crate::patience::Control;
use crate::slices::{slice, sum_in_order};
use crate::{Error, Result};

/// Number of collectives with distinct tags; MPI's tags go up to 32767 at least, and no two ranks are further apart
/// than one collective.
const TAGS: i32 = 8192;

#[derive(Clone, Copy)]
enum Kind {
    Broadcast,
    AllGather,
    AllReduce,
}

/// Names of the kinds in messages, in that order.
const KINDS: [&str; 3] = ["broadcast", "gathering", "sum"];

/// State of the thread that makes MPI's calls for the others.
pub(crate) struct Collectives<'a> {
    mpi: Mpi,
    control: &'a Control,
    rank: usize,
    size: usize,
    /// Tag of the current collective.
    tag: i32,
    /// Error of an earlier collective: the ranks are no longer at the same place.
    failed: Option<Error>,
    /// The other ranks' parts of a sum, and the sum: kept, since fresh memory costs as much as the sum itself.
    others: Vec<f32>,
    sum: Vec<f32>,
}

impl<'a> Collectives<'a> {
    pub fn new(mpi: Mpi, control: &'a Control) -> Self {
        let (rank, size) = (mpi.rank(), mpi.size());
        Self { mpi, control, rank, size, tag: 0, failed: None, others: Vec::new(), sum: Vec::new() }
    }

    pub fn broadcast(&mut self, data: Vec<u8>) -> Result<Vec<u8>> {
        self.once(|ranks| {
            let lengths = ranks.headers(Kind::Broadcast, data.len())?;
            if ranks.rank == 0 {
                let sends: Vec<Part> = ranks.peers().map(|peer| Part { peer, range: 0..data.len() }).collect();
                let (data, _) = ranks.mpi.exchange(ranks.control, ranks.tag + 1, (data, &sends), (Vec::new(), &[]))?;
                return Ok(data);
            }
            let receive = Part { peer: 0, range: 0..lengths[0] };
            let into = vec![0; lengths[0]];
            let (_, data) = ranks.mpi.exchange(ranks.control, ranks.tag + 1, (Vec::new(), &[]), (into, &[receive]))?;
            Ok(data)
        })
    }

    pub fn all_gather(&mut self, block: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.once(|ranks| {
            let lengths = ranks.headers(Kind::AllGather, block.len())?;
            let sends: Vec<Part> = ranks.peers().map(|peer| Part { peer, range: 0..block.len() }).collect();
            let mut end = 0;
            let mut place = |peer: usize| {
                end += lengths[peer];
                Part { peer, range: end - lengths[peer]..end }
            };
            let receives: Vec<Part> = ranks.peers().map(&mut place).collect();
            let into = vec![0; end];
            let (block, into) = ranks.mpi.exchange(ranks.control, ranks.tag + 1, (block, &sends), (into, &receives))?;
            let mut blocks: Vec<Vec<u8>> = receives.iter().map(|part| into[part.range.clone()].to_vec()).collect();
            blocks.insert(ranks.rank, block);
            Ok(blocks)
        })
    }

    /// Each rank receives its slice from all others, sums it, and sends the sum to all.
    pub fn all_reduce(&mut self, data: Vec<f32>) -> Result<Vec<f32>> {
        self.once(|ranks| {
            let (len, rank, size) = (data.len(), ranks.rank, ranks.size);
            let lengths = ranks.headers(Kind::AllReduce, len)?;
            if let Some(other) = lengths.iter().position(|other| *other != len) {
                return Err(Error::Length { own: rank, ours: len, rank: other, theirs: lengths[other] });
            }
            let own = slice(len, size, rank);
            let slices: Vec<Part> = ranks.peers().map(|peer| Part { peer, range: slice(len, size, peer) }).collect();

            let mut others = mem::take(&mut ranks.others);
            others.resize(own.len() * (size - 1), 0.0);
            let places = ranks.peers().enumerate();
            let receives: Vec<Part> =
                places.map(|(at, peer)| Part { peer, range: at * own.len()..(at + 1) * own.len() }).collect();
            let (mut data, others) =
                ranks.mpi.exchange(ranks.control, ranks.tag + 1, (data, &slices), (others, &receives))?;

            let mut sum = mem::take(&mut ranks.sum);
            sum.resize(own.len(), 0.0);
            sum_in_order(rank, &data[own.clone()], &others, &mut sum);
            data[own.clone()].copy_from_slice(&sum);

            let sends: Vec<Part> = ranks.peers().map(|peer| Part { peer, range: 0..own.len() }).collect();
            let (sum, data) = ranks.mpi.exchange(ranks.control, ranks.tag + 2, (sum, &sends), (data, &slices))?;
            (ranks.others, ranks.sum) = (others, sum);
            Ok(data)
        })
    }

    /// Passes messages on between collectives.
    pub fn idle(&mut self) {
        if let Some(status) = self.control.aborted() {
            self.mpi.abort(status);
        }
        self.mpi.advance();
    }

    /// Ends MPI after the last collective.
    pub fn finish(self) {
        if self.failed.is_some() {
            self.mpi.forget();
        } else {
            self.mpi.finish();
        }
    }

    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.size).filter(move |peer| *peer != rank)
    }

    /// Runs one collective; none after one that failed.
    fn once<T>(&mut self, collective: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = collective(self);
        self.failed = result.as_ref().err().cloned();
        self.tag = (self.tag + 4) % (4 * TAGS);
        result
    }

    /// Exchanges headers, and returns the lengths that the ranks announce for this collective.
    fn headers(&self, kind: Kind, len: usize) -> Result<Vec<usize>> {
        let ours = [kind as u64, len as u64];
        let sends: Vec<Part> = self.peers().map(|peer| Part { peer, range: 0..2 }).collect();
        let receives: Vec<Part> = self.peers().map(|peer| Part { peer, range: 2 * peer..2 * peer + 2 }).collect();
        let mut headers = vec![0; 2 * self.size];
        headers[2 * self.rank..][..2].copy_from_slice(&ours);
        let (_, headers) = self.mpi.exchange(self.control, self.tag, (ours.to_vec(), &sends), (headers, &receives))?;
        let name = |kind: u64| KINDS.get(kind as usize).copied().unwrap_or("call of another version");
        if let Some(rank) = (0..self.size).find(|rank| headers[2 * rank] != kind as u64) {
            let theirs = name(headers[2 * rank]);
            return Err(Error::Order { own: self.rank, ours: name(kind as u64), rank, theirs });
        }
        Ok(headers.chunks(2).map(|header| usize::try_from(header[1]).unwrap_or(usize::MAX)).collect())
    }
}
