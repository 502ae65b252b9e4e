//! Builds the tree of a release in a slot that is not served.
//!
//! This module decides which entries of a slot change from one release to another. `slots` places
//! the individual entries.

use std::iter::Peekable;

use crate::fsx::{self, Dir, FileKind, FileMode};
use crate::hash::ObjectId;
use crate::manifest::{Entry, EntryKind, FileEntry, Pair, Pairs, read_ahead};
use crate::release::{Release, ReleaseName};
use crate::store::content::manifests::ManifestStream;
use crate::store::content::permissions::Permissions;
use crate::store::layout::{DIRTY, SlotName};
use crate::store::open::LockedStore;
use crate::store::staging::slots::{DirStack, SlotWriter};
use crate::store::{Store, StoreError};
use crate::threads;

impl Store {
    /// Finds the changes between the slot's release and another one, and removes the entries that
    /// the other release does not have.
    fn find_changes(
        &self,
        writer: &mut SlotWriter<'_>,
        from: SlotName,
        to: &Release,
        known_objects: &[ObjectId],
    ) -> Result<SlotChanges, StoreError> {
        let old = self.entries(&self.release(from.release)?.manifest)?;
        let mut changes =
            SlotChanges { expired_through: self.expired_through()?, ..SlotChanges::default() };
        read_ahead(old, |old| {
            Pairs::new(old, self.entries(&to.manifest)?)
                .try_for_each(|pair| changes.process_pair(pair?, writer, known_objects))
        })?;
        // Remove before placing: a file may replace a directory.
        for directory in changes.emptied.iter().rev() {
            writer.remove_empty(directory)?;
        }
        changes.missing.sort_unstable_by_key(|file| file.object);
        changes.missing.dedup_by_key(|file| file.object);
        Ok(changes)
    }

    /// Whether the store has an object with the right size.
    fn has_object(&self, file: &FileEntry) -> Result<bool, StoreError> {
        let meta = self.object_meta(&file.object)?;
        Ok(meta.is_some_and(|meta| meta.kind == FileKind::File && meta.size == file.size))
    }

    fn current_entries(&self) -> CurrentEntries {
        let stream = || self.manifest(&self.release(self.current().ok()??).ok()?.manifest).ok();
        CurrentEntries { stream: stream().map(Iterator::peekable) }
    }

    /// The name of the spare slot, if the current slot is the only one.
    pub(in crate::store) fn missing_slot(&self) -> Result<Option<SlotName>, StoreError> {
        let Some(release) = self.current()? else { return Ok(None) };
        let has_another =
            self.slot_names()?.iter().any(|slot| slot.is_spare || slot.release != release);
        Ok((!has_another).then_some(SlotName { release, is_spare: true }))
    }
}

impl LockedStore<'_> {
    /// Renames the idle slot to `dirty`. Removes the entries that change or that `release` does not
    /// have. `here` lists all objects that the store will have, even if they are still being moved.
    /// Returns `None` if there is no idle slot to start from.
    pub(in crate::store) fn clear_slot(
        &self,
        release: &Release,
        known_objects: &[ObjectId],
    ) -> Result<Option<ClearedSlot<'_>>, StoreError> {
        let Some((slot, idle)) = self.take_idle_slot()? else { return Ok(None) };
        let mut writer = SlotWriter::for_filled_slot(self, slot, self.permissions()?);
        match self.find_changes(&mut writer, idle, release, known_objects) {
            Ok(changes) => Ok(Some(ClearedSlot { writer, changes })),
            // This does not fail the push: `fill_slot` then builds a new tree, which costs as much
            // as the first push.
            Err(error) if is_unknown_tree(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Completes the tree of `release` in the slot `dirty`, without syncing it. Returns the objects
    /// that the manifest names but the store lacks.
    ///
    /// # Errors
    /// [`StoreError::DamagedObject`] for an object that the slot itself needs.
    pub(in crate::store) fn fill_slot<'s>(
        &'s self,
        release: &Release,
        cleared: Option<ClearedSlot<'s>>,
    ) -> Result<(SlotWriter<'s>, Vec<FileEntry>), StoreError> {
        if let Some(ClearedSlot { mut writer, changes }) = cleared {
            match self.place_changes(&mut writer, &changes.to_place) {
                Err(error) if is_unknown_tree(&error) => {}
                other => return other.map(|()| (writer, changes.missing)),
            }
        }
        // The tree in `dirty` is unknown here, so the slot is filled from scratch.
        self.layout.slots.remove_all(DIRTY)?;
        let permissions = self.permissions()?;
        let slot = self.layout.slots.create_dir_as(DIRTY, permissions.directory())?;
        self.fill_new_slot(slot, release, permissions)
    }

    fn place_changes(
        &self,
        writer: &mut SlotWriter<'_>,
        places: &[Entry],
    ) -> Result<(), StoreError> {
        let left = place_in_parallel(places, &mut writer.try_clone()?, writer)?;
        self.place_copies(writer, &left)
    }

    /// Fills an empty slot with the tree of a release, on two threads, because system calls in
    /// different directories barely contend with each other. Leaves out expired entries, and
    /// returns which of their objects are missing. The objects of all other entries were linked or
    /// copied.
    fn fill_new_slot(
        &self,
        slot: Dir,
        release: &Release,
        permissions: Permissions,
    ) -> Result<(SlotWriter<'_>, Vec<FileEntry>), StoreError> {
        /// Entries per batch; large enough that the halves of a batch are mostly in different
        /// directories.
        const BATCH_ENTRIES: usize = 4096;
        let mut helper = SlotWriter::for_empty_slot(self, slot.try_clone()?, permissions);
        let mut writer = SlotWriter::for_empty_slot(self, slot, permissions);
        let through = self.expired_through()?;
        let mut entries = self.entries(&release.manifest)?;
        let (mut left, mut missing) = (Vec::new(), Vec::new());
        loop {
            let mut batch: Vec<Entry> =
                entries.by_ref().take(BATCH_ENTRIES).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                break;
            }
            for file in batch
                .extract_if(.., |entry| entry.has_expired(through))
                .filter_map(|entry| entry.file().copied())
            {
                if !self.has_object(&file)? {
                    missing.push(file);
                }
            }
            left.extend(place_in_parallel(&batch, &mut helper, &mut writer)?);
        }
        self.place_copies(&mut writer, &left)?;
        Ok((writer, missing))
    }

    /// Places the entries that need a copy, in order. If an entry is unchanged from the live slot,
    /// it becomes a link to the live file.
    fn place_copies(&self, writer: &mut SlotWriter<'_>, left: &[Entry]) -> Result<(), StoreError> {
        if left.is_empty() {
            return Ok(());
        }
        let mut live = self.current_slot()?.map(|slot| DirStack::new(slot, FileMode::DIRECTORY));
        let mut same = self.current_entries();
        left.iter().try_for_each(|entry| {
            writer.place_by_copy(entry, live.as_mut().filter(|_| same.has(entry)))
        })
    }

    /// Completes a staged slot (step 4): renames the record and `dirty`, both already durable, to
    /// their final names.
    pub(in crate::store) fn commit_slot(&self, name: ReleaseName) -> Result<(), StoreError> {
        self.adopt_release(name)?;
        let slots = &self.layout.slots;
        slots.rename(DIRTY, slots, &name.to_string())?;
        // Step 4: sync both directories, so that the release stays staged after a power cut.
        self.layout.releases.sync()?;
        Ok(slots.sync()?)
    }

    /// Fills the second slot after the first push has been acknowledged. From then on, the cost of
    /// a push depends only on the size of the change. Does nothing if there is an idle slot.
    ///
    /// # Errors
    /// Fails on a disk error. The served slot is not touched.
    pub(in crate::store) fn fill_spare_slot(&self) -> Result<(), StoreError> {
        let Some(spare) = self.missing_slot()? else { return Ok(()) };
        let release = self.release(spare.release)?;
        self.raise_expiry_mark(&release, fsx::unix_seconds())?;
        let slots = &self.layout.slots;
        slots.remove_all(DIRTY)?;
        let permissions = self.permissions()?;
        let slot = slots.create_dir_as(DIRTY, permissions.directory())?;
        self.fill_new_slot(slot, &release, permissions)?;
        // Data before name: the tree is durable before the slot gets a name that later pushes rely
        // on.
        slots.sync_file_system()?;
        slots.rename(DIRTY, slots, &spare.to_string())?;
        Ok(slots.sync()?)
    }
}

/// Whether the error means that the tree of a slot is unknown: its manifest is damaged, or another
/// program changed the slot.
fn is_unknown_tree(error: &StoreError) -> bool {
    matches!(error, StoreError::Manifest { .. } | StoreError::Tampered { .. }) && error.is_damage()
}

/// A slot without the entries that the next release does not have.
pub(in crate::store) struct ClearedSlot<'s> {
    writer: SlotWriter<'s>,
    changes: SlotChanges,
}

/// The changes to a slot, found in one pass over the manifests of both releases.
#[derive(Default)]
struct SlotChanges {
    /// Entries that expired up to this time may be absent already, and are not placed.
    expired_through: u64,
    to_place: Vec<Entry>,
    /// Directories from which an entry was removed.
    emptied: Vec<String>,
    missing: Vec<FileEntry>,
}

impl SlotChanges {
    /// Removes the old entry if it changes or is gone, and records that the new entry must be
    /// placed. For an entry that is not placed, records its object if it is not `here`.
    fn process_pair(
        &mut self,
        pair: Pair,
        writer: &mut SlotWriter<'_>,
        known_objects: &[ObjectId],
    ) -> Result<(), StoreError> {
        let through = self.expired_through;
        match pair {
            Pair::Old(old) => {
                self.remove(&old, writer)?;
                self.record_emptied(&old);
                Ok(())
            }
            // The slot leaves out an expired entry, but the release needs its object: another
            // mirror may copy the complete release from this one.
            Pair::New(new) if new.has_expired(through) => {
                self.record_missing(&new, known_objects);
                Ok(())
            }
            Pair::New(new) => {
                self.to_place.push(new);
                Ok(())
            }
            Pair::Both(old, new) if new.has_expired(through) => {
                self.record_missing(&new, known_objects);
                self.remove(&old, writer)?;
                self.record_emptied(&old);
                Ok(())
            }
            Pair::Both(old, new) if old.kind == new.kind && !old.has_expired(through) => {
                self.record_missing(&new, known_objects);
                Ok(())
            }
            Pair::Both(old, new) => {
                self.remove(&old, writer)?;
                self.to_place.push(new);
                Ok(())
            }
        }
    }

    /// Removes an entry of the old release. An expired entry may be absent.
    fn remove(&self, old: &Entry, writer: &mut SlotWriter<'_>) -> Result<(), StoreError> {
        if old.has_expired(self.expired_through) {
            writer.remove_if_any(&old.path)?;
        } else {
            writer.remove(&old.path)?;
        }
        Ok(())
    }

    /// Records the directory of an entry that was removed without a replacement.
    fn record_emptied(&mut self, old: &Entry) {
        match old.path.parent() {
            Some(parent) if self.emptied.last().is_none_or(|last| last != parent) => {
                self.emptied.push(parent.into());
            }
            _ => {}
        }
    }

    /// Records the object of an entry that is not placed, if it is not `here`.
    fn record_missing(&mut self, entry: &Entry, here: &[ObjectId]) {
        self.missing.extend(entry.file().filter(|file| here.binary_search(&file.object).is_err()));
    }
}

/// Places entries with two writers for the same slot, on two threads, because system calls in
/// different directories barely contend with each other. Returns the entries that need a copy, in
/// order.
fn place_in_parallel(
    entries: &[Entry],
    helper: &mut SlotWriter<'_>,
    writer: &mut SlotWriter<'_>,
) -> Result<Vec<Entry>, StoreError> {
    /// Minimum number of entries for a second thread. For fewer, starting a thread is not
    /// worthwhile.
    const MIN_PARALLEL_ENTRIES: usize = 256;
    if entries.len() < MIN_PARALLEL_ENTRIES {
        return writer.place_links(entries);
    }
    let (first, second) = entries.split_at(entries.len() / 2);
    let (first, second) =
        threads::join(|| helper.place_links(first), || writer.place_links(second));
    let mut left = first?;
    left.extend(second?);
    Ok(left)
}

/// Looks up entries in the manifest of the current release. The paths must be looked up in
/// ascending order.
struct CurrentEntries {
    stream: Option<Peekable<ManifestStream>>,
}

impl CurrentEntries {
    /// Whether the current release has the same file at this path. After the first damaged line of
    /// the manifest, always returns `false`.
    fn has(&mut self, entry: &Entry) -> bool {
        let Some(stream) = self.stream.as_mut() else { return false };
        loop {
            match stream.peek() {
                Some(Ok(live)) if live.path < entry.path => {
                    stream.next();
                }
                Some(Ok(live)) => {
                    return live.path == entry.path
                        && live.kind == entry.kind
                        && matches!(live.kind, EntryKind::File(_));
                }
                Some(Err(_)) | None => {
                    self.stream = None;
                    return false;
                }
            }
        }
    }
}
