//! Lines on stdout and stderr. `println!` panics when the reader has gone, these do not.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The reader of stdout has gone: there is nothing left to do for a command that only prints.
#[derive(Debug)]
pub struct ClosedOutput;

impl Display for ClosedOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for ClosedOutput {}

/// Text that is to be printed once the screen no longer shows something else.
enum Held {
    Line(String),
    Note(String),
}

/// The number of this process among several that train together; nothing where it is alone.
static RANK: OnceLock<usize> = OnceLock::new();

/// Silences this process, the `rank`th of several that train together, unless it is the first.
pub fn set_rank(rank: usize) {
    // Processes have one rank as long as they live.
    let _ = RANK.set(rank);
}

/// Tells whether another process does the talking.
fn is_silent() -> bool {
    RANK.get().is_some_and(|&rank| rank > 0)
}

/// Writes a line to stderr that only this rank can tell of.
pub fn note_of_rank(text: impl Display) {
    match RANK.get() {
        Some(rank) => write_note(format!("rank {rank}: {text}")),
        None => write_note(text),
    }
}

static HELD: Mutex<Option<Vec<Held>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<Vec<Held>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps lines back from now on.
pub fn hold() {
    held().get_or_insert_default();
}

/// The notes that are kept back.
pub fn held_notes() -> Vec<String> {
    let note = |held: &Held| match held {
        Held::Note(text) => Some(text.clone()),
        Held::Line(_) => None,
    };
    held().iter().flatten().filter_map(note).collect()
}

/// Prints what was kept back, and from now on at once.
pub fn release() {
    let kept = held().take();
    for held in kept.into_iter().flatten() {
        match held {
            // Whoever prints next hears that nobody reads any more.
            Held::Line(text) => drop(line(text)),
            Held::Note(text) => note(text),
        }
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// [`ClosedOutput`] when the reader has gone, or the system's reason.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    if is_silent() {
        return Ok(());
    }
    if let Some(held) = &mut *held() {
        held.push(Held::Line(text.to_string()));
        return Ok(());
    }
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedOutput.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
    }
}

/// Writes a line to stderr; of several ranks, the first does. Where that fails there is nobody to tell.
pub fn note(text: impl Display) {
    if !is_silent() {
        write_note(text);
    }
}

fn write_note(text: impl Display) {
    if let Some(held) = &mut *held() {
        held.push(Held::Note(text.to_string()));
        return;
    }
    // In one piece: several ranks may write to the same place.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
