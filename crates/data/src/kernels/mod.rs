//! One file per kernel family: the Rust half of `shaders/<same name>.wgsl`, and its CPU reference.

pub mod augment;
