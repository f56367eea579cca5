//! Ctrl-C and SIGTERM: the step under way is finished, and the run saved.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::output;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Has Ctrl-C and SIGTERM ask for an orderly end from now on. The second one ends the program at once, which loses no
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

/// Whether the end was asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
