//! Creates mirrors, and reads what a visitor of a mirror gets.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headwater::manifest::EntryKind;
use headwater::mirror::{Depth, DirectoryMirror, Fault, Mirror, MirrorIdentity};
use headwater::monitor::SilentMonitor;
use headwater::tree_path::Site;
use tempfile::TempDir;

use crate::origin::{Version, site};
use crate::sandbox;

/// Longer than any operation that a test waits for.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// One kind of mirror, in its own directory.
pub(crate) trait Fixture: Sized + Sync {
    /// Creates a location without a mirror.
    fn new() -> Self;

    /// Returns a new handle, like that of another process: it shares nothing with other handles.
    fn handle(&self, site: &Site, wait: Duration) -> Arc<dyn Mirror>;

    /// The local directory of the store, for tests that read or change files below the mirror.
    fn store(&self) -> &Path;

    /// Restarts the process in front of the store. Does nothing if each handle has its own process
    /// or none.
    fn restart(&mut self) {}

    /// Returns a handle that waits for locks.
    fn mirror(&self) -> Arc<dyn Mirror> {
        self.handle(&site(), LOCK_WAIT)
    }

    /// Creates a mirror with these releases, the last one current, with a clean-up after each.
    fn with(releases: &[&Version]) -> Self {
        let fixture = Self::new();
        let mirror = fixture.mirror();
        let mut base: Option<&Version> = None;
        for release in releases {
            release.bundle_from(base).publish(&*mirror, base.map(Version::name));
            mirror.clean_up(3).unwrap();
            base = Some(release);
        }
        fixture
    }

    /// Returns the path of an object file.
    fn object_path(&self, object: &headwater::hash::ObjectId) -> PathBuf {
        let hex = object.to_string();
        self.store().join(".headwater/objects").join(&hex[..2]).join(hex)
    }

    /// Returns the number of objects.
    fn object_count(&self) -> usize {
        let directories = fs::read_dir(self.store().join(".headwater/objects")).unwrap();
        directories.map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count()).sum()
    }

    /// Returns the names in a directory of the store, sorted.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store().join(directory)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A directory mirror.
pub(crate) struct Directory {
    _dir: TempDir,
    store: PathBuf,
}

impl Directory {
    /// Uses the existing mirror at `store`, below `dir`.
    pub(crate) fn at(dir: TempDir, store: PathBuf) -> Self {
        Self { _dir: dir, store }
    }
}

impl Fixture for Directory {
    fn new() -> Self {
        let dir = sandbox::directory();
        let store = dir.path().join("www");
        Self::at(dir, store)
    }

    fn handle(&self, site: &Site, wait: Duration) -> Arc<dyn Mirror> {
        let location = self.store.display().to_string();
        let jobs = NonZeroUsize::new(2).unwrap();
        let identity = MirrorIdentity { name: "m".into(), location, site: Some(site.clone()) };
        Arc::new(DirectoryMirror::new(identity, self.store.clone(), wait, jobs))
    }

    fn store(&self) -> &Path {
        &self.store
    }
}

/// The file or link at a path, as a visitor or a web server sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VisibleEntry {
    File { content: Vec<u8>, mtime: i64, mode: u32 },
    Link(String),
}

/// Returns everything below `root` without following links. An empty directory appears as a link to
/// nowhere.
pub(crate) fn tree_at(root: &Path) -> BTreeMap<String, VisibleEntry> {
    let mut found = BTreeMap::new();
    let mut open = vec![(root.to_owned(), String::new())];
    while let Some((dir, at)) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{at}{}", entry.file_name().display());
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            if meta.is_dir() {
                if fs::read_dir(entry.path()).unwrap().next().is_none() {
                    found.insert(path.clone(), VisibleEntry::Link(String::new()));
                }
                open.push((entry.path(), path + "/"));
            } else if meta.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                found.insert(
                    path,
                    VisibleEntry::Link(target.into_os_string().into_string().unwrap()),
                );
            } else {
                let content = fs::read(entry.path()).unwrap();
                found.insert(
                    path,
                    VisibleEntry::File { content, mtime: meta.mtime(), mode: meta.mode() & 0o7777 },
                );
            }
        }
    }
    found
}

/// Returns what a visitor should get of a release.
pub(crate) fn tree_of(version: &Version) -> BTreeMap<String, VisibleEntry> {
    let show = |kind: &EntryKind| match kind {
        EntryKind::Symlink(target) => VisibleEntry::Link(target.as_str().to_owned()),
        EntryKind::File(file) => VisibleEntry::File {
            content: version.objects[&file.object].to_vec(),
            mtime: i64::try_from(file.mtime).unwrap(),
            mode: if file.exec { 0o555 } else { 0o444 },
        },
    };
    version
        .entries
        .iter()
        .map(|entry| (entry.path.as_str().to_owned(), show(&entry.kind)))
        .collect()
}

/// Returns the faults that a full verification finds.
pub(crate) fn faults(mirror: &dyn Mirror) -> Vec<Fault> {
    mirror.verify(Depth::Full, &SilentMonitor).unwrap().faults
}

/// Asserts that the release is current, that visitors get exactly it, and that nothing is damaged.
#[track_caller]
pub(crate) fn assert_serves(fixture: &impl Fixture, version: &Version) {
    let mirror = fixture.mirror();
    let state = mirror.state().unwrap();
    assert_eq!(state.current, Some(version.name()));
    assert_eq!(state.current_release(), Some(&version.release));
    let (found, wanted) = (tree_at(&fixture.store().join("current/")), tree_of(version));
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    assert!(found == wanted, "content, times or modes differ from the manifest");
    assert_eq!(faults(&*mirror), []);
}
