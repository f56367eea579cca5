//! The processes that train a run together, one for each device: what they exchange in a step, and where they wait for
//! each other. One process alone is a rank of one, to which nothing of this happens.
//!
//! All ranks do the same in the same order: whatever one of them decides by the clock, a signal or a key is asked for
//! ([`Ranks::ask`]), and done by all once it came back with the sums of a step ([`Ranks::decided`]).

pub mod same;

use std::collections::VecDeque;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dist::{Communicator, Pending, Single};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tensor::Exchange;
use tensor::sharing::Failure;

use crate::failure::{Agreed, is_wrong_usage, usage};
use crate::machine::processors;
use crate::output;

/// The ranks of a run. Copies are of the same.
#[derive(Debug, Clone)]
pub struct Ranks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    communicator: Arc<dyn Communicator>,
    place: HostPlace,
    state: Mutex<ExchangeState>,
}

/// Place of a rank among those of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPlace {
    /// Its number among them, from 0.
    pub index: usize,
    /// Number of ranks on the host.
    pub count: usize,
    /// Number of them that run on the same processors.
    pub sharing: usize,
}

/// Requests of a rank to all, for the end of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// Save, and end.
    pub stop: bool,
    /// Save.
    pub save: bool,
    /// End after the epoch.
    pub stop_after_epoch: bool,
}

#[derive(Debug, Default)]
struct ExchangeState {
    asked: Requests,
    agreed: Requests,
    /// Sums that have not ended, and whether they are the last of a step.
    begun: VecDeque<(Pending, bool)>,
    traffic: Traffic,
}

/// Volume and waiting time of the exchange so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Time that this rank waited for sums, and with that for the others.
    pub waited: Duration,
    /// Bytes that it gave to sums.
    pub bytes: u64,
}

impl Traffic {
    /// Adds what came later.
    pub fn add(&mut self, later: Self) {
        self.waited += later.waited;
        self.bytes += later.bytes;
    }

    /// The traffic since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self { waited: self.waited - earlier.waited, bytes: self.bytes - earlier.bytes }
    }
}

impl Requests {
    const COUNT: usize = 3;

    fn to_floats(self) -> [f32; Self::COUNT] {
        [self.stop, self.save, self.stop_after_epoch].map(|flag| if flag { 1.0 } else { 0.0 })
    }

    /// The requests of any of the ranks, from the sum of all.
    fn from_sums(sums: &[f32]) -> Self {
        let asked = |index: usize| sums.get(index).is_some_and(|&sum| sum > 0.0);
        Self { stop: asked(0), save: asked(1), stop_after_epoch: asked(2) }
    }
}

/// Host and processors of a rank, from which places follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Home {
    host: String,
    /// The processors that the process may run on, in words, where the system tells.
    processors: String,
}

impl Home {
    fn own(host: &str) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self { host: host.to_owned(), processors: allowed.unwrap_or_default().trim().to_owned() }
    }
}

impl HostPlace {
    /// The place of a rank, whose home is among those of all.
    fn of(rank: usize, homes: &[Home]) -> Self {
        let own = &homes[rank];
        let count = |homes: &[Home]| homes.iter().filter(|home| home.host == own.host).count();
        let sharing = homes.iter().filter(|home| *home == own).count();
        Self { index: count(&homes[..rank]), count: count(homes), sharing }
    }
}

impl Ranks {
    /// This process alone.
    pub fn alone() -> Self {
        let place = HostPlace { index: 0, count: 1, sharing: 1 };
        Self(Arc::new(Inner { communicator: Arc::new(Single), place, state: Mutex::default() }))
    }

    /// The processes that were started together with this one. They share its processors, and the first one prints.
    ///
    /// # Errors
    /// When they cannot be reached, or this program is built without what reaches them.
    pub fn start() -> Result<Self> {
        let ranks = Self::over(dist::start()?)?;
        if !ranks.is_alone() {
            output::set_rank(ranks.rank());
            tensor::device::limit_threads((processors() / ranks.place().sharing).max(1))?;
        }
        Ok(ranks)
    }

    /// The processes that a communicator connects.
    ///
    /// # Errors
    /// When they cannot be reached.
    pub fn over(communicator: Arc<dyn Communicator>) -> Result<Self> {
        if communicator.size() == 1 {
            return Ok(Self::alone());
        }
        let own = serde_json::to_vec(&Home::own(communicator.host()))?;
        let homes = communicator.all_gather(own)?;
        let homes: Vec<Home> = homes.iter().map(|home| serde_json::from_slice(home)).collect::<Result<_, _>>()?;
        let place = HostPlace::of(communicator.rank(), &homes);
        Ok(Self(Arc::new(Inner { communicator, place, state: Mutex::default() })))
    }

    /// This rank's number.
    pub fn rank(&self) -> usize {
        self.0.communicator.rank()
    }

    /// Number of ranks.
    pub fn count(&self) -> usize {
        self.0.communicator.size()
    }

    /// Tells whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.count() == 1
    }

    /// Tells whether this is the one that prints and writes.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// Its place among those of its host.
    pub fn place(&self) -> HostPlace {
        self.0.place
    }

    /// The exchange that connects the programs of the ranks, if there are several.
    pub fn exchange(&self) -> Option<Arc<dyn Exchange>> {
        (!self.is_alone()).then(|| Arc::clone(&self.0) as Arc<dyn Exchange>)
    }

    /// Asks all to do something after the next step that has not begun. One process alone asks nobody.
    pub fn ask(&self, requests: Requests) {
        self.0.state().asked = requests;
    }

    /// Requests that all fulfil now: those agreed on with the last step, or, of one process alone, those that it has
    /// now.
    pub fn decided(&self, own: impl FnOnce() -> Requests) -> Requests {
        if self.is_alone() { own() } else { self.0.state().agreed }
    }

    /// Refuses, by a sentence, what only one process alone can do.
    ///
    /// # Errors
    /// Wrong usage, where there are several.
    pub fn refuse_several(&self, sentence: &str) -> Result<()> {
        if self.is_alone() { Ok(()) } else { self.together(Err(usage(sentence))) }
    }

    /// A rank's name in front of what is told of it; none where there is one rank only.
    pub fn prefix(&self, rank: usize) -> String {
        if self.is_alone() { String::new() } else { format!("rank {rank}: ") }
    }

    /// Volume and waiting time of the exchange so far.
    pub fn traffic(&self) -> Traffic {
        self.0.state().traffic
    }

    /// Ends the run where a rank keeps the others waiting for longer.
    pub fn set_time_limit(&self, limit: Duration) {
        self.0.communicator.set_time_limit(Some(limit));
    }

    /// Ends all ranks at once.
    pub fn abort(&self, status: i32) -> ! {
        self.0.communicator.abort(status)
    }

    /// Gathers a value of every rank, by rank.
    ///
    /// # Errors
    /// When a rank cannot be reached any more.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: &T) -> Result<Vec<T>> {
        let all = self.0.communicator.all_gather(serde_json::to_vec(own)?)?;
        all.iter().map(|block| serde_json::from_slice(block).context("a rank sent what cannot be read")).collect()
    }

    /// The words of every rank, by rank; they need not be as many.
    ///
    /// # Errors
    /// When a rank cannot be reached any more.
    pub fn gather_words(&self, own: &[u32]) -> Result<Vec<Vec<u32>>> {
        let all = self.0.communicator.all_gather(bytes(own))?;
        Ok(all.iter().map(|block| words(block)).collect())
    }

    /// Sends a value of rank 0 to all; the others give nothing.
    ///
    /// # Errors
    /// When a rank cannot be reached any more.
    pub fn of_root<T: Serialize + DeserializeOwned>(&self, own: Option<T>) -> Result<T> {
        if self.is_alone() {
            return own.context("rank 0 has nothing to send");
        }
        let sent = own.as_ref().filter(|_| self.is_root()).map(serde_json::to_vec).transpose()?;
        let bytes = self.0.communicator.broadcast(sent.unwrap_or_default())?;
        serde_json::from_slice(&bytes).context("rank 0 sent what cannot be read")
    }

    /// Rank 0's words.
    ///
    /// # Errors
    /// When a rank cannot be reached any more.
    pub fn words_of_root(&self, own: &[u32]) -> Result<Vec<u32>> {
        let sent = if self.is_root() { bytes(own) } else { Vec::new() };
        Ok(words(&self.0.communicator.broadcast(sent)?))
    }

    /// Rank 0's numbers, bit by bit.
    ///
    /// # Errors
    /// When a rank cannot be reached any more.
    pub fn floats_of_root(&self, own: &[f32]) -> Result<Vec<f32>> {
        let own: Vec<u32> = own.iter().map(|value| value.to_bits()).collect();
        Ok(self.words_of_root(&own)?.into_iter().map(f32::from_bits).collect())
    }

    /// Goes on if all can: what one could not do is an error of all, which rank 0 tells.
    ///
    /// # Errors
    /// When one of the ranks has one, or cannot be reached any more.
    pub fn together<T>(&self, own: Result<T>) -> Result<T> {
        if self.is_alone() {
            return own;
        }
        let told =
            own.as_ref().err().map(|error| Agreed { sentence: format!("{error:#}"), usage: is_wrong_usage(error) });
        let all: Vec<Option<Agreed>> = self.gather(&told)?;
        match first_told(&all) {
            Some(error) => Err(error.into()),
            None => own,
        }
    }

    /// Lets the first rank of each host do something before its others do.
    ///
    /// # Errors
    /// As [`Ranks::together`].
    pub fn one_first<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        if self.is_alone() {
            return work();
        }
        let first = self.place().index == 0;
        let mut done = self.together(if first { work().map(Some) } else { Ok(None) })?;
        let others = if first { Ok(None) } else { work().map(Some) };
        if let Some(result) = self.together(others)? {
            done = Some(result);
        }
        done.context("neither the first nor another rank of its host")
    }
}

/// The error to report of several ranks, if there is one: the first, with the rank, unless all say the same.
fn first_told(all: &[Option<Agreed>]) -> Option<Agreed> {
    let (rank, first) = all.iter().enumerate().find_map(|(rank, told)| Some((rank, told.as_ref()?)))?;
    let same = all.iter().all(|told| told.as_ref().is_some_and(|told| told.sentence == first.sentence));
    let sentence = if same { first.sentence.clone() } else { format!("rank {rank}: {}", first.sentence) };
    Some(Agreed { sentence, usage: first.usage })
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, ExchangeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what an exchange takes.
    fn count(&self, bytes: usize, begun: Instant) {
        let mut state = self.state();
        state.traffic.waited += begun.elapsed();
        state.traffic.bytes += bytes as u64;
    }
}

fn sentence(error: &dist::Error) -> Failure {
    error.to_string()
}

impl Exchange for Inner {
    fn processes(&self) -> usize {
        self.communicator.size()
    }

    fn gather_statistics(&self, own: Vec<f32>) -> Result<Vec<f32>, Failure> {
        let (begun, size) = (Instant::now(), 4 * own.len());
        let own: Vec<u8> = own.into_iter().flat_map(f32::to_le_bytes).collect();
        let all = self.communicator.all_gather(own).map_err(|error| sentence(&error))?;
        self.count(size, begun);
        Ok(all.iter().flat_map(|block| words(block)).map(f32::from_bits).collect())
    }

    fn sum_statistics(&self, own: Vec<f32>) -> Result<Vec<f32>, Failure> {
        let (begun, size) = (Instant::now(), 4 * own.len());
        let sum = self.communicator.all_reduce(own).map_err(|error| sentence(&error))?;
        self.count(size, begun);
        Ok(sum)
    }

    fn begin_sum(&self, mut own: Vec<f32>, last: bool) -> Result<(), Failure> {
        if last {
            own.extend(self.state().asked.to_floats());
        }
        let size = 4 * own.len();
        let pending = self.communicator.start_all_reduce(own).map_err(|error| sentence(&error))?;
        let mut state = self.state();
        state.traffic.bytes += size as u64;
        state.begun.push_back((pending, last));
        Ok(())
    }

    fn end_sum(&self) -> Result<Vec<f32>, Failure> {
        let begun = Instant::now();
        let (pending, last) = self.state().begun.pop_front().ok_or("no sum was begun")?;
        let mut sum = pending.wait().map_err(|error| sentence(&error))?;
        if last {
            let requests = sum.split_off(sum.len().saturating_sub(Requests::COUNT));
            let mut state = self.state();
            state.agreed = Requests::from_sums(&requests);
            state.asked = Requests::default();
        }
        self.count(0, begun);
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_from_hosts_and_their_processors() {
        let home = |host: &str, processors: &str| Home { host: host.into(), processors: processors.into() };
        let homes = [home("a", "0-3"), home("b", "0"), home("a", "0-3"), home("b", "1"), home("a", "4")];
        let place = |rank| HostPlace::of(rank, &homes);
        assert_eq!(place(0), HostPlace { index: 0, count: 3, sharing: 2 });
        assert_eq!(place(2), HostPlace { index: 1, count: 3, sharing: 2 });
        assert_eq!(place(3), HostPlace { index: 1, count: 2, sharing: 1 });
        assert_eq!(place(4), HostPlace { index: 2, count: 3, sharing: 1 });
    }

    #[test]
    fn what_one_asks_for_all_do() {
        let asked = Requests { stop: false, save: true, stop_after_epoch: true };
        let sums: Vec<f32> =
            asked.to_floats().iter().zip(Requests::default().to_floats()).map(|(a, b)| a + b).collect();
        assert_eq!(Requests::from_sums(&sums), asked);
        assert_eq!(Ranks::alone().decided(|| asked), asked);
    }

    #[test]
    fn errors_name_their_rank_unless_all_have_them() {
        let told = |text: &str| Some(Agreed { sentence: text.into(), usage: true });
        let sentence = |all: &[Option<Agreed>]| first_told(all).map(|told| told.sentence);
        assert_eq!(sentence(&[None, None]), None);
        assert_eq!(sentence(&[None, told("x"), told("x")]).as_deref(), Some("rank 1: x"));
        assert_eq!(sentence(&[told("x"), told("x")]).as_deref(), Some("x"));
    }
}
