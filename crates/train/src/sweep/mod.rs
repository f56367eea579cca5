//! Sweeps: many runs from one file, one after another or several at once, which go on where they stopped and end in a
//! report.

pub mod figures;
pub mod plan;
pub mod running;
