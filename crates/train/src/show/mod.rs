//! Output for people: lines, tables, bars, the dashboard, plots, and records for TensorBoard.

pub mod dashboard;
pub mod overview;
pub mod plot;
pub mod progress;
pub mod table;
pub mod tensorboard;
pub mod words;
