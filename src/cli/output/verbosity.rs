//! `--verbose`: one line on stderr for each decision and request, in every command.
//!
//! One flag for the whole process. It is set once at the start.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::output::failure::eprint_raw;
use crate::cli::output::format::escape;

static IS_VERBOSE: AtomicBool = AtomicBool::new(false);
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Sets the verbosity from the flags.
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
        // If stderr is closed, the line is lost.
        eprint_raw(&format!("{}\n", escape(&line()))).ok();
    }
}
