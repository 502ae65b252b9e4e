//! A manifest entry: one path.

use crate::hash::ObjectId;
use crate::tree_path::{LinkTarget, TreePath};

/// A path in a manifest, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: TreePath,
    /// What is at the path.
    pub kind: EntryKind,
    /// When a retired entry stops being served, in seconds since 1970; `None` for a live entry.
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
    /// The object that is the file's content.
    pub object: ObjectId,
    /// The length of the file in bytes.
    pub size: u64,
    /// The file's modification time on every mirror, in seconds since 1970.
    pub mtime: u64,
    /// Whether the file is executable. Manifests store no other mode bits.
    pub exec: bool,
}

impl Entry {
    /// Whether the tree has the entry; `false` if it is retired.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.until.is_none()
    }

    /// Whether the entry is retired and its `until` is at or before `time`.
    #[must_use]
    pub fn has_expired(&self, time: u64) -> bool {
        self.until.is_some_and(|until| until <= time)
    }

    /// The file; `None` for a link.
    #[must_use]
    pub const fn file(&self) -> Option<&FileEntry> {
        match &self.kind {
            EntryKind::File(file) => Some(file),
            EntryKind::Symlink(_) => None,
        }
    }

    /// Whether both entries look the same to visitors: compares content, exec bit and target, but
    /// not times.
    #[must_use]
    pub fn has_content_of(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (EntryKind::File(a), EntryKind::File(b)) => a.object == b.object && a.exec == b.exec,
            (EntryKind::Symlink(a), EntryKind::Symlink(b)) => a == b,
            _ => false,
        }
    }
}
