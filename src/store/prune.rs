//! Dropping what no kept release needs.
//!
//! Safe without clocks or leases, because staging looks for every object of
//! its manifest under the same lock. References go before what they refer to,
//! so that an interruption leaves garbage at most, which a sweep finds.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;

use crate::fsx::{self, FileKind};
use crate::hash::{BundleKey, ManifestId, ObjectId};
use crate::release::ReleaseName;
use crate::store::layout::{DIRTY, LOCK, SlotName, manifest_name, object_name};
use crate::store::{Store, StoreError};

/// What was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Releases.
    pub releases: u64,
    /// Objects.
    pub objects: u64,
    /// Their size, in bytes; what a slot still shows is not free yet.
    pub bytes: u64,
    /// Quarantines of pushes that ended long ago.
    pub quarantines: u64,
}

impl Store {
    /// Keeps the newest `keep` releases (at least the current one), those the
    /// slots show, and a staged one; drops everything else, strays included.
    ///
    /// # Errors
    /// When the store is locked, when a manifest that is kept cannot be read
    /// (nothing is dropped then), or when the disk fails.
    pub fn prune(&self, keep: usize, wait: Duration) -> Result<Pruned, StoreError> {
        let _guard = self.lock(wait)?;
        let mut pruned = self.drop_old_releases(keep)?;
        self.sweep(&mut pruned)?;
        Ok(pruned)
    }

    /// Drops old releases and what only they needed. Work goes with what is dropped.
    pub(super) fn drop_old_releases(&self, keep: usize) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let Some(current) = self.current()? else { return Ok(pruned) };
        let shown: HashSet<ReleaseName> = self.slot_names()?.iter().map(|slot| slot.release).collect();
        let served = self.served_releases()?;
        let old = served.len().saturating_sub(keep.max(1));
        let dropped: Vec<_> = served[..old].iter().copied().filter(|name| !shown.contains(name)).collect();
        let names = self.release_names()?;
        let mut kept_manifests = HashSet::new();
        for name in names.iter().filter(|name| !dropped.contains(name)) {
            match self.release(*name) {
                // Also one that another push has staged and will activate: it has looked for its objects already.
                Ok(release) => kept_manifests.insert(release.manifest),
                Err(_) if name.sequence() > current.sequence() => false,
                Err(error) => return Err(error),
            };
        }
        let mut candidates = HashSet::new();
        for name in &dropped {
            // Without its record nobody knows what a release needed: a sweep finds that.
            if let Ok(release) = self.release(*name) {
                self.collect_candidates(&release.manifest, &kept_manifests, &mut candidates)?;
            }
            self.remove_release(*name)?;
            pruned.releases += 1;
        }
        self.keep_needed(&kept_manifests, &mut candidates)?;
        for object in candidates {
            self.drop_object(&object, &mut pruned)?;
        }
        self.drop_dead_quarantines(&mut pruned)?;
        Ok(pruned)
    }

    /// Drops a manifest that is not kept and remembers its objects.
    fn collect_candidates(
        &self,
        manifest: &ManifestId,
        kept: &HashSet<ManifestId>,
        candidates: &mut HashSet<ObjectId>,
    ) -> Result<(), StoreError> {
        if kept.contains(manifest) || !self.has_manifest(manifest)? {
            return Ok(());
        }
        // A damaged one tells less, or nothing: what it does not tell is left to a sweep.
        if let Ok(entries) = self.manifest(manifest) {
            for entry in entries.map_while(Result::ok) {
                candidates.extend(entry.file().map(|file| file.object));
            }
        }
        fsx::found(self.layout.manifests.unlink(manifest_name(manifest)))?;
        Ok(())
    }

    /// Takes out of `candidates` what a kept manifest has.
    fn keep_needed(&self, kept: &HashSet<ManifestId>, candidates: &mut HashSet<ObjectId>) -> Result<(), StoreError> {
        for manifest in kept {
            if candidates.is_empty() {
                break;
            }
            for entry in self.manifest(manifest)? {
                if let Some(file) = entry.map_err(self.in_manifest(manifest))?.file() {
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

    /// Drops quarantines that nobody is writing to, all but the newest: that one may be resumed.
    fn drop_dead_quarantines(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for (name, _) in self.layout.incoming.entries()? {
            if let Some(name) = name.to_str().filter(|name| BundleKey::parse_hex(name.as_bytes()).is_some())
                && let Some(meta) = self.layout.incoming.stat(name)?
            {
                found.push((meta.mtime, name.to_owned()));
            }
        }
        found.sort_unstable();
        found.pop();
        for (_, name) in found {
            let dir = self.layout.incoming.open_dir(&name)?;
            let lock = dir.open_or_create_file(LOCK)?;
            if fsx::lock(&lock, Duration::ZERO, &dir.join(LOCK))? {
                self.layout.incoming.remove_all(&name)?;
                pruned.quarantines += 1;
            }
        }
        Ok(())
    }

    /// Compares everything that is here with everything that is needed.
    fn sweep(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let mut manifests = HashSet::new();
        for name in self.release_names()? {
            manifests.insert(self.release(name)?.manifest);
        }
        let mut needed = HashSet::new();
        for manifest in &manifests {
            for entry in self.manifest(manifest)? {
                needed.extend(entry.map_err(self.in_manifest(manifest))?.file().map(|file| file.object));
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
