//! The work on a batch: examines each entry, and hashes files that are not in the stat cache. In a
//! recheck, compares each entry instead.

use std::ffi::OsStr;
use std::fs::FileType;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::atomic::Ordering;

use walkdir::DirEntry;

use super::content::FileHasher;
use super::error::{ScanFault, TreeChange, TreeChangeKind, escape};
use super::open_root::OpenRoot;
use super::opener::{ContentFault, Opener};
use super::stat_cache::KnownFile;
use super::workers::{Counters, EntryToExamine};
use super::{SymlinkMode, TreeEntry, TreeKind};
use crate::fsx::{FileInfo, FileKind};
use crate::tree_path::{LinkTarget, TreePath};

/// The examined entries in a batch, and the faults found.
#[derive(Debug, Default)]
pub(super) struct Examined {
    pub(super) entries: Vec<TreeEntry>,
    pub(super) faults: Vec<ScanFault>,
}

/// The state of one worker.
#[derive(Debug)]
pub(super) struct Examiner<'a> {
    root: &'a OpenRoot,
    root_number: u16,
    symlinks: SymlinkMode,
    counters: &'a Counters,
    opener: Opener<'a>,
    hasher: FileHasher,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(
        root: &'a OpenRoot,
        root_number: u16,
        symlinks: SymlinkMode,
        counters: &'a Counters,
    ) -> Self {
        let opener = Opener::new(root, symlinks == SymlinkMode::Follow);
        Self { root, root_number, symlinks, counters, opener, hasher: FileHasher::new() }
    }

    pub(super) fn examine(&mut self, batch: Vec<EntryToExamine<Option<KnownFile>>>) -> Examined {
        let mut examined =
            Examined { entries: Vec::with_capacity(batch.len()), faults: Vec::new() };
        for job in batch {
            match self.entry(&job) {
                Ok(entry) => examined.entries.push(entry),
                Err(fault) => examined.faults.push(fault),
            }
        }
        examined
    }

    fn entry(&mut self, job: &EntryToExamine<Option<KnownFile>>) -> Result<TreeEntry, ScanFault> {
        let relative = self.root.relative(job.entry.path());
        // The name comes first: a path that cannot be distributed is not opened.
        let named = |fault| ScanFault::bad_name(self.root.display_path(relative), fault);
        let path = self.root.tree_path(relative).map_err(named)?;
        let kind = job.entry.file_type();
        let kind = if kind.is_file() {
            self.file(job, &path)?
        } else if kind.is_symlink() {
            TreeKind::Symlink { target: self.link(&path)? }
        } else {
            return Err(ScanFault::rejected(
                self.root.display_path(relative),
                special_file_reason(kind),
            ));
        };
        Ok(TreeEntry { path, kind })
    }

    fn file(
        &mut self,
        job: &EntryToExamine<Option<KnownFile>>,
        path: &TreePath,
    ) -> Result<TreeKind, ScanFault> {
        let FileInfo { kind, mode, stamp } = self.stat_entry(&job.entry)?;
        // The directory listing said that the entry is a file.
        if kind != FileKind::File {
            return Err(ScanFault::changed(shown(path), TreeChangeKind::Changed));
        }
        let exec = mode & 0o111 != 0;
        let (object, has_private_key) = match job.known {
            // The stat cache has no files with a private key. `StatCache::find` has left out
            // records whose stamp proves nothing.
            Some(known) if known.stamp == stamp => (known.object, false),
            _ => {
                let relative = self.root.relative_in_tree(path);
                let hashed = self.hasher.hash(&mut self.opener, relative, &stamp, self.counters);
                let hashed = hashed.map_err(|fault| content_fault(path, &fault))?;
                self.counters.hashed_files.fetch_add(1, Ordering::Relaxed);
                hashed
            }
        };
        Ok(TreeKind::File { object, stamp, exec, has_private_key, root: self.root_number })
    }

    fn link(&mut self, path: &TreePath) -> Result<LinkTarget, ScanFault> {
        if self.symlinks == SymlinkMode::Refuse {
            return Err(ScanFault::rejected(shown(path), "is a symbolic link"));
        }
        let target = self
            .opener
            .read_link(self.root.relative_in_tree(path))
            .map_err(|fault| content_fault(path, &fault))?;
        let refused = |why: String| ScanFault::rejected(shown(path), why);
        let quoted = || escape(&target);
        let text = std::str::from_utf8(&target).map_err(|_| {
            refused(format!("is a symbolic link whose target {} is not UTF-8", quoted()))
        })?;
        LinkTarget::new(text).and_then(|target| target.check_at(path).map(|()| target)).map_err(
            |fault| refused(format!("is a symbolic link whose target {} {fault}", quoted())),
        )
    }

    fn stat_entry(&self, entry: &DirEntry) -> Result<FileInfo, ScanFault> {
        let shown = || self.root.display_path(self.root.relative(entry.path()));
        if self.symlinks == SymlinkMode::Follow {
            // walkdir knows which entries it reached through a link.
            let io = |error: walkdir::Error| match error.io_error() {
                Some(io) => ScanFault::from_io(shown(), io),
                None => ScanFault::changed(shown(), TreeChangeKind::Changed),
            };
            return entry.metadata().map(|meta| FileInfo::from(&meta)).map_err(io);
        }
        // Relative to the open root, so that the kernel does not resolve the root's path for each
        // file.
        let relative = OsStr::from_bytes(self.root.relative(entry.path()));
        self.root
            .dir
            .file_info(relative)
            .map_err(|error| ScanFault::from_io(shown(), &error.source))
    }

    /// Returns the entries in a batch that differ from `entries`. Each job contains the index of
    /// its entry.
    pub(super) fn compare(
        &mut self,
        entries: &[TreeEntry],
        batch: Vec<EntryToExamine<Option<usize>>>,
    ) -> Vec<TreeChange> {
        batch.into_iter().filter_map(|job| self.change(entries, &job)).collect()
    }

    fn change(
        &mut self,
        entries: &[TreeEntry],
        job: &EntryToExamine<Option<usize>>,
    ) -> Option<TreeChange> {
        let shown = || self.root.display_path(self.root.relative(job.entry.path()));
        let Some(before) = job.known.and_then(|index| entries.get(index)) else {
            return Some(TreeChange { path: shown(), kind: TreeChangeKind::Added });
        };
        // The execute bit needs no separate comparison: changing it changes `ctime`, which is part
        // of the stamp.
        let same = match &before.kind {
            TreeKind::File { stamp, .. } => self
                .stat_entry(&job.entry)
                .map(|seen| seen.kind == FileKind::File && seen.stamp == *stamp),
            TreeKind::Symlink { target } => self.link(&before.path).map(|now| now == *target),
        };
        match same {
            Ok(true) => None,
            Ok(false) => Some(TreeChange { path: shown(), kind: TreeChangeKind::Changed }),
            Err(fault) => Some(fault.into_tree_change()),
        }
    }
}

fn shown(path: &TreePath) -> String {
    escape(path.as_str().as_bytes())
}

fn content_fault(path: &TreePath, fault: &ContentFault) -> ScanFault {
    match fault {
        ContentFault::Changed | ContentFault::Stopped => {
            ScanFault::changed(shown(path), TreeChangeKind::Changed)
        }
        ContentFault::Io(error) => ScanFault::from_io(shown(path), error),
    }
}

fn special_file_reason(kind: FileType) -> &'static str {
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
