//! Opens files without leaving the tree, and only if they have not changed since the walk.
//!
//! Every directory below the root is opened step by step, without following links. So a process
//! that replaces a directory with a link cannot make the scan read files outside. (In follow mode,
//! the operator has asked for links to be followed.)

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use super::open_root::OpenRoot;
use crate::fsx::{self, Dir, FileStat, IoError};

/// Why the content of an entry could not be read.
#[derive(Debug)]
pub(super) enum ContentFault {
    /// The file does not match its stamp, or changed while it was read.
    Changed,
    /// The scan was stopped.
    Stopped,
    Io(io::Error),
}

impl From<IoError> for ContentFault {
    fn from(error: IoError) -> Self {
        Self::Io(error.source)
    }
}

/// Opens entries in one root. Keeps the last directory open, because the next entry is usually in
/// it too. Keeps only one, because a tree may be deeper than the limit on open files.
#[derive(Debug)]
pub(super) struct Opener<'a> {
    root: &'a OpenRoot,
    follow: bool,
    last: Option<(String, Dir)>,
}

impl<'a> Opener<'a> {
    pub(super) const fn new(root: &'a OpenRoot, follow: bool) -> Self {
        Self { root, follow, last: None }
    }

    /// The open directory that contains the entry at `relative`, and the entry's name in it.
    fn open_parent<'p>(&mut self, relative: &'p str) -> fsx::Result<(&Dir, &'p str)> {
        let Some((parent, name)) = relative.rsplit_once('/') else {
            return Ok((&self.root.dir, relative));
        };
        if self.last.as_ref().is_none_or(|(path, _)| path != parent) {
            // Closed before the next directory is opened, so that an opener needs at most two
            // descriptors.
            self.last = None;
            let mut names = parent.split('/');
            let mut dir = self.root.dir.open_dir(names.next().unwrap_or_default())?;
            for name in names {
                dir = dir.open_dir(name)?;
            }
            self.last = Some((parent.to_owned(), dir));
        }
        Ok((self.last.as_ref().map_or(&self.root.dir, |(_, dir)| dir), name))
    }

    /// Opens the file at `relative` without checking its stamp.
    pub(super) fn open_unchecked(&mut self, relative: &str) -> fsx::Result<File> {
        if self.follow {
            // The operator asked to follow links, so they are resolved first. A link that appears
            // later is refused.
            return fsx::open_read(&fsx::resolve(&self.root.path.join(relative))?);
        }
        let (dir, name) = self.open_parent(relative)?;
        dir.open_file(name)
    }

    /// Opens the file at `relative` if it matches `stamp`.
    pub(super) fn open(&mut self, relative: &str, stamp: &FileStat) -> Result<File, ContentFault> {
        check_stamp(self.open_unchecked(relative)?, relative, stamp)
    }

    /// Like [`Opener::open`], but for a single file. Keeps no directory open.
    pub(super) fn open_once(&self, relative: &str, stamp: &FileStat) -> Result<File, ContentFault> {
        let file = if self.follow {
            fsx::open_read(&fsx::resolve(&self.root.path.join(relative))?)?
        } else {
            self.root.dir.open_file_below(relative)?
        };
        check_stamp(file, relative, stamp)
    }

    /// Reads the target of the link at `relative`.
    pub(super) fn read_link(&mut self, relative: &str) -> Result<Vec<u8>, ContentFault> {
        let (dir, name) = self.open_parent(relative)?;
        match dir.read_link(name) {
            Ok(Some(target)) => Ok(target.into_encoded_bytes()),
            Ok(None) => Err(ContentFault::Io(io::ErrorKind::NotFound.into())),
            // The entry is no longer a link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(ContentFault::Changed),
            Err(error) => Err(error.into()),
        }
    }
}

fn check_stamp(file: File, relative: &str, stamp: &FileStat) -> Result<File, ContentFault> {
    if matches_stamp(&fsx::fstat(&file, Path::new(relative))?, stamp) {
        Ok(file)
    } else {
        Err(ContentFault::Changed)
    }
}

pub(super) fn matches_stamp(meta: &Metadata, stamp: &FileStat) -> bool {
    // Size, both times, inode and device must all be equal. Programs cannot set `ctime`, so a file
    // whose `mtime` was set back still differs.
    meta.is_file() && FileStat::of(meta) == *stamp
}

#[cfg(test)]
mod tests {
    use super::super::Root;
    use super::*;

    #[test]
    fn swapped_directory_is_not_read_through() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("f"), "secret").unwrap();
        let stamp = FileStat::of(&std::fs::metadata(outside.join("f")).unwrap());
        std::fs::remove_dir(tree.join("d")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("d")).unwrap();
        let root = OpenRoot::open(&Root { path: tree, tree_prefix: None }).unwrap();
        assert!(matches!(Opener::new(&root, false).open("d/f", &stamp), Err(ContentFault::Io(_))));
        assert!(Opener::new(&root, true).open("d/f", &stamp).is_ok());
    }
}
