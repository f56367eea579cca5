//! Tests of the datasets' readers on generated files: valid ones, invalid ones, and valid ones with random damage.

mod fashion_mnist;
mod folder;
mod hostile;
mod loader;
mod made;
mod svhn;
