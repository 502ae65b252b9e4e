//! `--verbose`: what is decided and asked, a line each on stderr, in every command.
//!
//! One flag for the whole process, set once before anything runs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::eprint_raw;
use super::output::escape;

static IS_VERBOSE: AtomicBool = AtomicBool::new(false);

/// Turns it on or off.
pub(crate) fn set(is_verbose: bool) {
    IS_VERBOSE.store(is_verbose, Ordering::Relaxed);
}

/// Whether details are shown.
pub(crate) fn is_verbose() -> bool {
    IS_VERBOSE.load(Ordering::Relaxed)
}

/// Writes a line, escaped, if details are shown.
pub(crate) fn detail(line: impl FnOnce() -> String) {
    if is_verbose() {
        // Without stderr there is no one to read it.
        eprint_raw(&format!("{}\n", escape(&line()))).ok();
    }
}
