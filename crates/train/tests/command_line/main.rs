//! The program as its users run it, on the CPU device.

mod bench;
mod data;
mod divergence;
mod info;
mod kills;
mod methods;
mod onnx;
mod perturb;
mod predict;
mod program;
mod pytorch;
mod records;
mod report;
mod runs;
mod selftest;
mod sweep;
mod tensorboard;
mod trouble;
mod tuning;
mod weights;
mod wrong_usage;
