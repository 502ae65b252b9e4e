//! Repairs the faults that `verify` finds, while the current release is still served.
//!
//! Nothing is repaired in place: a new inode replaces the old one by rename.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::time::Duration;

use serde::Serialize;

use crate::fsx::FileKind;
use crate::hash::ManifestId;
use crate::manifest::{Entry, EntryKind, FileEntry, ManifestReader, ManifestWriter};
use crate::release::{Release, ReleaseName};
use crate::store::content::permissions::Permissions;
use crate::store::layout::{SlotName, object_name};
use crate::store::maintenance::verify::{Depth, Fault, FaultKind, SlotPaths};
use crate::store::open::LockedStore;
use crate::store::staging::fetch::FetchObject;
use crate::store::staging::slots::{DirStack, has_metadata_of};
use crate::store::{EventKind, Store, StoreError, unless_damaged};

/// A source of release records and manifests.
pub trait FetchRecords {
    /// Returns the record of a release, if it is available.
    fn release(&self, name: ReleaseName) -> Option<Release>;
    /// Returns the canonical bytes of a manifest, unchecked, if it is available.
    fn manifest(&self, id: &ManifestId) -> Option<Box<dyn Read + Send>>;
    /// Whether records that are not available now may still arrive. If so, nothing is given up
    /// because a record is missing.
    fn is_awaited(&self) -> bool {
        false
    }
}

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Faults that verify found before the repair.
    pub found: Vec<Fault>,
    /// Objects that were fetched again.
    pub objects: u64,
    /// Served entries, records and manifests that were repaired.
    #[serde(rename = "mended")]
    pub repaired_files: u64,
    /// Faults that remain.
    #[serde(rename = "left")]
    pub remaining: Vec<Fault>,
}

impl Store {
    /// Repairs every fault that can be repaired. The current release stays served; each of its
    /// files is replaced atomically.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written, or belongs to another user. An object that
    /// cannot be fetched is not an error; it is listed in `left`.
    pub fn repair(
        &self,
        fetch: &FetchObject<'_>,
        records: &dyn FetchRecords,
        wait: Duration,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Repaired, StoreError> {
        // Check the owner first: the search for faults reads the whole store, and other users may
        // run it too.
        self.check_owner()?;
        // An interrupted permission change is completed first, so that the modes can be checked.
        self.set_permissions(None, wait)?;
        let mut repaired = Repaired {
            found: self.verify(Depth::Full, wait, cancelled)?.faults,
            ..Repaired::default()
        };
        if repaired.found.is_empty() {
            return Ok(repaired);
        }
        {
            let store = self.lock(wait)?;
            repaired.repaired_files += store.repair_records(records)?;
            repaired.objects += store.repair_objects(fetch)?;
            let current = store.current()?.map(|release| SlotName { release, is_spare: false });
            // The current slot is included even if its directory is missing; it is then rebuilt.
            for slot in store.slot_names()?.into_iter().chain(current).collect::<BTreeSet<_>>() {
                repaired.repaired_files +=
                    store.repair_slot(slot, Some(slot) == current || records.is_awaited())?;
            }
            // Makes the renames of repaired entries durable before the result is reported.
            store.layout.root.sync_file_system()?;
        }
        let store = self.lock(wait)?;
        repaired.remaining = store.find_faults(Depth::Full, cancelled)?.faults;
        store.log_event(EventKind::Repaired {
            found: repaired.found.len() as u64,
            left: repaired.remaining.len() as u64,
        });
        Ok(repaired)
    }
}

impl LockedStore<'_> {
    fn repair_records(&self, records: &dyn FetchRecords) -> Result<u64, StoreError> {
        let mut repaired = 0;
        for name in self.known_releases()? {
            if unless_damaged(self.release(name))?.is_none()
                && let Some(release) =
                    records.release(name).filter(|release| release.name() == name)
            {
                self.write_release(&release)?;
                // Data before name, as in staging.
                self.layout.tmp.sync_file_system()?;
                self.adopt_release(name)?;
                repaired += 1;
            }
            if let Some(release) = unless_damaged(self.release(name))?
                && !self.is_manifest_intact(&release.manifest)?
                && let Some(bytes) = records.manifest(&release.manifest)
            {
                repaired += u64::from(self.repair_manifest(&release.manifest, bytes)?);
            }
        }
        Ok(repaired)
    }

    /// Writes a fetched manifest if it has the right id. Returns whether it does.
    fn repair_manifest(
        &self,
        id: &ManifestId,
        bytes: Box<dyn Read + Send>,
    ) -> Result<bool, StoreError> {
        const NAME: &str = "mend.zst";
        let written = self.write_manifest(NAME, |out| {
            let mut writer = ManifestWriter::new(out);
            for entry in ManifestReader::new(bytes, Some(*id)).map_err(self.manifest_error(id))? {
                writer
                    .push(&entry.map_err(self.manifest_error(id))?)
                    .map_err(self.manifest_error(id))?;
            }
            Ok(writer.finish().map_err(self.manifest_error(id))?.1)
        });
        match written {
            Ok(totals) if totals.manifest == *id => {
                // Data before name, as in staging.
                self.layout.tmp.sync_file_system()?;
                self.adopt_manifest(NAME, id)?;
                Ok(true)
            }
            // The source's manifest is also damaged, or ended early.
            Ok(_) | Err(StoreError::Manifest { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces damaged or missing objects with fetched objects.
    fn repair_objects(&self, fetch: &FetchObject<'_>) -> Result<u64, StoreError> {
        let mut damaged: HashMap<_, FileEntry> = HashMap::new();
        let mut manifests = HashSet::new();
        for name in self.release_names()? {
            manifests.extend(unless_damaged(self.release(name))?.map(|release| release.manifest));
        }
        for manifest in &manifests {
            if self.is_manifest_intact(manifest)? {
                damaged.extend(
                    self.damaged_objects(manifest)?.into_iter().map(|file| (file.object, file)),
                );
            }
        }
        let mut repaired = 0;
        fetch.announce(&damaged.keys().copied().collect::<Vec<_>>());
        for file in damaged.values() {
            // A file cannot be renamed over a directory.
            if self.object_meta(&file.object)?.is_some_and(|meta| meta.kind != FileKind::File) {
                self.layout.objects.remove_all(&object_name(&file.object))?;
            }
            match self.fetch_objects(std::slice::from_ref(file), fetch) {
                Ok(()) => repaired += 1,
                // The error is reported at the end; other objects may still be repaired.
                Err(StoreError::Fetch { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(repaired)
    }

    /// Repairs every entry of a slot. Drops a slot whose manifest is lost, unless the slot is
    /// needed.
    fn repair_slot(&self, slot: SlotName, is_needed: bool) -> Result<u64, StoreError> {
        let manifest = match unless_damaged(self.release(slot.release))? {
            Some(release) if self.is_manifest_intact(&release.manifest)? => release.manifest,
            _ if is_needed => return Ok(0),
            _ => {
                self.remove_slot(slot)?;
                return Ok(1);
            }
        };
        let permissions = self.permissions()?;
        let root = self.layout.slots.ensure_dir_as(&slot.to_string(), permissions.directory())?;
        let mut stack = DirStack::new(root.try_clone()?, permissions.directory());
        let mut expected = SlotPaths::new(self.expired_through()?);
        let mut repaired = 0;
        for entry in self.entries(&manifest)? {
            let entry = entry?;
            if expected.add(&entry) {
                continue;
            }
            repaired += u64::from(self.repair_entry(&mut stack, &entry, permissions)?);
        }
        let mut unexpected = Vec::new();
        super::verify::find_unexpected(&root, "", &expected, &mut |path| unexpected.push(path))?;
        for path in unexpected {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if let Some(dir) = stack.find(parent)? {
                dir.remove_all(name)?;
                repaired += 1;
            }
            if !parent.is_empty() {
                stack.remove_empty(parent)?;
            }
        }
        Ok(repaired)
    }

    fn repair_entry(
        &self,
        stack: &mut DirStack,
        entry: &Entry,
        permissions: Permissions,
    ) -> Result<bool, StoreError> {
        // If the map is empty, no file counts as intact, so the bytes of each file are compared.
        let faults = super::verify::check_entry(stack, entry, permissions, Some(&HashMap::new()))?;
        if faults.is_empty() {
            return Ok(false);
        }
        const NAME: &str = "mend";
        let tmp = &self.layout.tmp;
        tmp.unlink_if_any(NAME)?;
        match &entry.kind {
            EntryKind::Symlink(target) => tmp.symlink(target.as_str(), NAME)?,
            EntryKind::File(file) => {
                let shared = self
                    .object_meta(&file.object)?
                    .is_some_and(|meta| has_metadata_of(&meta, file, permissions));
                // If the object could not be fetched, its own file may be the damaged inode.
                if shared && self.check_object(file)?.is_ok() {
                    self.layout.objects.link(&object_name(&file.object), tmp, NAME)?;
                } else {
                    match self.copy_object(file, permissions.file(file.exec), tmp, NAME) {
                        Err(StoreError::DamagedObject { .. }) => return Ok(false),
                        other => other?,
                    }
                    // A copy is durable before it replaces the damaged file.
                    tmp.sync_file_system()?;
                }
            }
        }
        let name = entry.path.name();
        let dir = stack.ensure(entry.path.parent().unwrap_or(""))?;
        // Only in this case is the path missing for a moment: a rename cannot replace a directory
        // with a file.
        if faults.contains(&FaultKind::WrongKind) {
            dir.remove_all(name)?;
        }
        tmp.rename(NAME, dir, name)?;
        Ok(true)
    }
}
