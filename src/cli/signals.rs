//! Ctrl-C and SIGTERM: the first asks, the second ends at once.
//!
//! Uses the crate `signal-hook`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::failure::Exit;

/// A flag that the first signal sets. A second one ends the process with 130;
/// every mirror is on a whole release then too, as after a crash.
pub(crate) fn cancellation() -> io::Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Actions run in the order of registration: the flag is not yet set when the first signal looks.
        flag::register_conditional_shutdown(signal, i32::from(Exit::Interrupted.code()), Arc::clone(&cancelled))?;
        flag::register(signal, Arc::clone(&cancelled))?;
    }
    Ok(cancelled)
}
