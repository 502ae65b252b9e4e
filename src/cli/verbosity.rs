//! `--verbose`: what is decided and asked, a line each on stderr, in every command.
//!
//! One flag for the whole process, set once before anything runs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::eprint_raw;
use super::output::escape;

static IS_VERBOSE: AtomicBool = AtomicBool::new(false);
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Sets what the flags say.
pub(crate) fn set(is_verbose: bool, is_quiet: bool) {
    IS_VERBOSE.store(is_verbose, Ordering::Relaxed);
    IS_QUIET.store(is_quiet, Ordering::Relaxed);
}

/// Whether only warnings and errors are shown.
pub(crate) fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
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
