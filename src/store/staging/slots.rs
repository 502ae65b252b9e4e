//! Slots: changes the file tree of a release that is not served.
//!
//! The cost depends on the size of the change: the idle slot is changed from its own release to the
//! new release. Every step is relative to an open directory in the slot and follows no link, so
//! foreign links in a slot cannot lead outside.

use std::collections::HashMap;
use std::io;

use crate::fsx::{Dir, FileKind, FileMode, Meta};
use crate::hash::ObjectId;
use crate::manifest::{Entry, EntryKind, FileEntry};
use crate::store::content::permissions::Permissions;
use crate::store::layout::{DIRTY, SlotName, object_name};
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError, unless_damaged};
use crate::tree_path::TreePath;

/// Maximum number of hard links to an inode. ext4 allows 65,000; the difference leaves room for
/// other programs.
const MAX_LINKS: u64 = 64_000;

/// A directory, and the open directories along the last path used.
#[derive(Debug)]
pub(in crate::store) struct DirStack {
    root: Dir,
    open: Vec<(String, Dir)>,
    on_unexpected: OnUnexpected,
    /// The mode of new directories.
    mode: FileMode,
}

/// What to do with an unexpected file that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnUnexpected {
    /// Remove it.
    Remove,
    /// Fail: the tree does not match its manifest.
    Fail,
}

impl DirStack {
    pub(in crate::store) const fn new(root: Dir, mode: FileMode) -> Self {
        Self { root, open: Vec::new(), on_unexpected: OnUnexpected::Remove, mode }
    }

    fn top(&self) -> &Dir {
        self.open.last().map_or(&self.root, |(_, dir)| dir)
    }

    /// Closes the directories that are not on the path to `parent`. Returns the names that must
    /// still be opened.
    fn descend<'p>(&mut self, parent: &'p str) -> impl Iterator<Item = &'p str> + use<'p> {
        let names = || parent.split('/').filter(|name| !name.is_empty());
        let common =
            self.open.iter().zip(names()).take_while(|((open, _), name)| open == name).count();
        self.open.truncate(common);
        names().skip(common)
    }

    /// Opens the directory `parent`. Returns `None` if it or a directory above it does not exist.
    pub(in crate::store) fn find(&mut self, parent: &str) -> Result<Option<&Dir>, StoreError> {
        for name in self.descend(parent) {
            match self.top().open_dir(name) {
                Ok(dir) => self.open.push((name.to_owned(), dir)),
                Err(error) if is_no_directory(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(self.top()))
    }

    /// Opens the directory `parent`, creating missing directories. Handles a file in the way as
    /// [`OnUnexpected`] specifies.
    pub(in crate::store) fn ensure(&mut self, parent: &str) -> Result<&Dir, StoreError> {
        let mode = self.mode;
        for name in self.descend(parent) {
            let dir = match self.top().ensure_dir_as(name, mode) {
                Err(error) if is_no_directory(&error) => {
                    if self.on_unexpected == OnUnexpected::Fail {
                        return Err(StoreError::Tampered { path: self.top().join(name) });
                    }
                    self.top().unlink(name)?;
                    self.top().create_dir_as(name, mode)?
                }
                other => other?,
            };
            self.open.push((name.to_owned(), dir));
        }
        Ok(self.top())
    }

    /// Removes the directory `path`, then its parents, as long as they are empty.
    pub(in crate::store) fn remove_empty(&mut self, path: &str) -> Result<(), StoreError> {
        let mut path = path;
        loop {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let Some(dir) = self.find(parent)? else { return Ok(()) };
            if !dir.remove_dir_if_empty(name)? || parent.is_empty() {
                return Ok(());
            }
            path = parent;
        }
    }
}

fn is_no_directory(error: &crate::fsx::IoError) -> bool {
    use rustix::io::Errno;
    // Opening a link without following it fails with ELOOP, or with ENOTDIR if O_DIRECTORY is set.
    error.errno().is_some_and(|errno| {
        errno == Errno::NOENT || errno == Errno::NOTDIR || errno == Errno::LOOP
    })
}

fn split_path(path: &TreePath) -> (&str, &str) {
    (path.parent().unwrap_or(""), path.name())
}

/// Whether the file has the size, time and permissions of the entry. Its bytes are not compared.
pub(in crate::store) fn has_metadata_of(
    meta: &Meta,
    file: &FileEntry,
    permissions: Permissions,
) -> bool {
    meta.kind == FileKind::File
        && meta.size == file.size
        && u64::try_from(meta.mtime) == Ok(file.mtime)
        && permissions.file(file.exec).matches(meta)
}

/// Whether a hard link to this file can be used for the entry.
fn is_linkable(meta: &Meta, file: &FileEntry, permissions: Permissions) -> bool {
    has_metadata_of(meta, file, permissions) && meta.links < MAX_LINKS
}

/// Changes one slot into the tree of a release.
#[derive(Debug)]
pub(in crate::store) struct SlotWriter<'s> {
    store: &'s LockedStore<'s>,
    slot: DirStack,
    permissions: Permissions,
    /// Objects that had to be copied, each with the path of its last copy.
    copies: HashMap<ObjectId, TreePath>,
}

impl<'s> SlotWriter<'s> {
    /// A writer for the empty `slot`.
    pub(in crate::store) fn for_empty_slot(
        store: &'s LockedStore<'s>,
        slot: Dir,
        permissions: Permissions,
    ) -> Self {
        let slot = DirStack::new(slot, permissions.directory());
        Self { store, slot, permissions, copies: HashMap::new() }
    }

    /// A writer for `slot`, which contains the tree of a release. If the tree differs from its
    /// manifest, the writer fails with [`StoreError::Tampered`].
    pub(in crate::store) fn for_filled_slot(
        store: &'s LockedStore<'s>,
        slot: Dir,
        permissions: Permissions,
    ) -> Self {
        let mut writer = Self::for_empty_slot(store, slot, permissions);
        writer.slot.on_unexpected = OnUnexpected::Fail;
        writer
    }

    /// A second writer for the same slot, for another thread.
    pub(in crate::store) fn try_clone(&self) -> Result<Self, StoreError> {
        let mut second =
            Self::for_empty_slot(self.store, self.slot.root.try_clone()?, self.permissions);
        second.slot.on_unexpected = self.slot.on_unexpected;
        Ok(second)
    }

    /// Removes an entry. Does not remove its directory, which may now be empty.
    pub(in crate::store) fn remove(&mut self, path: &TreePath) -> Result<(), StoreError> {
        let (parent, name) = split_path(path);
        let Some(dir) = self.slot.find(parent)? else {
            return Err(StoreError::Tampered { path: self.slot.root.join(parent) });
        };
        match dir.unlink(name) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.kind() == io::ErrorKind::IsADirectory =>
            {
                Err(StoreError::Tampered { path: dir.join(name) })
            }
            other => Ok(other?),
        }
    }

    /// Removes an entry that may be absent because it has expired. Returns whether it was there.
    /// Does not remove its directory, which may now be empty.
    pub(in crate::store) fn remove_if_any(&mut self, path: &TreePath) -> Result<bool, StoreError> {
        let (parent, name) = split_path(path);
        let Some(dir) = self.slot.find(parent)? else { return Ok(false) };
        match dir.unlink_if_any(name) {
            // Another program made this directory; `verify` reports its content.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(false),
            other => Ok(other?),
        }
    }

    /// Removes the directory `path`, then its parents, as long as they are empty.
    pub(in crate::store) fn remove_empty(&mut self, path: &str) -> Result<(), StoreError> {
        self.slot.remove_empty(path)
    }

    /// Places entries as links to their objects. Returns the entries that need a copy, in order.
    pub(in crate::store) fn place_links(
        &mut self,
        entries: &[Entry],
    ) -> Result<Vec<Entry>, StoreError> {
        let mut left = Vec::new();
        for entry in entries {
            if !self.place(entry)? {
                left.push(entry.clone());
            }
        }
        Ok(left)
    }

    /// Places an entry as a link to its object; its path must be free. Returns `false` if the
    /// object has a different time or mode, or too many links.
    fn place(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let (parent, name) = split_path(&entry.path);
        match &entry.kind {
            EntryKind::Symlink(target) => {
                self.put(parent, name, |dir| Ok(dir.symlink(target.as_str(), name)?))?;
            }
            EntryKind::File(file) => {
                let object = object_name(&file.object);
                let objects = &self.store.layout.objects;
                match objects.stat(&object)? {
                    Some(meta) if meta.size == file.size && meta.kind == FileKind::File => {
                        if !is_linkable(&meta, file, self.permissions) {
                            return Ok(false);
                        }
                        self.put(parent, name, |dir| Ok(objects.link(&object, dir, name)?))?;
                    }
                    _ => return Err(StoreError::DamagedObject { object: file.object }),
                }
            }
        }
        Ok(true)
    }

    /// Places a file for which [`SlotWriter::place`] returned `false`: as a link to the file in the
    /// live slot if `live` is given and matches, otherwise as a link to an earlier copy in this
    /// slot, otherwise as a new copy.
    pub(in crate::store) fn place_by_copy(
        &mut self,
        entry: &Entry,
        live: Option<&mut DirStack>,
    ) -> Result<(), StoreError> {
        let Some(file) = entry.file() else { return Ok(()) };
        let (parent, name) = split_path(&entry.path);
        if let Some(live) = live
            && let Some(live) = live.find(parent)?
            && live.stat(name)?.is_some_and(|meta| is_linkable(&meta, file, self.permissions))
        {
            return self.put(parent, name, |dir| Ok(live.link(name, dir, name)?));
        }
        if let Some(copy) = self.copies.get(&file.object).cloned() {
            let (copy_parent, copy_name) = split_path(&copy);
            let from = self.slot.find(copy_parent)?.map(Dir::try_clone).transpose()?;
            if let Some(from) = from
                && from
                    .stat(copy_name)?
                    .is_some_and(|meta| is_linkable(&meta, file, self.permissions))
            {
                return self.put(parent, name, |dir| Ok(from.link(copy_name, dir, name)?));
            }
        }
        // Makes a copy instead of changing the object's metadata, because the inode may have
        // another name that is being served.
        let (store, mode) = (self.store, self.permissions.file(file.exec));
        self.put(parent, name, |dir| store.copy_object(file, mode, dir, name))?;
        self.copies.insert(file.object, entry.path.clone());
        Ok(())
    }

    /// Creates something at a path. A file in the way is unexpected, because the entries of the
    /// slot's own release have already been removed.
    fn put(
        &mut self,
        parent: &str,
        name: &str,
        make: impl Fn(&Dir) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let must_exist = self.slot.on_unexpected == OnUnexpected::Fail;
        let dir = self.slot.ensure(parent)?;
        match make(dir) {
            Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                if must_exist {
                    return Err(StoreError::Tampered { path: dir.join(name) });
                }
                dir.remove_all(name)?;
                make(dir)
            }
            other => other,
        }
    }

    /// Replaces objects that had to be copied with links to the copies, so that the content is
    /// stored only once and later links find it. The slot must be synced first, because the copies
    /// become objects.
    pub(in crate::store) fn share_copies(&mut self) -> Result<(), StoreError> {
        const NAME: &str = "share";
        let layout = &self.store.layout;
        for (object, path) in std::mem::take(&mut self.copies) {
            let (parent, name) = split_path(&path);
            let Some(dir) = self.slot.find(parent)? else { continue };
            layout.tmp.unlink_if_any(NAME)?;
            dir.link(name, &layout.tmp, NAME)?;
            // Not synced, because the name has the same bytes before and after this rename.
            self.store.adopt_object(&object, &layout.tmp, NAME)?;
        }
        Ok(())
    }
}

impl Store {
    /// The slots of releases, in ascending order. Leaves out `dirty` and unknown names.
    pub(in crate::store) fn slot_names(&self) -> Result<Vec<SlotName>, StoreError> {
        let entries = self.layout.slots.entries()?;
        let mut names: Vec<_> =
            entries.iter().filter_map(|(name, _)| SlotName::parse(name.to_str()?)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Opens the current slot, if it exists.
    pub(in crate::store) fn current_slot(&self) -> Result<Option<Dir>, StoreError> {
        match self.current()? {
            Some(current) => Ok(self.layout.slots.find_dir(&current.to_string())?),
            None => Ok(None),
        }
    }
}

impl LockedStore<'_> {
    /// Removes a slot that is not served. Does nothing if it does not exist.
    pub(in crate::store) fn remove_slot(&self, slot: SlotName) -> Result<(), StoreError> {
        let slots = &self.layout.slots;
        let name = slot.to_string();
        if slots.stat(&name)?.is_none_or(|meta| meta.kind != FileKind::Directory) {
            return Ok(());
        }
        // The name goes first, and durably: a slot with the name of a release is taken for the
        // complete release, so an interrupted removal must not leave a partial tree under that
        // name.
        slots.remove_all(DIRTY)?;
        slots.rename(&name, slots, DIRTY)?;
        slots.sync()?;
        Ok(slots.remove_all(DIRTY)?)
    }

    /// Takes the idle slot and renames it to `dirty`. Returns the open directory and the release
    /// whose tree it contains; `None` if no slot is usable. Removes all other idle slots.
    pub(in crate::store) fn take_idle_slot(&self) -> Result<Option<(Dir, SlotName)>, StoreError> {
        let slots = &self.layout.slots;
        slots.remove_all(DIRTY)?;
        let current = self.current()?;
        let mut idle = self.slot_names()?;
        idle.retain(|slot| slot.is_spare || Some(slot.release) != current);
        // A slot can be changed only with its manifest; without the manifest it is useless.
        let mut usable = None;
        for (index, slot) in idle.iter().enumerate().rev() {
            if let Some(release) = unless_damaged(self.release(slot.release))?
                && self.has_manifest(&release.manifest)?
            {
                usable = Some(index);
                break;
            }
        }
        let taken = usable.map(|index| idle.remove(index));
        idle.into_iter().try_for_each(|slot| self.remove_slot(slot))?;
        let Some(slot) = taken else { return Ok(None) };
        // From now on the tree belongs to no release. If this process dies, the name shows that to
        // the next process.
        slots.rename(&slot.to_string(), slots, DIRTY)?;
        Ok(Some((slots.open_dir(DIRTY)?, slot)))
    }
}
