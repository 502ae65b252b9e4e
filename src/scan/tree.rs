//! The scanned tree: a walk creates it, and a recheck confirms it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::dir_stamp::DirStamp;
use super::error::{self, ScanError, ScanFault, TreeChange, TreeChangeKind, escape, escape_path};
use super::examine::{Examined, Examiner};
use super::open_root::OpenRoot;
use super::opener::{ContentFault, Opener};
use super::stat_cache::{CacheUnavailable, KnownFile, StatCache, StatCacheWriter};
use super::walk::Walk;
use super::workers::{self, Counters, WorkerConfig};
use super::{NameRule, Root, ScanOptions, SymlinkMode, TreeEntry, TreeKind, links, names};
use crate::fsx;
use crate::monitor::{Event, Monitor};
use crate::tree_path::TreePath;

/// Maximum number of examples in a warning. Any others are only counted.
const MAX_EXAMPLES: usize = 3;

/// All entries from one or several roots, each with the id of its content.
#[derive(Debug)]
pub struct Tree {
    pub(super) roots: Vec<OpenRoot>,
    pub(super) options: ScanOptions,
    pub(super) entries: Vec<TreeEntry>,
    /// The roots of links, by path; empty if there is only one root.
    link_roots: Vec<(TreePath, u16)>,
    /// The walked directories, with the numbers of their roots.
    pub(super) dir_stamps: Vec<(u16, DirStamp)>,
    /// When the scan began, in nanoseconds since 1970.
    pub(super) started: i64,
    /// Number of files that were not in the stat cache.
    hashed_files: u64,
}

impl Tree {
    /// Walks `roots` and hashes the files that are not in the stat cache. The result does not
    /// depend on the order in directories on disk or the number of jobs.
    ///
    /// # Errors
    /// Reports all faults in the tree together. Also fails if a root is missing, if the tree
    /// changes during the scan, or if the scan is cancelled. A stat cache that is damaged or cannot
    /// be written only causes a warning.
    pub fn scan(
        roots: &[Root],
        options: &ScanOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self, ScanError> {
        // Taken before the first disk access: any later modification is racy.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::scan_at(roots, options, i64::try_from(now.as_nanos()).unwrap_or(i64::MAX), monitor)
    }

    /// Like [`Tree::scan`], as if the scan had begun at `started`, in nanoseconds since 1970.
    pub(super) fn scan_at(
        roots: &[Root],
        options: &ScanOptions,
        started: i64,
        monitor: &dyn Monitor,
    ) -> Result<Self, ScanError> {
        u16::try_from(roots.len()).map_err(|_| ScanError::TooManyRoots)?;
        let open = roots.iter().map(OpenRoot::open).collect::<Result<Vec<_>, _>>()?;
        let (options, entries, link_roots, marks) =
            (options.clone(), Vec::new(), Vec::new(), Vec::new());
        let tree = Self {
            roots: open,
            options,
            entries,
            link_roots,
            dir_stamps: marks,
            started,
            hashed_files: 0,
        };
        let mut scan = Scan { tree, faults: Vec::new() };
        let mut cache = scan.open_cache(monitor);
        let had_cache = cache.is_some();
        let walked = (0..).zip(roots).try_for_each(|(number, root)| {
            monitor.event(Event::ScanStarted { root: escape_path(&root.path) });
            scan.walk(number, cache.as_mut(), monitor)
        });
        drop(cache);
        scan.merge();
        // Keeps the hashes from a long scan even if it was stopped or found faults, but does not
        // replace an existing cache with one that may have only a few records.
        if scan.tree.hashed_files > 0 && (walked.is_ok() || !had_cache) {
            scan.write_cache(started, monitor);
        }
        walked?;
        scan.check(monitor);
        error::combine_faults(scan.faults)?;
        Ok(scan.tree)
    }

    /// All entries, in ascending byte order of their paths.
    #[must_use]
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// Opens the file at this index. It must still be the file that was hashed.
    ///
    /// # Errors
    /// [`ScanError::Changed`] if the file changed or the entry is not a file;
    /// [`ScanError::Unreadable`] if the file can no longer be read.
    pub fn open(&self, index: usize) -> Result<File, ScanError> {
        let Some(TreeEntry { path, kind: TreeKind::File { stamp, root, .. } }) =
            self.entries.get(index)
        else {
            return Err(changed_error(TreeChange {
                path: self.display_path(index),
                kind: TreeChangeKind::Changed,
            }));
        };
        let root = &self.roots[usize::from(*root)];
        let opened =
            Opener::new(root, self.follows_links()).open_once(root.relative_in_tree(path), stamp);
        opened.map_err(|fault| match fault {
            ContentFault::Io(source) => match ScanFault::from_io(self.display_path(index), &source)
            {
                ScanFault::Changed(change) => changed_error(change),
                ScanFault::Rejected(rejected) | ScanFault::Unreadable(rejected) => {
                    ScanError::Unreadable { list: vec![rejected] }
                }
            },
            ContentFault::Changed | ContentFault::Stopped => changed_error(TreeChange {
                path: self.display_path(index),
                kind: TreeChangeKind::Changed,
            }),
        })
    }

    /// The path, on this machine, of the entry at this index, for messages.
    ///
    /// # Panics
    /// If there is no such entry.
    #[must_use]
    pub fn source_path(&self, index: usize) -> PathBuf {
        let root = &self.roots[usize::from(self.root_of(&self.entries[index]))];
        root.path.join(root.relative_in_tree(&self.entries[index].path))
    }

    pub(super) fn root_of(&self, entry: &TreeEntry) -> u16 {
        match &entry.kind {
            TreeKind::File { root, .. } => *root,
            TreeKind::Symlink { .. } => {
                let found = self.link_roots.binary_search_by(|(path, _)| path.cmp(&entry.path));
                found.map_or(0, |at| self.link_roots[at].1)
            }
        }
    }

    pub(super) fn display_path(&self, index: usize) -> String {
        let path = self.entries.get(index).map_or("?", |entry| entry.path.as_str());
        escape(path.as_bytes())
    }

    pub(super) fn follows_links(&self) -> bool {
        self.options.symlinks == SymlinkMode::Follow
    }
}

/// The number of threads to use.
pub(super) fn jobs(options: &ScanOptions) -> usize {
    match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    }
}

fn changed_error(change: TreeChange) -> ScanError {
    ScanError::Changed { list: vec![change], count: 1 }
}

/// A tree that is being scanned.
struct Scan {
    tree: Tree,
    faults: Vec<ScanFault>,
}

impl Scan {
    fn open_cache(&self, monitor: &dyn Monitor) -> Option<StatCache> {
        let path = self.tree.options.stat_cache.as_deref()?;
        let opened = StatCache::open(path, &self.tree.roots);
        if matches!(opened, Err(CacheUnavailable::Damaged)) {
            let message = format!(
                "the stat cache {} is damaged; every file is read again",
                escape_path(path)
            );
            monitor.event(Event::Warned { message });
        }
        opened.ok()
    }

    /// Walks one root and appends its entries in order.
    fn walk(
        &mut self,
        number: u16,
        cache: Option<&mut StatCache>,
        monitor: &dyn Monitor,
    ) -> Result<(), ScanError> {
        let Tree { roots, options, entries, link_roots, dir_stamps: marks, .. } = &mut self.tree;
        let root = &roots[usize::from(number)];
        let is_merged = roots.len() > 1;
        let counters = Counters::default();
        let config =
            WorkerConfig { jobs: jobs(options), counters: &counters, monitor, is_reported: true };
        let mut walk = Walk::new(root, options)?;
        let (mut count, mut bytes) = (0, 0);
        let mut cache = cache;
        if let Some(cache) = &mut cache {
            cache.begin_section();
        }
        let run = workers::run(
            &mut walk,
            &config,
            |entry| cache.as_mut().and_then(|cache| cache.find(root.relative(entry.path()))),
            || {
                let mut examiner = Examiner::new(root, number, options.symlinks, &counters);
                move |batch| examiner.examine(batch)
            },
            |examined: Examined| {
                for entry in &examined.entries {
                    match &entry.kind {
                        TreeKind::File { stamp, .. } => bytes += stamp.size,
                        TreeKind::Symlink { .. } if is_merged => {
                            // A file's entry contains its root; a link's does not, because most
                            // trees have only one root.
                            link_roots.push((entry.path.clone(), number));
                        }
                        TreeKind::Symlink { .. } => {}
                    }
                }
                count += examined.entries.len() as u64;
                entries.extend(examined.entries);
                self.faults.extend(examined.faults);
            },
        );
        if let Some(cache) = cache {
            cache.end_section();
        }
        let (faults, walked_dirs) = walk.finish();
        self.faults.extend(faults);
        marks.extend(walked_dirs.into_iter().map(|mark| (number, mark)));
        let hashed_files = counters.hashed_files.into_inner();
        self.tree.hashed_files += hashed_files;
        run?;
        let hashed_bytes = counters.hashed_bytes.load(Ordering::Relaxed);
        monitor.event(Event::ScanFinished { entries: count, bytes, hashed_files, hashed_bytes });
        Ok(())
    }

    /// Sorts the entries of all roots. The entries of a single root are already sorted.
    fn merge(&mut self) {
        let by_path = |a: &TreeEntry, b: &TreeEntry| a.path.cmp(&b.path);
        if !self.tree.entries.is_sorted_by(|a, b| by_path(a, b).is_le()) {
            self.tree.entries.sort_by(by_path);
        }
        self.tree.link_roots.sort();
    }

    /// Checks the tree as a whole.
    fn check(&mut self, monitor: &dyn Monitor) {
        let entries = &self.tree.entries;
        if self.tree.roots.len() > 1 {
            self.faults.extend(find_overlaps(entries));
        }
        let (loops, dangling) = links::check(entries);
        self.faults.extend(loops);
        warn(monitor, "symbolic links that lead to nothing in the tree", &dangling);
        let rejected = names::find_unportable(entries);
        match self.tree.options.names {
            NameRule::Portable => self.faults.extend(rejected.into_iter().map(ScanFault::Rejected)),
            NameRule::Warn => {
                let rejected: Vec<_> = rejected.iter().map(ToString::to_string).collect();
                warn(monitor, "names that some systems cannot hold or tell apart", &rejected);
            }
        }
    }

    fn write_cache(&self, started: i64, monitor: &dyn Monitor) {
        let Some(path) = self.tree.options.stat_cache.as_deref() else { return };
        if let Err(error) = write_cache(path, &self.tree, started) {
            let message =
                format!("cannot write the stat cache {} ({})", escape_path(path), error.source);
            monitor.event(Event::Warned { message });
        }
    }
}

fn write_cache(path: &Path, tree: &Tree, started: i64) -> fsx::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fsx::create_dir_all(parent)?;
    }
    fsx::replace_file(path, |out| {
        let mut writer = StatCacheWriter::new(out, &tree.roots, started);
        for (number, root) in (0..).zip(&tree.roots) {
            for entry in &tree.entries {
                // Leaves out files with a private key, so that every scan reads and reports them
                // again.
                if let TreeKind::File { object, stamp, root: from, has_private_key: false, .. } =
                    entry.kind
                    && from == number
                {
                    writer.push(
                        root.relative_in_tree(&entry.path).as_bytes(),
                        &KnownFile { stamp, object },
                    )?;
                }
            }
            writer.end_section();
        }
        writer.finish()
    })
}

/// Finds paths that are in two roots, and files where another root has a directory.
fn find_overlaps(entries: &[TreeEntry]) -> Vec<ScanFault> {
    let mut faults = Vec::new();
    // Earlier paths that are prefixes of this one as strings: in byte order, `a-x` may come between
    // `a` and `a/b`.
    let mut above: Vec<&str> = Vec::new();
    for entry in entries {
        let path = entry.path.as_str();
        while above.last().is_some_and(|top| !path.starts_with(top)) {
            above.pop();
        }
        let fault = |text: &str, why| ScanFault::rejected(escape(text.as_bytes()), why);
        if above.last() == Some(&path) {
            faults.push(fault(path, "is in more than one content tree"));
            continue;
        }
        let blocked = above.iter().find(|top| path.as_bytes().get(top.len()) == Some(&b'/'));
        if let Some(top) = blocked {
            faults.push(fault(top, "is a directory in another content tree"));
        }
        above.push(path);
    }
    // Such a file is found once for each entry below it.
    faults.dedup();
    faults
}

fn warn(monitor: &dyn Monitor, what: &str, list: &[String]) {
    if list.is_empty() {
        return;
    }
    let examples = list[..list.len().min(MAX_EXAMPLES)].join("; ");
    let more = match list.len().saturating_sub(MAX_EXAMPLES) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    monitor.event(Event::Warned { message: format!("{what}: {examples}{more}") });
}
