//! Check that a run fits into memory, before it takes any.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use data::{Loader, Pictures};
use tensor::{Device, Footprint, Params};

use crate::ranks::Ranks;
use crate::show::words::byte_size;

/// Number of the largest tensors that a refusal names.
const NAMED: usize = 3;

/// Memory that a run needs, in bytes.
#[derive(Debug, Clone)]
pub struct Need {
    programs: Footprint,
    /// Copies of the state: the last good one on the device, and on the CPU what a checkpoint takes while it is
    /// written; and batches that are prepared ahead.
    copies: u64,
    /// Memory that is in use already, and is given up in exchange.
    exchanged: u64,
}

impl Need {
    /// The need of programs on `device`, over a model with these parameters. `splits` are images with the batches they
    /// are read in; those of the first, the training split, are given up as soon as they are on the device.
    pub fn new(programs: Footprint, params: &Params, splits: &[(&Pictures, usize)], device: &Device) -> Self {
        let banks = [params.values(), params.velocities(), params.running()];
        let state: u64 = banks.iter().map(|bank| 4 * bank.words() as u64).sum();
        if !device.uses_host_memory() {
            return Self { programs, copies: state, exchanged: 0 };
        }
        let streamed = splits.iter().filter(|(pictures, _)| pictures.is_streamed());
        let buffers: u64 = streamed.map(|(pictures, batch)| Loader::bytes(*batch, pictures.size())).sum();
        // Saving holds the tensors as they were read, encoded, and as the bytes of the file.
        let copies = 4 * state + buffers;
        let given_up = match splits.first() {
            Some((Pictures::Resident(images), _)) => 4 * images.pixels.len() as u64,
            _ => 0,
        };
        let exchanged = given_up.min(programs.activations());
        Self { programs, copies, exchanged }
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        self.programs.total() + self.copies
    }

    /// Memory to be taken beyond what is in use.
    fn wanted(&self) -> u64 {
        self.total().saturating_sub(self.exchanged)
    }
}

/// Memory that there is, in bytes.
#[derive(Debug, Clone, PartialEq)]
struct Limits {
    device: String,
    free: Option<u64>,
    buffer: u64,
    binding: u64,
}

impl Limits {
    fn of(device: &Device, ranks: &Ranks) -> Self {
        // All ranks of a host want as much.
        let share = |free: u64| free / ranks.place().count as u64;
        Self {
            device: device.name().to_owned(),
            free: if device.uses_host_memory() { free().map(share) } else { None },
            buffer: device.max_buffer_bytes(),
            binding: device.max_binding_bytes(),
        }
    }

    /// Tells why something does not fit; `None` if it does.
    fn problem(&self, need: &Need) -> Option<String> {
        let Self { device, free, buffer, binding } = self;
        let programs = &need.programs;
        if let Some(free) = free.filter(|&free| need.wanted() > free) {
            return Some(format!(
                "needs {} of memory ({} of activations), and this machine has {} left",
                byte_size(need.wanted()),
                byte_size(programs.activations()),
                byte_size(free)
            ));
        }
        if programs.largest_binding > *binding {
            let (needed, there) = (byte_size(programs.largest_binding), byte_size(*binding));
            return Some(format!("needs a tensor of {needed}, and {device} allows {there} for one"));
        }
        if programs.largest_buffer() > *buffer {
            let (needed, there) = (byte_size(programs.largest_buffer()), byte_size(*buffer));
            return Some(format!("needs a buffer of {needed}, and {device} allows {there} for one"));
        }
        None
    }
}

/// Refuses a run that does not fit, naming what it needs and what there is, the largest tensors, and the largest batch
/// that fits. `batch` is that of one of the `ranks`; `plan` tells what such a one needs.
///
/// # Errors
/// When it does not fit, or cannot be planned.
pub fn check(device: &Device, batch: usize, ranks: &Ranks, plan: impl Fn(usize) -> Result<Need>) -> Result<Need> {
    let limits = Limits::of(device, ranks);
    let need = plan(batch)?;
    let Some(problem) = limits.problem(&need) else { return Ok(need) };
    let fits = |batch: usize| plan(batch).is_ok_and(|need| limits.problem(&need).is_none());
    let advice = match largest_batch(batch, fits) {
        Some(batch) => format!("--batch {} fits", batch * ranks.count()),
        None => "no batch fits: take a smaller network, or fewer images by --limit-train".to_owned(),
    };
    let largest: Vec<String> = need
        .programs
        .largest(NAMED)
        .into_iter()
        .map(|(what, bytes)| format!("{what} ({})", byte_size(bytes)))
        .collect();
    let whose = if ranks.is_alone() { "" } else { " for each rank" };
    bail!("a batch of {batch}{whose} {problem}; the largest tensors are {}; {advice}", largest.join(", "))
}

/// The largest batch below `batch` that fits, if a smaller one always fits where a larger one does.
fn largest_batch(batch: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut fitting, mut failing) = (0, batch);
    while failing - fitting > 1 {
        let middle = fitting.midpoint(failing);
        if fits(middle) {
            fitting = middle;
        } else {
            failing = middle;
        }
    }
    Some(fitting).filter(|&batch| batch > 0)
}

/// Memory that this process may still take, where that is known: on Linux, of the machine and of its control group.
pub fn free() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemAvailable:"));
    machine.map(|kibibytes| kibibytes << 10).into_iter().chain(control_group()).min()
}

/// The number behind a name, in a file with a line for each.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Memory that the control groups (version 2) of this process leave it: containers are limited so.
fn control_group() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    root.join(path).ancestors().take_while(|folder| folder.starts_with(root)).filter_map(room).min()
}

fn room(folder: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    // Without a limit it says "max".
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let statistics = read("memory.stat").unwrap_or_default();
    // The cache of files is given up when memory is wanted.
    let cache: u64 = ["inactive_file ", "active_file "].iter().filter_map(|name| field(&statistics, name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{Graph, Spec};

    fn need(batch: usize) -> Need {
        let mut graph = Graph::new();
        let x = graph.input("x", Spec::f32([1, batch, 1, 1, 256]));
        let y = graph.global_average_pool(x).expect("recorded");
        graph.keep(y);
        Need { programs: graph.footprint().expect("planned"), copies: 1000, exchanged: 0 }
    }

    #[test]
    fn the_largest_batch_that_fits_is_found() {
        let limits = Limits { device: "abacus".to_owned(), free: Some(205_800), buffer: u64::MAX, binding: u64::MAX };
        let fits = |batch: usize| limits.problem(&need(batch)).is_none();
        assert_eq!(largest_batch(128, fits), Some(100), "2048 bytes each, and 1000");
        assert_eq!(largest_batch(128, |_| false), None);
        assert_eq!(largest_batch(1, fits), None);
        assert!(limits.problem(&need(128)).expect("too much").contains("this machine has"));
        let limits = Limits { free: None, binding: 2000, ..limits };
        assert!(limits.problem(&need(2)).expect("too much").contains("abacus allows"));
        let limits = Limits { buffer: 2000, binding: u64::MAX, ..limits };
        assert!(limits.problem(&need(2)).expect("too much").contains("a buffer of"));
        assert_eq!(limits.problem(&need(1)), None);
    }

    #[test]
    fn fields_of_the_systems_files_are_read() {
        let text = "MemTotal:       24689764 kB\nMemFree:         8000000 kB\nMemAvailable:   23689764 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(23_689_764));
        assert_eq!(field("inactive_file 5\nactive_file 7\n", "active_file "), Some(7));
        assert_eq!(field("max\n", "MemAvailable:"), None);
        if cfg!(target_os = "linux") {
            assert!(free().expect("known on Linux") > 1 << 20);
        }
    }
}
