//! Where images come from: loaded, and fetched first where they are missing.

use std::path::Path;

use anyhow::{Result, bail};
use data::{DataError, Dataset, LoadOptions};

use crate::output;

/// Loads a dataset. One that is not there is fetched, unless the folder that was named does not exist: that is more
/// likely a typing error than a wish for a new folder.
///
/// # Errors
/// When the data are damaged, or cannot be had.
pub fn load(name: &str, options: &LoadOptions) -> Result<Dataset> {
    if let Some(dir) = options.data_dir.as_deref().filter(|dir| name != data::shapes::NAME && !dir.is_dir()) {
        bail!("the data directory {} does not exist: create it, or leave --data-dir out", dir.display());
    }
    match data::load(name, options) {
        Err(DataError::Missing { .. }) => {
            fetch(name, options.data_dir.as_deref())?;
            Ok(data::load(name, options)?)
        }
        other => Ok(other?),
    }
}

/// Gets a dataset, telling what happens on stderr.
///
/// # Errors
/// When no source has it, or it cannot be written.
pub fn fetch(name: &str, data_dir: Option<&Path>) -> Result<()> {
    data::fetch(name, data_dir, &|line| output::note(line))?;
    Ok(())
}
