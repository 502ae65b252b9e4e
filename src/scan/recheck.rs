//! Rechecks a scanned tree.
//!
//! Usually, nothing has changed, and the stamps prove that without a walk: a directory keeps its
//! stamp as long as no name in it is added or removed. If a stamp differs, or is too recent to
//! prove anything, the roots are walked again to find the changes.

use std::cmp::Ordering as Order;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{self, ScanError, ScanFault, TreeChange, TreeChangeKind};
use super::examine::Examiner;
use super::opener::Opener;
use super::tree::{Tree, jobs};
use super::walk::Walk;
use super::workers::{self, Counters, WorkerConfig};
use super::{TreeEntry, TreeKind};
use crate::fsx::FileKind;
use crate::monitor::Monitor;
use crate::threads;

/// Number of entries to process between two checks for cancellation.
const CANCEL_CHECK_ENTRIES: usize = 256;

impl Tree {
    /// Checks that the tree has not changed since the scan, without reading any file.
    ///
    /// # Errors
    /// [`ScanError::Changed`] with the changes, or [`ScanError::Cancelled`].
    pub fn recheck(&self, monitor: &dyn Monitor) -> Result<(), ScanError> {
        if self.is_provably_unchanged(monitor) { Ok(()) } else { self.walk_again(monitor) }
    }

    /// Whether it is certain that nothing has changed.
    pub(super) fn is_provably_unchanged(&self, monitor: &dyn Monitor) -> bool {
        // The recorded stamps do not cover directories that are reached through links.
        if self.follows_links() {
            return false;
        }
        // Directories come first: there are few, and a single difference settles the matter.
        let mut marks =
            self.dir_stamps.iter().map(|(number, mark)| (&self.roots[usize::from(*number)], mark));
        if !marks.all(|(root, mark)| mark.is_unchanged(root, self.started)) {
            return false;
        }
        // Uses half of the cores, because the push that runs at the same time needs them more.
        let jobs = jobs(&self.options).div_ceil(2);
        let differs = AtomicBool::new(false);
        let compare = |entries: &[TreeEntry]| {
            for batch in entries.chunks(CANCEL_CHECK_ENTRIES) {
                if differs.load(Ordering::Relaxed)
                    || monitor.is_cancelled()
                    || !batch.iter().all(|one| self.is_same(one))
                {
                    // Also set if the recheck was cancelled; the walk that follows then ends at its
                    // first check.
                    differs.store(true, Ordering::Relaxed);
                    return;
                }
            }
        };
        threads::each(self.entries.chunks(self.entries.len().div_ceil(jobs).max(1)), compare);
        !differs.into_inner()
    }

    fn is_same(&self, entry: &TreeEntry) -> bool {
        let root = |number: u16| &self.roots[usize::from(number)];
        match &entry.kind {
            TreeKind::File { stamp, root: number, .. } => {
                let root = root(*number);
                let seen = root.dir.file_info(OsStr::new(root.relative_in_tree(&entry.path)));
                seen.is_ok_and(|seen| seen.kind == FileKind::File && seen.stamp == *stamp)
            }
            TreeKind::Symlink { target } => {
                let root = root(self.root_of(entry));
                let now = Opener::new(root, false).read_link(root.relative_in_tree(&entry.path));
                now.is_ok_and(|now| now == target.as_str().as_bytes())
            }
        }
    }

    /// Walks the roots again and lists the changes.
    fn walk_again(&self, monitor: &dyn Monitor) -> Result<(), ScanError> {
        let mut altered = Vec::new();
        for (number, root) in (0..).zip(&self.roots) {
            let counters = Counters::default();
            let config = WorkerConfig {
                jobs: jobs(&self.options),
                counters: &counters,
                monitor,
                is_reported: false,
            };
            let mut walk = Walk::new(root, &self.options)?;
            let mut before = (0..self.entries.len())
                .filter(|&index| self.root_of(&self.entries[index]) == number)
                .peekable();
            let mut removed = Vec::new();
            // The walk and the old entries are in path order, so one pass over the latter is
            // enough.
            let known = |entry: &walkdir::DirEntry| {
                let relative = root.relative(entry.path());
                while let Some(&index) = before.peek() {
                    match root.relative_in_tree(&self.entries[index].path).as_bytes().cmp(relative)
                    {
                        Order::Less => removed.extend(before.next()),
                        Order::Equal => return before.next(),
                        Order::Greater => break,
                    }
                }
                None
            };
            workers::run(
                &mut walk,
                &config,
                known,
                || {
                    let mut examiner =
                        Examiner::new(root, number, self.options.symlinks, &counters);
                    move |batch| examiner.compare(&self.entries, batch)
                },
                |found| altered.extend(found),
            )?;
            removed.extend(before);
            altered.extend(walk.finish().0.into_iter().map(ScanFault::into_tree_change));
            altered.extend(removed.into_iter().map(|index| TreeChange {
                path: self.display_path(index),
                kind: TreeChangeKind::Removed,
            }));
        }
        error::changed_error(altered)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use crate::monitor::SilentMonitor;
    use crate::scan::tests::{LATER_NS, alterations, now_ns, put, root, scan, tree};
    use crate::scan::{ScanOptions, Tree};

    #[test]
    fn recheck_finds_one_change_with_trusted_stamps() {
        type Harm = fn(&Path);
        let harms: [(&str, Harm); 9] = [
            ("a file is added", |dir| put(dir, "deep/down/new.txt", "new")),
            ("a file goes", |dir| fs::remove_file(dir.join("deep/down/a.txt")).unwrap()),
            ("content changes", |dir| put(dir, "deep/b.txt", "B")),
            ("a mode changes", |dir| {
                fs::set_permissions(dir.join("deep/b.txt"), fs::Permissions::from_mode(0o700))
                    .unwrap();
            }),
            ("a link is moved", |dir| {
                fs::remove_file(dir.join("link")).unwrap();
                symlink("top.txt", dir.join("link")).unwrap();
            }),
            ("rules change", |dir| put(dir, "deep/.headwaterignore", "b.txt\n")),
            ("rules come", |dir| put(dir, ".headwaterignore", "top.txt\n")),
            ("a directory is replaced", |dir| {
                fs::rename(dir.join("deep/down"), dir.join("deep/gone")).unwrap();
                put(dir, "deep/down/a.txt", "a");
            }),
            ("a directory comes", |dir| put(dir, "fresh/x.txt", "x")),
        ];
        for (what, harm) in harms {
            let dir = tree(&["top.txt", "deep/b.txt", "deep/down/a.txt"]);
            put(dir.path(), "deep/.headwaterignore", "*.tmp\n");
            symlink("deep/b.txt", dir.path().join("link")).unwrap();
            let tree = Tree::scan_at(
                &[root(dir.path())],
                &ScanOptions::default(),
                now_ns() + LATER_NS,
                &SilentMonitor,
            )
            .unwrap();
            assert!(tree.is_provably_unchanged(&SilentMonitor), "{what}: certain before");
            tree.recheck(&SilentMonitor).unwrap();
            harm(dir.path());
            assert!(!alterations(tree.recheck(&SilentMonitor)).is_empty(), "{what}");
        }
    }

    #[test]
    fn stamps_from_the_time_of_the_scan_are_not_trusted() {
        let dir = tree(&["a.txt"]);
        let tree = scan(dir.path(), &ScanOptions::default()).unwrap();
        assert!(!tree.is_provably_unchanged(&SilentMonitor));
        tree.recheck(&SilentMonitor).unwrap();
    }
}
