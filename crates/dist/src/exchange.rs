//! Messages between ranks: the one primitive that all collectives are built of.
//!
//! The calls are MPI's own, and not those of the crate `mpi`: its requests must have ended when their scope ends, and
//! those to a rank that hangs never do.

use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::ops::Range;

use bytemuck::Pod;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, Source as _};

use crate::patience::{Control, Patience, Stop};
use crate::{Error, Result};

/// Bytes of a message at most; what is longer goes as several, and so no length overflows MPI's counts.
const MESSAGE: usize = 1 << 26;

/// A part of a buffer that goes to a peer, or comes from it.
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
    /// Takes the world over; its errors are returned from now on.
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

    /// Sends parts of `from` and receives parts of `into`, until all are there; returns both. What is sent is as long
    /// as what its receiver expects. Buffers of an exchange that fails are never freed: MPI may still use them.
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
                // SAFETY: the piece lies inside its buffer, as was checked, and is of plain data; what is received
                // overlaps nothing; and neither buffer is moved, freed or touched until all requests have ended: if one
                // does not, both are forgotten.
                let code = unsafe {
                    let kind = ffi::RSMPI_UINT8_T;
                    if receive {
                        ffi::MPI_Irecv(incoming.byte_add(piece.start), count, kind, peer, tag, comm, &raw mut raw)
                    } else {
                        ffi::MPI_Isend(outgoing.byte_add(piece.start), count, kind, peer, tag, comm, &raw mut raw)
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
                    let mut ranks: Vec<usize> = requests.iter().map(|request| request.peer).collect();
                    ranks.sort_unstable();
                    ranks.dedup();
                    return Err(Error::Silent { ranks, waited });
                }
            }
        }
    }

    /// Lets MPI go on with what it may have kept back of messages that have ended for this rank.
    pub fn advance(&self) {
        self.world.any_process().immediate_probe();
    }

    /// Ends all ranks.
    pub fn abort(&self, status: i32) -> ! {
        self.world.abort(status)
    }

    /// Takes leave of the other ranks, when all of them do.
    pub fn finish(self) {
        drop(self.universe);
    }

    /// Leaves without leave: MPI would wait for the other ranks.
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

/// A request before it is posted.
fn unset() -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// MPI's return code.
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

/// A number that MPI takes as an `int`: bytes of a message, or a rank.
fn count(number: usize) -> c_int {
    c_int::try_from(number).expect("messages and worlds are smaller than 2^31")
}

/// What is sent as one message.
fn pieces(bytes: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = bytes;
    // An empty part is a message, too: that it comes tells that its sender is there.
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
