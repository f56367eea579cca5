//! Several ranks under `mpirun`, as users start them, on the CPU device and on software adapters.

mod faults;
#[path = "../command_line/records.rs"]
mod records;
mod refusals;
mod running;
mod together;
