//! Drops content that no kept release needs.
//!
//! Pruning needs neither clocks nor leases, because staging checks every object of its manifest
//! under the same lock. A reference is removed before the data it refers to, so an interruption
//! leaves only garbage, which a later sweep removes.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fsx::{self, FileKind};
use crate::hash::{ManifestId, ObjectId};
use crate::release::ReleaseName;
use crate::store::layout::{DIRTY, SlotName, manifest_name, object_name};
use crate::store::open::LockedStore;
use crate::store::{EventKind, Store, StoreError, unless_damaged};

/// The amount of dropped data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pruned {
    /// The number of releases.
    pub releases: u64,
    /// The number of objects.
    pub objects: u64,
    /// Size of the dropped objects in bytes. Content that a slot still links to is not free yet.
    pub bytes: u64,
    /// The number of quarantines of unfinished pushes.
    pub quarantines: u64,
    /// Bytes of content in the dropped quarantines.
    pub incoming_bytes: u64,
    /// The number of retired entries that expired and were removed from the served slot.
    pub expired: u64,
}

impl Store {
    /// Keeps the newest `keep` releases (at least the current release), every release that has a
    /// slot, and a staged release. Drops everything else, including stray files and the quarantines
    /// of pushes that are not running. Expires retired entries that are due.
    ///
    /// # Errors
    /// Fails if the store is locked, if a kept manifest cannot be read (then nothing is dropped),
    /// or if the disk fails.
    pub fn prune(&self, keep: usize, wait: Duration) -> Result<Pruned, StoreError> {
        let store = self.lock(wait)?;
        // Expire first: entries that are due must go even if pruning fails.
        let expired = store.expire_due(fsx::unix_seconds());
        let mut pruned = store.drop_old_releases(keep)?;
        store.drop_quarantines(&mut pruned)?;
        store.sweep(&mut pruned)?;
        store.log_pruned(&pruned);
        pruned.expired = expired?;
        Ok(pruned)
    }

    /// Maintenance that depends only on time: expires retired entries that are due, and drops
    /// quarantines older than a week. Takes no lock if nothing is due.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::OtherOwner`], a damaged manifest, or a disk error.
    pub fn run_maintenance(&self, wait: Duration) -> Result<Pruned, StoreError> {
        self.check_owner()?;
        let mut pruned = Pruned::default();
        // Neither task may prevent the other, so this error is returned at the end.
        let expired = self.expire(wait);
        self.drop_stale_quarantines(fsx::unix_seconds(), &mut pruned)?;
        pruned.expired = expired?;
        Ok(pruned)
    }
}

impl LockedStore<'_> {
    pub(in crate::store) fn log_pruned(&self, pruned: &Pruned) {
        if pruned.releases > 0 {
            self.log_event(EventKind::Pruned { releases: pruned.releases, bytes: pruned.bytes });
        }
    }

    /// Drops old releases and the content that only they needed. The cost grows with the amount of
    /// dropped data.
    pub(in crate::store) fn drop_old_releases(&self, keep: usize) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        // A release with a slot stays: the next push needs its manifest to change that slot.
        let with_slot: HashSet<ReleaseName> =
            self.slot_names()?.iter().map(|slot| slot.release).collect();
        let served = self.served_releases()?;
        let old = served.len().saturating_sub(keep.max(1));
        for name in served[..old].iter().filter(|name| !with_slot.contains(name)) {
            self.mark_deleted(*name)?;
            pruned.releases += 1;
        }
        self.drop_deleted_releases(&mut pruned)?;
        Ok(pruned)
    }

    /// Drops the content that only deleted releases needed, then their records. If this is
    /// interrupted, the next call completes it.
    pub(in crate::store) fn drop_deleted_releases(
        &self,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let gone = self.deleted_names()?;
        if gone.is_empty() {
            return Ok(());
        }
        // A damaged record hides which content its release needs, so drop nothing until it is
        // repaired.
        let names = self.known_releases()?;
        let Ok(kept) = names
            .iter()
            .map(|name| Ok(self.release(*name)?.manifest))
            .collect::<Result<HashSet<_>, StoreError>>()
        else {
            return Ok(());
        };
        let mut candidates = HashSet::new();
        let mut manifests = HashSet::new();
        for name in &gone {
            // Without the record of a deleted release, it is unknown what content the release
            // needed; a sweep finds that content.
            if let Ok(release) = self.deleted_release(*name)
                && !kept.contains(&release.manifest)
            {
                self.collect_objects(&release.manifest, &mut candidates)?;
                manifests.insert(release.manifest);
            }
        }
        // An unreadable kept manifest hides which objects its release needs.
        if self.keep_needed(&kept, &mut candidates).is_err() {
            return Ok(());
        }
        // The rename to `.gone` has already removed the reference. The records go last, after the
        // manifests: without the manifests, an interrupted call could not find the remaining
        // objects.
        for object in candidates {
            self.drop_object(&object, pruned)?;
        }
        for manifest in manifests {
            fsx::none_if_missing(self.layout.manifests.unlink(manifest_name(&manifest)))?;
        }
        gone.iter().try_for_each(|name| self.remove_deleted(*name))
    }

    /// Adds the objects in a manifest, as far as the manifest can be read.
    fn collect_objects(
        &self,
        manifest: &ManifestId,
        objects: &mut HashSet<ObjectId>,
    ) -> Result<(), StoreError> {
        if !self.has_manifest(manifest)? {
            return Ok(());
        }
        // A damaged manifest hides some objects; a sweep finds them.
        let Some(entries) = unless_damaged(self.entries(manifest))? else { return Ok(()) };
        for entry in entries {
            let Some(entry) = unless_damaged(entry)? else { return Ok(()) };
            objects.extend(entry.file().map(|file| file.object));
        }
        Ok(())
    }

    /// Removes the objects in the kept manifests from `candidates`.
    fn keep_needed(
        &self,
        kept: &HashSet<ManifestId>,
        candidates: &mut HashSet<ObjectId>,
    ) -> Result<(), StoreError> {
        for manifest in kept {
            if candidates.is_empty() {
                break;
            }
            for entry in self.entries(manifest)? {
                if let Some(file) = entry?.file() {
                    candidates.remove(&file.object);
                }
            }
        }
        Ok(())
    }

    fn drop_object(&self, object: &ObjectId, pruned: &mut Pruned) -> Result<(), StoreError> {
        if let Some(meta) = self.object_meta(object)? {
            self.layout.objects.unlink(object_name(object))?;
            pruned.objects += 1;
            pruned.bytes += meta.size;
        }
        Ok(())
    }

    /// Removes every object, manifest, temporary file and slot that no kept release needs.
    fn sweep(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let mut manifests = HashSet::new();
        for name in self.known_releases()? {
            manifests.insert(self.release(name)?.manifest);
        }
        let mut needed = HashSet::new();
        for manifest in &manifests {
            for entry in self.entries(manifest)? {
                needed.extend(entry?.file().map(|file| file.object));
            }
        }
        for object in self.list_objects()?.iter().filter(|object| !needed.contains(object)) {
            self.drop_object(object, pruned)?;
        }
        let kept: HashSet<String> = manifests.iter().map(manifest_name).collect();
        for (name, kind) in self.layout.manifests.entries()? {
            if kind == FileKind::File && name.to_str().is_some_and(|name| !kept.contains(name)) {
                self.layout.manifests.unlink(&name)?;
            }
        }
        for (name, _) in self.layout.tmp.entries()? {
            if let Some(name) = name.to_str() {
                self.layout.tmp.remove_all(name)?;
            }
        }
        self.sweep_slots()
    }

    /// Removes all slots except the current slot and the newest idle slot.
    fn sweep_slots(&self) -> Result<(), StoreError> {
        let current = self.current()?;
        self.layout.slots.remove_all(DIRTY)?;
        let mut idle: Vec<SlotName> = self.slot_names()?;
        idle.retain(|slot| slot.is_spare || Some(slot.release) != current);
        // The names ascend, so this is the newest: the slot that the next push changes, or a staged
        // release.
        idle.pop();
        idle.into_iter().try_for_each(|slot| self.remove_slot(slot))
    }
}
