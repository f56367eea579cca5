//! Steps of training and evaluation: programs, the images that feed them, and the results that they give.

pub mod cost;
pub mod evaluated;
pub mod evaluation;
pub mod feeding;
pub mod logits;
pub mod memory;
pub mod pretrained;
pub mod programs;
pub mod source;
pub mod teacher;
