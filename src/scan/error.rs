//! Scan errors, and their messages.
//!
//! Faults are collected, so that the operator sees them all together. File names may contain
//! anything, so every name is escaped before it becomes part of a message.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::fsx::IoError;
use crate::text;
use crate::threads::ThreadError;
use crate::tree_path::PathFault;

/// Maximum number of paths in a one-line message. Any others are only counted.
const MAX_INLINE_PATHS: usize = 20;
/// Maximum number of paths that get a line each. Any others are only counted.
const MAX_LISTED_PATHS: usize = 10;

/// A path that cannot be distributed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejectedPath {
    /// The path, escaped for a terminal.
    pub path: String,
    /// What is wrong, worded so that it can follow the path, such as `is a fifo`.
    pub why: String,
}

/// How a path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TreeChangeKind {
    /// The kind or the content of the path changed.
    Changed,
    /// The path is new.
    Added,
    /// The path was removed.
    Removed,
}

/// A path that changed during the scan or afterwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeChange {
    /// The path, escaped for a terminal.
    pub path: String,
    /// How it changed.
    pub kind: TreeChangeKind,
}

/// Why a content tree could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A root is missing, is not a directory, or cannot be read.
    #[error("content tree {} is not a readable directory", escape_path(path))]
    Root {
        /// The root, as configured.
        path: PathBuf,
        /// Why it cannot be opened.
        source: IoError,
    },
    /// There are more roots than 16 bits can number.
    #[error("more than 65,535 content trees")]
    TooManyRoots,
    /// An exclusion is not a valid pattern.
    #[error("exclude pattern {} is invalid", escape(pattern.as_bytes()))]
    Exclude {
        /// The pattern, as configured.
        pattern: String,
        /// What is wrong with it.
        source: ignore::Error,
    },
    /// Paths that cannot be distributed.
    #[error("{} cannot be distributed: {}", paths(list.len()), PathList(list, list.len()))]
    RejectedPaths {
        /// All such paths, sorted.
        list: Vec<RejectedPath>,
    },
    /// Files or directories that cannot be read. Reported only if every path could be distributed.
    #[error("{} cannot be read: {}", paths(list.len()), PathList(list, list.len()))]
    Unreadable {
        /// All of them, sorted by path.
        list: Vec<RejectedPath>,
    },
    /// The tree changed during the scan or afterwards.
    #[error("content changed while it was read: {}", PathList(list, *count))]
    Changed {
        /// The first changes, sorted.
        list: Vec<TreeChange>,
        /// The total number of changes.
        count: usize,
    },
    /// The scan was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// No thread could be started.
    #[error(transparent)]
    Thread(ThreadError),
}

impl ScanError {
    /// The error in a few words, and a line for each of its paths. If there are many paths, only
    /// the first few get a line, and a last line counts the rest. `None` if the error is not about
    /// several paths.
    #[must_use]
    pub fn path_lines(&self) -> Option<(String, Vec<String>)> {
        let (words, lines, count) = match self {
            Self::RejectedPaths { list } => {
                ("cannot be distributed", first_lines(list), list.len())
            }
            Self::Unreadable { list } => ("cannot be read", first_lines(list), list.len()),
            Self::Changed { list, count } => {
                ("changed while the content was read", first_lines(list), *count)
            }
            _ => return None,
        };
        // Cannot underflow: the lines come from the list, and `count` is at least the list's
        // length.
        let more = count - lines.len();
        let rest = (more > 0).then(|| format!("and {more} more"));
        (count > 1)
            .then(|| (format!("{} {words}", paths(count)), lines.into_iter().chain(rest).collect()))
    }
}

fn first_lines(list: &[impl fmt::Display]) -> Vec<String> {
    list.iter().take(MAX_LISTED_PATHS).map(ToString::to_string).collect()
}

/// A single fault, before all faults become one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScanFault {
    Rejected(RejectedPath),
    Unreadable(RejectedPath),
    Changed(TreeChange),
}

impl ScanFault {
    pub(super) fn rejected(path: String, why: impl Into<String>) -> Self {
        Self::Rejected(RejectedPath { path, why: why.into() })
    }

    pub(super) const fn changed(path: String, how: TreeChangeKind) -> Self {
        Self::Changed(TreeChange { path, kind: how })
    }

    pub(super) fn bad_name(path: String, fault: PathFault) -> Self {
        Self::rejected(path, fault.to_string())
    }

    /// Converts a system error for a path that existed a moment before.
    pub(super) fn from_io(path: String, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            // The walk has just seen this path.
            Kind::NotFound => Self::changed(path, TreeChangeKind::Removed),
            // A directory or file was replaced by a link, or a directory by a file.
            Kind::NotADirectory | Kind::IsADirectory => {
                Self::changed(path, TreeChangeKind::Changed)
            }
            _ if is_link_error(error) => Self::changed(path, TreeChangeKind::Changed),
            _ => Self::Unreadable(RejectedPath { path, why: format!("cannot be read ({error})") }),
        }
    }

    /// Converts a fault found when rechecking a valid tree.
    pub(super) fn into_tree_change(self) -> TreeChange {
        match self {
            Self::Changed(change) => change,
            Self::Rejected(rejected) | Self::Unreadable(rejected) => {
                TreeChange { path: rejected.path, kind: TreeChangeKind::Changed }
            }
        }
    }
}

/// Whether a path was refused because it is a link or because links form a loop.
pub(super) fn is_link_error(error: &io::Error) -> bool {
    // `ErrorKind::FilesystemLoop` is not stable yet.
    Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// Combines all `faults` into one error. Faults that an operator must fix take precedence over
/// those that another attempt may not meet.
pub(super) fn combine_faults(faults: Vec<ScanFault>) -> Result<(), ScanError> {
    let is_refused = faults.iter().any(|fault| matches!(fault, ScanFault::Rejected(_)));
    let (mut list, mut altered) = (Vec::new(), Vec::new());
    for fault in faults {
        match fault {
            ScanFault::Rejected(rejected) | ScanFault::Unreadable(rejected) => list.push(rejected),
            ScanFault::Changed(change) => altered.push(change),
        }
    }
    list.sort_unstable();
    match (list.is_empty(), is_refused) {
        (true, _) => changed_error(altered),
        (false, true) => Err(ScanError::RejectedPaths { list }),
        (false, false) => Err(ScanError::Unreadable { list }),
    }
}

/// The error for `list`, unless it is empty.
pub(super) fn changed_error(mut list: Vec<TreeChange>) -> Result<(), ScanError> {
    if list.is_empty() {
        return Ok(());
    }
    list.sort_unstable();
    let count = list.len();
    list.truncate(MAX_INLINE_PATHS);
    Err(ScanError::Changed { list, count })
}

fn paths(count: usize) -> String {
    if count == 1 { "1 path".to_owned() } else { format!("{count} paths") }
}

impl fmt::Display for RejectedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.why)
    }
}

impl fmt::Display for TreeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.kind {
            TreeChangeKind::Changed => "changed",
            TreeChangeKind::Added => "was added",
            TreeChangeKind::Removed => "was removed",
        };
        write!(f, "{} {how}", self.path)
    }
}

/// The first items in a list, and the total number of items.
struct PathList<'a, T>(&'a [T], usize);

impl<T: fmt::Display> fmt::Display for PathList<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().take(MAX_INLINE_PATHS).enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "; " })?;
        }
        match self.1.saturating_sub(MAX_INLINE_PATHS.min(self.0.len())) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Escapes everything invisible in `bytes`. Bytes that are not UTF-8 become `\x..`.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&text::escape(&chunk.valid().replace('\\', "\\\\")));
        for byte in chunk.invalid() {
            // Writing to a `String` cannot fail.
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text
}

pub(super) fn escape_path(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_in_messages() {
        assert_eq!(escape(b"a\xffb\x1b[31m\n\\"), "a\\xffb\\u{1b}[31m\\u{a}\\\\");
        assert_eq!(escape("é\u{9b}\u{202e}x\u{200b}".as_bytes()), "é\\u{9b}\\u{202e}x\\u{200b}");
    }

    #[test]
    fn twenty_rejected_paths_are_named_and_the_rest_counted() {
        let all =
            (0..23).rev().map(|n| ScanFault::rejected(format!("f{n:02}"), "is a fifo")).collect();
        let text = combine_faults(all).unwrap_err().to_string();
        assert!(
            text.starts_with("23 paths cannot be distributed: f00 is a fifo; f01 is a fifo; "),
            "{text}"
        );
        assert!(text.ends_with("; f19 is a fifo; and 3 more"), "{text}");
    }

    #[test]
    fn ten_rejected_paths_have_a_line_each() {
        let refused = |count: usize| {
            let all =
                (0..count).map(|n| ScanFault::rejected(format!("f{n:02}"), "is a fifo")).collect();
            combine_faults(all).unwrap_err().path_lines()
        };
        let (words, lines) = refused(23).unwrap();
        assert_eq!((&*words, lines.len()), ("23 paths cannot be distributed", 11));
        assert_eq!((&*lines[9], &*lines[10]), ("f09 is a fifo", "and 13 more"));
        assert_eq!(refused(2).unwrap().1, ["f00 is a fifo", "f01 is a fifo"]);
        assert_eq!(refused(1), None);
        let gone = (0..30)
            .map(|n| ScanFault::changed(format!("f{n:02}"), TreeChangeKind::Removed))
            .collect();
        let (words, lines) = combine_faults(gone).unwrap_err().path_lines().unwrap();
        assert_eq!(words, "30 paths changed while the content was read");
        assert_eq!((&*lines[0], &*lines[10]), ("f00 was removed", "and 20 more"));
    }

    #[test]
    fn rejected_paths_are_reported_before_unreadable_ones() {
        let denied = || ScanFault::from_io("d".to_owned(), &io::ErrorKind::PermissionDenied.into());
        let gone = || ScanFault::from_io("g".to_owned(), &io::ErrorKind::NotFound.into());
        let fifo = || ScanFault::rejected("f".to_owned(), "is a fifo");
        assert!(matches!(
            combine_faults(vec![gone(), denied(), fifo()]),
            Err(ScanError::RejectedPaths { list }) if list.len() == 2
        ));
        assert!(matches!(
            combine_faults(vec![gone(), denied()]),
            Err(ScanError::Unreadable { list }) if list.len() == 1
        ));
        assert!(matches!(combine_faults(vec![gone()]), Err(ScanError::Changed { count: 1, .. })));
        assert!(combine_faults(Vec::new()).is_ok());
    }
}
