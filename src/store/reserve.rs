//! Room that is kept so that something can be removed from a mirror on a full file system.
//!
//! A release that only removes still writes a manifest, a record and links. When others have taken the last block or
//! inode, the reserve is given back to make it possible.

use crate::fsx::FileMode;
use crate::store::layout::RESERVE;
use crate::store::{Store, StoreError};

/// Enough for the manifest of thousands of files.
const BYTES: usize = 256 * 1024;
/// Files and directories that a release takes which brings nothing.
const FILES: usize = 16;
/// With less free than this no reserve is made: it is to be no burden.
const ROOMY_BYTES: u64 = 64 << 20;
const ROOMY_INODES: u64 = 4096;
/// With less free than this the reserve is needed.
const TIGHT_BYTES: u64 = 4 << 20;
const TIGHT_INODES: u64 = 256;

impl Store {
    /// Makes the reserve where there is none, and room for it. The caller has the lock.
    pub(super) fn keep_reserve(&self) -> Result<(), StoreError> {
        let headwater = &self.layout.headwater;
        if headwater.stat(RESERVE)?.is_some() {
            return Ok(());
        }
        let system = headwater.file_system()?;
        let has_inodes = system.free_inodes.is_none_or(|free| free > ROOMY_INODES);
        if system.free_bytes <= ROOMY_BYTES || !has_inodes {
            return Ok(());
        }
        // Half of one is of no use.
        self.make_reserve().or_else(|error| headwater.remove_all(RESERVE).map_err(StoreError::from).and(Err(error)))
    }

    fn make_reserve(&self) -> Result<(), StoreError> {
        let reserve = self.layout.headwater.create_dir(RESERVE)?;
        for file in 0..FILES {
            let bytes = vec![0; if file == 0 { BYTES } else { 0 }];
            reserve.write_new(&file.to_string(), &bytes, FileMode::RECORD, None)?;
        }
        Ok(())
    }

    /// Gives the reserve back if hardly anything else is free.
    pub(super) fn use_reserve(&self) -> Result<(), StoreError> {
        let headwater = &self.layout.headwater;
        let system = headwater.file_system()?;
        let has_inodes = system.free_inodes.is_none_or(|free| free >= TIGHT_INODES);
        if system.free_bytes < TIGHT_BYTES || !has_inodes {
            headwater.remove_all(RESERVE)?;
        }
        Ok(())
    }
}
