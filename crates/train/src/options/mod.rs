//! Options: as the command line and recipes give them, and resolved as a run's configuration.

pub mod args;
pub mod config;
pub mod recipe;
pub mod schedule;
pub mod values;
