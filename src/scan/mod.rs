//! Scans a content tree: finds its entries, and the id of each file's content.
//!
//! The scan walks one or several directories into one sorted [`Tree`], finds paths that cannot be
//! distributed, and uses a stat cache to avoid reading unchanged files. Each entry's content
//! existed as a whole at one moment: a file does not change while it is read, [`Tree::open`] opens
//! exactly that file, and [`Tree::recheck`] finds every later change. All faults are reported
//! together. Nothing outside the roots is read, even if a link replaces a directory during the scan
//! (except in [`SymlinkMode::Follow`]).
//!
//! ```text
//! walk (one thread, path order) ─ batches, with entries of the stat cache ─> workers
//!   ^                                                               lstat, open, │
//!   │                                                         fstat, read, fstat │
//!   └ rules: what is excluded    tree <─ merge, links, names <─ in order ────────┘
//! ```
//!
//! This module does not know manifests, releases or mirrors.

mod content;
mod dir_stamp;
mod error;
mod examine;
mod links;
mod names;
mod open_root;
mod opener;
mod recheck;
mod rules;
mod stat_cache;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod workers;

use std::path::PathBuf;

use serde::Deserialize;

pub use error::{RejectedPath, ScanError, TreeChange, TreeChangeKind};
pub use tree::Tree;

use crate::fsx::FileStat;
use crate::hash::ObjectId;
use crate::tree_path::{LinkTarget, TreePath};

/// A directory whose entries are distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The directory. A link to a directory is resolved once, when the scan begins.
    pub path: PathBuf,
    /// The directory in the tree where the entries are placed; `None` for the root of the tree.
    pub tree_prefix: Option<TreePath>,
}

/// How symbolic links are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SymlinkMode {
    /// Links are distributed as links. They must be relative and stay inside the tree.
    #[default]
    Keep,
    /// The targets of links are distributed, even if they are outside the tree.
    Follow,
    /// Each link is an error.
    Refuse,
}

/// How the scan handles names that other systems cannot hold or cannot tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameRule {
    /// Such names cause a warning.
    #[default]
    Warn,
    /// Such names are errors.
    Portable,
}

/// The options of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanOptions {
    /// Patterns of entries to leave out, in `.gitignore` syntax, relative to each root. They take
    /// precedence over the `.headwaterignore` files in the tree. Any directory may have such a
    /// file; the files themselves are not distributed.
    pub exclude: Vec<String>,
    /// How symbolic links are handled.
    pub symlinks: SymlinkMode,
    /// How problematic names are handled.
    pub names: NameRule,
    /// Number of threads that read and hash; 0 for one per core.
    pub jobs: usize,
    /// The path of the stat cache. The scan creates its directory. If `None`, every file is read.
    pub stat_cache: Option<PathBuf>,
}

/// A path in a scanned tree, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// The path.
    pub path: TreePath,
    /// What is at the path.
    pub kind: TreeKind,
}

/// What is at a path in a scanned tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// A regular file.
    File {
        /// The id of the file's content.
        object: ObjectId,
        /// The stamp that the file had with this content.
        stamp: FileStat,
        /// Whether any execute bit is set.
        exec: bool,
        /// Whether the file begins with a private key.
        has_private_key: bool,
        /// The number of the file's root.
        root: u16,
    },
    /// A symbolic link.
    Symlink {
        /// The target, which is inside the tree.
        target: LinkTarget,
    },
}
