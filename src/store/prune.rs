//! Dropping what no kept release needs.
//!
//! Safe without clocks or leases, because staging looks for every object of
//! its manifest under the same lock. References go before what they refer to,
//! so that an interruption leaves garbage at most, which a sweep finds.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fsx::{self, FileKind};
use crate::hash::{ManifestId, ObjectId};
use crate::release::ReleaseName;
use crate::store::layout::{DIRTY, SlotName, manifest_name, object_name};
use crate::store::{EventKind, Store, StoreError, unless_damaged};

/// What was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pruned {
    /// Releases.
    pub releases: u64,
    /// Objects.
    pub objects: u64,
    /// Their size, in bytes; what a slot still shows is not free yet.
    pub bytes: u64,
    /// Quarantines of pushes that did not end.
    pub quarantines: u64,
    /// Bytes of content in these.
    pub incoming_bytes: u64,
    /// Retired entries that were removed from what is served, their time being over.
    pub expired: u64,
}

impl Store {
    /// Keeps the newest `keep` releases (at least the current one), those the
    /// slots show, and a staged one; drops everything else, strays and what pushes that do
    /// not run have left included. Retired entries that are due expire.
    ///
    /// # Errors
    /// When the store is locked, when a manifest that is kept cannot be read
    /// (nothing is dropped then), or when the disk fails.
    pub fn prune(&self, keep: usize, wait: Duration) -> Result<Pruned, StoreError> {
        let _guard = self.lock(wait)?;
        // What is not to be served any more goes also where something keeps the rest from being pruned.
        let expired = self.expire_due(fsx::unix_seconds());
        let mut pruned = self.drop_old_releases(keep)?;
        self.drop_quarantines(&mut pruned)?;
        self.sweep(&mut pruned)?;
        self.note_pruned(&pruned);
        pruned.expired = expired?;
        Ok(pruned)
    }

    /// What time alone brings about: retired entries that are due expire, and what a push left
    /// a week ago is dropped. With nothing due it takes no lock.
    ///
    /// # Errors
    /// [`StoreError::Locked`]; [`StoreError::OtherOwner`]; a damaged manifest; errors of the disk.
    pub fn upkeep(&self, wait: Duration) -> Result<Pruned, StoreError> {
        self.check_owner()?;
        let mut pruned = Pruned::default();
        let expired = self.expire(wait);
        self.drop_stale_quarantines(fsx::unix_seconds(), &mut pruned)?;
        pruned.expired = expired?;
        Ok(pruned)
    }

    pub(super) fn note_pruned(&self, pruned: &Pruned) {
        if pruned.releases > 0 {
            self.note(EventKind::Pruned { releases: pruned.releases, bytes: pruned.bytes });
        }
    }

    /// Drops old releases and what only they needed. Work goes with what is dropped.
    pub(super) fn drop_old_releases(&self, keep: usize) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let shown: HashSet<ReleaseName> = self.slot_names()?.iter().map(|slot| slot.release).collect();
        let served = self.served_releases()?;
        let old = served.len().saturating_sub(keep.max(1));
        for name in served[..old].iter().filter(|name| !shown.contains(name)) {
            self.mark_deleted(*name)?;
            pruned.releases += 1;
        }
        self.drop_gone_releases(&mut pruned)?;
        Ok(pruned)
    }

    /// Drops what only releases needed that are gone, and their records last:
    /// an interruption is made good by the next call.
    pub(super) fn drop_gone_releases(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let gone = self.gone_names()?;
        if gone.is_empty() {
            return Ok(());
        }
        // What a damaged record needs nobody knows: then nothing goes until it is mended.
        let names = self.known_releases()?;
        let Ok(kept) =
            names.iter().map(|name| Ok(self.release(*name)?.manifest)).collect::<Result<HashSet<_>, StoreError>>()
        else {
            return Ok(());
        };
        let mut candidates = HashSet::new();
        let mut manifests = HashSet::new();
        for name in &gone {
            // Without its record nobody knows what a release needed: a sweep finds that.
            if let Ok(release) = self.gone_release(*name)
                && !kept.contains(&release.manifest)
            {
                self.collect_objects(&release.manifest, &mut candidates)?;
                manifests.insert(release.manifest);
            }
        }
        if self.keep_needed(&kept, &mut candidates).is_err() {
            return Ok(());
        }
        for object in candidates {
            self.drop_object(&object, pruned)?;
        }
        for manifest in manifests {
            fsx::found(self.layout.manifests.unlink(manifest_name(&manifest)))?;
        }
        gone.iter().try_for_each(|name| self.remove_gone(*name))
    }

    /// Adds the objects of a manifest, as far as it can be read.
    fn collect_objects(&self, manifest: &ManifestId, objects: &mut HashSet<ObjectId>) -> Result<(), StoreError> {
        if !self.has_manifest(manifest)? {
            return Ok(());
        }
        // What a damaged one does not tell is left to a sweep.
        let Some(entries) = unless_damaged(self.entries(manifest))? else { return Ok(()) };
        for entry in entries {
            let Some(entry) = unless_damaged(entry)? else { return Ok(()) };
            objects.extend(entry.file().map(|file| file.object));
        }
        Ok(())
    }

    /// Takes out of `candidates` what a kept manifest has.
    fn keep_needed(&self, kept: &HashSet<ManifestId>, candidates: &mut HashSet<ObjectId>) -> Result<(), StoreError> {
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

    /// Compares everything that is here with everything that is needed.
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

    /// Drops slots that are neither the current one nor the newest idle one.
    fn sweep_slots(&self) -> Result<(), StoreError> {
        let current = self.current()?;
        self.layout.slots.remove_all(DIRTY)?;
        let mut idle: Vec<SlotName> = self.slot_names()?;
        idle.retain(|slot| slot.is_spare || Some(slot.release) != current);
        idle.pop();
        idle.iter().try_for_each(|slot| Ok(self.layout.slots.remove_all(&slot.to_string())?))
    }
}
