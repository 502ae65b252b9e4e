//! The only way to standard output and standard error.
//!
//! While a command works, the last rows of a terminal may belong to a block that is drawn again and
//! again. Whatever is written goes through here, where the block is taken away first and comes back
//! below the new text. Nothing else in `cli` may open the two streams: a house rule checks that.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use indicatif::{MultiProgress, ProgressDrawTarget};

/// The block that is on the terminal now.
static BLOCK: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// An empty block on standard error, until [`remove_block`].
pub(crate) fn begin_block() -> MultiProgress {
    let block = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    *lock() = Some(block.clone());
    block
}

/// Takes the block off the terminal. Without a block this does nothing.
pub(crate) fn remove_block() {
    if let Some(block) = lock().take() {
        // A terminal that is gone shows no block.
        block.clear().ok();
    }
}

/// Writes `text` to standard output; escape sequences are dropped where standard output does not take them.
pub(crate) fn write_stdout(text: &str) -> io::Result<()> {
    above_block(|| {
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    })
}

/// Writes `bytes` to standard output unchanged.
pub(crate) fn write_stdout_raw(bytes: &[u8]) -> io::Result<()> {
    above_block(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    })
}

/// Writes `text` to standard error; escape sequences are dropped where standard error does not take them.
pub(crate) fn write_stderr(text: &str) -> io::Result<()> {
    above_block(|| anstream::stderr().lock().write_all(text.as_bytes()))
}

/// Returns the columns of the terminal that standard output is, `None` if it is not one.
pub(crate) fn stdout_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    is_stdout_terminal().then_some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Returns whether a person reads standard output.
pub(crate) fn is_stdout_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns whether a person reads standard error.
pub(crate) fn is_stderr_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Has the message of a panic written above the block as well.
pub(crate) fn guard_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A thread that panics while it writes holds the lock already.
        let block = match BLOCK.try_lock() {
            Ok(mut block) => block.take(),
            Err(TryLockError::Poisoned(block)) => block.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(block) = block {
            block.clear().ok();
        }
        print(panic);
    }));
}

fn above_block<T>(write: impl FnOnce() -> T) -> T {
    match &*lock() {
        Some(block) => block.suspend(write),
        None => write(),
    }
}

fn lock() -> MutexGuard<'static, Option<MultiProgress>> {
    BLOCK.lock().unwrap_or_else(PoisonError::into_inner)
}
