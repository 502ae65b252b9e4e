//! Whether a release fits on the disk of a store and within the quota of its site.
//!
//! The same computation is used by a store before it writes, by a receiver before it reads content,
//! and by a plan, which knows only what a mirror reports about itself.

use std::path::Path;

use crate::fsx::FileSystem;
use crate::manifest::delta::DeltaSummary;
use crate::release::Release;
use crate::store::{Store, StoreError};

/// The limits of a site, regardless of free space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Maximum bytes of a release; `None` if unlimited.
    pub bytes: Option<u64>,
    /// Maximum entries of a release; `None` if unlimited.
    pub entries: Option<u64>,
}

impl Quota {
    /// Why the quota refuses `release`, which adds `new_bytes` of content; `None` if the release
    /// fits.
    #[must_use]
    pub fn refusal(&self, release: &Release, new_bytes: u64) -> Option<String> {
        let over = |size: u64, quota: Option<u64>| quota.filter(|quota| size > *quota);
        if let Some(quota) = over(release.entries, self.entries) {
            return Some(format!(
                "the release has {} entries, but the quota is {quota}",
                release.entries
            ));
        }
        if let Some(quota) = over(release.bytes, self.bytes) {
            return Some(format!(
                "the release has {} bytes, but the quota is {quota}",
                release.bytes
            ));
        }
        // The record may declare fewer bytes than the change announces, so check both.
        let quota = over(new_bytes, self.bytes)?;
        Some(format!("{new_bytes} new bytes are announced, but the quota is {quota}"))
    }
}

impl Store {
    /// The number of entries that staging has to create: only the new entries if staging can change
    /// an idle slot, otherwise all entries. If the number is 0, the release only removes entries.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn created_entries(
        &self,
        release: &Release,
        needs: &DeltaSummary,
    ) -> Result<u64, StoreError> {
        let has_idle_slot = self.current()?.is_some() && self.missing_slot()?.is_none();
        let known =
            needs.head.base.filter(|_| has_idle_slot).and_then(|base| self.manifest_entries(&base));
        let Some(known) = known else { return Ok(release.entries) };
        // An entry with new content may replace an entry in the base, so the difference in the
        // number of entries alone is too low.
        Ok((needs.objects.len() as u64).saturating_add(release.entries.saturating_sub(known)))
    }
}

/// The bytes that a release takes up on a disk with blocks of `block_bytes`, if `made` of its
/// entries are created and `held_bytes` of its content are already there.
#[must_use]
pub fn needed_bytes(made: u64, needs: &DeltaSummary, block_bytes: u64, held_bytes: u64) -> u64 {
    // Bytes per created entry: its compressed manifest line, and its names in two slots and in
    // `objects`.
    const ENTRY_BYTES: u64 = 256;
    let rounded = |size: u64| size.div_ceil(block_bytes).saturating_mul(block_bytes);
    let content =
        needs.objects.iter().fold(0u64, |sum, object| sum.saturating_add(rounded(object.size)));
    content.saturating_sub(held_bytes).saturating_add(made.saturating_mul(ENTRY_BYTES))
}

/// Refuses a release that cannot fit, before anything is written. Compares [`needed_bytes`] and the
/// needed inodes with the free space.
pub(in crate::store) fn check_space(
    path: &Path,
    system: &FileSystem,
    made: u64,
    needs: &DeltaSummary,
    held_bytes: u64,
) -> Result<(), StoreError> {
    /// Inodes for directories and copies in a slot; fewer if fewer entries are created.
    const SLOT_INODES: u64 = 1024;
    /// Maximum number of object directories in a quarantine.
    const OBJECT_DIRECTORIES: u64 = 256;
    /// Inodes for the other directories of a quarantine and for our records.
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
