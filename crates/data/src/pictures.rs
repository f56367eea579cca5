//! Storage of a split's images during a run: on the device, in memory, or in files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dataset::{Images, held_out};
use crate::decode::{self, Problem};
use crate::error::{DataError, Result};
use crate::view::View;

/// The largest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// A split.
#[derive(Debug)]
pub enum Pictures {
    /// Decoded, and copied to the device as a whole.
    Resident(Images),
    /// Decoded, and copied to the device batch by batch.
    Memory(Images),
    /// Decoded for each batch.
    Files(Files),
}

/// Image files with their classes.
#[derive(Debug)]
pub struct Files {
    /// Height and width that they are resized to.
    pub size: usize,
    /// Part of the image that is seen without augmentation.
    pub still: View,
    /// True if the first image that cannot be decoded is an error.
    pub strict: bool,
    /// Labels, each below the number of classes.
    pub labels: Vec<u32>,
    pub(crate) paths: Vec<PathBuf>,
    /// Images known to be undecodable, and the reasons.
    broken: Mutex<BTreeMap<u32, Problem>>,
}

/// Treatment of an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The next image of its class takes its place.
    Replace,
    /// It is left out.
    LeaveOut,
}

/// Outcome of drawing an image.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    /// True if there is an image.
    pub there: bool,
    /// Sentences on images that are now known to be broken.
    pub broken: Vec<String>,
}

impl Files {
    pub(crate) fn new(listed: Vec<(PathBuf, u32)>, size: usize, strict: bool) -> Self {
        let (paths, labels) = listed.into_iter().unzip();
        Self { size, still: View::Whole, strict, labels, paths, broken: Mutex::default() }
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Takes `n` files out, the same images as [`Images::hold_out`].
    ///
    /// # Errors
    ///
    /// Those of [`Images::hold_out`].
    pub fn hold_out(&mut self, n: usize, classes: usize) -> Result<Self> {
        let held = held_out(&self.labels, n, classes)?;
        let all = mem::take(&mut self.paths).into_iter().zip(mem::take(&mut self.labels));
        let (out, rest): (Vec<_>, Vec<_>) = all.zip(held).partition(|&(_, held)| held);
        let listed = |part: Vec<((PathBuf, u32), bool)>| part.into_iter().map(|(listed, _)| listed).collect();
        let part = |listed| Self { still: self.still, ..Self::new(listed, self.size, self.strict) };
        let (out, rest) = (part(listed(out)), part(listed(rest)));
        *self = rest;
        Ok(out)
    }

    /// Decodes a view of a file into `size * size` pixels.
    pub(crate) fn decode(&self, image: usize, view: View, out: &mut [u32]) -> std::result::Result<(), Problem> {
        decode::square(&contents(&self.paths[image])?, view, self.size, out)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, Problem>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws an image, or the next of its class that can be decoded, into `out`. The choice depends on the files
    /// alone.
    ///
    /// # Errors
    ///
    /// An image cannot be decoded, and the files are strict; or none of the class can be.
    pub(crate) fn draw(&self, image: u32, view: View, missing: Missing, out: &mut [u32]) -> Result<Drawn> {
        let mut drawn = Drawn::default();
        let (count, label) = (self.len(), self.labels[image as usize]);
        let others = (1..count).map(|i| (image as usize + i) % count).filter(|&i| self.labels[i] == label);
        for candidate in std::iter::once(image as usize).chain(others) {
            if !self.known().contains_key(&(candidate as u32)) {
                let Err(reason) = self.decode(candidate, view, out) else {
                    drawn.there = true;
                    return Ok(drawn);
                };
                let path = &self.paths[candidate];
                if self.strict {
                    return Err(DataError::Image { path: path.clone(), reason });
                }
                let sentence = format!("{} {reason}", path.display());
                if self.known().insert(candidate as u32, reason).is_none() {
                    drawn.broken.push(sentence);
                }
            }
            if missing == Missing::LeaveOut {
                return Ok(drawn);
            }
        }
        let reason = "cannot be decoded, nor can any other image of its class".to_owned();
        Err(DataError::Image { path: self.paths[image as usize].clone(), reason })
    }
}

impl Pictures {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels().len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels().is_empty()
    }

    /// Height and width of an image.
    pub fn size(&self) -> usize {
        match self {
            Self::Resident(images) | Self::Memory(images) => images.size,
            Self::Files(files) => files.size,
        }
    }

    /// The images' labels.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Resident(images) | Self::Memory(images) => &images.labels,
            Self::Files(files) => &files.labels,
        }
    }

    /// The pixels of an image without augmentation; none if it cannot be decoded.
    pub fn pixels(&self, image: usize) -> Option<Vec<u32>> {
        match self {
            Self::Resident(images) | Self::Memory(images) => Some(images.image(image).to_vec()),
            Self::Files(files) => {
                let mut pixels = vec![0; files.size * files.size];
                files.decode(image, files.still, &mut pixels).ok().map(|()| pixels)
            }
        }
    }

    /// Tells whether batches are prepared by the host.
    pub fn is_streamed(&self) -> bool {
        !matches!(self, Self::Resident(_))
    }

    /// Number of images known to be undecodable; those set aside before the split was made do not count.
    pub fn broken(&self) -> usize {
        match self {
            Self::Resident(_) | Self::Memory(_) => 0,
            Self::Files(files) => files.known().len(),
        }
    }

    /// Takes `n` images out, as [`Images::hold_out`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Images::hold_out`].
    pub fn hold_out(&mut self, n: usize, classes: usize) -> Result<Self> {
        Ok(match self {
            Self::Resident(images) => Self::Resident(images.hold_out(n, classes)?),
            Self::Memory(images) => Self::Memory(images.hold_out(n, classes)?),
            Self::Files(files) => Self::Files(files.hold_out(n, classes)?),
        })
    }

    /// Draws an image into `out`; `crop` is the key of its random crop.
    ///
    /// # Errors
    ///
    /// Those of [`Files::draw`].
    pub(crate) fn draw(&self, image: u32, crop: Option<[u64; 3]>, missing: Missing, out: &mut [u32]) -> Result<Drawn> {
        match self {
            Self::Resident(images) | Self::Memory(images) => {
                out.copy_from_slice(images.image(image as usize));
                Ok(Drawn { there: true, broken: Vec::new() })
            }
            Self::Files(files) => files.draw(image, crop.map_or(files.still, View::Random), missing, out),
        }
    }
}

/// The bytes of a file.
pub(crate) fn contents(path: &Path) -> std::result::Result<Vec<u8>, Problem> {
    let unreadable = |error: io::Error| format!("cannot be read ({error})");
    // A pipe or a device would never end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("has more than {} MiB", MAX_FILE >> 20));
    }
    Ok(bytes)
}
