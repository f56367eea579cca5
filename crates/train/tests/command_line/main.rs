//! The program as its users run it, on the CPU device.

mod data;
mod divergence;
mod info;
mod kills;
mod methods;
mod perturb;
mod program;
mod pytorch;
mod runs;
mod trouble;
mod tuning;
mod weights;
mod wrong_usage;
