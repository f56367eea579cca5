//! Where images come from: loaded, and fetched first where they are missing.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use data::{DataError, Dataset, LoadOptions};
use tensor::Device;

use crate::failure::usage;
use crate::output;

/// What a folder of images is loaded for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The device that the images go to.
    pub device: &'a Device,
    /// Height and width that were asked for.
    pub asked: Option<usize>,
    /// Those that the network is made for.
    pub usual: usize,
}

/// Loads a dataset, and says what there is to say of it. One that is not there is fetched, unless the folder that was
/// named does not exist: that is more likely a typing error than a wish for a new folder.
///
/// # Errors
/// When the data are damaged, or cannot be had, or do not fit the purpose.
pub fn load(name: &str, options: &LoadOptions, purpose: Purpose<'_>) -> Result<Dataset> {
    let image_size = Some(purpose.asked.unwrap_or(purpose.usual));
    let options = LoadOptions { image_size, max_bytes: room(purpose.device), ..options.clone() };
    let dataset = load_or_fetch(name, &options)?;
    let size = dataset.test.size;
    if let Some(asked) = purpose.asked.filter(|&asked| asked != size) {
        return Err(usage(format!("the images of {name} are {size} x {size}, not {asked}: leave --image-size out")));
    }
    dataset.notes.iter().for_each(output::note);
    Ok(dataset)
}

/// Bytes that a split's pixels may take: what the device's buffers hold, and what the machine's memory has left, of which
/// the CPU device takes a copy. Nothing where neither is known.
fn room(device: &Device) -> Option<u64> {
    let buffers = device.is_gpu().then(|| device.max_binding_bytes().saturating_mul(data::MAX_SHARDS as u64));
    let memory = available_memory().map(|bytes| if device.is_gpu() { bytes } else { bytes / 2 });
    buffers.into_iter().chain(memory).min()
}

/// Bytes of the machine's memory that are free or soon would be, where the system tells.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn load_or_fetch(name: &str, options: &LoadOptions) -> Result<Dataset> {
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

/// Checks the files of a dataset that are there, telling of each on stdout.
///
/// # Errors
/// When one is missing or damaged.
pub fn verify(name: &str, data_dir: Option<&Path>) -> Result<()> {
    // The result is the same whether anybody reads the list or not.
    data::verify(name, data_dir, &|text| drop(output::line(text)))?;
    Ok(())
}
