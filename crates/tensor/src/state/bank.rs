//! Banks: state that outlives a step and is shared between programs, each one flat buffer.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::device::{ALIGNMENT, Buffer, Device};
use crate::error::{Error, Result};

static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

/// A number that no other buffer has.
pub(crate) fn next_buffer_id() -> usize {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// One flat buffer of tensors at aligned offsets: all parameters, all gradients, a data set's shard. It grows until the
/// first program that uses it is compiled, and is then allocated on that program's device: zeroed, but for what it is
/// [filled](Bank::filled) with.
#[derive(Clone)]
pub struct Bank(Arc<Inner>);

struct Inner {
    name: String,
    id: usize,
    words: AtomicUsize,
    /// Initial contents of the first words.
    initial: Vec<u32>,
    buffer: OnceLock<Buffer>,
}

impl Bank {
    /// An empty bank.
    pub fn new(name: impl Into<String>) -> Self {
        Self::filled(name, Vec::new())
    }

    /// A bank that holds `initial` from its allocation on.
    pub fn filled(name: impl Into<String>, initial: Vec<u32>) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            id: next_buffer_id(),
            words: AtomicUsize::new(initial.len().next_multiple_of(ALIGNMENT)),
            initial,
            buffer: OnceLock::new(),
        }))
    }

    /// A bank that holds `data`, allocated on `device`.
    ///
    /// # Errors
    /// When the device cannot hold it.
    pub fn with_data(name: impl Into<String>, device: &Device, data: &[u32]) -> Result<Self> {
        let bank = Self::new(name);
        bank.reserve(data.len())?;
        bank.write(device, 0, data)?;
        Ok(bank)
    }

    /// Makes room for a tensor of `words` and returns its offset, a multiple of [`ALIGNMENT`].
    ///
    /// # Errors
    /// When the bank was allocated already.
    pub fn reserve(&self, words: usize) -> Result<usize> {
        if self.0.buffer.get().is_some() {
            return Err(Error::Parameter {
                name: self.0.name.clone(),
                problem: "the bank is in use by a program and cannot grow any more".to_owned(),
            });
        }
        Ok(self.0.words.fetch_add(words.next_multiple_of(ALIGNMENT), Ordering::Relaxed))
    }

    /// The bank's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Size in words, a multiple of [`ALIGNMENT`].
    pub fn words(&self) -> usize {
        self.0.words.load(Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> usize {
        self.0.id
    }

    /// The memory, allocated at the first call.
    ///
    /// # Errors
    /// When the device cannot hold it.
    pub fn buffer(&self, device: &Device) -> Result<Buffer> {
        if let Some(buffer) = self.0.buffer.get() {
            return Ok(buffer.clone());
        }
        let buffer = device.alloc(self.words(), &self.0.name)?;
        if !self.0.initial.is_empty() {
            device.write(&buffer, 0, &self.0.initial)?;
        }
        Ok(self.0.buffer.get_or_init(|| buffer).clone())
    }

    /// Copies `data` to the bank from word `offset` on.
    ///
    /// # Errors
    /// When the range is outside the bank, or the device fails.
    pub fn write(&self, device: &Device, offset: usize, data: &[u32]) -> Result<()> {
        device.write(&self.buffer(device)?, offset, data)
    }

    /// A bank of its own that is as large as this one is now.
    #[must_use]
    pub fn alike(&self) -> Self {
        let copy = Self::new(format!("copy of {}", self.0.name));
        copy.0.words.store(self.words(), Ordering::Relaxed);
        copy
    }

    /// Copies the whole of `source`, a bank of the same size, on the device.
    ///
    /// # Errors
    /// When the sizes differ, or the device fails.
    pub fn copy_from(&self, device: &Device, source: &Self) -> Result<()> {
        if self.words() != source.words() {
            return Err(Error::Parameter {
                name: self.0.name.clone(),
                problem: format!("it has {} words, and {source:?} was to be copied to it", self.words()),
            });
        }
        device.copy(&source.buffer(device)?, &self.buffer(device)?, self.words())
    }

    /// Waits for the device and copies the whole bank to the host.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(&self, device: &Device) -> Result<Vec<u32>> {
        device.read(&self.buffer(device)?, 0, self.words())
    }
}

impl fmt::Debug for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bank({}, {} words)", self.0.name, self.words())
    }
}
