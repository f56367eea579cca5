//! Getting a dataset.

use anyhow::Result;

use crate::options::args::FetchArgs;
use crate::step::source;

/// Gets a dataset into its folder, or only checks what is there.
///
/// # Errors
/// When no source has it, or it cannot be written; when what is there is not what was published.
pub fn run(args: &FetchArgs) -> Result<()> {
    if args.verify {
        return source::verify(&args.data, args.data_dir.as_deref());
    }
    source::fetch(&args.data, args.data_dir.as_deref())
}
