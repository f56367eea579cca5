//! The machine: its processors, drivers and clock, and the kernel variants that were measured on it.

pub mod about;
pub mod calendar;
pub mod choices;
pub mod drivers;
pub mod timing;

/// Number of threads that the machine runs at once.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
