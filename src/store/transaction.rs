//! Staging: from arriving packs to a release that is complete and unseen.
//!
//! The order of writing is that of `FORMAT.md`: data before name, name before
//! reference, reference before acknowledgement.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::fsx;
use crate::hash::{BundleKey, ManifestId, ObjectId, PackId};
use crate::manifest::delta::{self, ChangeLimits, DeltaSummary};
use crate::manifest::{Entry, FileEntry, ManifestError, read_ahead};
use crate::pack::{BaseRange, Block, PackReader};
use crate::release::{Release, ReleaseName, Succession};
use crate::store::copy::write_object;
use crate::store::quarantine::Quarantine;
use crate::store::slot_builder::ClearedSlot;
use crate::store::slots::SlotWriter;
use crate::store::write_back::WriteBack;
use crate::store::{EventKind, Pruned, Store, StoreError, StoredChange, is_damage, mismatch, room, unless_damaged};
use crate::threads;

/// Opens the content of objects that are missing here.
pub trait Fetch: Sync {
    /// Tells which objects will be opened.
    fn announce(&self, objects: &[ObjectId]) {
        let _ = objects;
    }

    /// Opens the content of an object of `bytes` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    fn open(&self, object: &ObjectId, bytes: u64) -> Result<Box<dyn Read + Send>, FetchError>;
}

/// Why an object could not be opened.
pub type FetchError = Box<dyn Error + Send + Sync>;

impl<F: Fn(&ObjectId) -> Result<Box<dyn Read + Send>, FetchError> + Sync> Fetch for F {
    fn open(&self, object: &ObjectId, _: u64) -> Result<Box<dyn Read + Send>, FetchError> {
        self(object)
    }
}

/// Who opens objects that are missing here.
pub type FetchObject<'a> = dyn Fetch + 'a;

/// A release on its way into a store: takes packs, then becomes staged.
#[derive(Debug)]
pub struct StagingTransaction {
    store: Arc<Store>,
    release: Release,
    base: Option<ManifestId>,
    change: StoredChange,
    needs: DeltaSummary,
    quarantine: Quarantine,
    write_back: WriteBack,
    /// The new objects, once they have their names.
    promoted: Option<Arc<[(ObjectId, u64)]>>,
    /// The objects of the base by position, read when the first block has a base.
    bases: OnceLock<Vec<Option<ObjectId>>>,
    wait: Duration,
}

impl Store {
    /// Begins to stage `release`, whose manifest is `change` against `base` and needs `needs`,
    /// which [`Store::read_change`] returned.
    ///
    /// # Errors
    /// Too little room, or a stage of this key that another process has open.
    pub fn start_staging(
        self: &Arc<Self>,
        release: &Release,
        key: &BundleKey,
        change: &StoredChange,
        mut needs: DeltaSummary,
        wait: Duration,
    ) -> Result<StagingTransaction, StoreError> {
        let (offered, base) = (release.name(), needs.head.base);
        let held_bytes = self.quarantined_bytes(key)?;
        let system = || self.layout.root.file_system();
        match self.made_entries(release, &needs)? {
            // Hardly anything is written: a full mirror must not keep what is to go.
            0 => self.use_reserve()?,
            made => self.with_room(key, || room::check(self.path(), &system()?, made, &needs, held_bytes))?,
        }
        let permissions = self.permissions_of(offered.sequence())?;
        let quarantine = Quarantine::open(self, key, std::mem::take(&mut needs.objects), permissions, wait)?;
        let (store, release, change) = (Arc::clone(self), release.clone(), change.clone());
        let (promoted, bases, write_back) = (None, OnceLock::new(), WriteBack::default());
        Ok(StagingTransaction { write_back, store, release, base, change, needs, quarantine, promoted, bases, wait })
    }

    /// Refuses a release for which [`Store::start_staging`] would find too little room. Changes nothing.
    ///
    /// # Errors
    /// Too little room, or those of [`Store::read_change`].
    pub fn check_room(
        &self,
        release: &Release,
        base: Option<ManifestId>,
        change: &StoredChange,
    ) -> Result<(), StoreError> {
        let Some(needs) = self.read_change(release, base, change, &|_| true, &|| false)? else { return Ok(()) };
        // What other pushes left would make room, or is of this one.
        let held_bytes = self.incoming_bytes()?;
        match self.made_entries(release, &needs)? {
            0 => Ok(()),
            made => room::check(self.path(), &self.layout.root.file_system()?, made, &needs, held_bytes),
        }
    }

    /// The same for a store that would be made at `path`.
    ///
    /// # Errors
    /// As [`Store::check_room`].
    pub fn check_room_at(path: &Path, release: &Release, change: &StoredChange) -> Result<(), StoreError> {
        let limits = ChangeLimits::of_own(change.bytes(), release.entries);
        let needs = delta::summarize(change.reader(), &limits).map_err(|error| mismatch(error.to_string()))?;
        room::check(path, &Self::file_system_at(path)?, release.entries, &needs, 0)
    }

    /// Reads what the manifest change of `release` against `base` needs, within what the release and
    /// its base can count. Returns `None` if the release is staged or current already.
    ///
    /// `reserve` takes so many bytes of memory, until the release is complete, and returns whether
    /// they were there.
    ///
    /// # Errors
    /// A release that is not newer than the current one, a base that is not here, a change that is
    /// malformed or counts more; [`StoreError::NoMemory`]; [`StoreError::Cancelled`].
    pub fn read_change(
        &self,
        release: &Release,
        base: Option<ManifestId>,
        change: &StoredChange,
        reserve: &dyn Fn(u64) -> bool,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<DeltaSummary>, StoreError> {
        self.check_site(&release.site)?;
        self.check_succession(release)?;
        if self.is_staged(release.name())? {
            return Ok(None);
        }
        let base_entries = match base {
            Some(base) => {
                // One that is not here is told before anything is counted against it.
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
            return Err(mismatch("the manifest change is against another base"));
        }
        Ok(Some(needs))
    }

    /// How many entries a manifest has, as the record of a release says that was served here; `None`
    /// if no such record names it.
    pub(super) fn manifest_entries(&self, manifest: &ManifestId) -> Option<u64> {
        let releases = self.known_releases().ok()?;
        let mut records = releases.into_iter().filter_map(|name| self.release(name).ok());
        records.find(|release| release.manifest == *manifest).map(|release| release.entries)
    }

    /// Refuses a release that may not take the place of the current one. Where the record of that one
    /// cannot be read, the sequences alone decide.
    pub(super) fn check_succession(&self, release: &Release) -> Result<(), StoreError> {
        let offered = release.name();
        let Some(current) = self.current()?.filter(|current| *current != offered) else { return Ok(()) };
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

    /// Whether the release is complete here, seen or unseen.
    pub(super) fn is_staged(&self, name: ReleaseName) -> Result<bool, StoreError> {
        Ok(self.layout.slots.stat(&name.to_string())?.is_some() && unless_damaged(self.release(name))?.is_some())
    }

    /// Looks for room by `check`. Where there is too little, what other pushes left is dropped, and it looks again.
    fn with_room(&self, key: &BundleKey, check: impl Fn() -> Result<(), StoreError>) -> Result<(), StoreError> {
        match check() {
            Err(StoreError::NoSpace { .. } | StoreError::NoInodes { .. }) if self.drop_other_quarantines(key)? => {
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

    /// Fetches objects again; each is durable before it gets its name.
    ///
    /// # Errors
    /// [`StoreError::Fetch`] with all those that cannot be had; none of the others is kept then.
    pub(super) fn fetch_objects(&self, files: &[FileEntry], fetch: &FetchObject<'_>) -> Result<(), StoreError> {
        let tmp = &self.layout.tmp;
        // Which release they are for is not asked: one that has others copies them.
        let permissions = self.permissions_of(u64::MAX)?;
        let mut missing = Vec::new();
        let mut why = None;
        if files.len() > 1 {
            fetch.announce(&files.iter().map(|file| file.object).collect::<Vec<_>>());
        }
        for file in files {
            let name = file.object.to_string();
            tmp.unlink_if_any(&name)?;
            let error = match fetch.open(&file.object, file.size) {
                Err(error) => error,
                Ok(content) => {
                    if write_object(file, permissions.file(file.exec), content, tmp, &name)? {
                        continue;
                    }
                    "what was fetched is not this object".into()
                }
            };
            missing.push(file.object);
            why.get_or_insert(error);
        }
        if let Some(source) = why {
            return Err(StoreError::Fetch { missing, source });
        }
        if !files.is_empty() {
            tmp.sync_file_system()?;
        }
        files.iter().try_for_each(|file| self.adopt(&file.object, tmp, &file.object.to_string()))
    }
}

impl StagingTransaction {
    /// Whether a pack need not be sent again.
    #[must_use]
    pub fn holds(&self, pack: &PackId) -> bool {
        self.quarantine.packs().contains(pack)
    }

    /// The packs that it held when it began.
    pub fn held(&self) -> impl Iterator<Item = PackId> + '_ {
        self.quarantine.packs().iter().copied()
    }

    /// Takes a pack, already checked against its id. May be called from several threads.
    ///
    /// # Errors
    /// A pack that is malformed or has what nobody asked for, or an error of the disk.
    pub fn take(&self, id: &PackId, pack: &PackReader<'_>) -> Result<(), StoreError> {
        let mut prefix = Vec::new();
        self.quarantine.take(id, pack, |block, content| {
            self.write_back.before(block.pieces(), &self.store.layout.root);
            self.decode(block, &mut prefix, content)
        })
    }

    /// The content of a block. `prefix` and `content` are memory that may be used again.
    fn decode<'c>(
        &self,
        block: &Block<'c>,
        prefix: &mut Vec<u8>,
        content: &'c mut Vec<u8>,
    ) -> Result<&'c [u8], StoreError> {
        let objects = self.base_objects(block.bases())?;
        let read = self.read_bases(block.bases(), &objects, prefix);
        read.and_then(|()| Ok(block.decode_in(prefix, content)?))
            .map_err(|error| self.find_damaged_bases(objects, error))
    }

    /// The objects of bases, in their order.
    fn base_objects(&self, ranges: &[BaseRange]) -> Result<Vec<ObjectId>, StoreError> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let bases = match self.bases.get() {
            Some(bases) => bases,
            None => {
                let entries = self.store.base_stream(self.base)?;
                let object =
                    |entry: Result<Entry, ManifestError>| entry.map(|entry| entry.file().map(|file| file.object));
                let objects: Result<Vec<_>, _> = entries.map(object).collect();
                let objects = objects.map_err(|error| match error {
                    // What cannot be read is not damaged.
                    ManifestError::Io(source) if !is_damage(&source) => self.disk_error("read a manifest in", source),
                    other => mismatch(other.to_string()),
                })?;
                self.bases.get_or_init(|| objects)
            }
        };
        let object = |range: &BaseRange| {
            let entry = usize::try_from(range.entry).ok().and_then(|entry| *bases.get(entry)?);
            entry.ok_or_else(|| mismatch("a block has a base that the base manifest has not"))
        };
        ranges.iter().map(object).collect()
    }

    /// Reads the bases of a block to `prefix`, which has nothing else then.
    fn read_bases(&self, ranges: &[BaseRange], objects: &[ObjectId], prefix: &mut Vec<u8>) -> Result<(), StoreError> {
        prefix.clear();
        let read = |(range, object): (&BaseRange, _)| self.store.read_range(object, range.offset, range.length, prefix);
        ranges.iter().zip(objects).try_for_each(read)
    }

    fn disk_error(&self, op: &'static str, source: std::io::Error) -> StoreError {
        fsx::IoError::new(op, self.store.path(), source).into()
    }

    /// Looks whether the bases of a block that does not decode are what they should be. Those that
    /// are not lose their names: what is not there can be fetched again. Where that cannot be told, that is the error.
    fn find_damaged_bases(&self, mut objects: Vec<ObjectId>, error: StoreError) -> StoreError {
        objects.sort_unstable();
        objects.dedup();
        let held = match self.store.holds(&objects, &|| false) {
            Ok(held) => held,
            Err(unknown) => return unknown,
        };
        let damaged = objects.into_iter().zip(held).filter(|(_, is_held)| !is_held);
        let objects: Vec<ObjectId> = damaged.map(|(object, _)| object).collect();
        if objects.is_empty() {
            return error;
        }
        let forgotten = self
            .store
            .lock(self.wait)
            .and_then(|_guard| objects.iter().try_for_each(|object| self.store.forget_object(object)));
        forgotten.err().unwrap_or(StoreError::DamagedBases { objects })
    }

    /// Makes the release complete and durable, unseen. Objects of the base
    /// that turn out to be missing or damaged are fetched again; answers how many.
    /// After [`StoreError::Fetch`] it may be called again, with a better supply.
    ///
    /// # Errors
    /// When what arrived is not what was announced, when something missing
    /// cannot be fetched, or when the disk fails; the quarantine is then
    /// dropped unless the fault was on the way.
    pub fn finish(&mut self, fetch: &FetchObject<'_>) -> Result<u64, StoreError> {
        match self.complete(fetch) {
            Ok(fetched) => {
                self.quarantine.discard(&self.store.layout)?;
                Ok(fetched)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Gives up after `error`. What is in doubt is dropped: after a failed
    /// write or sync nobody knows what is on the disk, and a full one wants its space back.
    #[must_use]
    pub fn fail(&self, error: StoreError) -> StoreError {
        let blamed = self.damaged_base(&error);
        if error.is_disk_failure()
            && let Ok(_guard) = self.store.lock(Duration::ZERO)
        {
            self.store.note(EventKind::failed(self.release.name(), &error));
        }
        let is_void =
            matches!(error, StoreError::Mismatch { .. } | StoreError::Pack(_) | StoreError::DamagedBases { .. });
        if (error.is_disk_failure() || is_void)
            && let Err(second) = self.quarantine.discard(&self.store.layout)
        {
            // The first error is the one to tell; the next prune tries again.
            drop(second);
        }
        blamed.unwrap_or(error)
    }

    /// What is wrong with the base, if `error` may have come of it. The origin
    /// can do something about that: send everything anew.
    fn damaged_base(&self, error: &StoreError) -> Option<StoreError> {
        let is_suspect = matches!(error, StoreError::Io(_) | StoreError::Mismatch { .. } | StoreError::Pack(_));
        let base = self.base.filter(|_| is_suspect)?;
        // Where it cannot be told, the first error is the one to tell.
        self.store.check_manifest(&base).err().filter(StoreError::is_damage)
    }

    fn complete(&mut self, fetch: &FetchObject<'_>) -> Result<u64, StoreError> {
        let promoted = self.promoted.clone();
        let is_promoted = promoted.is_some();
        let objects = match promoted {
            Some(objects) => objects,
            None => self.quarantine.objects()?.into(),
        };
        let temporary = format!("{}.zst", self.release.manifest);
        // Before the first temporary file: whoever has the lock may sweep those away.
        let store = Arc::clone(&self.store);
        let _guard = store.lock(self.wait)?;
        // Another push may have been quicker since this one began.
        self.store.check_succession(&self.release)?;
        if self.store.is_staged(self.release.name())? {
            return Ok(0);
        }
        // Reading the names of all objects takes as long as writing the manifest.
        let (here, written) = threads::join(|| store.list_objects(), || self.rebuild_manifest(&objects, &temporary));
        written?;
        let mut here = here?;
        self.write_back.finish()?;
        self.store.write_release(&self.release)?;
        self.store.layout.root.sync_file_system()?;
        here.extend(objects.iter().map(|(id, _)| *id));
        here.sort_unstable();
        self.store.adopt_manifest(&temporary, &self.release.manifest)?;
        self.store.expire_before_filling(&self.release, fsx::unix_seconds())?;
        self.store.hide_staged();
        // What goes from the idle slot does not wait for what comes.
        let promote = || if is_promoted { Ok(()) } else { self.quarantine.promote(&objects, &self.store) };
        let (cleared, adopted) = threads::join(|| self.store.clear_slot(&self.release, &here), promote);
        adopted?;
        self.promoted = Some(objects);
        let (mut writer, fetched) = self.fill_slot(cleared?, &here, fetch)?;
        self.store.layout.root.sync_file_system()?;
        writer.share_copies()?;
        drop(writer);
        self.store.commit_slot(self.release.name())?;
        // Whoever staged before has lost its slot to this release.
        self.store.drop_staged(Some(self.release.name()))?;
        self.store.show_staged();
        // Only tidies up: what fails here is tried again after the next push.
        self.store.drop_gone_releases(&mut Pruned::default()).ok();
        Ok(fetched)
    }

    /// Fills the slot. What is missing or damaged is fetched on the way; answers how many objects.
    fn fill_slot<'s>(
        &'s self,
        cleared: Option<ClearedSlot<'s>>,
        here: &[ObjectId],
        fetch: &FetchObject<'_>,
    ) -> Result<(SlotWriter<'s>, u64), StoreError> {
        let mut fetched = 0;
        let (writer, missing) = match self.store.fill_slot(&self.release, cleared) {
            Err(StoreError::DamagedObject { .. }) => {
                let damaged = self.store.damaged_objects(&self.release.manifest)?;
                self.store.fetch_objects(&damaged, fetch)?;
                fetched += damaged.len() as u64;
                let cleared = self.store.clear_slot(&self.release, here)?;
                self.store.fill_slot(&self.release, cleared)?
            }
            other => other?,
        };
        self.store.fetch_objects(&missing, fetch)?;
        Ok((writer, fetched + missing.len() as u64))
    }

    fn rebuild_manifest(&self, objects: &[(ObjectId, u64)], temporary: &str) -> Result<(), StoreError> {
        let words = |error: ManifestError| match error {
            ManifestError::Io(source) => StoreError::Io(crate::fsx::IoError::new("write", temporary, source)),
            other => mismatch(other.to_string()),
        };
        let copies = delta::objects_at(&self.needs.base_entries, self.store.base_stream(self.base)?).map_err(words)?;
        let base = self.store.base_stream(self.base)?;
        let totals = self.store.write_manifest(temporary, |out| {
            let applied = read_ahead(base, |base| delta::apply(self.change.reader(), base, objects, &copies, out));
            Ok(applied.map_err(words)?.1)
        })?;
        let release = &self.release;
        let announced =
            (release.manifest, release.content, release.entries, release.retired, release.bytes, release.until);
        let found = (totals.manifest, totals.content, totals.entries, totals.retired, totals.bytes, totals.until);
        if announced == found {
            return Ok(());
        }
        self.store.layout.tmp.unlink_if_any(temporary)?;
        Err(mismatch(format!("it makes manifest {} of {} entries", totals.manifest, totals.entries)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::store::testing::empty_store;

    #[test]
    fn what_other_pushes_left_makes_room_before_a_push_is_refused() {
        let (_dir, store) = empty_store();
        let place =
            |name: &str| store.path().join(".headwater/incoming").join(BundleKey::of(name.as_bytes()).to_string());
        let full = || StoreError::NoSpace { path: store.path().to_owned(), needed: 100, free: 60 };
        // There is room as soon as nothing of the other push is left.
        let looks = Cell::new(0);
        let check = || {
            looks.set(looks.get() + 1);
            if place("other").exists() { Err(full()) } else { Ok(()) }
        };
        for name in ["mine", "other"] {
            fs::create_dir_all(place(name).join("parts")).unwrap();
        }
        store.with_room(&BundleKey::of(b"mine"), check).unwrap();
        assert_eq!((looks.get(), place("mine").exists(), place("other").exists()), (2, true, false));
        // With nothing to drop it does not look twice.
        let looks = Cell::new(0);
        let refused = store.with_room(&BundleKey::of(b"mine"), || {
            looks.set(looks.get() + 1);
            Err(full())
        });
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })) && looks.get() == 1);
    }
}
