//! Ctrl-C and SIGTERM: the first signal asks the run to stop, and the second one ends it
//! immediately.
//!
//! Uses the crate `signal-hook`.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use headwater::cancel::{CANCEL_POLL_INTERVAL, CancelToken};
use headwater::threads::ThreadError;
use parking_lot::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::cli::output::failure::Exit;

/// How long a run may take to stop. After that the process exits, as after a second signal. A name
/// lookup, a connection attempt or a hanging disk cannot be interrupted.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

pub(crate) static CANCEL_TOKEN: LazyLock<CancelToken> = LazyLock::new(CancelToken::default);
static HANDLERS_INSTALLED: Mutex<bool> = Mutex::new(false);

/// The cancellation token of this process. It is never cancelled before [`install_handlers`] is
/// called.
pub(crate) fn cancel_token() -> CancelToken {
    CANCEL_TOKEN.clone()
}

/// Starts catching signals. After this call, the first signal cancels [`cancel_token`]. A second
/// signal, or the end of [`STOP_TIMEOUT`] after the first one, ends the process with exit code 130.
/// As after a crash, every mirror is then on a complete release.
pub(crate) fn install_handlers() -> io::Result<()> {
    let mut is_installed = HANDLERS_INSTALLED.lock();
    if *is_installed {
        return Ok(());
    }
    let token = cancel_token();
    for signal in [SIGINT, SIGTERM] {
        // Actions run in the order of registration, so the first signal finds the flag unset.
        flag::register_conditional_shutdown(
            signal,
            i32::from(Exit::Interrupted.code()),
            token.flag(),
        )?;
        flag::register(signal, token.flag())?;
    }
    std::thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || exit_after_cancellation(&token))
        .map_err(|error| io::Error::other(ThreadError::from(error)))?;
    *is_installed = true;
    Ok(())
}

/// Waits for the flag, because a signal handler can only set a flag.
fn exit_after_cancellation(token: &CancelToken) {
    while !token.is_cancelled() {
        std::thread::sleep(CANCEL_POLL_INTERVAL);
    }
    token.cancel();
    // Together with the poll interval, this is less than the 2 s that docs/guarantees.md promises.
    std::thread::sleep(STOP_TIMEOUT);
    low_level::exit(i32::from(Exit::Interrupted.code()));
}
