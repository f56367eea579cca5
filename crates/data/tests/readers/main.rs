//! The readers of datasets, on files that are made here: right ones, wrong ones, and right ones with random damage.

mod fashion_mnist;
mod folder;
mod hostile;
mod loader;
mod made;
mod svhn;
