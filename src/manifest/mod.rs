#![doc = include_str!("FORMAT.md")]
//!
//! ---
//!
//! This room knows entries, the one spelling of a manifest, how two manifests
//! differ and how the difference travels. It touches no file, socket, clock
//! or environment: bytes come from a [`std::io::Read`] and go to a
//! [`std::io::Write`] that somebody else opened. Everything streams: a
//! manifest of a million entries is a normal size.

mod codec;
mod content;
pub mod delta;
mod diff;
mod entry;
mod read_ahead;

pub use codec::{MAX_ENTRIES, ManifestReader, ManifestWriter, Totals, parse_entry_line, push_entry_line};
pub use content::ContentIdHasher;
pub(crate) use diff::join_renames;
pub use diff::{Change, ChangeKind, Diff, Pair, Pairs, diff};
pub use entry::{Entry, EntryKind, FileEntry};
pub use read_ahead::read_ahead;

use std::io;

use crate::hash::ManifestId;
use crate::tree_path::PathFault;

/// The window of a compressed manifest or change has at most 8 MiB: bounds the memory of whoever reads.
pub const WINDOW_LOG_MAX: u32 = 23;

/// What is wrong with a manifest or its transit form.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Written by a newer headwater.
    #[error("manifest format version {found} is newer than this headwater knows (1); upgrade headwater")]
    Version {
        /// The version it claims.
        found: String,
    },
    /// The first line is no manifest header.
    #[error("not a manifest: its first line is no header")]
    Header,
    /// A line that is not in the canonical form.
    #[error("manifest line {line} is not canonical: {what}")]
    Line {
        /// Counted from 1, the header's.
        line: u64,
        /// What was expected.
        what: &'static str,
    },
    /// A path or symlink target that breaks a rule.
    #[error("manifest line {line}: a path or target {fault}")]
    Path {
        /// Counted from 1, the header's.
        line: u64,
        /// The rule.
        fault: PathFault,
    },
    /// Entries that are not in ascending order of their paths' bytes.
    #[error("manifest entry {path:?} is out of order or there twice")]
    Order {
        /// The second of the two.
        path: String,
    },
    /// An entry below another entry, which is a file or a link.
    #[error("manifest entry {path:?} lies below an entry that is no directory")]
    BelowFile {
        /// The lower one.
        path: String,
    },
    /// More entries than [`MAX_ENTRIES`].
    #[error("manifest has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// The work is no longer wanted.
    #[error("stopped")]
    Cancelled,
    /// There is no memory for what a manifest change announces.
    #[error("there is no memory for this manifest change")]
    NoMemory,
    /// Complete and canonical, but not the manifest that was asked for.
    #[error("manifest {found} stands where {expected} should: it is damaged")]
    WrongId {
        /// The id asked for.
        expected: ManifestId,
        /// The id of the bytes.
        found: ManifestId,
    },
    /// A manifest change that does not fit its base or lies about itself.
    #[error("manifest change is invalid: {what}")]
    Transit {
        /// What does not hold.
        what: &'static str,
    },
    /// The bytes could not be read or written.
    #[error("cannot read or write a manifest")]
    Io(#[from] io::Error),
}
