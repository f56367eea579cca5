//! Checks and times the collectives between the ranks that a launcher started: `mpirun -n 4 target/debug/check_ranks`.
//!
//! Without an argument it checks all collectives, and rank 0 prints a digest of all sums, which is the same in every
//! run with the same number of ranks. `tests/mpirun.rs` runs it that way, and with the names of possible failures.
//! `time [LENGTH]` times sums, and `time-mpi [LENGTH]` those of MPI itself (MPI_Allreduce).

use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, iter, thread};

use dist::{Communicator, Error, Result};
use mpi::collective::SystemOperation;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};

/// The parameters of ResNet-32 with three branches.
const PARAMETERS: usize = 1_175_639;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let length = arguments.next().and_then(|length| length.parse().ok()).unwrap_or(PARAMETERS);
    if mode == "time-mpi" {
        return time_mpi(length);
    }
    let ranks = match dist::start() {
        Ok(ranks) => ranks,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let last = ranks.rank() + 1 == ranks.size();
    let result = match mode.as_str() {
        "" => check(ranks.as_ref()),
        "time" => time(ranks.as_ref(), length),
        "silent" => silent(ranks.as_ref(), last),
        "lengths" => ranks.all_reduce(vec![1.0; if last { 6 } else { 5 }]).map(drop),
        "order" if last => ranks.broadcast(Vec::new()).map(drop),
        "order" => ranks.all_gather(Vec::new()).map(drop),
        "abort" => abort(&ranks, last),
        "panic" => panic_of(ranks.as_ref(), last),
        "wait" => wait(ranks.as_ref()),
        _ => {
            eprintln!("there is no check {mode:?}");
            return ExitCode::from(2);
        }
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    // In one piece: the launcher forwards the output of all ranks piece by piece.
    let line = format!("rank {}: {error}\n", ranks.rank());
    eprint!("{line}");
    // Every rank gets time to report its error before the first one ends them all.
    thread::sleep(Duration::from_secs(2));
    ranks.abort(7)
}

/// The value of a rank at an index: exponents and signs differ widely, so that the order of a sum shows.
fn value(rank: usize, index: usize) -> f32 {
    let mut bits =
        (rank as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64).wrapping_mul(0xd134_2543_de82_ef95);
    bits = (bits ^ (bits >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 29;
    let exponent = 117 + bits % 21;
    f32::from_bits((((bits >> 40) & 1) << 31 | exponent << 23 | (bits >> 41)) as u32)
}

fn values(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| value(rank, index)).collect()
}

fn sum(ranks: impl Iterator<Item = usize>, index: usize) -> f32 {
    ranks.map(|rank| value(rank, index)).reduce(|sum, value| sum + value).unwrap_or_default()
}

/// Checks all collectives, at lengths on which a division among the ranks could fail.
fn check(ranks: &dyn Communicator) -> Result<()> {
    let size = ranks.size();
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for len in [0, 1, size - 1, size, size + 1, 1_000_003] {
        let sums = ranks.all_reduce(values(ranks.rank(), len))?;
        check_sums(size, len, &sums);
        digest =
            sums.iter().fold(digest, |digest, sum| (digest ^ u64::from(sum.to_bits())).wrapping_mul(0x100_0000_01b3));
        check_bytes(ranks, len)?;
    }
    // More than fits into one message.
    check_bytes(ranks, (1 << 26) + 5)?;
    check_pending(ranks)?;
    let digests = ranks.all_gather(digest.to_le_bytes().to_vec())?;
    assert!(digests.iter().all(|other| *other == digest.to_le_bytes()), "sums differ between ranks");
    let hosts = ranks.all_gather(ranks.host().as_bytes().to_vec())?;
    assert!(hosts.iter().all(|host| !host.is_empty()));
    if ranks.rank() == 0 {
        println!("{size} ranks: all collectives hold, digest {digest:016x}");
    }
    Ok(())
}

fn check_sums(size: usize, len: usize, sums: &[f32]) {
    assert_eq!(sums.len(), len);
    for (index, found) in sums.iter().enumerate() {
        let expected = sum(0..size, index);
        assert_eq!(found.to_bits(), expected.to_bits(), "element {index} of {len}: {found} instead of {expected}");
    }
    if size > 2 && len > 100 {
        let other_order = (0..len).filter(|index| sum((0..size).rev(), *index) != sums[*index]).count();
        assert!(other_order > len / 10, "the order of these values does not tell");
    }
}

/// Checks blocks of different lengths, gathered by rank, and rank 0's bytes on all ranks.
fn check_bytes(ranks: &dyn Communicator, len: usize) -> Result<()> {
    let block = |rank: usize, len: usize| -> Vec<u8> { (0..len).map(|i| (i * 31 + rank * 7) as u8).collect() };
    let sent = ranks.broadcast(if ranks.rank() == 0 { block(0, len) } else { vec![9; 3] })?;
    assert!(sent == block(0, len), "a broadcast of {len} bytes");
    let length = |rank: usize| if rank % 2 == 1 { 0 } else { len + 3 * rank };
    let blocks = ranks.all_gather(block(ranks.rank(), length(ranks.rank())))?;
    assert_eq!(blocks.len(), ranks.size());
    for (rank, found) in blocks.iter().enumerate() {
        assert!(*found == block(rank, length(rank)), "the block of rank {rank}, {len} bytes");
    }
    Ok(())
}

/// Checks several sums at once, followed by another collective.
fn check_pending(ranks: &dyn Communicator) -> Result<()> {
    let lengths = [70_001, 3, 0, 250_000, 1];
    let begun = lengths.map(|len| ranks.start_all_reduce(values(ranks.rank(), len)));
    let behind = ranks.broadcast(vec![42])?;
    assert_eq!(behind, [42]);
    for (pending, len) in iter::zip(begun, lengths) {
        check_sums(ranks.size(), len, &pending?.wait()?);
    }
    Ok(())
}

/// Checks that all other ranks name the last one, which hangs, and name it twice.
fn silent(ranks: &dyn Communicator, last: bool) -> Result<()> {
    ranks.all_reduce(vec![1.0; 10])?;
    ranks.set_time_limit(Some(Duration::from_secs(1)));
    if last {
        thread::sleep(Duration::from_secs(60));
    }
    let Err(first) = ranks.all_reduce(vec![1.0; 1000]) else { panic!("nobody hangs") };
    let Err(again) = ranks.broadcast(vec![1]) else { panic!("a failure is got over") };
    assert_eq!(first.to_string(), again.to_string());
    let Error::Silent { ranks: silent, waited } = &first else { return Err(first) };
    assert_eq!(*silent, [ranks.size() - 1]);
    assert!(*waited >= Duration::from_secs(1) && *waited < Duration::from_secs(20), "{waited:?}");
    Err(first)
}

/// Checks that another thread of rank 0 ends all ranks while rank 0 waits for the last one, which never answers.
fn abort(ranks: &Arc<dyn Communicator>, last: bool) -> Result<()> {
    if last {
        thread::sleep(Duration::from_secs(120));
    }
    if ranks.rank() == 0 {
        let ranks = ranks.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            ranks.abort(9)
        });
    }
    ranks.all_reduce(vec![1.0]).map(drop)
}

fn panic_of(ranks: &dyn Communicator, last: bool) -> Result<()> {
    assert!(!last, "a fault of rank {}", ranks.rank());
    ranks.all_gather(Vec::new()).map(drop)
}

/// Prints the processes of all ranks; then rank 0 sleeps for long while the others wait for it.
fn wait(ranks: &dyn Communicator) -> Result<()> {
    let pids = ranks.all_gather(process::id().to_string().into_bytes())?;
    if ranks.rank() == 0 {
        let pids: Vec<_> = pids.iter().map(|pid| String::from_utf8_lossy(pid)).collect();
        println!("processes {}", pids.join(" "));
        thread::sleep(Duration::from_secs(120));
    }
    ranks.all_gather(Vec::new()).map(drop)
}

fn median(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    (times[times.len() / 2].as_secs_f64() * 1e3, times[0].as_secs_f64() * 1e3)
}

fn time(ranks: &dyn Communicator, length: usize) -> Result<()> {
    let mut data = values(ranks.rank(), length);
    let mut times = Vec::new();
    for _ in 0..53 {
        ranks.all_gather(Vec::new())?;
        let start = Instant::now();
        data = ranks.all_reduce(data)?;
        times.push(start.elapsed());
    }
    let (median, least) = median(times.split_off(3));
    if ranks.rank() == 0 {
        println!("{} ranks, {length} values: all_reduce {median:.3} ms (median of 50; least {least:.3})", ranks.size());
    }
    Ok(())
}

fn time_mpi(length: usize) -> ExitCode {
    let Some(universe) = mpi::initialize() else { return ExitCode::FAILURE };
    let world = universe.world();
    let data = values(usize::try_from(world.rank()).unwrap_or_default(), length);
    let mut sums = vec![0.0f32; length];
    let mut times = Vec::new();
    for _ in 0..53 {
        world.barrier();
        let start = Instant::now();
        world.all_reduce_into(&data[..], &mut sums[..], SystemOperation::sum());
        times.push(start.elapsed());
    }
    let (median, least) = median(times.split_off(3));
    if world.rank() == 0 {
        println!(
            "{} ranks, {length} values: MPI_Allreduce {median:.3} ms (median of 50; least {least:.3})",
            world.size()
        );
    }
    ExitCode::SUCCESS
}
