//! Runs the program on a pseudo-terminal and reads the screen.
//!
//! The output goes through a terminal emulator (`vt100`), so that a test checks the screen and not
//! the escape sequences. Lines that scrolled off the top are included.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Rows of the terminal.
const ROWS: u16 = 24;
/// Rows that are kept after they scrolled off the top.
const SCROLLBACK: usize = 1_000;
/// A program that shows nothing of what a test waits for is ended after this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The emulator, and whether the program closed its end.
struct Screen {
    emulator: vt100::Parser,
    is_closed: bool,
}

/// A program that runs on a terminal of its own.
pub(crate) struct Terminal {
    child: Child,
    controller: File,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    reader: JoinHandle<()>,
}

/// What was on the terminal when the program had ended.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The exit code; `None` if a signal ended the program.
    pub(crate) code: Option<i32>,
    /// The lines from the first to the last that is not empty. A line that the terminal wrapped is
    /// one line.
    pub(crate) lines: Vec<String>,
    /// The words on the last screen that have a colour, in order.
    #[allow(dead_code, reason = "not every test program looks at colours")]
    pub(crate) coloured: Vec<String>,
}

impl Terminal {
    /// Starts `command` on a terminal of this many columns, which is its standard input, output and
    /// error.
    pub(crate) fn start(mut command: Command, columns: u16) -> Self {
        let controller =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let flags = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let mut open = OpenOptions::new();
        let device = open
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(OsStr::from_bytes(name.as_bytes()))
            .unwrap();
        command
            .stdin(device.try_clone().unwrap())
            .stdout(device.try_clone().unwrap())
            .stderr(device);
        command.env("TERM", "xterm-256color");
        let child = command.spawn().unwrap();
        // Only the program has the device open now: reading ends when the program ends.
        drop(command);
        let size = [ROWS, columns].map(|number| NonZeroU16::new(number).unwrap());
        let emulator = vt100::Parser::new(size[0], size[1], SCROLLBACK);
        let screen = Arc::new((Mutex::new(Screen { emulator, is_closed: false }), Condvar::new()));
        let controller = File::from(controller);
        let (shown, mut source) = (Arc::clone(&screen), controller.try_clone().unwrap());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                // The kernel answers EIO once the last process has closed the device.
                let bytes = source.read(&mut buffer).unwrap_or(0);
                let mut screen = shown.0.lock().unwrap();
                screen.emulator.process(&buffer[..bytes]);
                screen.is_closed = bytes == 0;
                shown.1.notify_all();
                if bytes == 0 {
                    return;
                }
            }
        });
        Self { child, controller, screen, reader }
    }

    /// Waits until `words` are on the terminal.
    pub(crate) fn wait_for(&mut self, words: &str) {
        let wait = |screen: &mut Screen| {
            screen.is_closed || lines(screen).iter().any(|line| line.contains(words))
        };
        let is_seen = self.wait_until(wait);
        let text = lines(&mut self.screen.0.lock().unwrap()).join("\n");
        assert!(
            is_seen && text.contains(words),
            "expected {words:?} on the terminal, but found:\n{text}"
        );
    }

    /// Waits until the program has ended; returns whether it did.
    fn wait_until(&mut self, mut is_reached: impl FnMut(&mut Screen) -> bool) -> bool {
        let (screen, changed) = &*self.screen;
        let end = Instant::now() + PATIENCE;
        let mut screen = screen.lock().unwrap();
        while !is_reached(&mut screen) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.child.kill().unwrap();
                return false;
            }
            screen = changed.wait_timeout(screen, left).unwrap().0;
        }
        true
    }

    /// Types `keys`; `\n` is the return key.
    #[allow(dead_code, reason = "not every test program types")]
    pub(crate) fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).unwrap();
    }

    /// Sends what Ctrl-C sends.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for the end of the program.
    pub(crate) fn end(mut self) -> Shown {
        let has_ended = self.wait_until(|screen| screen.is_closed);
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let mut screen = self.screen.0.lock().unwrap();
        let coloured = coloured(screen.emulator.screen());
        let shown = Shown { code: status.code(), lines: lines(&mut screen), coloured };
        assert!(has_ended, "the program did not end\n{shown}");
        shown
    }
}

/// Every row, from the oldest that is kept, and whether it continues in the next one.
fn rows(screen: &mut Screen) -> Vec<(String, bool)> {
    let screen = screen.emulator.screen_mut();
    let (height, width) = screen.size();
    let (height, width) = (height.get(), width.get());
    screen.set_scrollback(usize::MAX);
    let mut rows = Vec::new();
    for above in (1..=screen.scrollback()).rev() {
        screen.set_scrollback(above);
        rows.push((screen.rows(0, width).next().unwrap_or_default(), screen.row_wrapped(0)));
    }
    screen.set_scrollback(0);
    rows.extend(screen.rows(0, width).zip((0..height).map(|row| screen.row_wrapped(row))));
    rows
}

/// Every line: rows that the terminal wrapped are joined.
fn lines(screen: &mut Screen) -> Vec<String> {
    let mut lines = vec![String::new()];
    for (row, is_wrapped) in rows(screen) {
        let line = lines.last_mut().unwrap();
        line.push_str(&row);
        if !is_wrapped {
            line.truncate(line.trim_end().len());
            lines.push(String::new());
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn coloured(screen: &vt100::Screen) -> Vec<String> {
    let (height, width) = screen.size();
    let mut text = String::new();
    for row in 0..height.get() {
        for cell in (0..width.get()).filter_map(|column| screen.cell(row, column)) {
            let is_coloured = cell.fgcolor() != vt100::Color::Default;
            text.push_str(if is_coloured { cell.contents() } else { " " });
        }
    }
    text.split_whitespace().map(str::to_owned).collect()
}

impl Shown {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Asserts that exactly one line has `words`; returns that line.
    #[track_caller]
    pub(crate) fn once(&self, words: &str) -> &str {
        let found: Vec<&String> = self.lines.iter().filter(|line| line.contains(words)).collect();
        assert_eq!(found.len(), 1, "{words:?}\n{self}");
        found[0]
    }

    /// Asserts that no line has `words`.
    #[track_caller]
    pub(crate) fn never(&self, words: &str) {
        assert!(!self.lines.iter().any(|line| line.contains(words)), "{words:?}\n{self}");
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "exit code {:?}, on the terminal:", self.code)?;
        self.lines.iter().try_for_each(|line| writeln!(formatter, "| {line}"))
    }
}
