//! Getting a dataset.

use anyhow::Result;

use crate::args::FetchArgs;
use crate::source;

/// Gets a dataset into its folder.
///
/// # Errors
/// When no source has it, or it cannot be written.
pub fn run(args: &FetchArgs) -> Result<()> {
    source::fetch(&args.data, args.data_dir.as_deref())
}
