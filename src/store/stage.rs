//! Staging: from arriving packs to a release that is complete and unseen.
//!
//! The order of writing is that of `FORMAT.md`: data before name, name before
//! reference, reference before acknowledgement.

use std::error::Error;
use std::io::Read;
use std::iter::Peekable;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::fsx::Dir;
use crate::hash::{BundleKey, ManifestId, ObjectId, PackId};
use crate::manifest::transit::{self, Needs};
use crate::manifest::{Entry, FileEntry, Kind, ManifestError, Pair, Pairs};
use crate::pack::{BaseRange, PackReader};
use crate::release::{Release, ReleaseName};
use crate::store::copy::write_object;
use crate::store::layout::{DIRTY, SlotName};
use crate::store::manifests::ManifestStream;
use crate::store::quarantine::Quarantine;
use crate::store::slots::{DirStack, SlotWriter};
use crate::store::{Pruned, Store, StoreError, lie};

/// Opens the content of an object that is missing here.
pub type FetchObject<'a> = dyn Fn(&ObjectId) -> Result<Box<dyn Read + Send>, Box<dyn Error + Send + Sync>> + Sync + 'a;

/// A release on its way into a store: takes packs, then becomes staged.
#[derive(Debug)]
pub struct Arrival {
    store: Arc<Store>,
    release: Release,
    base: Option<ManifestId>,
    change: Arc<[u8]>,
    needs: Needs,
    quarantine: Quarantine,
    /// The new objects, once they have their names.
    promoted: Option<Arc<[(ObjectId, u64)]>>,
    /// The objects of the base by position, read when the first block has a base.
    bases: OnceLock<Vec<Option<ObjectId>>>,
    wait: Duration,
}

impl Store {
    /// Begins to stage `release`, whose manifest is `change` against `base`.
    /// Answers nothing if it is staged or current already.
    ///
    /// # Errors
    /// A release that is not newer than the current one, a base that is not
    /// here, too little room, a change that is malformed.
    pub fn begin(
        self: &Arc<Self>,
        release: &Release,
        key: &BundleKey,
        base: Option<ManifestId>,
        change: &Arc<[u8]>,
        wait: Duration,
    ) -> Result<Option<Arrival>, StoreError> {
        self.check_site(&release.site)?;
        let offered = release.name();
        self.check_newer(offered)?;
        if self.is_staged(offered)? {
            return Ok(None);
        }
        let mut needs = transit::needs(change).map_err(|error| lie(error.to_string()))?;
        if needs.head.base != base {
            return Err(lie("the manifest change is against another base"));
        }
        self.check_room(release, &needs, self.quarantined_bytes(key)?)?;
        let quarantine = Quarantine::open(self, key, std::mem::take(&mut needs.objects), wait)?;
        let (store, release, change) = (Arc::clone(self), release.clone(), Arc::clone(change));
        let (promoted, bases) = (None, OnceLock::new());
        Ok(Some(Arrival { store, release, base, change, needs, quarantine, promoted, bases, wait }))
    }

    /// Refuses a release that is not newer than another one that is current.
    pub(super) fn check_newer(&self, offered: ReleaseName) -> Result<(), StoreError> {
        match self.current()? {
            Some(current) if current != offered && current.sequence() >= offered.sequence() => {
                Err(StoreError::NotNewer { offered, current })
            }
            _ => Ok(()),
        }
    }

    /// Whether the release is complete here, seen or unseen.
    pub(super) fn is_staged(&self, name: ReleaseName) -> Result<bool, StoreError> {
        Ok(self.layout.slots.stat(&name.to_string())?.is_some() && self.release(name).is_ok())
    }

    /// Refuses what cannot fit, before anything is written. `held_bytes` of it are here already.
    fn check_room(&self, release: &Release, needs: &Needs, held_bytes: u64) -> Result<(), StoreError> {
        // A line of a manifest compresses to less; a name in each of two slots and in objects.
        const ENTRY_BYTES: u64 = 256;
        /// Our own directories and records, and some for those of a slot.
        const SPARE_INODES: u64 = 1024;
        let system = self.layout.root.file_system()?;
        let rounded = |size: u64| size.div_ceil(system.block_bytes).saturating_mul(system.block_bytes);
        let content = needs.objects.iter().fold(0u64, |sum, object| sum.saturating_add(rounded(object.size)));
        let content = content.saturating_sub(held_bytes);
        let needed = content.saturating_add(release.entries.saturating_mul(ENTRY_BYTES));
        let path = || self.path().to_owned();
        if needed > system.free_bytes {
            return Err(StoreError::NoSpace { path: path(), needed, free: system.free_bytes });
        }
        let needed = needs.objects.len() as u64 + SPARE_INODES;
        match system.free_inodes {
            Some(free) if needed > free => Err(StoreError::NoInodes { path: path(), needed, free }),
            _ => Ok(()),
        }
    }

    fn base_stream(
        &self,
        base: Option<ManifestId>,
    ) -> Result<Box<dyn Iterator<Item = Result<Entry, ManifestError>>>, StoreError> {
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
        let mut missing = Vec::new();
        let mut why = None;
        for file in files {
            let name = file.object.to_string();
            tmp.unlink_if_any(&name)?;
            let error = match fetch(&file.object) {
                Err(error) => error,
                Ok(content) => {
                    if write_object(file, content, tmp, &name)? {
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

    /// Builds the tree of `release` in the slot `dirty`, not synced, and
    /// answers the objects that its manifest has and the store has not.
    ///
    /// # Errors
    /// [`StoreError::DamagedObject`] for one that the slot itself needs.
    pub(super) fn build_slot(&self, release: &Release) -> Result<(SlotWriter<'_>, Vec<FileEntry>), StoreError> {
        let (slot, idle) = self.take_idle_slot()?;
        if let Some(idle) = idle {
            let mut writer = SlotWriter::change(self, slot);
            match self.update_slot(&mut writer, idle, release) {
                // What is in the slot cannot be told: its manifest is damaged, or somebody changed it.
                Err(StoreError::Manifest { .. } | StoreError::Tampered { .. }) => {
                    self.layout.slots.remove_all(DIRTY)?;
                }
                other => return other.map(|missing| (writer, missing)),
            }
        }
        let writer = self.fill_slot(self.layout.slots.ensure_dir(DIRTY)?, &release.manifest)?;
        // Every object was linked or copied: none is missing.
        Ok((writer, Vec::new()))
    }

    /// Brings a slot from the release it has to another one.
    fn update_slot(
        &self,
        writer: &mut SlotWriter<'_>,
        from: SlotName,
        to: &Release,
    ) -> Result<Vec<FileEntry>, StoreError> {
        let here = self.list_objects()?;
        let old = self.entries(&self.release(from.release)?.manifest)?;
        let mut missing: Vec<FileEntry> = Vec::new();
        let mut places = Vec::new();
        let mut emptied: Vec<String> = Vec::new();
        for pair in Pairs::new(old, self.entries(&to.manifest)?) {
            match pair? {
                Pair::Old(old) => {
                    writer.remove(&old.path)?;
                    match old.path.parent() {
                        Some(parent) if emptied.last().is_none_or(|last| last != parent) => emptied.push(parent.into()),
                        _ => {}
                    }
                }
                Pair::New(new) => places.push(new),
                Pair::Both(old, new) if old.kind == new.kind => {
                    missing.extend(new.file().filter(|file| here.binary_search(&file.object).is_err()));
                }
                Pair::Both(_, new) => {
                    writer.remove(&new.path)?;
                    places.push(new);
                }
            }
        }
        // What goes goes first: a directory may have to make room for a file.
        for directory in emptied.iter().rev() {
            writer.remove_empty(directory)?;
        }
        let left = writer.place_each(&places)?;
        self.place_left(writer, &left)?;
        missing.sort_unstable_by_key(|file| file.object);
        missing.dedup_by_key(|file| file.object);
        Ok(missing)
    }

    /// Fills an empty slot with the tree of a manifest, on two threads: the
    /// system calls of one tree hardly wait for those of the other half.
    fn fill_slot(&self, slot: Dir, manifest: &ManifestId) -> Result<SlotWriter<'_>, StoreError> {
        /// Entries placed at once: the two halves of a batch are mostly in different directories.
        const BATCH: usize = 4096;
        let mut helper = SlotWriter::fill(self, slot.try_clone()?);
        let mut writer = SlotWriter::fill(self, slot);
        let mut entries = self.entries(manifest)?;
        let mut left = Vec::new();
        loop {
            let batch: Vec<Entry> = entries.by_ref().take(BATCH).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                break;
            }
            let (first, second) = batch.split_at(batch.len() / 2);
            let (first, second) = std::thread::scope(|scope| {
                let helped = scope.spawn(|| helper.place_each(first));
                let second = writer.place_each(second);
                (helped.join().expect("placing entries does not panic"), second)
            });
            left.extend(first?);
            left.extend(second?);
        }
        self.place_left(&mut writer, &left)?;
        Ok(writer)
    }

    /// Places entries that a link to their object cannot be: a link to the
    /// live slot's file where that is the very same, else a copy. In order.
    fn place_left(&self, writer: &mut SlotWriter<'_>, left: &[Entry]) -> Result<(), StoreError> {
        if left.is_empty() {
            return Ok(());
        }
        let mut live = self.live_slot()?.map(DirStack::new);
        let mut same = self.live_entries();
        left.iter().try_for_each(|entry| writer.place_hard(entry, live.as_mut().filter(|_| same.has(entry))))
    }

    fn live_entries(&self) -> LiveEntries {
        let stream = || self.manifest(&self.release(self.current().ok()??).ok()?.manifest).ok();
        LiveEntries { stream: stream().map(Iterator::peekable) }
    }

    /// Completes a staged slot: `dirty`, durable, gets its name, and so does the record.
    fn name_slot(&self, name: ReleaseName) -> Result<(), StoreError> {
        self.adopt_release(name)?;
        let slots = &self.layout.slots;
        slots.rename(DIRTY, slots, &name.to_string())?;
        self.layout.releases.sync()?;
        Ok(slots.sync()?)
    }

    /// Makes the second slot, after the first push has answered: from then on
    /// a push costs what changed. Does nothing if there is an idle slot.
    ///
    /// # Errors
    /// Those of the disk; what is served is not touched.
    pub(super) fn fill_spare_slot(&self) -> Result<(), StoreError> {
        let Some(current) = self.current()? else { return Ok(()) };
        let spare = SlotName { release: current, is_spare: true };
        if self.slot_names()?.iter().any(|slot| slot.is_spare || slot.release != current) {
            return Ok(());
        }
        let release = self.release(current)?;
        let slots = &self.layout.slots;
        slots.remove_all(DIRTY)?;
        self.fill_slot(slots.create_dir(DIRTY)?, &release.manifest)?;
        slots.sync_file_system()?;
        slots.rename(DIRTY, slots, &spare.to_string())?;
        Ok(slots.sync()?)
    }
}

/// Asks the live release's manifest about entries in ascending order.
struct LiveEntries {
    stream: Option<Peekable<ManifestStream>>,
}

impl LiveEntries {
    /// Whether it has the very same file. A damaged manifest has nothing from there on.
    fn has(&mut self, entry: &Entry) -> bool {
        let Some(stream) = self.stream.as_mut() else { return false };
        loop {
            match stream.peek() {
                Some(Ok(live)) if live.path < entry.path => {
                    stream.next();
                }
                Some(Ok(live)) => {
                    return live.path == entry.path && live.kind == entry.kind && matches!(live.kind, Kind::File(_));
                }
                Some(Err(_)) | None => {
                    self.stream = None;
                    return false;
                }
            }
        }
    }
}

impl Arrival {
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
        self.quarantine.take(id, pack, |ranges| self.prefix(ranges))
    }

    /// Reads the bases of a block.
    fn prefix(&self, ranges: &[BaseRange]) -> Result<Vec<u8>, StoreError> {
        let bases = match self.bases.get() {
            Some(bases) => bases,
            None => {
                let entries = self.store.base_stream(self.base)?;
                let object =
                    |entry: Result<Entry, ManifestError>| entry.map(|entry| entry.file().map(|file| file.object));
                let objects: Result<Vec<_>, _> = entries.map(object).collect();
                let objects = objects.map_err(|error| lie(error.to_string()))?;
                self.bases.get_or_init(|| objects)
            }
        };
        let mut prefix = Vec::new();
        for range in ranges {
            let entry = usize::try_from(range.entry).ok().and_then(|entry| *bases.get(entry)?);
            let object = entry.ok_or_else(|| lie("a block has a base that the base manifest has not"))?;
            self.store.read_range(&object, range.offset, range.length, &mut prefix)?;
        }
        Ok(prefix)
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
        if (error.is_disk_failure() || matches!(error, StoreError::Lie { .. } | StoreError::Pack(_)))
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
        let is_suspect = matches!(error, StoreError::Io(_) | StoreError::Lie { .. } | StoreError::Pack(_));
        let base = self.base.filter(|_| is_suspect)?;
        self.store.check_manifest(&base).err()
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
        self.store.check_newer(self.release.name())?;
        if self.store.is_staged(self.release.name())? {
            return Ok(0);
        }
        self.rebuild_manifest(&objects, &temporary)?;
        self.store.write_release(&self.release)?;
        self.store.layout.root.sync_file_system()?;
        if !is_promoted {
            for (ordinal, (id, _)) in (0u32..).zip(objects.iter()) {
                self.quarantine.promote(ordinal, id, &self.store)?;
            }
            self.promoted = Some(objects);
        }
        self.store.adopt_manifest(&temporary, &self.release.manifest)?;
        let (mut writer, fetched) = self.build_slot(fetch)?;
        self.store.layout.root.sync_file_system()?;
        writer.share_copies()?;
        drop(writer);
        self.store.name_slot(self.release.name())?;
        // Whoever staged before has lost its slot to this release.
        self.store.forget_staged(Some(self.release.name()))?;
        // Only tidies up: what fails here is tried again after the next push.
        self.store.drop_gone_releases(&mut Pruned::default()).ok();
        Ok(fetched)
    }

    /// Builds the slot. What is missing or damaged is fetched on the way; answers how many objects.
    fn build_slot(&self, fetch: &FetchObject<'_>) -> Result<(SlotWriter<'_>, u64), StoreError> {
        let mut fetched = 0;
        let (writer, missing) = match self.store.build_slot(&self.release) {
            Err(StoreError::DamagedObject { .. }) => {
                let damaged = self.store.damaged_objects(&self.release.manifest)?;
                self.store.fetch_objects(&damaged, fetch)?;
                fetched += damaged.len() as u64;
                self.store.build_slot(&self.release)?
            }
            other => other?,
        };
        self.store.fetch_objects(&missing, fetch)?;
        Ok((writer, fetched + missing.len() as u64))
    }

    fn rebuild_manifest(&self, objects: &[(ObjectId, u64)], temporary: &str) -> Result<(), StoreError> {
        let words = |error: ManifestError| match error {
            ManifestError::Io(source) => StoreError::Io(crate::fsx::IoError::new("write", temporary, source)),
            other => lie(other.to_string()),
        };
        let copies =
            transit::objects_at(&self.needs.base_entries, self.store.base_stream(self.base)?).map_err(words)?;
        let base = self.store.base_stream(self.base)?;
        let totals = self.store.write_manifest(temporary, |out| {
            Ok(transit::apply(&self.change, base, objects, &copies, out).map_err(words)?.1)
        })?;
        let release = &self.release;
        let announced =
            (release.manifest, release.content, release.entries, release.retired, release.bytes, release.until);
        let found = (totals.manifest, totals.content, totals.entries, totals.retired, totals.bytes, totals.until);
        if announced == found {
            return Ok(());
        }
        self.store.layout.tmp.unlink_if_any(temporary)?;
        Err(lie(format!("it makes manifest {} of {} entries", totals.manifest, totals.entries)))
    }
}
