//! The directory of a run and the files in it.

pub mod checkpoint;
pub mod directory;
pub mod files;
pub mod sessions;
pub mod tensor_file;
