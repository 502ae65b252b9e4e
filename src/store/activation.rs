//! Activation: makes a staged release current, and does the work that follows the switch.

use std::time::Duration;

use crate::fsx::{self, FileMode};
use crate::release::ReleaseName;
use crate::store::layout::{CURRENT, Layout, PENDING_SWITCH, SlotName, current_target};
use crate::store::open::LockedStore;
use crate::store::{EventKind, Pruned, Store, StoreError};

impl Store {
    /// Makes a staged release current (step 5), if the current release is `expected` and
    /// [`crate::release::Release::succession`] allows it. The switch is durable when this returns.
    /// Does nothing if the release is already current.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotNewer`], [`StoreError::OtherHistory`],
    /// [`StoreError::NotStaged`], [`StoreError::Locked`], or a disk error.
    pub fn activate(
        &self,
        release: ReleaseName,
        expected: Option<ReleaseName>,
        wait: Duration,
    ) -> Result<(), StoreError> {
        let store = self.lock(wait)?;
        let found = store.current()?;
        // A client that lost the response may send its request again, so this is a success, not a
        // conflict.
        if found == Some(release) {
            return Ok(());
        }
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        if !store.is_staged(release)? {
            return Err(StoreError::NotStaged { release });
        }
        // Staging checked this too, but another release may have become current since then.
        store.check_succession(&store.release(release)?)?;
        // Other staged releases lost the race. They were never served, so they must not be listed.
        store.drop_staged(Some(release))?;
        store.point_current_at(release)?;
        store.update_staged_link();
        // After the sync, so that the log contains only durable switches.
        store.log_event(EventKind::Switched { release, from: found });
        Ok(())
    }

    /// Records that there is work to do after the switch to `release`, so that the work is not lost
    /// if the process is killed before the work is done. The record is not durable: after a power
    /// cut the work is not needed.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`], [`StoreError::Locked`], or a disk error.
    pub fn record_switch(&self, release: ReleaseName, wait: Duration) -> Result<(), StoreError> {
        // Without the lock, another process might remove the temporary file, or write to the same
        // file.
        let store = self.lock(wait)?;
        let Layout { tmp, headwater, .. } = &store.layout;
        tmp.unlink_if_any(PENDING_SWITCH)?;
        tmp.write_new(PENDING_SWITCH, release.to_string().as_bytes(), FileMode::RECORD, None)?;
        // Not synced: the record matters only if the process is killed, and the rename survives
        // that.
        Ok(tmp.rename(PENDING_SWITCH, headwater, PENDING_SWITCH)?)
    }

    /// The current release, if the work that [`Store::record_switch`] recorded for it has not
    /// begun. Only the store's owner may do that work.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`], or a disk error.
    pub fn pending_switch(&self) -> Result<Option<ReleaseName>, StoreError> {
        self.check_owner()?;
        // Maximum bytes to read from the record; a release name is shorter.
        const MAX_NAME_BYTES: u64 = 64;
        let Some(note) =
            fsx::none_if_missing(self.layout.headwater.read(PENDING_SWITCH, MAX_NAME_BYTES))?
        else {
            return Ok(None);
        };
        let noted = std::str::from_utf8(&note).ok().and_then(|name| name.parse().ok());
        // A record for an earlier release no longer matters: the work is only for the release that
        // visitors get now.
        Ok(self.current()?.filter(|current| noted == Some(*current)))
    }

    /// Removes the record that [`Store::record_switch`] made, because the work has begun.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`], or a disk error.
    pub fn clear_pending_switch(&self) -> Result<(), StoreError> {
        self.check_owner()?;
        self.layout.headwater.unlink_if_any(PENDING_SWITCH)?;
        Ok(())
    }

    /// Drops a staged release that should not become current.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for the current release, or a disk error.
    pub fn abandon(&self, release: ReleaseName, wait: Duration) -> Result<(), StoreError> {
        let store = self.lock(wait)?;
        let found = store.current()?;
        if store.served_releases()?.contains(&release) {
            return Err(StoreError::Conflict { expected: None, found });
        }
        store.remove_slot(SlotName { release, is_spare: false })?;
        store.mark_deleted(release)?;
        store.update_staged_link();
        // This only cleans up; if it fails, the next push tries again.
        store.drop_deleted_releases(&mut Pruned::default()).ok();
        Ok(())
    }

    /// Cleans up after an activation has been acknowledged: drops content that no kept release
    /// needs, and expires retired entries that are due. [`Store::prepare_spare_slot`] does the
    /// rest.
    ///
    /// # Errors
    /// Fails on a disk error. Nothing that is needed is removed.
    pub fn clean_up(&self, keep: usize, wait: Duration) -> Result<Pruned, StoreError> {
        let store = self.lock(wait)?;
        // If expiry fails, its error is returned only at the end, so that the rest is still done.
        let expired = store.expire_due(fsx::unix_seconds());
        let mut pruned = store.drop_old_releases(keep)?;
        store.drop_old_quarantines(fsx::unix_seconds(), &mut pruned)?;
        store.log_pruned(&pruned);
        // The reserve is only needed on a full disk, so an error is ignored; the next clean-up
        // tries again.
        store.ensure_reserve().ok();
        pruned.expired = expired?;
        Ok(pruned)
    }

    /// Fills the second slot if it is missing, so that the cost of the next push depends only on
    /// the size of the change. Without that slot, the next push costs as much as the first.
    ///
    /// # Errors
    /// Fails on a disk error. The served slot is not touched.
    pub fn prepare_spare_slot(&self, wait: Duration) -> Result<(), StoreError> {
        // Check without the lock first, to avoid waiting in vain. `fill_spare_slot` checks again
        // under the lock.
        if self.missing_slot()?.is_none() {
            return Ok(());
        }
        let store = self.lock(wait)?;
        store.fill_spare_slot()
    }
}

impl LockedStore<'_> {
    /// Replaces `current` atomically and makes the replacement durable (step 5).
    pub(super) fn point_current_at(&self, release: ReleaseName) -> Result<(), StoreError> {
        const NEW: &str = "current.new";
        let layout = &self.layout;
        layout.tmp.unlink_if_any(NEW)?;
        // A rename over the old link is atomic; unlinking first would leave a moment without
        // `current`.
        layout.tmp.symlink(&current_target(release), NEW)?;
        layout.tmp.rename(NEW, &layout.root, CURRENT)?;
        // Reference before acknowledgement: the caller reports success only after this sync.
        Ok(layout.root.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::empty_store;

    #[test]
    fn activation_is_recorded_under_the_lock() {
        let (_dir, store) = empty_store();
        let release: ReleaseName = "1-0000000000000000".parse().unwrap();
        let guard = store.lock(Duration::ZERO).unwrap();
        assert!(matches!(
            store.record_switch(release, Duration::ZERO),
            Err(StoreError::Locked { .. })
        ));
        drop(guard);
        store.record_switch(release, Duration::ZERO).unwrap();
        assert!(store.path().join(".headwater").join(PENDING_SWITCH).exists());
    }
}
