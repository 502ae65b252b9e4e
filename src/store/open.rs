//! Opening, creating and locking a store, and what may hold one.

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
use crate::store::layout::{CURRENT, FORMAT, HEADWATER, LOCK, Layout, parse_current_target};
use crate::store::permissions::{PermissionEpoch, Permissions, epochs_with, permissions_at};
use crate::tree_path::Site;

/// A format file is one short line.
const MAX_FORMAT_BYTES: u64 = 4096;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFormat {
    headwater: String,
    version: u64,
    id: StoreId,
    site: Site,
    /// Permissions of releases, ascending; before the first the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    eras: Vec<PermissionEpoch>,
}

/// What is at the place of a mirror.
#[derive(Debug)]
pub enum Presence {
    /// Nothing yet, or an empty directory: a store can be created.
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

/// The exclusive right to change a store, or a shared one to read it while nobody changes it. Ends when it is
/// dropped or when the process ends.
#[derive(Debug)]
pub(super) struct Guard {
    _file: File,
}

impl Store {
    /// Looks at `path` and opens the store there. Changes nothing.
    ///
    /// # Errors
    /// A place that holds something else, a store of a newer format, a file system that cannot hold one.
    pub fn look(path: &Path) -> Result<Presence, StoreError> {
        let root = match Dir::open(path) {
            Ok(root) => root,
            Err(error) => return absent(path, error),
        };
        check_place(&root)?;
        // Creation writes the format file last: what was interrupted is completed,
        // and what another process creates at this moment is none of the user's files.
        let absent = || {
            let only_ours = root.entries()?.iter().all(|(name, _)| name == OsStr::new(HEADWATER));
            if only_ours { outside_of_mirrors(path).map(|()| Presence::Absent) } else { Err(not_empty(path)) }
        };
        let Some(headwater) = root.find_dir(HEADWATER)? else { return absent() };
        let Some(format) = read_format(&headwater)? else { return absent() };
        let layout = Layout::open(root, false)?;
        Ok(Presence::Store(Box::new(Self { layout, format, path: path.to_owned(), cancel: CancelToken::default() })))
    }

    /// Opens the store at `path`.
    ///
    /// # Errors
    /// As [`Store::look`], and [`StoreError::NotAStore`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match Self::look(path)? {
            Presence::Store(store) => Ok(*store),
            Presence::Absent => Err(StoreError::NotAStore { path: path.to_owned() }),
        }
    }

    /// Opens the store at `path`, or creates it for `site`. The parent of
    /// `path` must exist. Safe against another process doing the same.
    ///
    /// # Errors
    /// As [`Store::look`]; [`StoreError::OtherSite`]; [`StoreError::OtherOwner`]; errors of the disk.
    pub fn open_or_create(path: &Path, site: &Site) -> Result<Self, StoreError> {
        let store = match Self::look(path)? {
            Presence::Store(store) => *store,
            Presence::Absent => Self::create(path, site)?,
        };
        store.check_site(site)?;
        store.check_owner()?;
        Ok(store)
    }

    fn create(path: &Path, site: &Site) -> Result<Self, StoreError> {
        // A link to a directory is as good as the directory.
        let is_there = Dir::open(path).is_ok();
        if !is_there && let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) {
            let parent = Dir::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            parent.ensure_dir(name)?;
            parent.sync()?;
        }
        let root = Dir::open(path)?;
        check_place(&root)?;
        check_owner(&root, own_id())?;
        let headwater = root.ensure_dir(HEADWATER)?;
        let cancel = CancelToken::default();
        let _guard = lock(&headwater, Duration::from_secs(10), &cancel)?;
        check_links(&headwater)?;
        let layout = Layout::open(root, true)?;
        // Another process may have been quicker; its id stands.
        if let Some(format) = read_format(&headwater)? {
            return Ok(Self { layout, format, path: path.to_owned(), cancel });
        }
        let id = StoreId::random().map_err(|error| fsx::IoError::new("make an id for", path, error))?;
        let format = StoreFormat { headwater: "store".into(), version: 1, id, site: site.clone(), eras: Vec::new() };
        write_format(&layout, &format)?;
        layout.root.sync()?;
        Ok(Self { layout, format, path: path.to_owned(), cancel })
    }

    /// The same store; what waits for its locks ends when `cancel` asks for it.
    #[must_use]
    pub fn cancelled_by(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// The place.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The random name that the store got when it was created.
    #[must_use]
    pub const fn id(&self) -> StoreId {
        self.format.id
    }

    /// The site it holds.
    #[must_use]
    pub const fn site(&self) -> &Site {
        &self.format.site
    }

    /// Bytes free on its file system.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.layout.root.file_system()?.free_bytes)
    }

    /// Bytes free where the store `path` is or would be made.
    ///
    /// # Errors
    /// When neither the place nor the directory that it would be made in can be opened.
    pub fn free_bytes_at(path: &Path) -> Result<u64, StoreError> {
        Ok(Self::file_system_at(path)?.free_bytes)
    }

    /// The file system that the store `path` is on or would be made on.
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

    /// A file without a name for what is on its way, on the store's file
    /// system; it goes when it is closed, also by a killed process.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn spool(&self) -> Result<File, StoreError> {
        Ok(self.layout.tmp.create_unnamed()?)
    }

    /// Refuses another site than `wanted`.
    ///
    /// # Errors
    /// [`StoreError::OtherSite`].
    pub fn check_site(&self, wanted: &Site) -> Result<(), StoreError> {
        if *self.site() == *wanted {
            return Ok(());
        }
        Err(StoreError::OtherSite { path: self.path.clone(), found: self.site().clone(), wanted: wanted.clone() })
    }

    /// The permissions of the release `sequence`, as the disk has them now.
    pub(super) fn permissions_of(&self, sequence: u64) -> Result<Permissions, StoreError> {
        let format = read_format(&self.layout.headwater)?;
        Ok(permissions_at(format.as_ref().map_or(&[], |format| &format.eras), sequence))
    }

    /// From the next release on, files and directories get these permissions.
    /// Releases that are here keep theirs.
    ///
    /// # Errors
    /// Those of the disk, and [`StoreError::Locked`].
    pub fn use_permissions(&self, permissions: Permissions, wait: Duration) -> Result<(), StoreError> {
        if self.permissions_of(u64::MAX)? == permissions {
            return Ok(());
        }
        let _guard = self.lock(wait)?;
        let lowest = self.slot_names()?.first().map_or(u64::MAX, |slot| slot.release.sequence());
        let mut format = read_format(&self.layout.headwater)?.unwrap_or_else(|| self.format.clone());
        format.eras = epochs_with(&format.eras, permissions, self.highest_sequence()?, lowest);
        write_format(&self.layout, &format)
    }

    /// The current release, as the link names it.
    ///
    /// # Errors
    /// [`StoreError::BadCurrent`] when `current` is something that we do not make.
    pub fn current(&self) -> Result<Option<ReleaseName>, StoreError> {
        let bad = |what: String| StoreError::BadCurrent { path: self.layout.root.join(CURRENT), what };
        match self.layout.root.stat(CURRENT)?.map(|meta| meta.kind) {
            None => return Ok(None),
            Some(FileKind::Symlink) => {}
            Some(_) => return Err(bad("is not a symbolic link".into())),
        }
        // Between the two calls it may only have been replaced by another link.
        let target = self.layout.root.read_link(CURRENT)?;
        let Some(target) = target else { return Ok(None) };
        let name = target.to_str().and_then(parse_current_target);
        name.map(Some).ok_or_else(|| bad(format!("points to {}, not to a slot", target.display())))
    }

    /// Refuses a store that another user owns: the files of one push would belong to a user whom the next
    /// push cannot act for.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`].
    pub fn check_owner(&self) -> Result<(), StoreError> {
        check_owner(&self.layout.root, own_id())
    }

    /// Refuses the directory at `path` if another user owns it. What is not there yet has no owner.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`]; a directory that cannot be opened.
    pub fn check_owner_at(path: &Path) -> Result<(), StoreError> {
        fsx::found(Dir::open(path))?.map_or(Ok(()), |root| check_owner(&root, own_id()))
    }

    /// Takes the lock to change the store, waiting at most `wait`.
    pub(super) fn lock(&self, wait: Duration) -> Result<Guard, StoreError> {
        self.check_owner()?;
        let guard = lock(&self.layout.headwater, wait, &self.cancel)?;
        self.check_objects_directory()?;
        Ok(guard)
    }

    /// Takes the lock to read the store while nobody changes it, waiting at most `wait`. Needs no right to write.
    pub(super) fn lock_to_read(&self, wait: Duration) -> Result<Guard, StoreError> {
        let path = self.layout.headwater.join(LOCK);
        let file = self.layout.headwater.open_file(LOCK)?;
        if !fsx::lock_shared_unless(&file, wait, &|| self.cancel.is_cancelled(), &path)? {
            return Err(self.not_locked(path));
        }
        self.check_objects_directory()?;
        Ok(Guard { _file: file })
    }

    /// Why a lock was not taken.
    pub(super) fn not_locked(&self, path: PathBuf) -> StoreError {
        not_locked(path, &self.cancel)
    }

    /// The request to stop waiting for locks.
    pub(super) const fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    fn check_objects_directory(&self) -> Result<(), StoreError> {
        if self.layout.has_whole_objects()? {
            return Ok(());
        }
        let what = "one of its 256 directories is missing or is no directory".to_owned();
        Err(StoreError::Format { path: self.layout.objects.path().to_owned(), what })
    }
}

fn not_empty(path: &Path) -> StoreError {
    StoreError::NotEmpty { path: path.to_owned() }
}

fn absent(path: &Path, error: fsx::IoError) -> Result<Presence, StoreError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match error.kind() {
        NotADirectory => Err(StoreError::NotDirectory { path: path.to_owned() }),
        NotFound => {
            // A link to nowhere; a directory here is one that another process created just now.
            if fsx::lstat(path).is_ok_and(|meta| !meta.is_dir()) {
                return Err(StoreError::NotDirectory { path: path.to_owned() });
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let parent = match Dir::open(parent) {
                Err(error) if error.kind() == NotFound => {
                    return Err(StoreError::NoParent { path: parent.to_owned() });
                }
                other => other?,
            };
            check_place(&parent)?;
            outside_of_mirrors(path)?;
            Ok(Presence::Absent)
        }
        _ => Err(error.into()),
    }
}

/// Refuses a place inside of another mirror: that mirror would take it for a stranger's files, or serve it.
fn outside_of_mirrors(path: &Path) -> Result<(), StoreError> {
    let place = fsx::resolve(path)?;
    let is_mirror = |outer: &&Path| fsx::lstat(&outer.join(HEADWATER).join(FORMAT)).is_ok();
    match place.ancestors().skip(1).find(is_mirror) {
        Some(outer) => Err(StoreError::InsideMirror { path: path.to_owned(), outer: outer.to_owned() }),
        None => Ok(()),
    }
}

/// Refuses a file system that cannot hold a store.
fn check_place(dir: &Dir) -> Result<(), StoreError> {
    let path = || dir.path().to_owned();
    if let Some(kind) = dir.file_system()?.remote_name() {
        return Err(StoreError::FileSystem { path: path(), kind });
    }
    Ok(())
}

/// The id of the user that this process runs as.
fn own_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn check_owner(dir: &Dir, caller: u32) -> Result<(), StoreError> {
    let owner = dir.owner()?;
    if owner == caller {
        return Ok(());
    }
    Err(StoreError::OtherOwner { path: dir.path().to_owned(), owner, caller })
}

/// Tries the two kinds of links that slots are made of.
fn check_links(dir: &Dir) -> Result<(), StoreError> {
    const PROBE: [&str; 3] = ["probe", "probe.hard", "probe.soft"];
    let clear = || PROBE.iter().try_for_each(|name| dir.unlink_if_any(name).map(|_| ()));
    clear()?;
    dir.write_new(PROBE[0], b"", FileMode::RECORD, None)?;
    let hard = dir.link(PROBE[0], dir, PROBE[1]);
    let soft = dir.symlink(PROBE[0], PROBE[2]);
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
    errno == Errno::PERM || errno == Errno::NOSYS || errno == Errno::OPNOTSUPP || errno == Errno::NOTSUP
}

fn not_locked(path: PathBuf, cancel: &CancelToken) -> StoreError {
    if cancel.is_cancelled() { StoreError::Cancelled } else { StoreError::Locked { path } }
}

fn lock(headwater: &Dir, wait: Duration, cancel: &CancelToken) -> Result<Guard, StoreError> {
    let path = headwater.join(LOCK);
    let file = headwater.open_or_create_record(LOCK)?;
    match fsx::lock_unless(&file, wait, &|| cancel.is_cancelled(), &path)? {
        true => Ok(Guard { _file: file }),
        false => Err(not_locked(path, cancel)),
    }
}

fn write_format(layout: &Layout, format: &StoreFormat) -> Result<(), StoreError> {
    let mut bytes = serde_json::to_vec(format).expect("plain values");
    bytes.push(b'\n');
    layout.tmp.unlink_if_any(FORMAT)?;
    layout.tmp.write_new(FORMAT, &bytes, FileMode::RECORD, None)?;
    layout.headwater.sync_file_system()?;
    layout.tmp.rename(FORMAT, &layout.headwater, FORMAT)?;
    Ok(layout.headwater.sync()?)
}

fn read_format(headwater: &Dir) -> Result<Option<StoreFormat>, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        headwater: String,
        version: u64,
    }
    let Some(bytes) = fsx::found(headwater.read(FORMAT, MAX_FORMAT_BYTES))? else { return Ok(None) };
    let path = headwater.join(FORMAT);
    let damaged = |what: String| StoreError::Format { path: path.clone(), what };
    let version: Version = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if version.headwater != "store" {
        return Err(damaged("it does not say that this is a store".into()));
    }
    if version.version != 1 {
        return Err(StoreError::NewerFormat { path, found: version.version });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Depth;
    use crate::store::testing::empty_store;

    #[test]
    fn only_the_owner_may_write_and_users_are_named() {
        let (_dir, store) = empty_store();
        check_owner(&store.layout.root, own_id()).unwrap();
        let refused = check_owner(&store.layout.root, 3_999_999_999).unwrap_err().to_string();
        let owner = crate::users::describe_user(own_id());
        assert!(refused.ends_with(&format!(" belongs to {owner}, and this runs as user id 3999999999")), "{refused}");
    }

    #[test]
    fn readers_do_not_wait_for_each_other_but_for_the_writer() {
        let (_dir, store) = empty_store();
        let readers = [(); 2].map(|()| store.lock_to_read(Duration::ZERO).unwrap());
        assert!(matches!(store.lock(Duration::ZERO), Err(StoreError::Locked { .. })));
        drop(readers);
        let writer = store.lock(Duration::ZERO).unwrap();
        assert!(matches!(store.lock_to_read(Duration::ZERO), Err(StoreError::Locked { .. })));
        drop(writer);
        store.lock_to_read(Duration::ZERO).unwrap();
    }

    #[test]
    fn only_the_verify_of_the_owner_is_noted() {
        let (_dir, store) = empty_store();
        store.verify_as_reader(Depth::Full, Duration::ZERO, &|| false).unwrap();
        assert_eq!(store.history().unwrap(), []);
        store.verify(Depth::Full, Duration::ZERO, &|| false).unwrap();
        assert_eq!(store.history().unwrap().len(), 1);
    }
}
