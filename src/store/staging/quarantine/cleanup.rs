//! Drops the quarantines of unfinished pushes.
//!
//! A quarantine whose lock is free belongs to no running push, but a later push may resume it. The
//! newest quarantine is therefore dropped only to make room, on request, or when it is old.

use std::time::Duration;

use crate::fsx::{self, Dir};
use crate::hash::BundleKey;
use crate::store::layout::{LOCK, quarantine_name};
use crate::store::{Pruned, Store, StoreError};

/// Age at which a quarantine is considered abandoned.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An unlocked quarantine, and when it last received content, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnlockedQuarantine {
    name: String,
    key: BundleKey,
    touched: u64,
}

impl UnlockedQuarantine {
    fn is_stale(&self, now: u64) -> bool {
        self.touched.saturating_add(MAX_AGE.as_secs()) < now
    }
}

impl Store {
    /// Drops every quarantine that is not locked.
    pub(in crate::store) fn drop_quarantines(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        self.drop_unlocked(self.unlocked_quarantines()?, pruned)
    }

    /// Drops all unlocked quarantines except the newest. The newest is dropped too if it is older
    /// than a week.
    pub(in crate::store) fn drop_old_quarantines(
        &self,
        now: u64,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let mut left = self.unlocked_quarantines()?;
        left.pop_if(|newest| !newest.is_stale(now));
        self.drop_unlocked(left, pruned)
    }

    /// Drops the unlocked quarantines that are older than a week.
    pub(in crate::store) fn drop_stale_quarantines(
        &self,
        now: u64,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let mut left = self.unlocked_quarantines()?;
        left.retain(|one| one.is_stale(now));
        self.drop_unlocked(left, pruned)
    }

    /// Makes room for the push with this key by dropping the unlocked quarantines of other pushes.
    /// Returns whether any was dropped.
    ///
    /// # Errors
    /// Fails on a disk error.
    pub fn drop_other_quarantines(&self, key: &BundleKey) -> Result<bool, StoreError> {
        let (mut left, mut pruned) = (self.unlocked_quarantines()?, Pruned::default());
        left.retain(|one| one.key != *key);
        self.drop_unlocked(left, &mut pruned)?;
        Ok(pruned.quarantines > 0)
    }

    /// Bytes of content in all quarantines.
    ///
    /// # Errors
    /// Fails if the disk cannot be read.
    pub fn incoming_bytes(&self) -> Result<u64, StoreError> {
        self.unfinished_bundles()?.iter().map(|key| self.quarantined_bytes(key)).sum()
    }

    /// All unlocked quarantines, newest last.
    fn unlocked_quarantines(&self) -> Result<Vec<UnlockedQuarantine>, StoreError> {
        let mut left = Vec::new();
        for key in self.unfinished_bundles()? {
            let name = quarantine_name(&key);
            let Some(dir) = self.layout.incoming.find_dir(&name)? else { continue };
            // A directory's mtime is the time at which its names last changed, and each complete
            // pack adds a name to `held`.
            let mut touched = 0;
            for inner in [".", super::PACK_RECORDS, super::PARTS, super::OBJECTS] {
                touched = touched
                    .max(dir.stat(inner)?.map_or(0, |meta| u64::try_from(meta.mtime).unwrap_or(0)));
            }
            left.push(UnlockedQuarantine { name, key, touched });
        }
        left.sort_unstable_by(|a, b| (a.touched, &a.name).cmp(&(b.touched, &b.name)));
        Ok(left)
    }

    fn drop_unlocked(
        &self,
        left: Vec<UnlockedQuarantine>,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        for UnlockedQuarantine { name, key, .. } in left {
            let Some(dir) = self.layout.incoming.find_dir(&name)? else { continue };
            let Some(lock) = fsx::none_if_missing(dir.open_or_create_file(LOCK))? else { continue };
            // Does not wait: if the lock is taken, a push is still writing here.
            let is_free = fsx::lock(&lock, Duration::ZERO, &dir.join(LOCK))?;
            // Another process may have removed this quarantine and created a new one with the same
            // name.
            if is_free && self.is_quarantine(&name, &dir)? {
                let bytes = self.quarantined_bytes(&key)?;
                self.layout.incoming.remove_all(&name)?;
                pruned.quarantines += 1;
                pruned.incoming_bytes += bytes;
            }
        }
        Ok(())
    }

    /// Whether the quarantine `name` is still this directory.
    pub(super) fn is_quarantine(&self, name: &str, dir: &Dir) -> Result<bool, StoreError> {
        let inode = |meta: Option<fsx::Meta>| meta.map(|meta| meta.inode);
        Ok(inode(self.layout.incoming.stat(name)?) == inode(dir.stat(".")?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::store::testing::empty_store;

    const DAY: u64 = 24 * 60 * 60;

    fn key(name: &str) -> BundleKey {
        BundleKey::of(name.as_bytes())
    }

    fn place(store: &Store, name: &str) -> PathBuf {
        store.path().join(".headwater/incoming").join(quarantine_name(&key(name)))
    }

    /// A quarantine with 100 bytes of content, which arrived the given number of days ago.
    fn leave(store: &Store, name: &str, days: u64) {
        let place = place(store, name);
        for inner in ["objects/00", "parts", "held"] {
            fs::create_dir_all(place.join(inner)).unwrap();
        }
        fs::write(place.join("objects/00/x"), [0; 60]).unwrap();
        fs::write(place.join("parts/0"), [0; 40]).unwrap();
        File::create(place.join("lock")).unwrap();
        for inner in ["objects", "parts", "held", "."] {
            let then = SystemTime::now() - Duration::from_secs(days * DAY);
            File::open(place.join(inner)).unwrap().set_modified(then).unwrap();
        }
    }

    fn left(store: &Store, names: &[&str]) -> Vec<bool> {
        names.iter().map(|name| place(store, name).exists()).collect()
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn clean_up_keeps_the_newest_unless_a_week_old() {
        let (_dir, store) = empty_store();
        let mut pruned = Pruned::default();
        leave(&store, "older", 3);
        leave(&store, "newer", 2);
        store.drop_old_quarantines(now(), &mut pruned).unwrap();
        assert_eq!(left(&store, &["older", "newer"]), [false, true]);
        assert_eq!((pruned.quarantines, pruned.incoming_bytes), (1, 100));
        store.drop_old_quarantines(now() + 4 * DAY, &mut pruned).unwrap();
        assert_eq!(left(&store, &["newer"]), [true]);
        store.drop_old_quarantines(now() + 6 * DAY, &mut pruned).unwrap();
        assert_eq!((left(&store, &["newer"]), pruned.quarantines), (vec![false], 2));
    }

    #[test]
    fn prune_drops_every_quarantine_except_locked_ones() {
        let (_dir, store) = empty_store();
        for name in ["a", "b", "c"] {
            leave(&store, name, 30);
        }
        let lock = File::open(place(&store, "b").join("lock")).unwrap();
        lock.lock().unwrap();
        let mut pruned = Pruned::default();
        store.drop_stale_quarantines(now(), &mut pruned).unwrap();
        store.drop_quarantines(&mut pruned).unwrap();
        assert_eq!(
            (left(&store, &["a", "b", "c"]), pruned.quarantines),
            (vec![false, true, false], 2)
        );
        drop(lock);
        assert_eq!(store.prune(3, Duration::ZERO).unwrap().quarantines, 1);
        assert_eq!((left(&store, &["b"]), store.incoming_bytes().unwrap()), (vec![false], 0));
    }

    #[test]
    fn maintenance_drops_only_week_old_quarantines() {
        let (_dir, store) = empty_store();
        leave(&store, "young", 6);
        leave(&store, "old", 8);
        assert_eq!(store.incoming_bytes().unwrap(), 200);
        let pruned = store.run_maintenance(Duration::ZERO).unwrap();
        assert_eq!((left(&store, &["young", "old"]), pruned.quarantines), (vec![true, false], 1));
        assert_eq!(store.incoming_bytes().unwrap(), 100);
    }

    #[test]
    fn push_short_of_space_drops_leftovers_of_others_only() {
        let (_dir, store) = empty_store();
        leave(&store, "mine", 1);
        leave(&store, "other", 0);
        assert!(store.drop_other_quarantines(&key("mine")).unwrap());
        assert_eq!(left(&store, &["mine", "other"]), [true, false]);
        assert!(!store.drop_other_quarantines(&key("mine")).unwrap());
    }
}
