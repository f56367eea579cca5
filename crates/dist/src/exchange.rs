//! Messages between ranks: the one primitive on which all collectives are built.
//!
//! The calls are MPI's own instead of the crate `mpi`'s: its requests must end before their scope ends, and those to
//! a rank that hangs never do.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_int, c_void};
use std::ops::Range;
use std::time::{Duration, Instant};
use std::{mem, thread};

use bytemuck::Pod;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, MatchedReceiveVec as _, Source as _};

use crate::patience::{Control, Patience, Stop};
use crate::{Error, Result};

/// Greatest number of bytes in a message; longer data goes as several, so that no length overflows MPI's counts.
const MESSAGE: usize = 1 << 26;
/// The tag of a notice: the ranks that its sender waited for in vain. Collectives have the lower tags.
const NOTICE: i32 = 32767;

/// A part of a buffer that is sent to a peer or received from it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub peer: usize,
    pub range: Range<usize>,
}

/// MPI, on the thread that owns it.
pub(crate) struct Mpi {
    world: SimpleCommunicator,
    universe: Universe,
}

/// A message on its way.
struct Request {
    raw: ffi::MPI_Request,
    peer: usize,
}

impl Mpi {
    /// Takes over the world; from now on, its errors are returned.
    pub fn new(universe: Universe) -> Result<Self> {
        let world = universe.world();
        // SAFETY: MPI is initialised on this thread, and the communicator is that of all ranks.
        check(unsafe { ffi::MPI_Comm_set_errhandler(world.as_raw(), ffi::RSMPI_ERRORS_RETURN) })?;
        Ok(Self { world, universe })
    }

    pub fn rank(&self) -> usize {
        usize::try_from(self.world.rank()).unwrap_or_default()
    }

    pub fn size(&self) -> usize {
        usize::try_from(self.world.size()).unwrap_or(1)
    }

    /// Sends parts of `from` and receives parts of `into` until all have arrived; returns both. Each sent part is as
    /// long as its receiver expects. Buffers of an exchange that fails are never freed: MPI may still use them.
    pub fn exchange<T: Pod>(
        &self,
        control: &Control,
        tag: i32,
        (from, sends): (Vec<T>, &[Part]),
        (mut into, receives): (Vec<T>, &[Part]),
    ) -> Result<(Vec<T>, Vec<T>)> {
        check_parts(from.len(), sends);
        check_parts(into.len(), receives);
        assert!(disjoint(receives), "parts that overlap: {receives:?}");
        let (outgoing, incoming) = (from.as_ptr().cast::<c_void>(), into.as_mut_ptr().cast::<c_void>());
        let (comm, bytes) = (self.world.as_raw(), size_of::<T>());
        let mut requests = Vec::new();
        let mut post = |part: &Part, receive: bool| {
            for piece in pieces(part.range.start * bytes..part.range.end * bytes) {
                let (count, peer) = (count(piece.len()), count(part.peer));
                let mut raw = unset();
                // SAFETY: the piece lies inside its buffer, as was checked, and is of plain data; a received piece
                // overlaps nothing; and neither buffer is moved, freed or touched until all requests have ended: if
                // one does not, both are forgotten.
                let code = unsafe {
                    if receive {
                        ffi::MPI_Irecv(incoming.byte_add(piece.start), count, byte(), peer, tag, comm, &raw mut raw)
                    } else {
                        ffi::MPI_Isend(outgoing.byte_add(piece.start), count, byte(), peer, tag, comm, &raw mut raw)
                    }
                };
                check(code)?;
                requests.push(Request { raw, peer: part.peer });
            }
            Ok(())
        };
        let posted = receives.iter().try_for_each(|part| post(part, true));
        let posted = posted.and_then(|()| sends.iter().try_for_each(|part| post(part, false)));
        match posted.and_then(|()| self.wait(control, requests)) {
            Ok(()) => Ok((from, into)),
            Err(error) => {
                mem::forget((from, into));
                Err(error)
            }
        }
    }

    fn wait(&self, control: &Control, mut requests: Vec<Request>) -> Result<()> {
        let mut patience = Patience::new(control);
        loop {
            let before = requests.len();
            let mut index = 0;
            while index < requests.len() {
                if ended(&mut requests[index])? {
                    requests.swap_remove(index);
                } else {
                    index += 1;
                }
            }
            if requests.is_empty() {
                return Ok(());
            }
            if requests.len() < before {
                patience.progress();
            }
            match patience.pause() {
                Ok(()) => {}
                Err(Stop::Abort(status)) => self.abort(status),
                Err(Stop::Limit(waited)) => {
                    let missing = requests.iter().map(|request| request.peer).collect();
                    return Err(Error::Silent { ranks: self.silent(&missing, waited)?, waited });
                }
            }
        }
    }

    /// The hanging ranks among those from which a message is missing. A rank that is one message behind is itself
    /// waiting for the one that hangs, and says so: each rank that gives up names to the others those it waited for.
    fn silent(&self, missing: &BTreeSet<usize>, waited: Duration) -> Result<Vec<usize>> {
        let named: &[u64] = Box::leak(missing.iter().map(|rank| *rank as u64).collect());
        for peer in (0..self.size()).filter(|peer| *peer != self.rank()) {
            let (mut raw, length) = (unset(), count(size_of_val(named)));
            let (buffer, kind) = (named.as_ptr().cast(), byte());
            // SAFETY: the buffer is leaked, so it outlives the message, whose end nobody waits for.
            check(unsafe {
                ffi::MPI_Isend(buffer, length, kind, count(peer), NOTICE, self.world.as_raw(), &raw mut raw)
            })?;
        }
        let (mut told, mut blamed) = (BTreeSet::new(), missing.clone());
        let end = Instant::now() + (waited / 4).min(Duration::from_secs(1));
        while Instant::now() < end && !missing.is_subset(&told) {
            for peer in missing.difference(&told.clone()) {
                let source = self.world.process_at_rank(count(*peer));
                if let Some(message) = source.immediate_matched_probe_with_tag(NOTICE) {
                    let (ranks, _) = message.matched_receive_vec::<u64>();
                    blamed.extend(ranks.into_iter().map(|rank| rank as usize));
                    told.insert(*peer);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        let silent: Vec<usize> = blamed.difference(&told).copied().filter(|rank| *rank != self.rank()).collect();
        Ok(if silent.is_empty() { missing.iter().copied().collect() } else { silent })
    }

    /// Lets MPI continue messages that have ended for this rank but that it may have held back.
    pub fn advance(&self) {
        self.world.any_process().immediate_probe();
    }

    /// Ends all ranks.
    pub fn abort(&self, status: i32) -> ! {
        self.world.abort(status)
    }

    /// Finalises MPI, once all ranks do.
    pub fn finish(self) {
        drop(self.universe);
    }

    /// Leaves without finalising MPI, which would wait for the other ranks.
    pub fn forget(self) {
        mem::forget(self.universe);
    }
}

fn ended(request: &mut Request) -> Result<bool> {
    let mut flag = 0;
    // SAFETY: the request was posted by this thread and has not ended; its buffers live on, see `exchange`.
    check(unsafe { ffi::MPI_Test(&raw mut request.raw, &raw mut flag, ffi::RSMPI_STATUS_IGNORE) })?;
    Ok(flag != 0)
}

/// MPI's data type of a byte.
fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_UINT8_T }
}

/// A request before it is posted.
fn unset() -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// Turns MPI's return code into a result.
fn check(code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // Longer than MPI_MAX_ERROR_STRING of every library (Open MPI 256, MPICH 512 to 1024).
    let mut text: [c_char; 8192] = [0; 8192];
    let mut len = 0;
    // SAFETY: the text has room for the longest message.
    let told = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &raw mut len) } == 0;
    let len = usize::try_from(len).unwrap_or_default().min(text.len());
    let text: Vec<u8> = text[..len].iter().map(|c| c.to_ne_bytes()[0]).collect();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Err(Error::Mpi(if told { text } else { format!("error {code}") }))
}

/// Converts a number that MPI takes as an `int`: bytes of a message, or a rank.
fn count(number: usize) -> c_int {
    c_int::try_from(number).expect("messages and worlds are smaller than 2^31")
}

/// Splits a range into messages.
fn pieces(bytes: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = bytes;
    // An empty part is a message, too: its arrival shows that its sender is alive.
    let count = (end - start).div_ceil(MESSAGE).max(1);
    (0..count).map(move |piece| start + piece * MESSAGE..end.min(start + (piece + 1) * MESSAGE))
}

fn check_parts(len: usize, parts: &[Part]) {
    for Part { range, .. } in parts {
        assert!(range.start <= range.end && range.end <= len, "{range:?} of a buffer of {len}");
    }
}

fn disjoint(parts: &[Part]) -> bool {
    let mut ranges: Vec<_> =
        parts.iter().filter(|p| !p.range.is_empty()).map(|p| (p.range.start, p.range.end)).collect();
    ranges.sort_unstable();
    ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_a_length_that_mpi_can_count() {
        let pieces = |range| pieces(range).map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        assert_eq!(pieces(5..5), [(5, 5)]);
        assert_eq!(pieces(5..6), [(5, 6)]);
        assert_eq!(pieces(0..MESSAGE), [(0, MESSAGE)]);
        let far = 1 << 33;
        let middle = far + MESSAGE;
        assert_eq!(pieces(far..middle + 1), [(far, middle), (middle, middle + 1)]);
    }

    #[test]
    fn parts_that_overlap_are_seen() {
        let part = |range| Part { peer: 0, range };
        assert!(disjoint(&[part(4..6), part(0..2), part(2..4), part(3..3)]));
        assert!(!disjoint(&[part(4..6), part(0..5)]));
    }
}
