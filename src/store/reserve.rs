//! Disk space kept in reserve, so that files can be removed from a mirror on a full file system.
//!
//! Even a release that only removes entries writes a manifest, a record and links. If other
//! programs have taken the last block or inode, freeing the reserve makes these writes possible.

use crate::fsx::FileMode;
use crate::store::layout::RESERVE;
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError};

/// Size of the reserve in bytes: enough for the manifest of thousands of files.
const RESERVE_BYTES: usize = 256 * 1024;
/// Number of inodes in the reserve: the files and directories that a release without new content
/// creates.
const RESERVE_INODES: usize = 16;
/// The reserve is created only if more bytes and inodes than this are free; otherwise it would be a
/// burden.
const CREATE_ABOVE_BYTES: u64 = 64 << 20;
const CREATE_ABOVE_INODES: u64 = 4096;
/// The reserve is freed if fewer bytes and inodes than this are free.
const FREE_BELOW_BYTES: u64 = 4 << 20;
const FREE_BELOW_INODES: u64 = 256;

impl Store {
    /// Frees the reserve if little else is free.
    pub(super) fn free_reserve(&self) -> Result<(), StoreError> {
        let headwater = &self.layout.headwater;
        let system = headwater.file_system()?;
        let has_inodes = system.free_inodes.is_none_or(|free| free >= FREE_BELOW_INODES);
        if system.free_bytes < FREE_BELOW_BYTES || !has_inodes {
            // Without the lock: staging does not hold it yet, and removing the reserve twice does
            // no harm.
            headwater.remove_all(RESERVE)?;
        }
        Ok(())
    }
}

impl LockedStore<'_> {
    /// Creates the reserve if it is missing and there is plenty of space.
    pub(super) fn ensure_reserve(&self) -> Result<(), StoreError> {
        let headwater = &self.layout.headwater;
        if headwater.stat(RESERVE)?.is_some() {
            return Ok(());
        }
        let system = headwater.file_system()?;
        let has_inodes = system.free_inodes.is_none_or(|free| free > CREATE_ABOVE_INODES);
        if system.free_bytes <= CREATE_ABOVE_BYTES || !has_inodes {
            return Ok(());
        }
        // A partial reserve is useless.
        self.create_reserve().or_else(|error| {
            headwater.remove_all(RESERVE).map_err(StoreError::from).and(Err(error))
        })
    }

    fn create_reserve(&self) -> Result<(), StoreError> {
        let reserve = self.layout.headwater.create_dir(RESERVE)?;
        for file in 0..RESERVE_INODES {
            let bytes = vec![0; if file == 0 { RESERVE_BYTES } else { 0 }];
            reserve.write_new(&file.to_string(), &bytes, FileMode::RECORD, None)?;
        }
        Ok(())
    }
}
