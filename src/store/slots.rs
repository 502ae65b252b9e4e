//! Slots: building the plain tree of a release beside the one that is served.
//!
//! Work grows with the change: the idle slot is brought from its own release
//! to the new one. Every step is relative to an open directory of the slot and
//! follows no link, so that a slot which somebody tampered with leads nowhere.

use std::collections::HashMap;
use std::io;

use crate::fsx::{Dir, FileKind, FileMode, Meta};
use crate::hash::ObjectId;
use crate::manifest::{Entry, EntryKind, FileEntry};
use crate::store::layout::{DIRTY, SlotName, object_name};
use crate::store::permissions::Permissions;
use crate::store::{Store, StoreError, unless_damaged};
use crate::tree_path::TreePath;

/// ext4 allows 65,000 names of an inode; some room is left for other users of it.
const MAX_LINKS: u64 = 64_000;

/// A directory and the open directories on the way to the last place asked for.
#[derive(Debug)]
pub(super) struct DirStack {
    root: Dir,
    open: Vec<(String, Dir)>,
    strangers: OnUnexpected,
    /// Permissions of the directories that it makes.
    mode: FileMode,
}

/// What becomes of something that is not ours and stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnUnexpected {
    /// It goes.
    Remove,
    /// It tells that the tree is not what its manifest says.
    Fail,
}

impl DirStack {
    pub(super) const fn new(root: Dir, mode: FileMode) -> Self {
        Self { root, open: Vec::new(), strangers: OnUnexpected::Remove, mode }
    }

    fn top(&self) -> &Dir {
        self.open.last().map_or(&self.root, |(_, dir)| dir)
    }

    /// Closes what is not on the way to `parent` and answers what is left to open.
    fn descend<'p>(&mut self, parent: &'p str) -> impl Iterator<Item = &'p str> + use<'p> {
        let names = || parent.split('/').filter(|name| !name.is_empty());
        let common = self.open.iter().zip(names()).take_while(|((open, _), name)| open == name).count();
        self.open.truncate(common);
        names().skip(common)
    }

    /// The directory `parent`, if all of it is there.
    pub(super) fn find(&mut self, parent: &str) -> Result<Option<&Dir>, StoreError> {
        for name in self.descend(parent) {
            match self.top().open_dir(name) {
                Ok(dir) => self.open.push((name.to_owned(), dir)),
                Err(error) if is_no_directory(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(self.top()))
    }

    /// The directory `parent`, created where missing. What stands in the way
    /// is not ours and goes.
    pub(super) fn ensure(&mut self, parent: &str) -> Result<&Dir, StoreError> {
        let mode = self.mode;
        for name in self.descend(parent) {
            let dir = match self.top().ensure_dir_as(name, mode) {
                Err(error) if is_no_directory(&error) => {
                    if self.strangers == OnUnexpected::Fail {
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

    /// Removes the directory `path` and those above it while they are empty.
    pub(super) fn remove_empty(&mut self, path: &str) -> Result<(), StoreError> {
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
    // Opening a link without following it answers ELOOP, or ENOTDIR with O_DIRECTORY.
    error.errno().is_some_and(|errno| errno == Errno::NOENT || errno == Errno::NOTDIR || errno == Errno::LOOP)
}

fn split(path: &TreePath) -> (&str, &str) {
    (path.parent().unwrap_or(""), path.name())
}

/// Whether the file is what the entry wants in all but its bytes.
pub(super) fn has_metadata_of(meta: &Meta, file: &FileEntry, permissions: Permissions) -> bool {
    meta.kind == FileKind::File
        && meta.size == file.size
        && u64::try_from(meta.mtime) == Ok(file.mtime)
        && permissions.file(file.exec).is_of(meta)
}

/// Whether one more name of this file can be the entry.
fn is_linkable(meta: &Meta, file: &FileEntry, permissions: Permissions) -> bool {
    has_metadata_of(meta, file, permissions) && meta.links < MAX_LINKS
}

/// Changes one slot into the tree of a release.
#[derive(Debug)]
pub(super) struct SlotWriter<'s> {
    store: &'s Store,
    slot: DirStack,
    permissions: Permissions,
    /// Objects that had to be copied, and the last copy.
    copies: HashMap<ObjectId, TreePath>,
}

impl<'s> SlotWriter<'s> {
    /// Fills `slot`, which is empty.
    pub(super) fn fill(store: &'s Store, slot: Dir, permissions: Permissions) -> Self {
        let slot = DirStack::new(slot, permissions.directory());
        Self { store, slot, permissions, copies: HashMap::new() }
    }

    /// Changes `slot`, which has the tree of a release. Whatever shows that it
    /// has not gives [`StoreError::Tampered`].
    pub(super) fn change(store: &'s Store, slot: Dir, permissions: Permissions) -> Self {
        let mut writer = Self::fill(store, slot, permissions);
        writer.slot.strangers = OnUnexpected::Fail;
        writer
    }

    /// A second writer of the same slot, for another thread.
    pub(super) fn try_clone(&self) -> Result<Self, StoreError> {
        let mut twin = Self::fill(self.store, self.slot.root.try_clone()?, self.permissions);
        twin.slot.strangers = self.slot.strangers;
        Ok(twin)
    }

    /// Takes an entry away; the directory that may be empty now is left.
    pub(super) fn remove(&mut self, path: &TreePath) -> Result<(), StoreError> {
        let (parent, name) = split(path);
        let Some(dir) = self.slot.find(parent)? else {
            return Err(StoreError::Tampered { path: self.slot.root.join(parent) });
        };
        match dir.unlink(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::IsADirectory => {
                Err(StoreError::Tampered { path: dir.join(name) })
            }
            other => Ok(other?),
        }
    }

    /// Removes an entry that may be absent, as expired ones may; returns whether it was there. The
    /// directory that may be empty now is left.
    pub(super) fn remove_if_any(&mut self, path: &TreePath) -> Result<bool, StoreError> {
        let (parent, name) = split(path);
        let Some(dir) = self.slot.find(parent)? else { return Ok(false) };
        match dir.unlink_if_any(name) {
            // Made by another program: verify reports what is in it.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(false),
            other => Ok(other?),
        }
    }

    /// Removes the directory `path` and those above it while they are empty.
    pub(super) fn remove_empty(&mut self, path: &str) -> Result<(), StoreError> {
        self.slot.remove_empty(path)
    }

    /// Puts entries in their places, and answers those that a link to their
    /// object cannot be, in order.
    pub(super) fn place_each(&mut self, entries: &[Entry]) -> Result<Vec<Entry>, StoreError> {
        let mut left = Vec::new();
        for entry in entries {
            if !self.place(entry)? {
                left.push(entry.clone());
            }
        }
        Ok(left)
    }

    /// Puts an entry in its place, which is free: a link to its object.
    /// Answers no where the object has other times or mode, or too many names.
    fn place(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let (parent, name) = split(&entry.path);
        match &entry.kind {
            EntryKind::Symlink(target) => self.put(parent, name, |dir| Ok(dir.symlink(target.as_str(), name)?))?,
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

    /// Puts a file that [`SlotWriter::place`] could not in its place: a link
    /// to that of the live slot, if `live` is given, else to a copy.
    pub(super) fn place_by_copy(&mut self, entry: &Entry, live: Option<&mut DirStack>) -> Result<(), StoreError> {
        let Some(file) = entry.file() else { return Ok(()) };
        let (parent, name) = split(&entry.path);
        if let Some(live) = live
            && let Some(live) = live.find(parent)?
            && live.stat(name)?.is_some_and(|meta| is_linkable(&meta, file, self.permissions))
        {
            return self.put(parent, name, |dir| Ok(live.link(name, dir, name)?));
        }
        if let Some(copy) = self.copies.get(&file.object).cloned() {
            let (copy_parent, copy_name) = split(&copy);
            let from = self.slot.find(copy_parent)?.map(Dir::try_clone).transpose()?;
            if let Some(from) = from
                && from.stat(copy_name)?.is_some_and(|meta| is_linkable(&meta, file, self.permissions))
            {
                return self.put(parent, name, |dir| Ok(from.link(copy_name, dir, name)?));
            }
        }
        let (store, mode) = (self.store, self.permissions.file(file.exec));
        self.put(parent, name, |dir| store.copy_object(file, mode, dir, name))?;
        self.copies.insert(file.object, entry.path.clone());
        Ok(())
    }

    /// Makes something at a place. What is in the way is not ours: the slot's
    /// own entries were removed before.
    fn put(
        &mut self,
        parent: &str,
        name: &str,
        make: impl Fn(&Dir) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let is_told = self.slot.strangers == OnUnexpected::Fail;
        let dir = self.slot.ensure(parent)?;
        match make(dir) {
            Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                if is_told {
                    return Err(StoreError::Tampered { path: dir.join(name) });
                }
                dir.remove_all(name)?;
                make(dir)
            }
            other => other,
        }
    }

    /// Once the slot is durable: lets objects that had to be copied share the
    /// copy's inode, so that the content is there once and later links find it.
    pub(super) fn share_copies(&mut self) -> Result<(), StoreError> {
        const NAME: &str = "share";
        let layout = &self.store.layout;
        for (object, path) in std::mem::take(&mut self.copies) {
            let (parent, name) = split(&path);
            let Some(dir) = self.slot.find(parent)? else { continue };
            layout.tmp.unlink_if_any(NAME)?;
            dir.link(name, &layout.tmp, NAME)?;
            self.store.adopt(&object, &layout.tmp, NAME)?;
        }
        Ok(())
    }
}

impl Store {
    /// The trees among the slots, ascending; `dirty` and strangers left out.
    pub(super) fn slot_names(&self) -> Result<Vec<SlotName>, StoreError> {
        let entries = self.layout.slots.entries()?;
        let mut names: Vec<_> = entries.iter().filter_map(|(name, _)| SlotName::parse(name.to_str()?)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Opens the slot that is served, if it is there.
    pub(super) fn live_slot(&self) -> Result<Option<Dir>, StoreError> {
        match self.current()? {
            Some(current) => Ok(self.layout.slots.find_dir(&current.to_string())?),
            None => Ok(None),
        }
    }

    /// Takes the idle slot to be changed: the slot, now `dirty`, and the
    /// release whose tree it has. One of other permissions than the wanted is none.
    pub(super) fn take_idle_slot(&self, wanted: Permissions) -> Result<Option<(Dir, SlotName)>, StoreError> {
        let slots = &self.layout.slots;
        slots.remove_all(DIRTY)?;
        let current = self.current()?;
        let mut idle = self.slot_names()?;
        idle.retain(|slot| slot.is_spare || Some(slot.release) != current);
        // Only a tree whose manifest is at hand can be changed; others are of no use.
        let mut usable = None;
        for (index, slot) in idle.iter().enumerate().rev() {
            if self.permissions_of(slot.release.sequence())? == wanted
                && let Some(release) = unless_damaged(self.release(slot.release))?
                && self.has_manifest(&release.manifest)?
            {
                usable = Some(index);
                break;
            }
        }
        let taken = usable.map(|index| idle.remove(index));
        for slot in idle {
            slots.remove_all(&slot.to_string())?;
        }
        let Some(slot) = taken else { return Ok(None) };
        slots.rename(&slot.to_string(), slots, DIRTY)?;
        Ok(Some((slots.open_dir(DIRTY)?, slot)))
    }
}
