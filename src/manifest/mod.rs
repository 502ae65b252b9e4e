#![doc = include_str!("FORMAT.md")]
//!
//! ---
//!
//! This module defines entries, the canonical form of a manifest, the comparison of two manifests,
//! and the delta between them. It uses no file, socket, clock or environment: the caller opens the
//! [`std::io::Read`] and [`std::io::Write`] that this module uses. Everything is streamed, because
//! a manifest with a million entries is nothing unusual.

mod codec;
mod content;
pub mod delta;
mod diff;
mod entry;
mod read_ahead;

pub use codec::{
    MAX_ENTRIES, ManifestReader, ManifestWriter, Totals, parse_entry_line, push_entry_line,
};
pub use content::ContentIdHasher;
pub(crate) use diff::join_renames;
pub use diff::{Change, ChangeKind, Diff, Pair, Pairs, diff};
pub use entry::{Entry, EntryKind, FileEntry};
pub use read_ahead::read_ahead;

use std::io;

use crate::hash::ManifestId;
use crate::tree_path::PathFault;

/// Maximum window of a compressed manifest or delta, as a power of two: 8 MiB. It bounds a reader's
/// memory.
pub const WINDOW_LOG_MAX: u32 = 23;

/// Why a manifest, or a delta of one, cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest was written by a newer headwater.
    #[error(
        "the manifest has format version {found}, but this headwater supports only version 1; \
         upgrade headwater"
    )]
    Version {
        /// The version that the manifest declares.
        found: String,
    },
    /// The first line is not a manifest header.
    #[error("not a manifest: the first line is not a header")]
    Header,
    /// A line is not in canonical form.
    #[error("manifest line {line} is not canonical: {what}")]
    Line {
        /// The line number; the header is line 1.
        line: u64,
        /// What was expected.
        what: &'static str,
    },
    /// A path or symlink target breaks a rule.
    #[error("manifest line {line}: a path or target {fault}")]
    Path {
        /// The line number; the header is line 1.
        line: u64,
        /// The broken rule.
        fault: PathFault,
    },
    /// The entries are not in ascending byte order by path.
    #[error("manifest entry {path:?} is out of order or a duplicate")]
    Order {
        /// The path of the second entry.
        path: String,
    },
    /// An entry is below another entry, which is a file or a link.
    #[error("manifest entry {path:?} is below an entry that is not a directory")]
    BelowFile {
        /// The path of the lower entry.
        path: String,
    },
    /// More entries than [`MAX_ENTRIES`].
    #[error("manifest has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// The operation was cancelled.
    #[error("stopped")]
    Cancelled,
    /// Too little memory is free for what a manifest delta announces.
    #[error("not enough free memory for this manifest change")]
    NoMemory,
    /// The manifest is canonical, but its id is not the expected one.
    #[error("manifest digest mismatch: expected {expected}, got {found}")]
    WrongId {
        /// The expected id.
        expected: ManifestId,
        /// The id of the bytes.
        found: ManifestId,
    },
    /// A manifest delta does not match its base, or lacks what it announces.
    #[error("manifest change is invalid: {what}")]
    Delta {
        /// What is wrong.
        what: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot read or write a manifest")]
    Io(#[from] io::Error),
}
