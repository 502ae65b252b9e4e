//! The only way to standard output and standard error.
//!
//! While a command works, the last rows of a terminal may belong to a block that is drawn again and
//! again. Whatever is written goes through here, where the block is taken away first and comes back
//! below the new text. Nothing else in `cli` may open the two streams: a house rule checks that.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use indicatif::{ProgressBar, ProgressStyle};

/// Columns and rows of a terminal that does not say how large it is.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// The block on the terminal, `None` where there is none. `indicatif` draws it, in one piece so that nothing
/// flickers, and takes it away where other text is to be written.
static BLOCK: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Draws `lines` as the block. Each must be shorter than the terminal is wide.
pub(crate) fn draw_block(lines: &[String]) {
    if lines.is_empty() {
        return remove_block();
    }
    lock().get_or_insert_with(new_block).set_message(lines.join("\n"));
}

/// Takes the block off the terminal. Without a block this does nothing.
pub(crate) fn remove_block() {
    if let Some(block) = lock().take() {
        block.finish_and_clear();
    }
}

/// A block that is nothing but the text it is given.
fn new_block() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").expect("the template has one field that exists");
    ProgressBar::new_spinner().with_style(style)
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

/// Returns whether a person reads standard error.
pub(crate) fn is_stderr_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Returns whether a person reads standard output.
pub(crate) fn is_stdout_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns whether standard error is a terminal that can show a block.
pub(crate) fn has_block() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and rows of the terminal that is standard error.
pub(crate) fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(USUAL_SIZE)
}

/// Has the message of a panic written above the block as well.
pub(crate) fn guard_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let block = match BLOCK.try_lock() {
            Ok(mut block) => block.take(),
            Err(TryLockError::Poisoned(block)) => block.into_inner().take(),
            // The thread that panics may have it. A message in the block is better than none.
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(block) = block {
            block.finish_and_clear();
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

fn lock() -> MutexGuard<'static, Option<ProgressBar>> {
    BLOCK.lock().unwrap_or_else(PoisonError::into_inner)
}
