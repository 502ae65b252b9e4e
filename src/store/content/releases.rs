//! Stored release records.

use std::collections::BTreeSet;

use crate::fsx::{self, FileMode};
use crate::release::{MAX_RECORD_BYTES, Release, ReleaseError, ReleaseName};
use crate::store::layout::{DELETED_SUFFIX, RECORD_SUFFIX, deleted_file, release_file};
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError, unless_damaged};

impl Store {
    /// Reads the record of a release and checks that its content matches its name.
    ///
    /// # Errors
    /// Fails if the record is missing or damaged.
    pub fn release(&self, name: ReleaseName) -> Result<Release, StoreError> {
        self.read_record(&release_file(name), name)
    }

    /// Reads the record of a deleted release.
    pub(in crate::store) fn deleted_release(
        &self,
        name: ReleaseName,
    ) -> Result<Release, StoreError> {
        self.read_record(&deleted_file(name), name)
    }

    fn read_record(&self, file: &str, name: ReleaseName) -> Result<Release, StoreError> {
        let bytes = self.layout.releases.read(file, MAX_RECORD_BYTES)?;
        let damaged =
            |source| StoreError::Release { path: self.layout.releases.join(file), source };
        let release = Release::parse(&bytes).map_err(damaged)?;
        // The name contains 16 digits of the id, which is the hash of the record: changed bytes
        // would have a different name.
        if release.name() == name {
            return Ok(release);
        }
        Err(damaged(ReleaseError::Malformed {
            what: "its bytes do not match the release in its name".into(),
        }))
    }

    /// The names of all records, including those of staged releases, in ascending order.
    pub(in crate::store) fn release_names(&self) -> Result<Vec<ReleaseName>, StoreError> {
        self.names_ending_in(RECORD_SUFFIX)
    }

    /// The names of all records and of the current release, which is included even if its record is
    /// missing.
    pub(in crate::store) fn known_releases(&self) -> Result<BTreeSet<ReleaseName>, StoreError> {
        Ok(self.release_names()?.into_iter().chain(self.current()?).collect())
    }

    /// The names of deleted releases whose data has not been dropped yet.
    pub(in crate::store) fn deleted_names(&self) -> Result<Vec<ReleaseName>, StoreError> {
        self.names_ending_in(DELETED_SUFFIX)
    }

    fn names_ending_in(&self, suffix: &str) -> Result<Vec<ReleaseName>, StoreError> {
        let entries = self.layout.releases.entries()?;
        let name = |name: &std::ffi::OsString| name.to_str()?.strip_suffix(suffix)?.parse().ok();
        let mut names: Vec<ReleaseName> =
            entries.iter().filter_map(|(file, _)| name(file)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Whether a release ranks above the current one, which means that it was never served. If the
    /// sequence numbers are equal, the records decide; if one of them cannot be read, the release
    /// counts as never served.
    fn ranks_above_current(
        &self,
        name: ReleaseName,
        current: Option<ReleaseName>,
    ) -> Result<bool, StoreError> {
        let Some(current) = current else { return Ok(true) };
        if name.sequence() != current.sequence() || name == current {
            return Ok(name.sequence() > current.sequence());
        }
        match (unless_damaged(self.release(name))?, unless_damaged(self.release(current))?) {
            (Some(release), Some(current)) => Ok(release.rank() > current.rank()),
            _ => Ok(true),
        }
    }

    /// The names of the releases that are or were served, in ascending order, with the current
    /// release last. Empty if there is no current release.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn served_releases(&self) -> Result<Vec<ReleaseName>, StoreError> {
        let Some(current) = self.current()? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for name in self.release_names()? {
            if name != current && !self.ranks_above_current(name, Some(current))? {
                names.push(name);
            }
        }
        names.push(current);
        Ok(names)
    }

    /// The newest staged release that is not current, if there is one.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn staged_release(&self) -> Result<Option<Release>, StoreError> {
        let current = self.current()?;
        for name in self.release_names()?.into_iter().rev() {
            if self.ranks_above_current(name, current)? && self.is_staged(name)? {
                return unless_damaged(self.release(name));
            }
        }
        Ok(None)
    }

    /// The highest sequence number in the store. A new release must exceed it.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn highest_sequence(&self) -> Result<u64, StoreError> {
        let current = self.current()?.map_or(0, |current| current.sequence());
        Ok(self.release_names()?.last().map_or(0, ReleaseName::sequence).max(current))
    }
}

impl LockedStore<'_> {
    /// Marks all staged releases except `except` as deleted.
    pub(in crate::store) fn drop_staged(
        &self,
        except: Option<ReleaseName>,
    ) -> Result<(), StoreError> {
        let current = self.current()?;
        for name in self.release_names()? {
            if Some(name) != except && self.ranks_above_current(name, current)? {
                self.mark_deleted(name)?;
            }
        }
        Ok(())
    }

    /// Marks a release as deleted. Content that only this release needed is dropped later.
    pub(in crate::store) fn mark_deleted(&self, name: ReleaseName) -> Result<(), StoreError> {
        let releases = &self.layout.releases;
        // Not synced: if a power cut undoes the rename, the next push marks the release again.
        fsx::none_if_missing(releases.rename(&release_file(name), releases, &deleted_file(name)))?;
        Ok(())
    }

    /// Writes a record under a temporary name, without syncing it.
    pub(in crate::store) fn write_release(&self, release: &Release) -> Result<(), StoreError> {
        let file = release_file(release.name());
        self.layout.tmp.unlink_if_any(&file)?;
        Ok(self.layout.tmp.write_new(&file, &release.to_bytes(), FileMode::RECORD, None)?)
    }

    /// Renames the temporary record, which must be durable, to its name. The caller syncs the
    /// directory.
    pub(in crate::store) fn adopt_release(&self, name: ReleaseName) -> Result<(), StoreError> {
        let file = release_file(name);
        Ok(self.layout.tmp.rename(&file, &self.layout.releases, &file)?)
    }

    /// Removes the record of a deleted release.
    pub(in crate::store) fn remove_deleted(&self, name: ReleaseName) -> Result<(), StoreError> {
        fsx::none_if_missing(self.layout.releases.unlink(deleted_file(name)))?;
        Ok(())
    }
}
