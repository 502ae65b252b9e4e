//! The scan of a content tree: what is there, and the id of each content.
//!
//! Knows how to walk one or several directories into one sorted [`Tree`], what
//! of it cannot be distributed, and how not to read again what a stat cache
//! knows. Promises that an entry's content existed as a whole: a file is the
//! same before and after it is read, [`Tree::open`] gives that file and no
//! other, and [`Tree::recheck`] finds whatever changed in between. All that is
//! wrong is told together. Nothing outside of the roots is read, whoever swaps
//! directories for links meanwhile (but in [`SymlinkMode::Follow`]).
//!
//! ```text
//! walk (one thread, in path order) ─ batches, with what the stat cache knows ─> workers
//!   ^                                                                             │ lstat; open, fstat, read, fstat
//!   └ rules: what is left out         tree <─ merge, links, names <─ in order ────┘
//! ```
//!
//! Refuses to know manifests, releases and mirrors.

mod content;
mod error;
mod examine;
mod links;
mod names;
mod recheck;
mod rules;
mod stat_cache;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod workers;

use std::path::PathBuf;

pub use error::{RejectedPath, ScanError, TreeChange, TreeChangeKind};
pub use tree::Tree;

use crate::fsx::FileStat;
use crate::hash::ObjectId;
use crate::tree_path::{LinkTarget, TreePath};

/// A directory whose entries are distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The directory; a link to one is followed once, when the scan begins.
    pub path: PathBuf,
    /// The directory of the tree in which its entries are; the tree's root if nothing.
    pub at: Option<TreePath>,
}

/// What becomes of symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SymlinkMode {
    /// They are distributed as links, if they are relative and stay inside the tree.
    #[default]
    Keep,
    /// What they point to is distributed, also from outside of the tree.
    Follow,
    /// Each is an offender.
    Refuse,
}

/// What becomes of names that other systems cannot hold or tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameRule {
    /// They are warned of.
    #[default]
    Warn,
    /// Each is an offender.
    Portable,
}

/// How a tree is scanned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanOptions {
    /// What is left out, in the syntax of `.gitignore`, relative to each root.
    /// Decides over the `.headwaterignore` files of the tree, of which any
    /// directory may have one and which are not distributed themselves.
    pub exclude: Vec<String>,
    /// What becomes of symbolic links.
    pub symlinks: SymlinkMode,
    /// What becomes of odd names.
    pub names: NameRule,
    /// Threads that read and hash; 0 for one a core.
    pub jobs: usize,
    /// Where the stat cache is kept; its directory is created. Without it every file is read.
    pub stat_cache: Option<PathBuf>,
}

/// One path of a scanned tree and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Where.
    pub path: TreePath,
    /// What.
    pub kind: TreeKind,
}

/// What is at a path of a scanned tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// A regular file.
    File {
        /// Its content.
        object: ObjectId,
        /// What it was when its content was that.
        stamp: FileStat,
        /// Whether anyone may execute it.
        exec: bool,
        /// Whether it begins with a private key.
        has_private_key: bool,
        /// The number of the root it is from.
        root: u16,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads, which is inside the tree.
        target: LinkTarget,
    },
}
