//! One path of a manifest.

use crate::hash::ObjectId;
use crate::tree_path::{LinkTarget, TreePath};

/// One path and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: TreePath,
    /// What.
    pub kind: EntryKind,
    /// Set on a retired entry: the time, in seconds since 1970, until which it is still served.
    pub until: Option<u64>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File(FileEntry),
    /// A symbolic link.
    Symlink(LinkTarget),
}

/// The file at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileEntry {
    /// Its content.
    pub object: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// Its modification time on every mirror, in seconds since 1970.
    pub mtime: u64,
    /// Whether it may be executed: the only mode there is.
    pub exec: bool,
}

impl Entry {
    /// Whether the tree has it, as opposed to retired.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.until.is_none()
    }

    /// Whether it is retired and its time is over at `time`.
    #[must_use]
    pub fn has_expired(&self, time: u64) -> bool {
        self.until.is_some_and(|until| until <= time)
    }

    /// The file, unless it is a link.
    #[must_use]
    pub const fn file(&self) -> Option<&FileEntry> {
        match &self.kind {
            EntryKind::File(file) => Some(file),
            EntryKind::Symlink(_) => None,
        }
    }

    /// Whether a visitor gets the same from both: content, exec and target, not times.
    #[must_use]
    pub fn has_content_of(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (EntryKind::File(a), EntryKind::File(b)) => a.object == b.object && a.exec == b.exec,
            (EntryKind::Symlink(a), EntryKind::Symlink(b)) => a == b,
            _ => false,
        }
    }
}
