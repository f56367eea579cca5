//! Sources of images: loaded, and fetched first where they are missing.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use data::{DataError, Dataset, Files, Images, LoadOptions, Pictures, View, catalog, folder};
use tensor::Device;

use crate::failure::usage;
use crate::options::args::{Augmentation, Streaming};
use crate::output;

/// Purpose that images are loaded for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The device that they go to.
    pub device: &'a Device,
    /// Height and width that were asked for.
    pub asked: Option<usize>,
    /// Height and width that the network is made for.
    pub usual: usize,
    /// Augmentation of training images, if that is said.
    pub augment: Option<Augmentation>,
    pub stream: Streaming,
}

impl Purpose<'_> {
    /// Chooses where decoded images stay.
    fn place(&self, images: Images, room: Option<u64>) -> Pictures {
        let fits = room.is_none_or(|room| bytes(images.len(), images.size) <= room);
        match self.stream {
            Streaming::On => Pictures::Memory(images),
            Streaming::Auto if !fits => Pictures::Memory(images),
            Streaming::Auto | Streaming::Off => Pictures::Resident(images),
        }
    }
}

/// Loads a dataset and prints its notes. One that is not there is fetched, unless the folder that was
/// named does not exist: that is more likely a typing error than a wish for a new folder.
///
/// # Errors
/// When the data are damaged, or cannot be had, or do not fit the purpose.
pub fn load(name: &str, options: &LoadOptions, purpose: Purpose<'_>) -> Result<Dataset<Pictures>> {
    let image_size = Some(purpose.asked.unwrap_or(purpose.usual));
    let options = LoadOptions { image_size, ..options.clone() };
    check_data_dir(name, &options)?;
    let dataset = match catalog::find(name, &options) {
        Some(folder) => load_folder(name, &folder, &options, purpose)?,
        None => load_decoded(name, options, purpose)?,
    };
    let size = dataset.test.size();
    if let Some(asked) = purpose.asked.filter(|&asked| asked != size) {
        return Err(usage(format!("the images of {name} are {size} x {size}, not {asked}: leave --image-size out")));
    }
    dataset.notes.iter().for_each(output::note);
    Ok(dataset)
}

/// A dataset that is decoded as a whole.
fn load_decoded(name: &str, options: LoadOptions, purpose: Purpose<'_>) -> Result<Dataset<Pictures>> {
    if purpose.augment == Some(Augmentation::Imagenet) {
        return Err(usage(format!(
            "--augment imagenet takes parts of image files, and {name} is no folder of images: take --augment standard"
        )));
    }
    let room = room(purpose.device);
    let max_bytes = if purpose.stream == Streaming::Off { room } else { available_memory() };
    let dataset = load_or_fetch(name, &LoadOptions { max_bytes, ..options })?;
    let place = |images| Ok(purpose.place(images, room));
    dataset.try_map(place, place)
}

/// A folder of images. A split is decoded once if it fits and is the same in every epoch.
fn load_folder(name: &str, folder: &Path, options: &LoadOptions, purpose: Purpose<'_>) -> Result<Dataset<Pictures>> {
    let mut dataset = folder::list(name, folder, options)?;
    let augment = purpose.augment.map_or(dataset.augment, Into::into);
    let anew = augment == data::Augmentation::Resized;
    if anew && purpose.stream == Streaming::Off {
        return Err(usage(
            "--augment imagenet decodes images anew in each epoch: leave --stream off out, or take --augment standard",
        ));
    }
    let still = if anew { View::Centre } else { View::Whole };
    (dataset.train.still, dataset.test.still) = (still, still);
    let room = room(purpose.device);
    let decode = |files: Files, notes: &mut Vec<String>| -> Result<Pictures> {
        let fits = room.is_none_or(|room| bytes(files.len(), files.size) <= room);
        match purpose.stream {
            Streaming::On => return Ok(Pictures::Files(files)),
            Streaming::Auto if !fits => return Ok(Pictures::Files(files)),
            Streaming::Auto | Streaming::Off => {}
        }
        LoadOptions { max_bytes: room, ..options.clone() }.check_fits(files.len(), files.size)?;
        Ok(Pictures::Resident(folder::decode(&files, folder, notes)?))
    };
    let (mut train_notes, mut test_notes) = (Vec::new(), Vec::new());
    let dataset = dataset.try_map(
        |files| if anew { Ok(Pictures::Files(files)) } else { decode(files, &mut train_notes) },
        |files| decode(files, &mut test_notes),
    )?;
    train_notes.extend(test_notes);
    Ok(Dataset { notes: train_notes, ..dataset })
}

/// Bytes of decoded images, as the host has them: a pixel takes no more on any device.
fn bytes(images: usize, size: usize) -> u64 {
    4 * images as u64 * (size * size) as u64
}

/// Bytes that the pixels of a split may take on the device: what its buffers hold, and what the machine's memory has
/// left, of which the CPU device takes a copy. Nothing where neither is known.
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

fn check_data_dir(name: &str, options: &LoadOptions) -> Result<()> {
    if let Some(dir) = options.data_dir.as_deref().filter(|dir| name != data::shapes::NAME && !dir.is_dir()) {
        bail!("the data directory {} does not exist: create it, or leave --data-dir out", dir.display());
    }
    Ok(())
}

fn load_or_fetch(name: &str, options: &LoadOptions) -> Result<Dataset> {
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
