//! Expiry: removes retired entries from the served slot when they are due.
//!
//! Every mirror expires entries by its own clock and without a new release: the release, its
//! manifest and its objects stay complete, so the release can still be copied to other mirrors. A
//! durable mark records which entries may be absent. The mark only rises, so no entry comes back if
//! a clock is set back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fsx::{self, FileMode};
use crate::manifest::Entry;
use crate::release::{Release, ReleaseName};
use crate::store::layout::EXPIRED;
use crate::store::open::LockedStore;
use crate::store::staging::slots::SlotWriter;
use crate::store::{EventKind, Store, StoreError};
use crate::tree_path::TreePath;

/// Maximum bytes to read from the file of the mark, which is one short line.
const MAX_MARK_BYTES: u64 = 4096;

/// The content of `.headwater/expired`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ExpiryMark {
    /// Retired entries whose `until` is at or before this time may be absent from every slot.
    through: u64,
    /// The release whose slot no longer has any of these entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<ReleaseName>,
    /// When the next entry in that release is due; `None` if no more entries will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

/// The entries in a manifest that are due at a given time.
#[derive(Default)]
struct DueEntries {
    paths: Vec<TreePath>,
    /// The latest `until` of the entries that are due.
    latest: u64,
    /// The earliest `until` of the entries that are not due yet.
    next: Option<u64>,
}

impl Store {
    /// Removes every due retired entry from the served slot and returns how many were removed. If
    /// none is due, this call costs one small read and takes no lock.
    ///
    /// # Errors
    /// [`StoreError::Locked`], a damaged manifest, or a disk error.
    pub fn expire(&self, wait: Duration) -> Result<u64, StoreError> {
        let Some(current) = self.current()? else { return Ok(0) };
        if !self.is_due(current, self.expiry_mark()?, fsx::unix_seconds())? {
            return Ok(0);
        }
        let store = self.lock(wait)?;
        store.expire_due(fsx::unix_seconds())
    }

    /// When the next retired entry in the current release is due; `None` if there is none. A time
    /// in the past means that an entry is due and still served.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn next_expiry(&self) -> Result<Option<u64>, StoreError> {
        match self.current()? {
            Some(current) => self.next_expiry_of(current, self.expiry_mark()?),
            None => Ok(None),
        }
    }

    /// Retired entries whose `until` is at or before this time are not served. The time is 0 if no
    /// entry has expired yet.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn expired_through(&self) -> Result<u64, StoreError> {
        Ok(self.expiry_mark()?.through)
    }

    fn next_expiry_of(
        &self,
        current: ReleaseName,
        mark: ExpiryMark,
    ) -> Result<Option<u64>, StoreError> {
        if mark.release == Some(current) {
            return Ok(mark.next);
        }
        // The slot may have been filled without its earliest entries. In that case this time is too
        // early, and the first check corrects it.
        match self.release(current) {
            Ok(release) => Ok(release.until),
            // A damaged record does not show which entries are due. `verify` reports it, and
            // `repair` restores it.
            Err(StoreError::Release { .. }) => Ok(None),
            Err(StoreError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether an entry in the current release is due, or was due before and may still be there.
    fn is_due(&self, current: ReleaseName, mark: ExpiryMark, now: u64) -> Result<bool, StoreError> {
        // Expired entries stay expired if the clock is set back, so a time earlier than the mark is
        // never used.
        Ok(self.next_expiry_of(current, mark)?.is_some_and(|next| next <= now.max(mark.through)))
    }

    fn expiry_mark(&self) -> Result<ExpiryMark, StoreError> {
        let Some(bytes) =
            fsx::none_if_missing(self.layout.headwater.read(EXPIRED, MAX_MARK_BYTES))?
        else {
            return Ok(ExpiryMark::default());
        };
        // The mark never exceeds the time at which it was written. If it is damaged, everything due
        // by now therefore counts as expired, and no entry comes back.
        let unknown = || ExpiryMark { through: fsx::unix_seconds(), ..ExpiryMark::default() };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|_| unknown()))
    }
}

impl LockedStore<'_> {
    /// Like [`Store::expire`], with `now` as the time.
    pub(super) fn expire_due(&self, now: u64) -> Result<u64, StoreError> {
        let Some(current) = self.current()? else { return Ok(0) };
        let mark = self.expiry_mark()?;
        if !self.is_due(current, mark, now)? {
            return Ok(0);
        }
        let time = now.max(mark.through);
        let due = DueEntries::find(self.entries(&self.release(current)?.manifest)?, time)?;
        let through = due.latest.max(mark.through);
        // The mark comes first: from now on these entries may be absent. It names no release yet,
        // so after a crash the next check examines the slot again.
        self.set_mark(ExpiryMark { through, release: None, next: None })?;
        let removed = self.remove_expired(&due.paths)?;
        // The second mark names the release whose slot is done, so that later checks read only this
        // file.
        self.set_mark(ExpiryMark { through, release: Some(current), next: due.next })?;
        if removed > 0 {
            self.log_event(EventKind::Expired { entries: removed });
        }
        Ok(removed)
    }

    /// Raises the mark to the latest entry of `release` that is due at `now`. Called before a slot
    /// is filled without those entries.
    pub(super) fn raise_expiry_mark(&self, release: &Release, now: u64) -> Result<(), StoreError> {
        if release.until.is_none_or(|until| until > now) {
            return Ok(());
        }
        // The mark rises before an entry is missing from the slot. Otherwise `verify` would report
        // the missing entry as a fault.
        let through = DueEntries::find(self.entries(&release.manifest)?, now)?.latest;
        if through > self.expiry_mark()?.through {
            self.set_mark(ExpiryMark { through, release: None, next: None })?;
        }
        Ok(())
    }

    /// Removes entries from the served slot, and the directories that become empty as a result.
    fn remove_expired(&self, paths: &[TreePath]) -> Result<u64, StoreError> {
        let Some(slot) = self.current_slot()? else { return Ok(0) };
        let mut writer = SlotWriter::for_empty_slot(self, slot, self.permissions()?);
        let mut removed = 0;
        for path in paths {
            removed += u64::from(writer.remove_if_any(path)?);
        }
        let mut parents: Vec<&str> = paths.iter().filter_map(TreePath::parent).collect();
        parents.dedup();
        // In reverse path order, so each directory comes before its parent.
        for parent in parents.into_iter().rev() {
            writer.remove_empty(parent)?;
        }
        Ok(removed)
    }

    /// Syncs everything written or removed so far, then replaces the mark and syncs its directory.
    fn set_mark(&self, mark: ExpiryMark) -> Result<(), StoreError> {
        let layout = &self.layout;
        let mut bytes = serde_json::to_vec(&mark).expect("plain values");
        bytes.push(b'\n');
        layout.tmp.unlink_if_any(EXPIRED)?;
        layout.tmp.write_new(EXPIRED, &bytes, FileMode::RECORD, None)?;
        // `syncfs`, not just a sync of the mark: the second mark says that entries are gone from
        // the slot, so their removal must be durable before the mark gets its name.
        layout.tmp.sync_file_system()?;
        layout.tmp.rename(EXPIRED, &layout.headwater, EXPIRED)?;
        Ok(layout.headwater.sync()?)
    }
}

impl DueEntries {
    fn find(
        entries: impl Iterator<Item = Result<Entry, StoreError>>,
        time: u64,
    ) -> Result<Self, StoreError> {
        let mut found = Self::default();
        for entry in entries {
            let entry = entry?;
            match entry.until {
                Some(until) if until <= time => {
                    found.latest = found.latest.max(until);
                    found.paths.push(entry.path);
                }
                Some(until) => found.next = Some(found.next.map_or(until, |next| next.min(until))),
                None => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::fs;
    use std::io::{Cursor, Read};
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::hash::{BundleKey, HistoryId, ManifestId, ObjectId};
    use crate::manifest::delta::encode_with_held;
    use crate::manifest::{EntryKind, FileEntry, ManifestError, ManifestWriter};
    use crate::store::{Depth, FetchError, FetchRecords, OfferedRelease, StoredChange};
    use crate::tree_path::{LinkTarget, Site};

    /// Two times far in the future.
    const EARLY: u64 = 40_000_000_000;
    const LATE: u64 = 50_000_000_000;
    const NO_WAIT: Duration = Duration::ZERO;

    /// A store, and the state of its origin.
    struct World {
        _dir: tempfile::TempDir,
        store: Arc<Store>,
        base: Option<(ManifestId, Vec<Entry>)>,
        sequence: u64,
        contents: HashMap<ObjectId, String>,
    }

    fn stream(entries: &[Entry]) -> impl Iterator<Item = Result<Entry, ManifestError>> + '_ {
        entries.iter().cloned().map(Ok)
    }

    impl FetchRecords for World {
        fn release(&self, _: ReleaseName) -> Option<Release> {
            None
        }

        fn manifest(&self, _: &ManifestId) -> Option<Box<dyn Read + Send>> {
            None
        }
    }

    impl World {
        fn new() -> Self {
            // In memory if possible: durability is not tested here, and syncs dominate the run
            // time.
            let memory = Path::new("/dev/shm");
            let dir =
                if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
                    .unwrap();
            let store = Store::open_or_create(&dir.path().join("www"), &Site::new("docs").unwrap())
                .unwrap();
            Self {
                _dir: dir,
                store: Arc::new(store),
                base: None,
                sequence: 0,
                contents: HashMap::new(),
            }
        }

        /// Publishes a tree: a path that ends with `@` is a link, any other one a file.
        fn publish(&mut self, tree: &[(&str, Option<u64>)]) -> ReleaseName {
            self.sequence += 1;
            let mut entries = BTreeMap::new();
            for (text, until) in tree {
                let kind = if text.ends_with('@') {
                    EntryKind::Symlink(LinkTarget::new("index").unwrap())
                } else {
                    let object = ObjectId::of(text.as_bytes());
                    self.contents.insert(object, (*text).to_owned());
                    EntryKind::File(FileEntry {
                        object,
                        size: text.len() as u64,
                        mtime: 7,
                        exec: false,
                    })
                };
                let path = TreePath::new(text.trim_end_matches('@')).unwrap();
                entries.insert(path.as_str().to_owned(), Entry { path, kind, until: *until });
            }
            let entries: Vec<Entry> = entries.into_values().collect();
            let mut writer = ManifestWriter::new(Vec::new());
            entries.iter().for_each(|entry| writer.push(entry).unwrap());
            let totals = writer.finish().unwrap().1;
            let site = Site::new("docs").unwrap();
            let history = HistoryId::from_bytes([1; 16]);
            let mut release =
                Release::new(site, history, self.sequence, totals.manifest, totals.content);
            (release.created, release.until, release.entries) =
                (self.sequence, totals.until, totals.entries);
            (release.retired, release.bytes) = (totals.retired, totals.bytes);
            self.stage(&release, &entries);
            let name = release.name();
            self.store.activate(name, self.store.current().unwrap(), NO_WAIT).unwrap();
            self.store.prepare_spare_slot(NO_WAIT).unwrap();
            self.base = Some((totals.manifest, entries));
            name
        }

        /// Sends names only: the store fetches the content.
        fn stage(&self, release: &Release, entries: &[Entry]) {
            let held: HashSet<ObjectId> = self.contents.keys().copied().collect();
            let base = self.base.as_ref().map(|(manifest, _)| *manifest);
            let old = self.base.as_ref().map_or(&[][..], |(_, entries)| entries);
            let created = release.created;
            let change =
                encode_with_held(|| Ok(stream(old)), || Ok(stream(entries)), base, created, &held)
                    .unwrap();
            let key = BundleKey::of(&release.sequence.to_le_bytes());
            let change = StoredChange::Memory(change.bytes);
            let offered = OfferedRelease { release, base, change: &change };
            let needs = self.store.read_change(offered, &|_| true, &|| false).unwrap().unwrap();
            let mut transaction = self.store.start_staging(offered, &key, needs, NO_WAIT).unwrap();
            let open = |id: &ObjectId| -> Result<Box<dyn Read + Send>, FetchError> {
                Ok(Box::new(Cursor::new(self.contents[id].clone().into_bytes())))
            };
            transaction.finish(&open).unwrap();
        }

        fn expire(&self, now: u64) -> u64 {
            self.store.lock(NO_WAIT).unwrap().expire_due(now).unwrap()
        }

        fn has(&self, path: &str) -> bool {
            self.store.path().join("current").join(path).symlink_metadata().is_ok()
        }

        fn mark(&self) -> std::path::PathBuf {
            self.store.path().join(".headwater").join(EXPIRED)
        }

        #[track_caller]
        fn is_sound(&self) {
            for depth in [Depth::Quick, Depth::Full] {
                assert_eq!(
                    self.store.verify(depth, NO_WAIT, &|| false).unwrap().faults,
                    [],
                    "{depth:?}"
                );
            }
        }
    }

    fn retired_tree() -> World {
        let mut world = World::new();
        world.publish(&[
            ("a/b/early", Some(EARLY)),
            ("a/late", Some(LATE)),
            ("index", None),
            ("link@", Some(EARLY)),
        ]);
        world
    }

    #[test]
    fn only_due_entries_are_removed() {
        let world = retired_tree();
        assert_eq!(world.store.next_expiry().unwrap(), Some(EARLY));
        assert_eq!(world.expire(EARLY - 1), 0);
        assert!(!world.mark().exists(), "a look at what is not due writes nothing");
        assert_eq!(world.expire(EARLY), 2);
        assert!(
            !world.has("a/b") && !world.has("link") && world.has("a/late") && world.has("index")
        );
        assert_eq!(
            (world.store.expired_through().unwrap(), world.store.next_expiry().unwrap()),
            (EARLY, Some(LATE))
        );
        world.is_sound();
        assert_eq!(world.expire(EARLY), 0);
        assert_eq!(world.expire(LATE), 1);
        assert!(!world.has("a") && world.has("index"));
        assert_eq!(world.store.next_expiry().unwrap(), None);
        world.is_sound();
        // The complete release can still be copied to other mirrors.
        let all: Vec<ObjectId> = world.contents.keys().copied().collect();
        assert_eq!(world.store.holds(&all, &|| false).unwrap(), vec![true; all.len()]);
        let told: Vec<EventKind> =
            world.store.history().unwrap().into_iter().map(|event| event.kind).collect();
        assert!(
            told.contains(&EventKind::Expired { entries: 2 })
                && told.contains(&EventKind::Expired { entries: 1 })
        );
    }

    #[test]
    fn expiry_mark_rises_only_to_due_entries() {
        let world = retired_tree();
        assert_eq!(world.expire(u64::MAX), 3);
        assert_eq!(
            world.store.expired_through().unwrap(),
            LATE,
            "a clock that is wrong once must not end all retirement"
        );
    }

    #[test]
    fn clock_set_back_restores_no_entries() {
        let mut world = retired_tree();
        world.expire(EARLY);
        assert_eq!(world.expire(1), 0);
        // The clock is far behind the mark. Checks a changed slot and a newly filled one.
        world.publish(&[
            ("a/b/early", Some(EARLY)),
            ("a/late", Some(LATE)),
            ("index", None),
            ("new", None),
        ]);
        assert!(!world.has("a/b") && world.has("a/late") && world.has("new"));
        world.is_sound();
        fs::remove_dir_all(world.store.path().join(".headwater/slots").join(world.idle())).unwrap();
        world.publish(&[("a/b/early", Some(EARLY)), ("a/late", Some(LATE)), ("index", None)]);
        assert!(!world.has("a/b") && world.has("a/late"));
        world.is_sound();
        assert_eq!(world.expire(1), 0, "the next time is known again");
        assert_eq!(world.store.next_expiry().unwrap(), Some(LATE));
    }

    impl World {
        fn idle(&self) -> String {
            let current = self.store.current().unwrap();
            let names = self.store.slot_names().unwrap();
            names
                .into_iter()
                .find(|slot| slot.is_spare || Some(slot.release) != current)
                .unwrap()
                .to_string()
        }
    }

    #[test]
    fn repair_restores_served_entries_and_no_expired_ones() {
        let world = retired_tree();
        world.expire(EARLY);
        fs::remove_file(world.store.path().join("current/index")).unwrap();
        let fetch = |_: &ObjectId| Err("nothing is to be fetched".into());
        let repaired = world.store.repair(&fetch, &world, NO_WAIT, &|| false).unwrap();
        assert_eq!((repaired.found.len(), repaired.remaining.len()), (1, 0));
        assert!(world.has("index") && !world.has("a/b"));
        world.is_sound();
    }

    #[test]
    fn leftovers_of_a_crash_are_no_fault_and_are_removed_next_time() {
        for step in 0..3 {
            let world = retired_tree();
            fs::write(world.mark(), format!("{{\"through\":{EARLY}}}\n")).unwrap();
            assert!(world.store.next_expiry().unwrap() == Some(EARLY), "it is looked at again");
            if step > 0 {
                fs::remove_file(world.store.path().join("current/a/b/early")).unwrap();
            }
            if step > 1 {
                fs::remove_dir(world.store.path().join("current/a/b")).unwrap();
            }
            world.is_sound();
            world.store.expire(NO_WAIT).unwrap();
            assert!(!world.has("a/b") && !world.has("link") && world.has("a/late"), "step {step}");
            world.is_sound();
        }
    }

    #[test]
    fn damaged_expiry_mark_counts_as_now_and_is_rewritten() {
        let mut world = World::new();
        world.publish(&[("gone", Some(5)), ("index", None), ("stays", Some(LATE))]);
        assert!(!world.has("gone"), "what is due is not even placed");
        fs::write(world.mark(), "{").unwrap();
        world.is_sound();
        assert!(!world.has("gone") && world.has("stays"));
        world.store.expire(NO_WAIT).unwrap();
        let mark = fs::read_to_string(world.mark()).unwrap();
        assert!(mark.contains(&format!("\"next\":{LATE}")), "{mark}");
        world.is_sound();
    }

    #[test]
    fn slots_stay_complete_as_entries_retire_expire_and_return() {
        const PATHS: [&str; 5] = ["a", "d/e/f", "d/g", "h@", "i/j@"];
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut world = World::new();
        let mut through = 0;
        for round in 0..24 {
            let mut tree = vec![("index", None)];
            for path in PATHS {
                match next(4) {
                    0 => {}
                    1 => tree.push((path, None)),
                    _ => tree.push((path, Some(EARLY + next(20)))),
                }
            }
            world.publish(&tree);
            world.is_sound();
            through = through.max(EARLY + next(3) + round / 3);
            world.expire(through);
            world.is_sound();
            for (path, until) in tree {
                let is_served = until.is_none_or(|until| until > through);
                assert_eq!(
                    world.has(path.trim_end_matches('@')),
                    is_served,
                    "{path} until {until:?} at {through}"
                );
            }
        }
    }

    #[test]
    fn directory_in_place_of_a_due_entry_is_reported_and_kept() {
        let mut world = retired_tree();
        let place = world.store.path().join("current/a/b/early");
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        fs::write(place.join("x"), "x").unwrap();
        assert_eq!(world.expire(LATE), 2);
        assert!(!world.has("link") && !world.has("a/late") && place.exists());
        let faults = world.store.verify(Depth::Quick, NO_WAIT, &|| false).unwrap().faults;
        assert!(faults.len() == 1 && faults[0].path.ends_with("a/b/early/x"), "{faults:?}");
        world.publish(&[("index", None), ("a", None)]);
        world.publish(&[("index", None), ("b", None)]);
        world.is_sound();
    }

    #[test]
    fn spare_slot_has_no_expired_entries() {
        let world = retired_tree();
        world.expire(EARLY);
        let slots = world.store.path().join(".headwater/slots");
        fs::remove_dir_all(slots.join(world.idle())).unwrap();
        world.store.prepare_spare_slot(NO_WAIT).unwrap();
        let idle: &Path = &slots.join(world.idle());
        assert!(!idle.join("a/b").exists() && idle.join("a/late").exists());
        world.is_sound();
    }
}
