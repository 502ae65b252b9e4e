//! Whether a release fits: on the disk of a store, and in what its site may have.
//!
//! One computation for all who ask: a store before it writes, a receiver before it reads content, and a plan, which
//! only knows what a mirror reports of itself.

use std::path::Path;

use crate::fsx::FileSystem;
use crate::manifest::delta::DeltaSummary;
use crate::release::Release;
use crate::store::{Store, StoreError};

/// What a site may have, whatever its disk could take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of a release; `None` if there is no limit.
    pub bytes: Option<u64>,
    /// Entries of a release; `None` if there is no limit.
    pub entries: Option<u64>,
}

impl Quota {
    /// Why the site does not take `release`, which brings `new_bytes`; `None` if it does.
    #[must_use]
    pub fn refusal(&self, release: &Release, new_bytes: u64) -> Option<String> {
        let over = |size: u64, quota: Option<u64>| quota.filter(|quota| size > *quota);
        if let Some(quota) = over(release.entries, self.entries) {
            return Some(format!("the release has {} entries, and the quota is {quota}", release.entries));
        }
        if let Some(quota) = over(release.bytes, self.bytes) {
            return Some(format!("the release has {} bytes, and the quota is {quota}", release.bytes));
        }
        // A release may say less of itself than its change brings.
        let quota = over(new_bytes, self.bytes)?;
        Some(format!("{new_bytes} new bytes are announced, and the quota is {quota}"))
    }
}

impl Store {
    /// Entries for which a stage makes something: those that are new where a slot is changed, else all of them. A
    /// release for which it is none only removes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn made_entries(&self, release: &Release, needs: &DeltaSummary) -> Result<u64, StoreError> {
        let has_idle_slot = self.current()?.is_some() && self.missing_slot()?.is_none();
        let known = needs.head.base.filter(|_| has_idle_slot).and_then(|base| self.manifest_entries(&base));
        let Some(known) = known else { return Ok(release.entries) };
        // One with new content may take the place of another one.
        Ok((needs.objects.len() as u64).saturating_add(release.entries.saturating_sub(known)))
    }
}

/// What a release takes on a disk that gives out `block_bytes` at a time, if something is made for `made` of its
/// entries and `held_bytes` of its content are there.
#[must_use]
pub fn needed_bytes(made: u64, needs: &DeltaSummary, block_bytes: u64, held_bytes: u64) -> u64 {
    // A line of a manifest compresses to less; a name in each of two slots and in objects.
    const ENTRY_BYTES: u64 = 256;
    let rounded = |size: u64| size.div_ceil(block_bytes).saturating_mul(block_bytes);
    let content = needs.objects.iter().fold(0u64, |sum, object| sum.saturating_add(rounded(object.size)));
    content.saturating_sub(held_bytes).saturating_add(made.saturating_mul(ENTRY_BYTES))
}

/// Refuses what cannot fit, before anything is written: as [`needed_bytes`], and inodes.
pub(super) fn check(
    path: &Path,
    system: &FileSystem,
    made: u64,
    needs: &DeltaSummary,
    held_bytes: u64,
) -> Result<(), StoreError> {
    /// Directories and links of a slot, at most one for each entry that is made.
    const SLOT_INODES: u64 = 1024;
    /// Directories of objects that a quarantine has of its own.
    const OBJECT_DIRECTORIES: u64 = 256;
    /// Other directories of a quarantine, and our records.
    const OWN_INODES: u64 = 32;
    let path = || path.to_owned();
    let needed = needed_bytes(made, needs, system.block_bytes, held_bytes);
    if needed > system.free_bytes {
        return Err(StoreError::NoSpace { path: path(), needed, free: system.free_bytes });
    }
    let objects = needs.objects.len() as u64;
    let needed = objects + objects.min(OBJECT_DIRECTORIES) + made.min(SLOT_INODES) + OWN_INODES;
    match system.free_inodes {
        Some(free) if needed > free => Err(StoreError::NoInodes { path: path(), needed, free }),
        _ => Ok(()),
    }
}
