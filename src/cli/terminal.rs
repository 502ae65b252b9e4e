//! The only way to standard output and standard error.
//!
//! While a command runs, the last rows of a terminal may show a block that is redrawn. All output
//! goes through this module, which removes the block first and redraws it below the new text. A
//! test checks that no other code in `cli` opens the two streams.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

/// Columns and rows of a terminal that does not report its size.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// The block on the terminal, if there is one. `indicatif` draws it in one write, so that it does
/// not flicker, and removes it before other text.
static BLOCK: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Draws `lines` as the block. Each line must be shorter than the width of the terminal.
pub(crate) fn draw_block(lines: &[String]) {
    if lines.is_empty() {
        return remove_block();
    }
    BLOCK.lock().get_or_insert_with(new_block).set_message(lines.join("\n"));
}

/// Removes the block from the terminal, if there is one.
pub(crate) fn remove_block() {
    if let Some(block) = BLOCK.lock().take() {
        block.finish_and_clear();
    }
}

/// Creates a block that shows only the given text.
fn new_block() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg}").expect("the template has one field that exists");
    ProgressBar::new_spinner().with_style(style)
}

/// Writes `text` to standard output; drops escape sequences if standard output does not support
/// them.
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

/// Writes `text` to standard error; drops escape sequences if standard error does not support them.
pub(crate) fn write_stderr(text: &str) -> io::Result<()> {
    above_block(|| anstream::stderr().lock().write_all(text.as_bytes()))
}

/// Returns the columns of the terminal on standard output; `None` if it is not a terminal.
pub(crate) fn stdout_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    is_stdout_terminal().then_some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Returns whether standard error is a terminal.
pub(crate) fn is_stderr_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_stdout_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns whether standard error is a terminal that can show a block.
pub(crate) fn has_block() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and rows of the terminal on standard error.
pub(crate) fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(USUAL_SIZE)
}

/// Writes the message of a panic above the block too.
pub(crate) fn guard_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The panicking thread may hold the lock. A message inside the block is better than none.
        if let Some(block) = BLOCK.try_lock().and_then(|mut block| block.take()) {
            block.finish_and_clear();
        }
        print(panic);
    }));
}

fn above_block<T>(write: impl FnOnce() -> T) -> T {
    match &*BLOCK.lock() {
        Some(block) => block.suspend(write),
        None => write(),
    }
}
