//! What the program can be told to do, one file each.

pub mod devices;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod fetch;
pub mod info;
pub mod manual;
pub mod perturb;
pub mod predict;
pub mod profile;
pub mod report;
pub mod sweep;
pub mod train;
