//! Ctrl-C and SIGTERM: the step under way is finished, and the run saved.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::output;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static AFTER_EPOCH: AtomicBool = AtomicBool::new(false);
static SAVE: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM ask for an orderly end from now on. The second one ends the program at once, which loses no
/// file: each is renamed into place when it is whole.
///
/// # Errors
/// When the system refuses the handler.
pub fn catch() -> Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        output::note("stopping after this step; once more stops at once, without saving");
    })
    .context("cannot catch Ctrl-C")
}

/// Tells whether the end was asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Asks for the end, as Ctrl-C does.
pub fn request() {
    REQUESTED.store(true, Ordering::SeqCst);
}

/// Asks for the end after the epoch under way.
pub fn request_after_epoch() {
    AFTER_EPOCH.store(true, Ordering::SeqCst);
}

/// Tells whether the end after this epoch was asked for.
pub fn requested_after_epoch() -> bool {
    AFTER_EPOCH.load(Ordering::SeqCst)
}

/// Asks for a checkpoint.
pub fn request_save() {
    SAVE.store(true, Ordering::SeqCst);
}

/// Tells whether a checkpoint was asked for, and not taken since.
pub fn save_requested() -> bool {
    SAVE.load(Ordering::SeqCst)
}

/// Tells whether a checkpoint was asked for since this was last asked.
pub fn take_save() -> bool {
    SAVE.swap(false, Ordering::SeqCst)
}
