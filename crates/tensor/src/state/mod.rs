//! State that outlives a step: banks, the parameters in them, and the optimiser that updates these.

pub mod bank;
pub mod optim;
pub mod params;
