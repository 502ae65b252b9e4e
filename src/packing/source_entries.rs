//! The content of a push, as one list of live entries.

use std::sync::Arc;

use crate::hash::ContentId;
use crate::manifest::{ContentIdHasher, Entry, EntryKind, FileEntry};
use crate::scan::{Tree, TreeKind};
use crate::tree_path::TreePath;

/// The live entries that the push publishes, in path order.
#[derive(Debug)]
pub(crate) enum SourceEntries {
    /// A scanned tree.
    Tree(Arc<Tree>),
    /// The live entries of a manifest.
    Entries(Vec<Entry>),
}

impl SourceEntries {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Tree(tree) => tree.entries().len(),
            Self::Entries(entries) => entries.len(),
        }
    }

    pub(crate) fn path(&self, index: usize) -> &TreePath {
        match self {
            Self::Tree(tree) => &tree.entries()[index].path,
            Self::Entries(entries) => &entries[index].path,
        }
    }

    /// The entry at `index`. A file in a tree has its own modification time.
    pub(crate) fn entry(&self, index: usize) -> Entry {
        match self {
            Self::Entries(entries) => entries[index].clone(),
            Self::Tree(tree) => {
                let entry = &tree.entries()[index];
                let kind = match &entry.kind {
                    TreeKind::Symlink { target } => EntryKind::Symlink(target.clone()),
                    TreeKind::File { object, stamp, exec, .. } => EntryKind::File(FileEntry {
                        object: *object,
                        size: stamp.size,
                        // Whole seconds, as in manifests; a time before 1970 becomes 0.
                        mtime: u64::try_from(stamp.mtime_ns / 1_000_000_000).unwrap_or(0),
                        exec: *exec,
                    }),
                };
                Entry { path: entry.path.clone(), kind, until: None }
            }
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len()).map(|index| self.entry(index))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &TreePath> + Clone + '_ {
        (0..self.len()).map(|index| self.path(index))
    }

    pub(crate) const fn is_tree(&self) -> bool {
        matches!(self, Self::Tree(_))
    }

    /// The paths of scanned files that begin with a private key.
    pub(crate) fn private_keys(&self) -> impl Iterator<Item = &TreePath> {
        let entries = match self {
            Self::Tree(tree) => tree.entries(),
            Self::Entries(_) => &[],
        };
        let is_key = |kind: &TreeKind| matches!(kind, TreeKind::File { has_private_key: true, .. });
        entries.iter().filter(move |entry| is_key(&entry.kind)).map(|entry| &entry.path)
    }

    /// The index of the first path that is not below `text`.
    pub(crate) fn position(&self, text: &str) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            // Written by hand, because a tree and a list of entries have no common slice. Adding
            // the two bounds could overflow.
            let middle = low + (high - low) / 2;
            if self.path(middle).as_str() < text { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The entry whose path is exactly `text`.
    pub(crate) fn find(&self, text: &str) -> Option<Entry> {
        let at = self.position(text);
        (at < self.len() && self.path(at).as_str() == text).then(|| self.entry(at))
    }

    /// The id of the content that visitors see.
    pub(crate) fn content_id(&self) -> ContentId {
        let mut hasher = ContentIdHasher::default();
        self.entries().for_each(|entry| hasher.push(&entry));
        hasher.finish()
    }
}
