//! Making a staged release current, and what follows once that was answered.

use std::time::Duration;

use crate::fsx::{self, FileKind, FileMode};
use crate::release::ReleaseName;
use crate::store::layout::{CURRENT, Layout, SWITCHED, current_target};
use crate::store::{EventKind, Pruned, Store, StoreError};

impl Store {
    /// Makes a staged release current: compare-and-set on what is current,
    /// and only ever to one that [`crate::release::Release::succession`] lets follow. When it returns, the switch is
    /// durable. Again for the current release: does nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotNewer`], [`StoreError::OtherHistory`], [`StoreError::NotStaged`],
    /// [`StoreError::Locked`]; errors of the disk.
    pub fn activate(
        &self,
        release: ReleaseName,
        expected: Option<ReleaseName>,
        wait: Duration,
    ) -> Result<(), StoreError> {
        let _guard = self.lock(wait)?;
        let found = self.current()?;
        if found == Some(release) {
            return Ok(());
        }
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        if !self.is_staged(release)? {
            return Err(StoreError::NotStaged { release });
        }
        self.check_succession(&self.release(release)?)?;
        // Others that were staged and lost: never served, so never to be listed.
        self.drop_staged(Some(release))?;
        self.point_current_at(release)?;
        self.show_staged();
        self.note(EventKind::Switched { release, from: found });
        Ok(())
    }

    /// Replaces `current` in one step and makes that durable.
    pub(super) fn point_current_at(&self, release: ReleaseName) -> Result<(), StoreError> {
        const NEW: &str = "current.new";
        let layout = &self.layout;
        layout.tmp.unlink_if_any(NEW)?;
        layout.tmp.symlink(&current_target(release), NEW)?;
        layout.tmp.rename(NEW, &layout.root, CURRENT)?;
        Ok(layout.root.sync()?)
    }

    /// Notes that something is to follow when `release` has become current, so that it is not
    /// forgotten by whoever is killed in between. Not durable: a power cut ends what it is for, too.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`]; [`StoreError::Locked`]; errors of the disk.
    pub fn note_switch(&self, release: ReleaseName, wait: Duration) -> Result<(), StoreError> {
        // Another one may sweep away temporary files, or write the same one.
        let _guard = self.lock(wait)?;
        let Layout { tmp, headwater, .. } = &self.layout;
        tmp.unlink_if_any(SWITCHED)?;
        tmp.write_new(SWITCHED, release.to_string().as_bytes(), FileMode::RECORD, None)?;
        Ok(tmp.rename(SWITCHED, headwater, SWITCHED)?)
    }

    /// The current release, if what is to follow of it was noted and did not happen. It is for the owner to do.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`]; errors of the disk.
    pub fn noted_switch(&self) -> Result<Option<ReleaseName>, StoreError> {
        self.check_owner()?;
        const MAX_NAME_BYTES: u64 = 64;
        let Some(note) = fsx::found(self.layout.headwater.read(SWITCHED, MAX_NAME_BYTES))? else { return Ok(None) };
        let noted = std::str::from_utf8(&note).ok().and_then(|name| name.parse().ok());
        Ok(self.current()?.filter(|current| noted == Some(*current)))
    }

    /// What was to follow happens.
    ///
    /// # Errors
    /// [`StoreError::OtherOwner`]; errors of the disk.
    pub fn clear_switch(&self) -> Result<(), StoreError> {
        self.check_owner()?;
        self.layout.headwater.unlink_if_any(SWITCHED)?;
        Ok(())
    }

    /// Forgets a release that was staged and shall not become current.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for the current release; errors of the disk.
    pub fn abandon(&self, release: ReleaseName, wait: Duration) -> Result<(), StoreError> {
        let _guard = self.lock(wait)?;
        let found = self.current()?;
        if self.served_releases()?.contains(&release) {
            return Err(StoreError::Conflict { expected: None, found });
        }
        if self.layout.slots.stat(&release.to_string())?.is_some_and(|meta| meta.kind == FileKind::Directory) {
            self.layout.slots.remove_all(&release.to_string())?;
        }
        self.mark_deleted(release)?;
        self.show_staged();
        // Only tidies up: what fails here is tried again after the next push.
        self.drop_gone_releases(&mut Pruned::default()).ok();
        Ok(())
    }

    /// What happens by itself after an activation, once that was answered: what no kept release
    /// needs is dropped, and retired entries that are due expire. [`Store::prepare_spare_slot`] does the rest.
    ///
    /// # Errors
    /// Those of the disk; nothing that is needed is touched.
    pub fn clean_up(&self, keep: usize, wait: Duration) -> Result<Pruned, StoreError> {
        let _guard = self.lock(wait)?;
        let expired = self.expire_due(fsx::unix_seconds());
        let mut pruned = self.drop_old_releases(keep)?;
        self.drop_old_quarantines(fsx::unix_seconds(), &mut pruned)?;
        self.note_pruned(&pruned);
        // For another time: without it everything works that works now.
        self.keep_reserve().ok();
        pruned.expired = expired?;
        Ok(pruned)
    }

    /// Fills the second slot, if there is none, so that the next push costs what changes. Until that
    /// is done it would cost as much as the first.
    ///
    /// # Errors
    /// Those of the disk; what is served is not touched.
    pub fn prepare_spare_slot(&self, wait: Duration) -> Result<(), StoreError> {
        // Looked at again under the lock, which is not waited for where nothing is to be done.
        if self.missing_slot()?.is_none() {
            return Ok(());
        }
        let _guard = self.lock(wait)?;
        self.fill_spare_slot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::empty_store;

    #[test]
    fn a_switch_is_noted_under_the_lock() {
        let (_dir, store) = empty_store();
        let release: ReleaseName = "1-0000000000000000".parse().unwrap();
        let guard = store.lock(Duration::ZERO).unwrap();
        assert!(matches!(store.note_switch(release, Duration::ZERO), Err(StoreError::Locked { .. })));
        drop(guard);
        store.note_switch(release, Duration::ZERO).unwrap();
        assert!(store.path().join(".headwater").join(SWITCHED).exists());
    }
}
