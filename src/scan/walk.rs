//! The walk over a root, on one thread and in tree path order.
//!
//! walkdir sorts each directory separately. If a directory is compared as its name followed by `/`,
//! the whole walk is in byte order of paths (`a-x`, `a.b`, `a/b`). So nothing has to be sorted or
//! looked up afterwards: the stat cache and a recheck can be merged with the walk.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use walkdir::{DirEntry, WalkDir};

use super::dir_stamp::DirStamp;
use super::error::{self, ScanError, ScanFault, TreeChangeKind};
use super::open_root::OpenRoot;
use super::opener::Opener;
use super::rules::{self, ExcludeRules, RulesFault};
use super::{ScanOptions, SymlinkMode};
use crate::fsx;

/// The directory of a store, which is never content.
const STORE_DIR_NAME: &[u8] = b".headwater";

/// Iterates over the entries in one root, in tree path order. Leaves out directories and excluded
/// entries.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    root: &'a OpenRoot,
    inner: walkdir::IntoIter,
    follow: bool,
    opener: Opener<'a>,
    rules: ExcludeRules,
    faults: Vec<ScanFault>,
    dir_stamps: Vec<DirStamp>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(root: &'a OpenRoot, options: &ScanOptions) -> Result<Self, ScanError> {
        let follow = options.symlinks == SymlinkMode::Follow;
        let inner = WalkDir::new(&root.path)
            .follow_links(follow)
            .sort_by(move |a, b| by_tree_path(a, b, follow))
            .into_iter();
        let (opener, rules) = (Opener::new(root, follow), ExcludeRules::new(&options.exclude)?);
        let mut walk =
            Self { root, inner, follow, opener, rules, faults: Vec::new(), dir_stamps: Vec::new() };
        walk.enter(&root.path, b"", 0);
        Ok(walk)
    }

    /// The faults of the walk, and the stamps of the directories and rules files.
    pub(super) fn finish(self) -> (Vec<ScanFault>, Vec<DirStamp>) {
        (self.faults, self.dir_stamps)
    }

    /// Records the stamp of a directory and reads its rules.
    fn enter(&mut self, path: &Path, relative: &[u8], depth: usize) {
        // walkdir sorts, so it has already read the names in the directory. If a name was added
        // between that read and now, the stamp is more recent than the start of the scan, and
        // `DirStamp::is_unchanged` trusts no stamp that recent.
        self.dir_stamps.push(DirStamp::of(self.root, relative));
        let path = path.join(rules::RULES_FILE_NAME);
        // An `lstat` by path is cheaper than opening each directory; only the few with rules need
        // to be opened.
        let Ok(meta) = fsx::lstat(&path) else { return };
        // Editing the rules does not change the directory's stamp.
        self.dir_stamps.push(DirStamp::of(self.root, self.root.relative(&path)));
        let name = String::from_utf8_lossy(self.root.relative(&path));
        let shown = self.root.display_path(name.as_bytes());
        if !(meta.is_file() || (self.follow && meta.is_symlink())) {
            self.faults.push(ScanFault::rejected(shown, "is not a file, as rules must be"));
            return;
        }
        let opened =
            self.opener.open_unchecked(&name).map_err(|error| RulesFault::Io(error.source));
        if let Err(fault) = opened.and_then(|file| self.rules.enter(file, relative, depth)) {
            self.faults.push(match fault {
                RulesFault::Content(why) => ScanFault::rejected(shown, why),
                RulesFault::Io(error) => ScanFault::from_io(shown, &error),
            });
        }
    }

    fn record_error(&mut self, error: &walkdir::Error) {
        let path = error.path().unwrap_or(&self.root.path);
        let shown = self.root.display_path(self.root.relative(path));
        let is_link = || fsx::lstat(path).is_ok_and(|meta| meta.is_symlink());
        self.faults.push(match error.io_error() {
            None => ScanFault::rejected(shown, "is a symbolic link to a directory it is in"),
            Some(io) if error::is_link_error(io) => {
                ScanFault::rejected(shown, "is a symbolic link in a loop of links")
            }
            Some(io) if io.kind() == std::io::ErrorKind::NotFound && is_link() => {
                ScanFault::rejected(shown, "is a symbolic link that leads nowhere")
            }
            Some(io) => ScanFault::from_io(shown, io),
        });
    }

    /// Enters a directory, or skips it if its name is not valid.
    fn enter_directory(&mut self, entry: &DirEntry, relative: &[u8]) {
        match self.root.tree_path(relative) {
            Ok(_) => self.enter(entry.path(), relative, entry.depth()),
            Err(fault) => {
                self.faults.push(ScanFault::bad_name(self.root.display_path(relative), fault));
                self.inner.skip_current_dir();
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = DirEntry;

    fn next(&mut self) -> Option<DirEntry> {
        loop {
            let entry = match self.inner.next()? {
                Ok(entry) if entry.depth() == 0 => {
                    if !entry.file_type().is_dir() {
                        self.faults.push(ScanFault::changed(
                            self.root.display_path(b""),
                            TreeChangeKind::Changed,
                        ));
                    }
                    continue;
                }
                Ok(entry) => entry,
                Err(error) => {
                    self.record_error(&error);
                    continue;
                }
            };
            let relative = self.root.relative(entry.path());
            let is_directory = entry.file_type().is_dir();
            self.rules.leave(entry.depth());
            let is_excluded = self.rules.is_excluded(relative, is_directory);
            // Checked after the exclusions, so that a tree that is also a mirror can exclude this
            // directory.
            let is_own = relative == STORE_DIR_NAME;
            if is_own && !is_excluded {
                self.faults.push(ScanFault::rejected(
                    self.root.display_path(relative),
                    "is headwater's own directory",
                ));
            }
            if is_own || is_excluded {
                if is_directory {
                    self.inner.skip_current_dir();
                }
            } else if is_directory {
                self.enter_directory(&entry, relative);
            } else if !is_rules_file(relative) {
                return Some(entry);
            }
        }
    }
}

fn is_rules_file(relative: &[u8]) -> bool {
    let parent = relative.strip_suffix(rules::RULES_FILE_NAME.as_bytes());
    parent.is_some_and(|parent| parent.is_empty() || parent.ends_with(b"/"))
}

/// Compares two entries in the same directory by their tree paths.
fn by_tree_path(a: &DirEntry, b: &DirEntry, follow: bool) -> Ordering {
    // Both entries are in the same directory, so comparing whole paths gives the same result
    // without finding the names first.
    let (a_path, b_path) = (a.path().as_os_str().as_bytes(), b.path().as_os_str().as_bytes());
    let common = a_path.len().min(b_path.len());
    let next = |entry: &DirEntry, path: &[u8]| {
        path.get(common).copied().or_else(|| has_entries(entry, follow).then_some(b'/'))
    };
    a_path[..common].cmp(&b_path[..common]).then_with(|| next(a, a_path).cmp(&next(b, b_path)))
}

/// Whether the walk enters the entry. walkdir follows links only after sorting. Few links are
/// resolved here, because few names are prefixes of others.
fn has_entries(entry: &DirEntry, follow: bool) -> bool {
    let kind = entry.file_type();
    let leads_to_directory = || {
        fsx::resolve(entry.path())
            .and_then(|path| fsx::lstat(&path))
            .is_ok_and(|meta| meta.is_dir())
    };
    kind.is_dir() || (follow && kind.is_symlink() && leads_to_directory())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Root;

    fn open(path: &Path) -> OpenRoot {
        OpenRoot::open(&Root { path: path.to_owned(), tree_prefix: None }).unwrap()
    }

    #[test]
    fn walk_follows_the_order_of_tree_paths() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a/b", "a-x", "a.b", "a0", "a/-", "a-/z", "a!/1", "b", "a/b.c/d", "a/b-c"] {
            let path = dir.path().join(file);
            let path = if file == "a/b" { dir.path().join("a/b/deep") } else { path };
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let root = open(dir.path());
        let paths: Vec<_> = Walk::new(&root, &ScanOptions::default())
            .unwrap()
            .map(|entry| root.tree_path(root.relative(entry.path())).unwrap())
            .collect();
        assert_eq!(paths.len(), 10);
        assert!(paths.is_sorted(), "{paths:?}");
    }
}
