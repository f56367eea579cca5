//! Batches that the host prepares ahead of the device.
//!
//! ```text
//! picks of an epoch   0 1 2 … | … | … | …         in order, one after another
//! workers             take the next pick, draw its image, put it into its batch
//! batches             [being filled] [full]  ->  [with the device's side]      three buffers, which go round
//! ```
//!
//! A batch's content follows from the picks alone: neither the number of workers nor their lead changes a bit.
//! Workers stop when two batches are full, so memory is bounded.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use crate::error::{DataError, Result};
use crate::kernels::augment::{image_words, pack_image};
use crate::pictures::{Drawn, Missing, Pictures};
use crate::sampler::{Epoch, PADDING, Pick, pack};

/// Batches that are prepared ahead of the current one.
const AHEAD: usize = 2;

/// Wait for a batch between two calls of `waiting`.
const GLANCE: Duration = Duration::from_micros(500);

/// A batch in memory.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Packed images `[batch, image_words(size)]`; those beyond the valid ones are undefined.
    pub pixels: Vec<u32>,
    /// `[batch]`.
    pub labels: Vec<u32>,
    /// Index in the batch of each sample's image (its own), and its augmentation.
    pub picks: Vec<Pick>,
    /// Number of valid images: they come first.
    pub valid: usize,
    /// Sentences on images that were found to be broken.
    pub broken: Vec<String>,
}

/// A split whose batches are prepared by worker threads or, without workers, on request.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    batch: Batch,
    /// An image that is drawn without workers.
    image: Image,
}

/// An image as drawn, and as stored in its batch.
#[derive(Debug)]
struct Image {
    pixels: Vec<u32>,
    packed: Vec<u32>,
}

impl Image {
    fn new(size: usize) -> Self {
        Self { pixels: vec![0; size * size], packed: vec![0; image_words(size)] }
    }
}

#[derive(Debug)]
struct Shared {
    pictures: Arc<Pictures>,
    missing: Missing,
    state: Mutex<State>,
    /// There is something to draw.
    work: Condvar,
    /// A batch is full.
    full: Condvar,
}

#[derive(Debug, Default)]
struct State {
    epoch: Option<Epoch>,
    /// Version of the work; images drawn for an earlier version are discarded.
    version: u64,
    /// The pick that is drawn next.
    next: usize,
    /// The step whose batch is taken next.
    step: usize,
    slots: [Slot; AHEAD],
    stop: bool,
    drawn: usize,
    busy: Duration,
}

/// A batch that is being filled.
#[derive(Debug, Default)]
struct Slot {
    pixels: Vec<u32>,
    /// Images that are yet to be drawn.
    left: usize,
    /// Samples without an image.
    absent: Vec<usize>,
    broken: Vec<String>,
    /// The first sample that failed, and its error.
    failure: Option<(usize, DataError)>,
}

/// A pick to draw.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    version: u64,
    step: usize,
    sample: usize,
    image: u32,
    crop: Option<[u64; 3]>,
}

impl Epoch {
    /// The key of an image's random crop.
    fn crop(&self, image: u32) -> Option<[u64; 3]> {
        self.crops.map(|seed| [seed, self.number as u64, u64::from(image)])
    }
}

impl Loader {
    /// Prepares batches of a split by `workers` threads.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn new(pictures: Arc<Pictures>, missing: Missing, workers: usize) -> Result<Self> {
        let image = Image::new(pictures.size());
        let shared =
            Arc::new(Shared { pictures, missing, state: Mutex::default(), work: Condvar::new(), full: Condvar::new() });
        let start = |number: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("images {number}")).spawn(move || shared.work())
        };
        let workers = (0..workers).map(start).collect::<io::Result<_>>().map_err(DataError::Workers)?;
        Ok(Self { shared, workers, batch: Batch::default(), image })
    }

    /// Bytes of the buffers for batches of `batch` images of `size` by `size` pixels.
    pub fn bytes(batch: usize, size: usize) -> u64 {
        4 * (AHEAD as u64 + 1) * batch as u64 * image_words(size) as u64
    }

    /// Number of worker threads.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The split.
    pub fn pictures(&self) -> &Pictures {
        &self.shared.pictures
    }

    /// Makes `step` of `epoch` the next one; workers begin with it, unless they are there already.
    pub fn seek(&mut self, epoch: &Epoch, step: usize) {
        let words = image_words(self.shared.pictures.size()) * epoch.batch;
        let mut state = self.shared.state();
        let same = |other: &Epoch| Arc::ptr_eq(&other.picks, &epoch.picks) || other == epoch;
        if state.step == step && state.epoch.as_ref().is_some_and(same) {
            // The next comparison is by address.
            state.epoch = Some(epoch.clone());
            return;
        }
        state.version += 1;
        state.epoch = Some(epoch.clone());
        (state.step, state.next) = (step, step * epoch.batch);
        for ahead in 0..AHEAD {
            let slot = &mut state.slots[(step + ahead) % AHEAD];
            slot.pixels.resize(words, 0);
            slot.reset(epoch.picks.len(), epoch.batch, step + ahead);
        }
        drop(state);
        self.shared.work.notify_all();
    }

    /// The batch of the step sought, or of the one after the last. Calls `waiting` repeatedly until it is ready.
    ///
    /// # Errors
    ///
    /// An image of the batch cannot be decoded, and none can replace it.
    pub fn next(&mut self, mut waiting: impl FnMut()) -> Result<&Batch> {
        let mut state = self.shared.state();
        let (step, version) = (state.step, state.version);
        while state.slots[step % AHEAD].left > 0 {
            if self.workers.is_empty() {
                drop(state);
                waiting();
                let ticket = self.shared.state().ticket();
                state = match ticket {
                    Some(ticket) => self.shared.draw(ticket, &mut self.image),
                    None => self.shared.state(),
                };
            } else {
                let waited = self.shared.full.wait_timeout(state, GLANCE);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                waiting();
                state = self.shared.state();
            }
        }
        debug_assert_eq!(version, state.version, "only this thread changes the work");
        let Some(epoch) = state.epoch.clone() else { return Err(DataError::NoImages) };
        let slot = &mut state.slots[step % AHEAD];
        if let Some((_, error)) = slot.failure.take() {
            // A second request fails again.
            state.epoch = None;
            return Err(error);
        }
        self.batch.pixels.resize(slot.pixels.len(), 0);
        mem::swap(&mut self.batch.pixels, &mut slot.pixels);
        let absent = mem::take(&mut slot.absent);
        self.batch.broken = mem::take(&mut slot.broken);
        slot.reset(epoch.picks.len(), epoch.batch, step + AHEAD);
        state.step += 1;
        drop(state);
        self.shared.work.notify_all();
        self.batch.describe(&epoch, step, self.shared.pictures.labels(), absent);
        Ok(&self.batch)
    }

    /// Number of images drawn, and the total time that the threads took for them.
    pub fn drawn(&self) -> (usize, Duration) {
        let state = self.shared.state();
        (state.drawn, state.busy)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A thread that panicked has reported it.
            let _ = worker.join();
        }
    }
}

impl Slot {
    /// Clears the slot for `step`, none of whose images is drawn.
    fn reset(&mut self, picks: usize, batch: usize, step: usize) {
        self.left = picks.saturating_sub(step * batch).min(batch);
        self.absent.clear();
        self.broken.clear();
        self.failure = None;
    }
}

impl Batch {
    /// Fills in labels and picks, and closes the gaps of absent images.
    fn describe(&mut self, epoch: &Epoch, step: usize, labels: &[u32], mut absent: Vec<usize>) {
        let picks = epoch.step(step);
        absent.sort_unstable();
        self.labels.clear();
        self.picks.clear();
        let words = self.pixels.len() / epoch.batch;
        for (sample, &[image, augmentation]) in picks.iter().enumerate() {
            if absent.binary_search(&sample).is_ok() {
                continue;
            }
            let place = self.labels.len();
            if place < sample {
                self.pixels.copy_within(sample * words..(sample + 1) * words, place * words);
            }
            self.labels.push(labels[image as usize]);
            self.picks.push([place as u32, augmentation]);
        }
        self.valid = self.labels.len();
        self.labels.resize(epoch.batch, 0);
        self.picks.extend((self.valid..epoch.batch).map(|sample| [sample as u32, pack(PADDING, PADDING, false)]));
    }
}

impl State {
    /// The next pick that may be drawn.
    fn ticket(&mut self) -> Option<Ticket> {
        let epoch = self.epoch.as_ref()?;
        let step = self.next / epoch.batch;
        if self.next >= epoch.picks.len() || step >= self.step + AHEAD {
            return None;
        }
        let image = epoch.picks[self.next][0];
        let sample = self.next % epoch.batch;
        self.next += 1;
        Some(Ticket { version: self.version, step, sample, image, crop: epoch.crop(image) })
    }

    /// Puts an image into its batch; returns true if the batch is then full.
    fn put(&mut self, ticket: Ticket, packed: &[u32], drawn: Result<Drawn>) -> bool {
        if ticket.version != self.version {
            return false;
        }
        let slot = &mut self.slots[ticket.step % AHEAD];
        match drawn {
            Ok(Drawn { there, broken }) => {
                slot.broken.extend(broken);
                if there {
                    slot.pixels[ticket.sample * packed.len()..][..packed.len()].copy_from_slice(packed);
                } else {
                    slot.absent.push(ticket.sample);
                }
            }
            Err(error) => {
                if slot.failure.as_ref().is_none_or(|(sample, _)| ticket.sample < *sample) {
                    slot.failure = Some((ticket.sample, error));
                }
            }
        }
        slot.left -= 1;
        slot.left == 0
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Body of a worker.
    fn work(&self) {
        let mut image = Image::new(self.pictures.size());
        let mut state = self.state();
        while !state.stop {
            state = match state.ticket() {
                Some(ticket) => {
                    drop(state);
                    self.draw(ticket, &mut image)
                }
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn draw(&self, ticket: Ticket, Image { pixels, packed }: &mut Image) -> MutexGuard<'_, State> {
        let begun = Instant::now();
        let Ticket { image, crop, .. } = ticket;
        // A worker that died would be waited for in vain.
        let drawn = panic::catch_unwind(AssertUnwindSafe(|| self.pictures.draw(image, crop, self.missing, pixels)));
        let drawn = drawn.unwrap_or_else(|panic| Err(DataError::Panic(message(&*panic))));
        pack_image(pixels, packed);
        let busy = begun.elapsed();
        let mut state = self.state();
        state.drawn += 1;
        state.busy += busy;
        if state.put(ticket, packed, drawn) {
            self.full.notify_all();
        }
        state
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
}
