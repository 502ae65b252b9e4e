//! Staging: turns arriving packs into a release that is complete but not yet served.
//!
//! Writes follow the order that `FORMAT.md` numbers under *Order of writing*: data before name,
//! name before reference, reference before acknowledgement. Comments in `store` refer to the steps
//! of this order.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::fsx;
use crate::hash::{BundleKey, ManifestId, ObjectId, PackId};
use crate::manifest::delta::{self, ChangeLimits, DeltaSummary};
use crate::manifest::{Entry, ManifestError, read_ahead};
use crate::pack::{BaseRange, Block, PackReader};
use crate::release::{Release, ReleaseName, Succession};
use crate::store::open::LockedStore;
use crate::store::staging::fetch::FetchObject;
use crate::store::staging::quarantine::Quarantine;
use crate::store::staging::slot_builder::ClearedSlot;
use crate::store::staging::slots::SlotWriter;
use crate::store::staging::space;
use crate::store::staging::write_back::WriteBack;
use crate::store::{
    EventKind, Pruned, Store, StoreError, StoredChange, is_damage, mismatch, unless_damaged,
};
use crate::threads;

/// A release that an origin offers to a store.
#[derive(Debug, Clone, Copy)]
pub struct OfferedRelease<'a> {
    /// The record of the release.
    pub release: &'a Release,
    /// The manifest that the change is based on.
    pub base: Option<ManifestId>,
    /// The manifest of the release, as a change to the base.
    pub change: &'a StoredChange,
}

/// A release that is being staged: receives packs, then completes the release.
#[derive(Debug)]
pub struct StagingTransaction {
    store: Arc<Store>,
    release: Release,
    base: Option<ManifestId>,
    change: StoredChange,
    needs: DeltaSummary,
    quarantine: Quarantine,
    write_back: WriteBack,
    /// The new objects, once the store has them under their ids.
    moved_objects: Option<Arc<[(ObjectId, u64)]>>,
    /// The object at each position in the base manifest. Read when the first block uses a base.
    bases: OnceLock<Vec<Option<ObjectId>>>,
    wait: Duration,
}

impl Store {
    /// Begins to stage a release. `needs` is the result of [`Store::read_change`] for the release.
    ///
    /// # Errors
    /// Fails if there is too little space, or if another process is staging with this key.
    pub fn start_staging(
        self: &Arc<Self>,
        offered: OfferedRelease<'_>,
        key: &BundleKey,
        mut needs: DeltaSummary,
        wait: Duration,
    ) -> Result<StagingTransaction, StoreError> {
        let OfferedRelease { release, base, change } = offered;
        let held_bytes = self.quarantined_bytes(key)?;
        let system = || self.layout.root.file_system();
        match self.created_entries(release, &needs)? {
            // The release only removes entries, so it must be possible even on a full disk: use the
            // reserve.
            0 => self.free_reserve()?,
            made => self.retry_for_space(key, || {
                space::check_space(self.path(), &system()?, made, &needs, held_bytes)
            })?,
        }
        // Completes an interrupted change, so that old and new files in the slot have the same
        // mode.
        self.set_permissions(None, wait)?;
        let permissions = self.permissions()?;
        let quarantine =
            Quarantine::open(self, key, std::mem::take(&mut needs.objects), permissions, wait)?;
        Ok(StagingTransaction {
            store: Arc::clone(self),
            release: release.clone(),
            base,
            change: change.clone(),
            needs,
            quarantine,
            write_back: WriteBack::default(),
            moved_objects: None,
            bases: OnceLock::new(),
            wait,
        })
    }

    /// Returns the error that [`Store::start_staging`] would return if there is too little space.
    /// Changes nothing.
    ///
    /// # Errors
    /// Fails if there is too little space, or like [`Store::read_change`].
    pub fn check_space(&self, offered: OfferedRelease<'_>) -> Result<(), StoreError> {
        let Some(needs) = self.read_change(offered, &|_| true, &|| false)? else { return Ok(()) };
        let release = offered.release;
        // To make space, staging can drop the quarantines of other pushes, and it resumes its own:
        // count them all.
        let held_bytes = self.incoming_bytes()?;
        match self.created_entries(release, &needs)? {
            0 => Ok(()),
            made => space::check_space(
                self.path(),
                &self.layout.root.file_system()?,
                made,
                &needs,
                held_bytes,
            ),
        }
    }

    /// Like [`Store::check_space`], for a store that would be created at `path`.
    ///
    /// # Errors
    /// Fails like [`Store::check_space`].
    pub fn check_space_at(
        path: &Path,
        release: &Release,
        change: &StoredChange,
    ) -> Result<(), StoreError> {
        let limits = ChangeLimits::trusted(change.bytes(), release.entries);
        let needs = delta::summarize(change.reader(), &limits)
            .map_err(|error| mismatch(error.to_string()))?;
        space::check_space(path, &Self::file_system_at(path)?, release.entries, &needs, 0)
    }

    /// Reads which content and objects a release's manifest change needs. Refuses a change with
    /// more entries than the release and the base have. Returns `None` if the release is already
    /// staged or current.
    ///
    /// `reserve` reserves a number of bytes of memory until the release is complete, and returns
    /// `false` if they are not available.
    ///
    /// # Errors
    /// Fails if the release is not newer than the current one, the base is missing, or the change
    /// is malformed or too large. Also fails with `NoMemory` or `Cancelled`.
    pub fn read_change(
        &self,
        offered: OfferedRelease<'_>,
        reserve: &dyn Fn(u64) -> bool,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<DeltaSummary>, StoreError> {
        let OfferedRelease { release, base, change } = offered;
        self.check_site(&release.site)?;
        self.check_succession(release)?;
        if self.is_staged(release.name())? {
            return Ok(None);
        }
        let base_entries = match base {
            Some(base) => {
                // Report a missing base as such before its entry count is used to limit the change.
                if self.manifest_file(&base).is_err() {
                    self.check_manifest(&base)?;
                }
                self.manifest_entries(&base)
            }
            None => Some(0),
        };
        let (encoded_bytes, entries) = (change.bytes(), release.entries);
        let limits = ChangeLimits { encoded_bytes, base_entries, entries, reserve, is_cancelled };
        let needs = delta::summarize(change.reader(), &limits).map_err(|error| match error {
            ManifestError::Cancelled => StoreError::Cancelled,
            ManifestError::NoMemory => StoreError::NoMemory,
            other => mismatch(other.to_string()),
        })?;
        if needs.head.base != base {
            return Err(mismatch("the manifest change has a different base"));
        }
        Ok(Some(needs))
    }

    /// The number of entries in a manifest; `None` if no release record here names it.
    pub(in crate::store) fn manifest_entries(&self, manifest: &ManifestId) -> Option<u64> {
        let releases = self.known_releases().ok()?;
        let mut records = releases.into_iter().filter_map(|name| self.release(name).ok());
        records.find(|release| release.manifest == *manifest).map(|release| release.entries)
    }

    /// Refuses a release that may not replace the current one. If the record of the current release
    /// cannot be read, only the sequence numbers are compared.
    pub(in crate::store) fn check_succession(&self, release: &Release) -> Result<(), StoreError> {
        let offered = release.name();
        let Some(current) = self.current()?.filter(|current| *current != offered) else {
            return Ok(());
        };
        let Some(served) = unless_damaged(self.release(current))? else {
            let is_newer = offered.sequence() > current.sequence();
            return if is_newer { Ok(()) } else { Err(StoreError::NotNewer { offered, current }) };
        };
        match release.succession(&served) {
            Succession::Follows => Ok(()),
            Succession::NotNewer => Err(StoreError::NotNewer { offered, current }),
            Succession::OtherHistory => {
                let (history, found) = (release.history, served.history);
                Err(StoreError::OtherHistory { offered, history, current, found })
            }
        }
    }

    /// Whether the release is complete here, served or not.
    pub(in crate::store) fn is_staged(&self, name: ReleaseName) -> Result<bool, StoreError> {
        Ok(self.layout.slots.stat(&name.to_string())?.is_some()
            && unless_damaged(self.release(name))?.is_some())
    }

    /// Runs `check`. If there is too little space, drops other quarantines and runs it again.
    fn retry_for_space(
        &self,
        key: &BundleKey,
        check: impl Fn() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match check() {
            Err(StoreError::NoSpace { .. } | StoreError::NoInodes { .. })
                if self.drop_other_quarantines(key)? =>
            {
                check()
            }
            other => other,
        }
    }

    fn base_stream(
        &self,
        base: Option<ManifestId>,
    ) -> Result<Box<dyn Iterator<Item = Result<Entry, ManifestError>> + Send>, StoreError> {
        match base {
            Some(base) => Ok(Box::new(self.manifest(&base)?)),
            None => Ok(Box::new(std::iter::empty())),
        }
    }
}

impl StagingTransaction {
    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The release.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.release
    }

    /// Whether the quarantine already holds a pack, so that it need not be sent again.
    #[must_use]
    pub fn holds(&self, pack: &PackId) -> bool {
        self.quarantine.packs().contains(pack)
    }

    /// The packs that were held when the transaction began.
    pub fn held(&self) -> impl Iterator<Item = PackId> + '_ {
        self.quarantine.packs().iter().copied()
    }

    /// Writes the content of a pack whose id has been checked (step 1). Several threads may call
    /// this.
    ///
    /// # Errors
    /// Fails if the pack is malformed or contains foreign content, or on a disk error.
    pub fn store_pack(&self, id: &PackId, pack: &PackReader<'_>) -> Result<(), StoreError> {
        let mut prefix = Vec::new();
        self.quarantine.write_pack(id, pack, |block, content| {
            self.write_back.before_write(block.pieces(), &self.store.layout.root);
            self.decode(block, &mut prefix, content)
        })
    }

    /// Decodes a block. `prefix` and `content` are buffers that the caller reuses.
    fn decode<'c>(
        &self,
        block: &Block<'c>,
        prefix: &mut Vec<u8>,
        content: &'c mut Vec<u8>,
    ) -> Result<&'c [u8], StoreError> {
        let objects = self.base_objects(block.bases())?;
        let read = self.read_bases(block.bases(), &objects, prefix);
        read.and_then(|()| Ok(block.decode_in(prefix, content)?))
            .map_err(|error| self.store.find_damaged_bases(objects, error, self.wait))
    }

    fn base_objects(&self, ranges: &[BaseRange]) -> Result<Vec<ObjectId>, StoreError> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let bases = match self.bases.get() {
            Some(bases) => bases,
            None => {
                let entries = self.store.base_stream(self.base)?;
                let object = |entry: Result<Entry, ManifestError>| {
                    entry.map(|entry| entry.file().map(|file| file.object))
                };
                let objects: Result<Vec<_>, _> = entries.map(object).collect();
                let objects = objects.map_err(|error| match error {
                    // A failed read does not prove that the manifest is damaged.
                    ManifestError::Io(source) if !is_damage(&source) => {
                        self.disk_error("read a manifest in", source)
                    }
                    other => mismatch(other.to_string()),
                })?;
                self.bases.get_or_init(|| objects)
            }
        };
        let object = |range: &BaseRange| {
            let entry = usize::try_from(range.entry).ok().and_then(|entry| *bases.get(entry)?);
            entry.ok_or_else(|| {
                mismatch("a block has a base that is not a file in the base manifest")
            })
        };
        ranges.iter().map(object).collect()
    }

    fn read_bases(
        &self,
        ranges: &[BaseRange],
        objects: &[ObjectId],
        prefix: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        prefix.clear();
        let read = |(range, object): (&BaseRange, _)| {
            self.store.read_range(object, range.offset, range.length, prefix)
        };
        ranges.iter().zip(objects).try_for_each(read)
    }

    fn disk_error(&self, op: &'static str, source: std::io::Error) -> StoreError {
        fsx::IoError::new(op, self.store.path(), source).into()
    }

    /// Completes the release: makes it durable but does not serve it (steps 2 to 4). Fetches
    /// missing and damaged objects and returns their number. May be called again after
    /// [`StoreError::Fetch`].
    ///
    /// # Errors
    /// Fails if the content does not match, if an object cannot be fetched, or if the disk fails.
    /// Drops the quarantine if its content is wrong or untrustworthy.
    pub fn finish(&mut self, fetch: &FetchObject<'_>) -> Result<u64, StoreError> {
        match self.complete(fetch) {
            Ok(fetched) => {
                self.quarantine.discard(&self.store.layout)?;
                Ok(fetched)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Records that staging failed with `error`. Returns the error to report. Drops a quarantine
    /// whose content is untrustworthy: after a failed write or sync, the state of the disk is
    /// unknown, and a full disk needs space.
    #[must_use]
    pub fn fail(&self, error: StoreError) -> StoreError {
        let blamed = self.damaged_base(&error);
        if error.is_disk_failure()
            && let Ok(store) = self.store.lock(Duration::ZERO)
        {
            store.log_event(EventKind::failed(self.release.name(), &error));
        }
        let is_void = matches!(
            error,
            StoreError::Mismatch { .. }
                | StoreError::Pack(_)
                | StoreError::DamagedBases { .. }
                | StoreError::BaseMismatch { .. }
        );
        if (error.is_disk_failure() || is_void)
            && let Err(second) = self.quarantine.discard(&self.store.layout)
        {
            // Report the first error. The next prune drops the quarantine.
            drop(second);
        }
        blamed.unwrap_or(error)
    }

    /// Returns the error that describes the damage to the base manifest, if the damage may have
    /// caused `error`. The origin can react to the returned error by sending everything without a
    /// base.
    fn damaged_base(&self, error: &StoreError) -> Option<StoreError> {
        let is_suspect =
            matches!(error, StoreError::Io(_) | StoreError::Mismatch { .. } | StoreError::Pack(_));
        let base = self.base.filter(|_| is_suspect)?;
        // If the base cannot be checked, report the first error.
        self.store.check_manifest(&base).err().filter(StoreError::is_damage)
    }

    fn complete(&mut self, fetch: &FetchObject<'_>) -> Result<u64, StoreError> {
        let promoted = self.moved_objects.clone();
        // After `StoreError::Fetch` this function runs again, and the quarantine is then empty.
        let is_promoted = promoted.is_some();
        let objects = match promoted {
            Some(objects) => objects,
            None => self.quarantine.objects()?.into(),
        };
        let temporary = format!("{}.zst", self.release.manifest);
        // Lock before the first temporary file: a process with the lock may remove all of them.
        let unlocked = Arc::clone(&self.store);
        let store = unlocked.lock(self.wait)?;
        // Another push may have become current since this one began.
        store.check_succession(&self.release)?;
        if store.is_staged(self.release.name())? {
            return Ok(0);
        }
        // Step 2. Listing all objects takes about as long as writing the manifest, so do both.
        let (known_objects, written) = threads::join(
            || store.list_objects(),
            || self.rebuild_manifest(&store, &objects, &temporary),
        );
        written?;
        let mut known_objects = known_objects?;
        self.write_back.finish()?;
        store.write_release(&self.release)?;
        // Step 2, data before name: content, manifest and record become durable here. A failed sync
        // is final, because the kernel reports a write error only once.
        store.layout.root.sync_file_system()?;
        known_objects.extend(objects.iter().map(|(id, _)| *id));
        known_objects.sort_unstable();
        // Step 2, names: these renames become durable with the sync of step 3.
        store.adopt_manifest(&temporary, &self.release.manifest)?;
        store.raise_expiry_mark(&self.release, fsx::unix_seconds())?;
        store.remove_staged_link();
        // Clearing the idle slot does not depend on the new content, so it runs at the same time.
        let promote =
            || if is_promoted { Ok(()) } else { self.quarantine.move_objects(&objects, &store) };
        let (cleared, adopted) =
            threads::join(|| store.clear_slot(&self.release, &known_objects), promote);
        adopted?;
        self.moved_objects = Some(objects);
        // Step 3: fills `dirty`, then makes its tree durable, and with it the renames of step 2.
        let (mut writer, fetched) = self.fill_slot(&store, cleared?, &known_objects, fetch)?;
        store.layout.root.sync_file_system()?;
        writer.share_copies()?;
        drop(writer);
        // Step 4: the references, made durable before this returns. Step 5 is `Store::activate`.
        store.commit_slot(self.release.name())?;
        // A release that was staged before has lost its slot to this one.
        store.drop_staged(Some(self.release.name()))?;
        store.update_staged_link();
        // This only cleans up; if it fails, the next push tries again.
        store.drop_deleted_releases(&mut Pruned::default()).ok();
        Ok(fetched)
    }

    /// Fills the slot and fetches missing and damaged objects. Returns how many were fetched.
    fn fill_slot<'s>(
        &self,
        store: &'s LockedStore<'s>,
        cleared: Option<ClearedSlot<'s>>,
        known_objects: &[ObjectId],
        fetch: &FetchObject<'_>,
    ) -> Result<(SlotWriter<'s>, u64), StoreError> {
        let mut fetched = 0;
        let (writer, missing) = match store.fill_slot(&self.release, cleared) {
            Err(StoreError::DamagedObject { .. }) => {
                let damaged = store.damaged_objects(&self.release.manifest)?;
                store.fetch_objects(&damaged, fetch)?;
                fetched += damaged.len() as u64;
                let cleared = store.clear_slot(&self.release, known_objects)?;
                store.fill_slot(&self.release, cleared)?
            }
            other => other?,
        };
        store.fetch_objects(&missing, fetch)?;
        Ok((writer, fetched + missing.len() as u64))
    }

    fn rebuild_manifest(
        &self,
        store: &LockedStore<'_>,
        objects: &[(ObjectId, u64)],
        temporary: &str,
    ) -> Result<(), StoreError> {
        let to_store_error = |error: ManifestError| match error {
            ManifestError::Io(source) => {
                StoreError::Io(crate::fsx::IoError::new("write", temporary, source))
            }
            other => mismatch(other.to_string()),
        };
        let copies = delta::objects_at(&self.needs.base_entries, store.base_stream(self.base)?)
            .map_err(to_store_error)?;
        let base = store.base_stream(self.base)?;
        let totals = store.write_manifest(temporary, |out| {
            let applied = read_ahead(base, |base| {
                delta::apply(self.change.reader(), base, objects, &copies, out)
            });
            Ok(applied.map_err(to_store_error)?.1)
        })?;
        let release = &self.release;
        let announced = (
            release.manifest,
            release.content,
            release.entries,
            release.retired,
            release.bytes,
            release.until,
        );
        let found = (
            totals.manifest,
            totals.content,
            totals.entries,
            totals.retired,
            totals.bytes,
            totals.until,
        );
        if announced == found {
            return Ok(());
        }
        self.store.layout.tmp.unlink_if_any(temporary)?;
        Err(mismatch(format!(
            "the change produces manifest {} with {} entries",
            totals.manifest, totals.entries
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::store::testing::empty_store;

    #[test]
    fn leftovers_of_other_pushes_are_dropped_before_refusal() {
        let (_dir, store) = empty_store();
        let place = |name: &str| {
            store
                .path()
                .join(".headwater/incoming")
                .join(BundleKey::of(name.as_bytes()).to_string())
        };
        let full = || StoreError::NoSpace { path: store.path().to_owned(), needed: 100, free: 60 };
        // There is room once the quarantine of the other push is gone.
        let looks = Cell::new(0);
        let check = || {
            looks.set(looks.get() + 1);
            if place("other").exists() { Err(full()) } else { Ok(()) }
        };
        for name in ["mine", "other"] {
            fs::create_dir_all(place(name).join("parts")).unwrap();
        }
        store.retry_for_space(&BundleKey::of(b"mine"), check).unwrap();
        assert_eq!(
            (looks.get(), place("mine").exists(), place("other").exists()),
            (2, true, false)
        );
        // With nothing to drop, the check does not run again.
        let looks = Cell::new(0);
        let refused = store.retry_for_space(&BundleKey::of(b"mine"), || {
            looks.set(looks.get() + 1);
            Err(full())
        });
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })) && looks.get() == 1);
    }
}
