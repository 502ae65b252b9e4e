//! The origin's temporary files during a push, and the files that the cache keeps for the next
//! push.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cache::ContentCache;
use crate::fsx::{self, Context as _, Dir, FileMode, IoError};
use crate::hash::{HistoryId, ManifestId, StoreId};
use crate::manifest::{Entry, ManifestError, ManifestReader};
use crate::monitor::{Event, Monitor};
use crate::origin::link_speed::SpeedTable;
use crate::text::error_chain;
use crate::tree_path::Site;

const PUSH_DIR_PREFIX: &str = "push-";
/// Name prefix of a temporary directory that is not in the cache.
const TEMPORARY_PREFIX: &str = "headwater-";
const LOCK_FILE: &str = "lock";
/// How long a push waits for another push that starts at the same time. The lock is held only while
/// the directories of killed pushes are removed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Name prefix of manifests that are kept for later pushes, followed by the sequence and the id.
const MANIFEST_PREFIX: &str = "manifest-";
/// The file that holds the measured link speeds.
const LINK_SPEEDS_FILE: &str = "links.json";
const MAX_LINK_SPEEDS_BYTES: u64 = 16 << 20;
/// The directory that holds content of old releases.
const CONTENT_DIR: &str = "content";

/// Where a push stores temporary files.
#[derive(Debug, Clone)]
pub struct ScratchLocation {
    /// The directory of the cache, which outlives the push, or the reason that there is no cache.
    pub directory: Result<PathBuf, String>,
    /// Where to create a temporary directory for this push if the cache cannot be used.
    pub temporary: PathBuf,
}

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    parent: Dir,
    name: String,
    dir: Dir,
    /// The directory for the site, which outlives the push. It is known only once mirrors have
    /// reported their releases.
    site: OnceLock<Dir>,
    _lock: File,
    /// The parent directory, if it exists only for this push. Dropped after the other fields.
    temporary: Option<TemporaryDir>,
}

/// A directory outside the cache, which is removed when dropped.
#[derive(Debug)]
struct TemporaryDir {
    parent: Dir,
    name: String,
}

impl TemporaryDir {
    /// Creates a directory below `path` with a random name. Only this user may enter it.
    fn create(path: &Path) -> Result<(Self, Dir), IoError> {
        let parent = Dir::open(path)?;
        let name = format!("{TEMPORARY_PREFIX}{}", random_name(path)?);
        let dir = parent.create_dir_as(&name, FileMode { bits: 0o700, group: None })?;
        Ok((Self { parent, name }, dir))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // A remaining directory only takes space, and `drop` cannot report an error.
        self.parent.remove_all(&self.name).ok();
    }
}

fn random_name(path: &Path) -> Result<StoreId, IoError> {
    StoreId::random().map_err(|error| IoError::new("name a directory in", path, error))
}

impl Scratch {
    /// Creates a directory in the cache, or, with a warning, a temporary one for this push.
    ///
    /// # Errors
    /// If neither can be created.
    pub(crate) fn create(
        location: &ScratchLocation,
        monitor: &dyn Monitor,
    ) -> Result<Self, IoError> {
        let in_cache = location.directory.as_ref().map_err(Clone::clone);
        let why = match in_cache
            .and_then(|path| Self::create_in(path).map_err(|error| error_chain(&error)))
        {
            Ok(scratch) => return Ok(scratch),
            Err(why) => why,
        };
        let (temporary, dir) = TemporaryDir::create(&location.temporary)?;
        // An extra directory level, so that the code for the cache works here unchanged.
        let mut scratch = Self::create_in(dir.path())?;
        scratch.temporary = Some(temporary);
        let message =
            format!("there is no cache: {why}; this push reads every file and may send more");
        monitor.event(Event::Warned { message });
        Ok(scratch)
    }

    /// Creates a directory below `path`, and `path` itself if it does not exist.
    pub(crate) fn create_in(path: &Path) -> Result<Self, IoError> {
        fsx::create_dir_all(path)?;
        let parent = Dir::open(path)?;
        // Held for a moment, so that no other process removes the directory before its lock exists.
        let guard = parent.open_or_create_file(LOCK_FILE)?;
        take_lock(&guard, LOCK_TIMEOUT, &parent.join(LOCK_FILE))?;
        remove_stale_dirs(&parent)?;
        // A random name, because process ids are not unique among containers that share a cache.
        let name = format!("{PUSH_DIR_PREFIX}{}", random_name(path)?);
        let dir = parent.create_dir(&name)?;
        let lock = dir.open_or_create_file(LOCK_FILE)?;
        take_lock(&lock, Duration::ZERO, &dir.join(LOCK_FILE))?;
        Ok(Self { parent, name, dir, site: OnceLock::new(), _lock: lock, temporary: None })
    }

    /// The temporary directory, if there is no cache. Nothing in it outlives the push.
    pub(crate) fn temporary(&self) -> Option<&Path> {
        self.temporary.as_ref().map(|_| self.parent.path())
    }

    pub(crate) const fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Opens the directory for a site, with its manifests and old content. Pushes from all trees
    /// share it, and so do rollbacks and other pushes without a tree. Keeps the directory that was
    /// opened first.
    ///
    /// The history is part of the name, because unrelated sites may have the same name: that of
    /// [`Site::default`].
    pub(crate) fn open_site(&self, site: &Site, history: HistoryId) -> Result<(), IoError> {
        if self.site.get().is_none() {
            let dir = self.parent.ensure_dir(&format!("{site}-{history}"))?;
            self.site.set(dir).ok();
        }
        Ok(())
    }

    /// Opens the content cache, which outlives the push. If it cannot be used, returns `None` and
    /// emits a warning.
    pub(crate) fn open_content_cache(&self, monitor: &dyn Monitor) -> Option<ContentCache> {
        let opened = self.site.get()?.ensure_dir(CONTENT_DIR).and_then(ContentCache::open);
        opened.map_err(|error| warn_not_cached(&error, monitor)).ok()
    }

    /// Stores the manifest of the release `sequence` for later pushes. Keeps only the `keep` newest
    /// manifests.
    pub(crate) fn keep_manifest(
        &self,
        manifest: &ManifestFile,
        sequence: u64,
        keep: usize,
    ) -> Result<(), IoError> {
        let Some(site) = self.site.get() else { return Ok(()) };
        let name = format!("{MANIFEST_PREFIX}{sequence:020}-{}", manifest.id);
        if site.stat(&name)?.is_none() {
            // Written in the scratch directory and renamed, so that no other push reads an
            // incomplete file. It is not synced: a torn file has a different id.
            let mut copy = self.dir.create_file(&name)?;
            let path = || self.dir.join(&name);
            let mut from = PositionedReader {
                file: manifest.file.try_clone().context("read", path)?,
                offset: 0,
            };
            std::io::copy(&mut from, &mut copy).context("write", path)?;
            // Two pushes may do this at the same time; the files are the same.
            self.dir.rename(&name, site, &name)?;
        }
        for (name, _) in self.stored_manifests()?.into_iter().skip(keep.max(1)) {
            site.unlink_if_any(&name)?;
        }
        Ok(())
    }

    pub(crate) fn keep_link_speeds(&self, links: &[u8]) -> Result<(), IoError> {
        self.dir.unlink_if_any(LINK_SPEEDS_FILE)?;
        self.dir.write_new(LINK_SPEEDS_FILE, links, FileMode::RECORD, None)?;
        self.dir.rename(LINK_SPEEDS_FILE, &self.parent, LINK_SPEEDS_FILE)
    }

    pub(crate) fn known_link_speeds(&self) -> SpeedTable {
        let bytes = self.parent.read(LINK_SPEEDS_FILE, MAX_LINK_SPEEDS_BYTES);
        bytes.map_or_else(|_| SpeedTable::default(), |bytes| SpeedTable::parse(&bytes))
    }

    /// The names and ids of the stored manifests, newest first.
    fn stored_manifests(&self) -> Result<Vec<(String, ManifestId)>, IoError> {
        let Some(site) = self.site.get() else { return Ok(Vec::new()) };
        let id = |name: &str| {
            ManifestId::parse_hex(name.strip_prefix(MANIFEST_PREFIX)?.split_once('-')?.1.as_bytes())
        };
        let names = site.entries()?.into_iter().filter_map(|(name, _)| name.into_string().ok());
        let mut kept: Vec<_> = names.filter_map(|name| id(&name).map(|id| (name, id))).collect();
        // The sequence is padded to 20 digits in the name, so the names sort by sequence.
        kept.sort_unstable_by(|a, b| b.cmp(a));
        Ok(kept)
    }

    /// The manifest `id`, if it is stored and undamaged.
    pub(crate) fn known_manifest(&self, id: ManifestId) -> Result<Option<ManifestFile>, IoError> {
        match self.stored_manifests()?.into_iter().find(|(_, kept)| *kept == id) {
            Some((name, _)) => self.open_known(&name, id),
            None => Ok(None),
        }
    }

    /// The stored manifests that are undamaged, newest first.
    pub(crate) fn known_manifests(&self) -> Result<Vec<ManifestFile>, IoError> {
        let mut intact = Vec::new();
        for (name, id) in self.stored_manifests()? {
            intact.extend(self.open_known(&name, id)?);
        }
        Ok(intact)
    }

    fn open_known(&self, name: &str, id: ManifestId) -> Result<Option<ManifestFile>, IoError> {
        let Some(site) = self.site.get() else { return Ok(None) };
        match fsx::none_if_missing(site.open_file(name))? {
            Some(file) => ManifestFile::copy(self, "known", file, id),
            None => Ok(None),
        }
    }
}

/// Warns that new content is not kept.
pub(crate) fn warn_not_cached(error: &IoError, monitor: &dyn Monitor) {
    let message = format!(
        "new content is not kept for the next push, which may send more: {}",
        error_chain(error)
    );
    monitor.event(Event::Warned { message });
}

/// Takes the exclusive lock on `file`. Without it, another process could remove this push's
/// directory.
fn take_lock(file: &File, wait: Duration, path: &Path) -> Result<(), IoError> {
    if fsx::lock(file, wait, path)? {
        return Ok(());
    }
    let held = io::Error::new(io::ErrorKind::WouldBlock, "another process holds the lock");
    Err(IoError::new("lock", path, held))
}

/// Removes the directories of killed pushes, which are not locked.
fn remove_stale_dirs(parent: &Dir) -> Result<(), IoError> {
    for (name, _) in parent.entries()? {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PUSH_DIR_PREFIX)) else {
            continue;
        };
        let Some(dir) = parent.find_dir(name)? else { continue };
        let lock = dir.open_or_create_file(LOCK_FILE)?;
        // If a push was killed, the kernel has released its lock.
        if fsx::lock(&lock, Duration::ZERO, &dir.join(LOCK_FILE))? {
            parent.remove_all(name)?;
        }
    }
    Ok(())
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A remaining directory only takes space, and `drop` cannot report an error. The directory
        // is removed before the fields, and thus the lock, are dropped: no other push can remove it
        // meanwhile.
        self.parent.remove_all(&self.name).ok();
    }
}

/// A manifest in a scratch file, which can be read repeatedly.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    pub(crate) file: File,
    pub(crate) id: ManifestId,
}

impl ManifestFile {
    /// Copies the canonical bytes in `from` to the new file `name`. Returns `None` if they are not
    /// the manifest `id`.
    pub(crate) fn copy(
        scratch: &Scratch,
        name: &str,
        mut from: impl Read,
        id: ManifestId,
    ) -> Result<Option<Self>, IoError> {
        // Several threads copy manifests into the same directory.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = &format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut file = scratch.dir.create_file(name)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 17];
        // A short read or an error results in a different id; the id is checked below.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).context("write", || scratch.dir.join(name))?;
        }
        if ManifestId::finish(&hasher) == id {
            return Ok(Some(Self { file, id }));
        }
        scratch.dir.unlink(name)?;
        Ok(None)
    }

    pub(crate) fn entries(&self) -> Result<ManifestReader<Box<dyn Read + Send>>, ManifestError> {
        // Reads by offset, because several threads read at the same time.
        let reader = PositionedReader { file: self.file.try_clone()?, offset: 0 };
        // The id was checked when the file was written, and no other process can access the file.
        ManifestReader::new(Box::new(reader), None)
    }
}

/// Entries in manifest order.
pub(crate) type Entries = Box<dyn Iterator<Item = Result<Entry, ManifestError>>>;

/// The entries of a manifest; no entries if there is no manifest.
pub(crate) fn entries(manifest: Option<&ManifestFile>) -> Result<Entries, ManifestError> {
    match manifest {
        Some(manifest) => Ok(Box::new(manifest.entries()?)),
        None => Ok(Box::new(std::iter::empty())),
    }
}

/// Reads a file by offset, independently of other handles to it.
struct PositionedReader {
    file: File,
    offset: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::monitor::SilentMonitor;

    const HISTORY: HistoryId = HistoryId::from_bytes([7; 16]);

    /// A directory in `cache` for a push of the default site.
    fn scratch_in(cache: &Path) -> Scratch {
        let scratch = Scratch::create_in(cache).unwrap();
        scratch.open_site(&Site::default(), HISTORY).unwrap();
        scratch
    }

    struct Warned(Mutex<Vec<String>>);

    impl Monitor for Warned {
        fn event(&self, event: Event) {
            if let Event::Warned { message } = event {
                self.0.lock().push(message);
            }
        }
    }

    #[test]
    fn kept_manifest_is_reused_only_if_intact() {
        let cache = tempfile::tempdir().unwrap();
        let (id, other) = (ManifestId::of(b"lines"), ManifestId::of(b"others"));
        {
            let scratch = scratch_in(cache.path());
            assert!(scratch.known_manifest(id).unwrap().is_none());
            let manifest = ManifestFile::copy(&scratch, "m", &b"lines"[..], id).unwrap().unwrap();
            scratch.keep_manifest(&manifest, 7, 3).unwrap();
            scratch.keep_manifest(&manifest, 7, 3).unwrap();
        }
        let scratch = scratch_in(cache.path());
        assert_eq!(scratch.known_manifest(id).unwrap().unwrap().id, id);
        assert!(scratch.known_manifest(other).unwrap().is_none());
        let site = cache.path().join(format!("default-{HISTORY}"));
        std::fs::write(site.join(format!("{MANIFEST_PREFIX}{:020}-{id}", 7)), "linez").unwrap();
        assert!(scratch.known_manifest(id).unwrap().is_none());
    }

    #[test]
    fn newest_manifests_are_kept() {
        let cache = tempfile::tempdir().unwrap();
        let scratch = scratch_in(cache.path());
        for sequence in [9, 10, 11] {
            let lines = format!("lines {sequence}");
            let id = ManifestId::of(lines.as_bytes());
            let manifest =
                ManifestFile::copy(&scratch, "m", lines.as_bytes(), id).unwrap().unwrap();
            scratch.keep_manifest(&manifest, sequence, 2).unwrap();
        }
        let known: Vec<_> =
            scratch.known_manifests().unwrap().into_iter().map(|known| known.id).collect();
        assert_eq!(known, [ManifestId::of(b"lines 11"), ManifestId::of(b"lines 10")]);
    }

    #[test]
    fn manifests_of_one_site_are_not_those_of_another_with_its_name() {
        let cache = tempfile::tempdir().unwrap();
        let id = ManifestId::of(b"lines");
        let first = scratch_in(cache.path());
        let manifest = ManifestFile::copy(&first, "m", &b"lines"[..], id).unwrap().unwrap();
        first.keep_manifest(&manifest, 1, 3).unwrap();
        let other = Scratch::create_in(cache.path()).unwrap();
        assert!(other.known_manifest(id).unwrap().is_none(), "the site is not known yet");
        other.open_site(&Site::default(), HistoryId::from_bytes([8; 16])).unwrap();
        assert!(other.known_manifest(id).unwrap().is_none());
        assert!(scratch_in(cache.path()).known_manifest(id).unwrap().is_some());
    }

    #[test]
    fn leftovers_of_killed_pushes_are_removed_and_used_directories_stay() {
        let cache = tempfile::tempdir().unwrap();
        let left = cache.path().join("push-1-0");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("packs-0"), "left").unwrap();
        let first = Scratch::create_in(cache.path()).unwrap();
        assert!(!left.exists());
        let second = Scratch::create_in(cache.path()).unwrap();
        let places = [first.dir().path().to_owned(), second.dir().path().to_owned()];
        assert!(places.iter().all(|place| place.is_dir()), "{places:?}");
        drop((first, second));
        assert!(places.iter().all(|place| !place.exists()));
    }

    #[test]
    fn lock_held_by_another_process_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK_FILE);
        let [held, wanted] = [(); 2].map(|()| File::create(&path).unwrap());
        take_lock(&held, Duration::ZERO, &path).unwrap();
        let error = take_lock(&wanted, Duration::ZERO, &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn push_without_a_cache_has_its_own_directory() {
        use std::os::unix::fs::PermissionsExt as _;
        let [file, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let taken = file.path().join("file");
        std::fs::write(&taken, "").unwrap();
        for directory in [Ok(taken.join("site")), Err("no home".to_owned())] {
            let location = ScratchLocation { directory, temporary: other.path().to_owned() };
            let warned = Warned(Mutex::default());
            let scratch = Scratch::create(&location, &warned).unwrap();
            let place = scratch.temporary().unwrap().to_owned();
            assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o700);
            assert!(place.starts_with(other.path()) && scratch.dir().path().starts_with(&place));
            let warnings = warned.0.into_inner();
            let why = location
                .directory
                .map_or_else(|why| why, |path| format!("create directory {}", path.display()));
            assert!(warnings.len() == 1 && warnings[0].contains(&why), "{warnings:?}");
            drop(scratch);
            assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
        }
        let nowhere = ScratchLocation { directory: Err(String::new()), temporary: taken };
        assert!(Scratch::create(&nowhere, &SilentMonitor).is_err());
    }
}
