//! The stamps of directories, which prove without a walk that no name was added or removed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::open_root::OpenRoot;
use super::stat_cache::is_racy;
use crate::fsx::FileStat;

/// A directory, or a rules file, with the stamp that it had during the walk.
#[derive(Debug)]
pub(super) struct DirStamp {
    /// The path relative to the root.
    path: Vec<u8>,
    /// `None` if the stamp could not be read.
    stamp: Option<FileStat>,
}

impl DirStamp {
    pub(super) fn of(root: &OpenRoot, relative: &[u8]) -> Self {
        Self { path: relative.to_owned(), stamp: look(root, relative) }
    }

    /// Whether the stamp is unchanged and old enough to prove that nothing changed.
    pub(super) fn holds(&self, root: &OpenRoot, started: i64) -> bool {
        self.stamp.is_some_and(|stamp| !is_racy(&stamp, started))
            && look(root, &self.path) == self.stamp
    }
}

fn look(root: &OpenRoot, relative: &[u8]) -> Option<FileStat> {
    let path = if relative.is_empty() { b"." } else { relative };
    root.dir.look(OsStr::from_bytes(path)).ok().map(|seen| seen.stamp)
}
