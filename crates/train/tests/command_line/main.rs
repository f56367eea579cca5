//! The program as its users run it, on the CPU device.

mod data;
mod info;
mod methods;
mod perturb;
mod program;
mod pytorch;
mod runs;
mod weights;
mod wrong_usage;
