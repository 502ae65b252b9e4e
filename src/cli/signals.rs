//! Ctrl-C and SIGTERM: the first asks the run to stop, the second ends it at once.
//!
//! Uses the crate `signal-hook`.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use headwater::cancel::{CANCEL_POLL_INTERVAL, CancelToken};
use headwater::threads::ThreadError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::failure::Exit;

/// How long a run may take to stop. Then it is ended as a second signal ends it: a name lookup, a connection that is
/// being made, or a disk that does not answer cannot be interrupted.
const TIME_TO_STOP: Duration = Duration::from_millis(1500);

static TOKEN: LazyLock<CancelToken> = LazyLock::new(CancelToken::default);
static IS_CAUGHT: Mutex<bool> = Mutex::new(false);

/// The request to stop this process. Nothing makes it before [`catch`] was called.
pub(crate) fn token() -> CancelToken {
    TOKEN.clone()
}

/// Has the first signal cancel [`token`]. A second one ends the process with 130, and so does the first after
/// [`TIME_TO_STOP`]; every mirror is on a whole release then too, as after a crash.
pub(crate) fn catch() -> io::Result<()> {
    let mut is_caught = IS_CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
    if *is_caught {
        return Ok(());
    }
    let token = token();
    for signal in [SIGINT, SIGTERM] {
        // Actions run in the order of registration: the flag is not yet set when the first signal looks.
        flag::register_conditional_shutdown(signal, i32::from(Exit::Interrupted.code()), token.flag())?;
        flag::register(signal, token.flag())?;
    }
    std::thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || stop_when_asked(&token))
        .map_err(|error| io::Error::other(ThreadError::from(error)))?;
    *is_caught = true;
    Ok(())
}

/// A signal handler may only set a flag; this does the rest.
fn stop_when_asked(token: &CancelToken) {
    while !token.is_cancelled() {
        std::thread::sleep(CANCEL_POLL_INTERVAL);
    }
    token.cancel();
    std::thread::sleep(TIME_TO_STOP);
    low_level::exit(i32::from(Exit::Interrupted.code()));
}
