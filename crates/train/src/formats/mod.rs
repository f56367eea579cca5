//! File formats of other programs, and the folding of batch-norms that exports may ask for.

pub mod fold;
pub mod onnx;
pub mod protobuf;
