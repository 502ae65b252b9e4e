//! The only access to standard output and standard error.
//!
//! While a command runs, the last rows of a terminal may show a block that is redrawn. All output
//! goes through this module, which first removes the block and then redraws it below the new text.
//! A test checks that no other code in `cli` opens the two streams.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

/// The columns and rows assumed for a terminal that does not report its size.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// The labels of lines on standard error, with their colours.
const LABELS: [(&str, &str); 4] = [
    ("error:", "\x1b[1;31m"),
    ("warning:", "\x1b[1;33m"),
    ("hint:", "\x1b[1;36m"),
    ("note:", "\x1b[1m"),
];

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
    with_block_suspended(|| {
        let mut stdout = anstream::stdout().lock();
        // Flushed here, because otherwise a full disk would go unnoticed when the process ends.
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    })
}

/// Writes `bytes` to standard output unchanged.
pub(crate) fn write_stdout_raw(bytes: &[u8]) -> io::Result<()> {
    with_block_suspended(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    })
}

/// Writes `text` to standard error, with coloured labels if standard error supports colours.
pub(crate) fn write_stderr(text: &str) -> io::Result<()> {
    // `anstream` drops the colours if stderr is not a terminal, or if NO_COLOR is set.
    with_block_suspended(|| anstream::stderr().lock().write_all(with_colours(text).as_bytes()))
}

/// Colours the label of each line that begins with a label.
fn with_colours(text: &str) -> String {
    let coloured = |line: &str| {
        let found = LABELS.iter().find_map(|(label, colour)| {
            let rest = line.strip_prefix(label).filter(|rest| rest.starts_with(' '))?;
            Some(format!("{colour}{label}\x1b[0m{rest}"))
        });
        found.unwrap_or_else(|| line.to_owned())
    };
    text.split_inclusive('\n').map(coloured).collect()
}

/// Returns the width in columns of the terminal on standard output; `None` if standard output is
/// not a terminal.
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
pub(crate) fn supports_block() -> bool {
    // A dumb terminal, such as the one in Emacs's shell, cannot move its cursor.
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and rows of the terminal on standard error.
pub(crate) fn stderr_size() -> (usize, usize) {
    // The size of stderr, which shows the block: stdout may be a file.
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    // Some terminals, such as serial lines, report a size of 0.
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(DEFAULT_SIZE)
}

/// Makes panic messages appear above the block, too.
pub(crate) fn clear_block_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The panicking thread may hold the lock. A message inside the block is better than no
        // message.
        if let Some(block) = BLOCK.try_lock().and_then(|mut block| block.take()) {
            block.finish_and_clear();
        }
        print(panic);
    }));
}

fn with_block_suspended<T>(write: impl FnOnce() -> T) -> T {
    match &*BLOCK.lock() {
        // The lock is held while the text is written, so that no redraw happens between its lines.
        Some(block) => block.suspend(write),
        None => write(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_are_coloured() {
        assert_eq!(
            with_colours("error: a warning: b\n  hint: c\nhint: d\nwarning: e"),
            "\x1b[1;31merror:\x1b[0m a warning: b\n  hint: c\n\x1b[1;36mhint:\x1b[0m d\n\
             \x1b[1;33mwarning:\x1b[0m e"
        );
        assert_eq!(with_colours("errors: 3\n"), "errors: 3\n");
    }
}
