//! Opens, creates and locks a store, and checks that a directory can hold a store.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::fsx::{self, Dir, FileKind, FileMode, FileSystem};
use crate::hash::StoreId;
use crate::release::ReleaseName;
use crate::store::StoreError;
use crate::store::content::permissions::Permissions;
use crate::store::layout::{CURRENT, FORMAT, HEADWATER, LOCK, Layout, parse_current_target};
use crate::tree_path::Site;

/// Maximum bytes to read from a format file, which is one line of JSON.
const MAX_FORMAT_BYTES: u64 = 4096;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFormat {
    headwater: String,
    version: u64,
    id: StoreId,
    site: Site,
    #[serde(default, skip_serializing_if = "Permissions::are_default")]
    permissions: Permissions,
    /// Whether some files may still have different permissions, because a change of permissions has
    /// not been completed.
    #[serde(rename = "changing", default, skip_serializing_if = "std::ops::Not::not")]
    is_changing: bool,
}

/// What is at the path of a mirror.
#[derive(Debug)]
pub enum Presence {
    /// Nothing, an empty directory, or a directory in which the creation of a store was
    /// interrupted. A store can be created here.
    Absent,
    /// A store.
    Store(Box<Store>),
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    pub(super) layout: Layout,
    format: StoreFormat,
    path: PathBuf,
    cancel: CancelToken,
}

/// A store with its exclusive lock, which is required for every change to the store. The lock is
/// released when this value is dropped or the process ends.
#[derive(Debug)]
pub(super) struct LockedStore<'s> {
    store: &'s Store,
    _lock: File,
}

impl std::ops::Deref for LockedStore<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store
    }
}

/// The shared lock of a store: nothing changes while it is held. It is released when this value is
/// dropped or the process ends.
#[derive(Debug)]
pub(super) struct ReadLock {
    _lock: File,
}

impl Store {
    /// Opens the store at `path`, if there is one. Changes nothing.
    ///
    /// # Errors
    /// Fails if `path` is something else, if the store has a newer format, or if the file system
    /// cannot hold a store.
    pub fn probe(path: &Path) -> Result<Presence, StoreError> {
        let root = match Dir::open(path) {
            Ok(root) => root,
            Err(error) => return check_absent(path, error),
        };
        check_file_system(&root)?;
        // Creation writes the format file last. A directory that contains only an unfinished
        // `.headwater` comes from a creation that was interrupted, or that another process is
        // running now. Such a creation may be completed.
        let absent = || {
            let only_ours = root.entries()?.iter().all(|(name, _)| name == OsStr::new(HEADWATER));
            if only_ours {
                check_not_nested(path).map(|()| Presence::Absent)
            } else {
                Err(not_empty(path))
            }
        };
        let Some(headwater) = root.find_dir(HEADWATER)? else { return absent() };
        let Some(format) = read_format(&headwater)? else { return absent() };
        let layout = Layout::open(root, false).map_err(missing_directory)?;
        Ok(Presence::Store(Box::new(Self {
            layout,
            format,
            path: path.to_owned(),
            cancel: CancelToken::default(),
        })))
    }

    /// Opens the store at `path`.
    ///
    /// # Errors
    /// Fails like [`Store::probe`], or with [`StoreError::NotAStore`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match Self::probe(path)? {
            Presence::Store(store) => Ok(*store),
            Presence::Absent => Err(StoreError::NotAStore { path: path.to_owned() }),
        }
    }

    /// Creates the missing directories of the store at `path`. Does nothing if there is no store,
    /// or if the store has all its directories.
    ///
    /// # Errors
    /// Fails like [`Store::open`], with [`StoreError::OtherOwner`], with [`StoreError::Locked`]
    /// after `wait`, or on a disk error.
    pub fn restore_directories(
        path: &Path,
        wait: Duration,
        cancel: &CancelToken,
    ) -> Result<(), StoreError> {
        let missing = match Self::probe(path) {
            Ok(Presence::Absent) => return Ok(()),
            Ok(Presence::Store(store)) => store.layout.check_objects(),
            Err(error) => Err(error),
        };
        match missing {
            Err(StoreError::MissingDirectory { .. }) => {}
            other => return other,
        }
        let root = Dir::open(path)?;
        check_owner(&root, effective_user_id())?;
        let _guard = lock(&root.open_dir(HEADWATER)?, wait, cancel)?;
        let layout = Layout::open(root, true)?;
        Ok(layout.root.sync_file_system()?)
    }

    /// Opens the store at `path`, or creates it for `site`. The parent of `path` must exist.
    /// Several processes may do this at the same time.
    ///
    /// # Errors
    /// Fails like [`Store::probe`], with [`StoreError::OtherSite`], with
    /// [`StoreError::OtherOwner`], or on a disk error.
    pub fn open_or_create(path: &Path, site: &Site) -> Result<Self, StoreError> {
        let store = match Self::probe(path)? {
            Presence::Store(store) => *store,
            Presence::Absent => Self::create(path, site)?,
        };
        store.check_site(site)?;
        store.check_owner()?;
        Ok(store)
    }

    fn create(path: &Path, site: &Site) -> Result<Self, StoreError> {
        // A symbolic link to a directory is accepted in place of the directory.
        let is_there = Dir::open(path).is_ok();
        if !is_there
            && let (Some(parent), Some(name)) =
                (path.parent(), path.file_name().and_then(OsStr::to_str))
        {
            let parent =
                Dir::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            // The name of the directory becomes durable before anything in it. A power cut could
            // otherwise lose a mirror that a push reported as current.
            parent.ensure_dir(name)?;
            parent.sync()?;
        }
        let root = Dir::open(path)?;
        check_file_system(&root)?;
        check_owner(&root, effective_user_id())?;
        let headwater = root.ensure_dir(HEADWATER)?;
        let cancel = CancelToken::default();
        // Another process may be creating the store right now: wait at most 10 s for it.
        let _guard = lock(&headwater, Duration::from_secs(10), &cancel)?;
        check_links(&headwater)?;
        let layout = Layout::open(root, true)?;
        // Another process may have created the store in the meantime. If so, its id is kept.
        if let Some(format) = read_format(&headwater)? {
            return Ok(Self { layout, format, path: path.to_owned(), cancel });
        }
        let id =
            StoreId::random().map_err(|error| fsx::IoError::new("make an id for", path, error))?;
        let format = StoreFormat {
            headwater: "store".into(),
            version: 1,
            id,
            site: site.clone(),
            permissions: Permissions::default(),
            is_changing: false,
        };
        // The format file is written last and makes the directory a store.
        write_format(&layout, &format)?;
        layout.root.sync()?;
        Ok(Self { layout, format, path: path.to_owned(), cancel })
    }

    /// Returns the same store, whose waits for locks now end when `cancel` is cancelled.
    #[must_use]
    pub fn cancelled_by(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// The mirror's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The random id that was assigned to the store when it was created.
    #[must_use]
    pub const fn id(&self) -> StoreId {
        self.format.id
    }

    /// The site that the store holds.
    #[must_use]
    pub const fn site(&self) -> &Site {
        &self.format.site
    }

    /// Free bytes on the store's file system.
    ///
    /// # Errors
    /// Fails if the system does not report the free space.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.layout.root.file_system()?.free_bytes)
    }

    /// Free bytes on the file system where the store at `path` is or would be created.
    ///
    /// # Errors
    /// Fails if neither `path` nor its parent directory can be opened.
    pub fn free_bytes_at(path: &Path) -> Result<u64, StoreError> {
        Ok(Self::file_system_at(path)?.free_bytes)
    }

    /// The file system where the store at `path` is or would be created.
    pub(super) fn file_system_at(path: &Path) -> Result<FileSystem, StoreError> {
        let place = match Dir::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                Dir::open(parent.unwrap_or(Path::new(".")))?
            }
            other => other?,
        };
        Ok(place.file_system()?)
    }

    /// Creates an unnamed file on the store's file system, for data in transit. It disappears when
    /// it is closed, even if the process is killed.
    ///
    /// # Errors
    /// Fails if the file cannot be created.
    pub fn create_spool_file(&self) -> Result<File, StoreError> {
        Ok(self.layout.tmp.create_unnamed()?)
    }

    /// Refuses a store that holds a site other than `wanted`.
    ///
    /// # Errors
    /// [`StoreError::OtherSite`].
    pub fn check_site(&self, wanted: &Site) -> Result<(), StoreError> {
        if *self.site() == *wanted {
            return Ok(());
        }
        Err(StoreError::OtherSite {
            path: self.path.clone(),
            found: self.site().clone(),
            wanted: wanted.clone(),
        })
    }

    /// The format file, read again because another process may have changed it.
    fn reread_format(&self) -> Result<StoreFormat, StoreError> {
        Ok(read_format(&self.layout.headwater)?.unwrap_or_else(|| self.format.clone()))
    }

    /// The permissions of the served files.
    pub(super) fn permissions(&self) -> Result<Permissions, StoreError> {
        Ok(self.reread_format()?.permissions)
    }

    /// Whether some files may have different permissions, because a change of permissions was
    /// interrupted.
    pub(super) fn is_changing_permissions(&self) -> Result<bool, StoreError> {
        Ok(self.reread_format()?.is_changing)
    }

    /// Sets the permissions of the served files and directories in all releases. With `None`, only
    /// completes a change that was interrupted.
    ///
    /// # Errors
    /// A disk error, for example if this user cannot give files to the group, or
    /// [`StoreError::Locked`].
    pub fn set_permissions(
        &self,
        permissions: Option<Permissions>,
        wait: Duration,
    ) -> Result<(), StoreError> {
        const TEST_FILE: &str = "permissions";
        let is_done = |format: &StoreFormat| {
            !format.is_changing && permissions.is_none_or(|wanted| wanted == format.permissions)
        };
        if is_done(&self.reread_format()?) {
            return Ok(());
        }
        // Checked again under the lock: another process may have done the same in the meantime.
        let store = self.lock(wait)?;
        let format = store.reread_format()?;
        if is_done(&format) {
            return Ok(());
        }
        let permissions = permissions.unwrap_or(format.permissions);
        // If this user cannot give files to the group, that must fail before anything has changed.
        let tmp = &store.layout.tmp;
        tmp.unlink_if_any(TEST_FILE)?;
        tmp.write_new(TEST_FILE, b"", permissions.file(false), None)?;
        tmp.unlink(TEST_FILE)?;
        // The mark stays until all files have the new permissions, even after a power cut.
        let mut format = StoreFormat { permissions, is_changing: true, ..format };
        write_format(&store.layout, &format)?;
        // The sync in the second `write_format` makes the new modes durable before the mark is
        // removed.
        store.rewrite_permissions(permissions)?;
        format.is_changing = false;
        write_format(&store.layout, &format)
    }

    /// The release that `current` points to.
    ///
    /// # Errors
    /// [`StoreError::BadCurrent`] if `current` is not a link that headwater makes.
    pub fn current(&self) -> Result<Option<ReleaseName>, StoreError> {
        let bad =
            |what: String| StoreError::BadCurrent { path: self.layout.root.join(CURRENT), what };
        match self.layout.root.stat(CURRENT)?.map(|meta| meta.kind) {
            None => return Ok(None),
            Some(FileKind::Symlink) => {}
            Some(_) => return Err(bad("is not a symbolic link".into())),
        }
        // Between the two calls, `current` can only have been replaced by another link.
        let target = self.layout.root.read_link(CURRENT)?;
        let Some(target) = target else { return Ok(None) };
        let name = target.to_str().and_then(parse_current_target);
        name.map(Some).ok_or_else(|| bad(format!("points to {}, not to a slot", target.display())))
    }

    /// Refuses a store that another user owns: later pushes by the owner could not change this
    /// user's files.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`].
    pub fn check_owner(&self) -> Result<(), StoreError> {
        check_owner(&self.layout.root, effective_user_id())
    }

    /// Refuses the directory at `path` if another user owns it. Accepts a path that does not exist.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`], or the error from opening the directory.
    pub fn check_owner_at(path: &Path) -> Result<(), StoreError> {
        fsx::none_if_missing(Dir::open(path))?
            .map_or(Ok(()), |root| check_owner(&root, effective_user_id()))
    }

    /// Checks that this user can write to the directory at `path`, or create it.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`], or the error for the directory that this user would write to.
    pub fn check_writable_at(path: &Path) -> Result<(), StoreError> {
        Self::check_owner_at(path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let is_there = fsx::none_if_missing(Dir::open(path))?.is_some();
        let written = if is_there { path } else { parent.unwrap_or(Path::new(".")) };
        Ok(fsx::check_writable(written)?)
    }

    /// Takes the exclusive lock, waiting up to `wait`.
    pub(super) fn lock(&self, wait: Duration) -> Result<LockedStore<'_>, StoreError> {
        self.check_owner()?;
        let file = lock(&self.layout.headwater, wait, &self.cancel)?;
        self.layout.check_objects()?;
        Ok(LockedStore { store: self, _lock: file })
    }

    /// Takes the shared lock, waiting up to `wait`. Needs no write permission.
    pub(super) fn lock_shared(&self, wait: Duration) -> Result<ReadLock, StoreError> {
        let path = self.layout.headwater.join(LOCK);
        let file = self.layout.headwater.open_file(LOCK)?;
        if !fsx::lock_shared_cancellable(&file, wait, &|| self.cancel.is_cancelled(), &path)? {
            return Err(self.lock_error(path));
        }
        self.layout.check_objects()?;
        Ok(ReadLock { _lock: file })
    }

    /// The error to report when a lock could not be taken.
    pub(super) fn lock_error(&self, path: PathBuf) -> StoreError {
        lock_error(path, &self.cancel)
    }

    /// The token that ends waits for locks.
    pub(super) const fn cancel(&self) -> &CancelToken {
        &self.cancel
    }
}

fn missing_directory(error: fsx::IoError) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::NotFound => StoreError::MissingDirectory { path: error.path },
        _ => error.into(),
    }
}

fn not_empty(path: &Path) -> StoreError {
    StoreError::NotEmpty { path: path.to_owned() }
}

fn check_absent(path: &Path, error: fsx::IoError) -> Result<Presence, StoreError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match error.kind() {
        NotADirectory => Err(StoreError::NotDirectory { path: path.to_owned() }),
        NotFound => {
            // `path` is a dangling link. If it is a directory now, another process has just created
            // it.
            if fsx::lstat(path).is_ok_and(|meta| !meta.is_dir()) {
                return Err(StoreError::NotDirectory { path: path.to_owned() });
            }
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            let parent = match Dir::open(parent) {
                Err(error) if error.kind() == NotFound => {
                    return Err(StoreError::NoParent { path: parent.to_owned() });
                }
                other => other?,
            };
            check_file_system(&parent)?;
            check_not_nested(path)?;
            Ok(Presence::Absent)
        }
        _ => Err(error.into()),
    }
}

/// Refuses a path inside another mirror: that mirror would report the files as unexpected, or serve
/// them.
fn check_not_nested(path: &Path) -> Result<(), StoreError> {
    let place = fsx::resolve(path)?;
    let is_mirror = |outer: &&Path| fsx::lstat(&outer.join(HEADWATER).join(FORMAT)).is_ok();
    match place.ancestors().skip(1).find(is_mirror) {
        Some(outer) => {
            Err(StoreError::InsideMirror { path: path.to_owned(), outer: outer.to_owned() })
        }
        None => Ok(()),
    }
}

/// Refuses a network file system, on which locks, renames and syncs are not reliable.
fn check_file_system(dir: &Dir) -> Result<(), StoreError> {
    let path = || dir.path().to_owned();
    if let Some(kind) = dir.file_system()?.remote_name() {
        return Err(StoreError::FileSystem { path: path(), kind });
    }
    Ok(())
}

/// The effective user id of this process.
fn effective_user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn check_owner(dir: &Dir, caller: u32) -> Result<(), StoreError> {
    let owner = dir.owner()?;
    if owner == caller {
        return Ok(());
    }
    Err(StoreError::OtherOwner { path: dir.path().to_owned(), owner, caller })
}

/// Creates one hard and one symbolic link, to check that the file system supports both.
fn check_links(dir: &Dir) -> Result<(), StoreError> {
    const TEST_FILES: [&str; 3] = ["probe", "probe.hard", "probe.soft"];
    let clear = || TEST_FILES.iter().try_for_each(|name| dir.unlink_if_any(name).map(|_| ()));
    clear()?;
    dir.write_new(TEST_FILES[0], b"", FileMode::RECORD, None)?;
    // Both results are examined only after `clear`, so that no test file is left behind.
    let hard = dir.link(TEST_FILES[0], dir, TEST_FILES[1]);
    let soft = dir.symlink(TEST_FILES[0], TEST_FILES[2]);
    clear()?;
    for (result, what) in [(hard, "hard links"), (soft, "symbolic links")] {
        match result {
            Ok(()) => {}
            Err(error) if error.errno().is_some_and(is_unsupported) => {
                return Err(StoreError::NoLinks { path: dir.path().to_owned(), what });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_unsupported(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    // Linux returns EPERM for a link if the file system does not support links, as with FAT; other
    // systems return the other errors.
    errno == Errno::PERM
        || errno == Errno::NOSYS
        || errno == Errno::OPNOTSUPP
        || errno == Errno::NOTSUP
}

fn lock_error(path: PathBuf, cancel: &CancelToken) -> StoreError {
    if cancel.is_cancelled() { StoreError::Cancelled } else { StoreError::Locked { path } }
}

/// Takes the exclusive lock in this directory. Dropping the file releases the lock.
fn lock(headwater: &Dir, wait: Duration, cancel: &CancelToken) -> Result<File, StoreError> {
    let path = headwater.join(LOCK);
    let file = headwater.open_or_create_record(LOCK)?;
    if fsx::lock_cancellable(&file, wait, &|| cancel.is_cancelled(), &path)? {
        Ok(file)
    } else {
        Err(lock_error(path, cancel))
    }
}

fn write_format(layout: &Layout, format: &StoreFormat) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec(format).expect("plain values");
    bytes.push(b'\n');
    layout.tmp.unlink_if_any(FORMAT)?;
    // Data, then name, then the directory: a power cut leaves either the old or the new format
    // file.
    layout.tmp.write_new(FORMAT, &bytes, FileMode::RECORD, None)?;
    layout.headwater.sync_file_system()?;
    layout.tmp.rename(FORMAT, &layout.headwater, FORMAT)?;
    Ok(layout.headwater.sync()?)
}

fn read_format(headwater: &Dir) -> Result<Option<StoreFormat>, StoreError> {
    #[derive(Deserialize)]
    struct FormatHeader {
        headwater: String,
        version: u64,
    }
    let Some(bytes) = fsx::none_if_missing(headwater.read(FORMAT, MAX_FORMAT_BYTES))? else {
        return Ok(None);
    };
    let path = headwater.join(FORMAT);
    let damaged = |what: String| StoreError::Format { path: path.clone(), what };
    // The version is read first, and unknown keys are allowed here: a newer format must be reported
    // as newer and not as damaged.
    let header: FormatHeader =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if header.headwater != "store" {
        return Err(damaged("it does not say that this is a store".into()));
    }
    if header.version == 0 {
        return Err(damaged("its version is 0".into()));
    }
    if header.version > 1 {
        return Err(StoreError::NewerFormat { path, found: header.version });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Depth;
    use crate::store::testing::empty_store;

    #[test]
    fn other_users_cannot_write_and_are_named() {
        let (_dir, store) = empty_store();
        check_owner(&store.layout.root, effective_user_id()).unwrap();
        let refused = check_owner(&store.layout.root, 3_999_999_999).unwrap_err().to_string();
        let owner = crate::users::describe_user(effective_user_id());
        assert!(
            refused.ends_with(&format!(
                " belongs to {owner}, but headwater runs as user id 3999999999"
            )),
            "{refused}"
        );
    }

    #[test]
    fn readers_wait_only_for_the_writer() {
        let (_dir, store) = empty_store();
        let readers = [(); 2].map(|()| store.lock_shared(Duration::ZERO).unwrap());
        assert!(matches!(store.lock(Duration::ZERO), Err(StoreError::Locked { .. })));
        drop(readers);
        let writer = store.lock(Duration::ZERO).unwrap();
        assert!(matches!(store.lock_shared(Duration::ZERO), Err(StoreError::Locked { .. })));
        drop(writer);
        store.lock_shared(Duration::ZERO).unwrap();
    }

    #[test]
    fn only_a_verification_by_the_owner_is_recorded() {
        let (_dir, store) = empty_store();
        store.verify_as_reader(Depth::Full, Duration::ZERO, &|| false).unwrap();
        assert_eq!(store.history().unwrap(), []);
        store.verify(Depth::Full, Duration::ZERO, &|| false).unwrap();
        assert_eq!(store.history().unwrap().len(), 1);
    }
}
