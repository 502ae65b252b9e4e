//! What a worker does with a batch: look at each entry, and read those files
//! whose content is not known; or, in a second walk, compare.

use std::ffi::OsStr;
use std::fs::FileType;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::atomic::Ordering;

use walkdir::DirEntry;

use super::content::{ContentFault, ContentHasher, Opener};
use super::error::{Alteration, Fault, How, escape};
use super::pipeline::{Counters, Job};
use super::stat_cache::Known;
use super::walk::OpenRoot;
use super::{SymlinkMode, TreeEntry, TreeKind};
use crate::fsx::{FileKind, Seen};
use crate::tree_path::{LinkTarget, TreePath};

/// The entries of a batch, and what is wrong with the others.
#[derive(Debug, Default)]
pub(super) struct Examined {
    pub(super) entries: Vec<TreeEntry>,
    pub(super) faults: Vec<Fault>,
}

/// One worker's state.
#[derive(Debug)]
pub(super) struct Examiner<'a> {
    root: &'a OpenRoot,
    number: u16,
    symlinks: SymlinkMode,
    counters: &'a Counters,
    opener: Opener<'a>,
    hasher: ContentHasher,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(root: &'a OpenRoot, number: u16, symlinks: SymlinkMode, counters: &'a Counters) -> Self {
        let opener = Opener::new(root, symlinks == SymlinkMode::Follow);
        Self { root, number, symlinks, counters, opener, hasher: ContentHasher::new() }
    }

    /// Makes tree entries of a batch.
    pub(super) fn examine(&mut self, batch: Vec<Job<Option<Known>>>) -> Examined {
        let mut examined = Examined { entries: Vec::with_capacity(batch.len()), faults: Vec::new() };
        for job in batch {
            match self.entry(&job) {
                Ok(entry) => examined.entries.push(entry),
                Err(fault) => examined.faults.push(fault),
            }
        }
        examined
    }

    fn entry(&mut self, job: &Job<Option<Known>>) -> Result<TreeEntry, Fault> {
        let relative = self.root.relative(job.entry.path());
        let named = |fault| Fault::name(self.root.shown(relative), fault);
        let path = self.root.tree_path(relative).map_err(named)?;
        let kind = job.entry.file_type();
        let kind = if kind.is_file() {
            self.file(job, &path)?
        } else if kind.is_symlink() {
            TreeKind::Symlink { target: self.link(&path)? }
        } else {
            return Err(Fault::refused(self.root.shown(relative), special(kind)));
        };
        Ok(TreeEntry { path, kind })
    }

    fn file(&mut self, job: &Job<Option<Known>>, path: &TreePath) -> Result<TreeKind, Fault> {
        let Seen { kind, mode, stamp } = self.look(&job.entry)?;
        if kind != FileKind::File {
            return Err(Fault::altered(shown(path), How::Changed));
        }
        let exec = mode & 0o111 != 0;
        let (object, has_private_key) = match job.known {
            // The stat cache has no private keys.
            Some(known) if known.stamp == stamp => (known.object, false),
            _ => {
                let relative = self.root.strip(path);
                let hashed = self.hasher.hash(&mut self.opener, relative, &stamp, self.counters);
                let hashed = hashed.map_err(|fault| content_fault(path, &fault))?;
                self.counters.hashed_files.fetch_add(1, Ordering::Relaxed);
                hashed
            }
        };
        Ok(TreeKind::File { object, stamp, exec, has_private_key, root: self.number })
    }

    fn link(&mut self, path: &TreePath) -> Result<LinkTarget, Fault> {
        if self.symlinks == SymlinkMode::Refuse {
            return Err(Fault::refused(shown(path), "is a symbolic link"));
        }
        let target = self.opener.read_link(self.root.strip(path)).map_err(|fault| content_fault(path, &fault))?;
        let refused = |why: String| Fault::refused(shown(path), why);
        let quoted = || escape(&target);
        let text = std::str::from_utf8(&target)
            .map_err(|_| refused(format!("is a symbolic link whose target {} is not UTF-8", quoted())))?;
        LinkTarget::new(text)
            .and_then(|target| target.check_at(path).map(|()| target))
            .map_err(|fault| refused(format!("is a symbolic link whose target {} {fault}", quoted())))
    }

    fn look(&self, entry: &DirEntry) -> Result<Seen, Fault> {
        let shown = || self.root.shown(self.root.relative(entry.path()));
        if self.symlinks == SymlinkMode::Follow {
            // walkdir knows which entries it reached through a link.
            let io = |error: walkdir::Error| match error.io_error() {
                Some(io) => Fault::io(shown(), io),
                None => Fault::altered(shown(), How::Changed),
            };
            return entry.metadata().map(|meta| Seen::from(&meta)).map_err(io);
        }
        // The way down to the root need not be gone again for each file.
        let relative = OsStr::from_bytes(self.root.relative(entry.path()));
        self.root.dir.look(relative).map_err(|error| Fault::io(shown(), &error.source))
    }

    /// What is no more as `entries` say. A job knows the number of its entry.
    pub(super) fn compare(&mut self, entries: &[TreeEntry], batch: Vec<Job<Option<usize>>>) -> Vec<Alteration> {
        batch.into_iter().filter_map(|job| self.alteration(entries, &job)).collect()
    }

    fn alteration(&mut self, entries: &[TreeEntry], job: &Job<Option<usize>>) -> Option<Alteration> {
        let shown = || self.root.shown(self.root.relative(job.entry.path()));
        let Some(before) = job.known.and_then(|index| entries.get(index)) else {
            return Some(Alteration { path: shown(), how: How::Added });
        };
        let same = match &before.kind {
            TreeKind::File { stamp, .. } => {
                self.look(&job.entry).map(|seen| seen.kind == FileKind::File && seen.stamp == *stamp)
            }
            TreeKind::Symlink { target } => self.link(&before.path).map(|now| now == *target),
        };
        match same {
            Ok(true) => None,
            Ok(false) => Some(Alteration { path: shown(), how: How::Changed }),
            Err(fault) => Some(fault.into_alteration()),
        }
    }
}

fn shown(path: &TreePath) -> String {
    escape(path.as_str().as_bytes())
}

fn content_fault(path: &TreePath, fault: &ContentFault) -> Fault {
    match fault {
        ContentFault::Changed | ContentFault::Stopped => Fault::altered(shown(path), How::Changed),
        ContentFault::Io(error) => Fault::io(shown(path), error),
    }
}

fn special(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "is a fifo"
    } else if kind.is_socket() {
        "is a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "is a device"
    } else {
        "is neither a file nor a symbolic link"
    }
}
