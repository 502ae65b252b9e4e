//! Directory stamps, which prove without a walk that no name was added or removed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::open_root::OpenRoot;
use super::stat_cache::is_racy;
use crate::fsx::FileStat;

/// A directory or a rules file, with the stamp that it had during the walk.
#[derive(Debug)]
pub(super) struct DirStamp {
    /// The path relative to the root.
    path: Vec<u8>,
    /// `None` if the stamp could not be read.
    stamp: Option<FileStat>,
}

impl DirStamp {
    pub(super) fn of(root: &OpenRoot, relative: &[u8]) -> Self {
        Self { path: relative.to_owned(), stamp: stat(root, relative) }
    }

    /// Whether the stamp is unchanged and old enough to prove that nothing changed.
    pub(super) fn is_unchanged(&self, root: &OpenRoot, started: i64) -> bool {
        self.stamp.is_some_and(|stamp| !is_racy(&stamp, started))
            && stat(root, &self.path) == self.stamp
    }
}

fn stat(root: &OpenRoot, relative: &[u8]) -> Option<FileStat> {
    let path = if relative.is_empty() { b"." } else { relative };
    root.dir.file_info(OsStr::from_bytes(path)).ok().map(|seen| seen.stamp)
}
