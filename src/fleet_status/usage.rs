//! The disk usage of a mirror, and what pruning would free, computed from the manifests of its kept
//! releases.
//!
//! Every object is counted once, because it is stored once. Each manifest is read once, from the
//! mirror itself; memory grows with the number of objects. Changes nothing.

use std::collections::HashMap;

use serde::Serialize;

use crate::hash::ObjectId;
use crate::manifest::ManifestReader;
use crate::mirror::{Mirror, MirrorError, MirrorState};
use crate::release::Release;
use crate::text::error_chain;

/// The disk usage of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Size of all content of the kept releases and the staged release, in bytes.
    pub bytes: u64,
    /// What pruning would free for each number of kept releases, from the largest number to the
    /// smallest.
    pub prune: Vec<PruneEstimate>,
}

/// What pruning would free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PruneEstimate {
    /// The value of `prune --keep`.
    pub keep: usize,
    /// The newest release that would be dropped.
    pub sequence: u64,
    /// The number of bytes that would be freed.
    pub bytes: u64,
}

impl Usage {
    /// The number of bytes that dropping the release `sequence` and all older ones would free.
    #[must_use]
    pub fn freed_by(&self, sequence: u64) -> Option<u64> {
        self.prune.iter().find(|freed| freed.sequence == sequence).map(|freed| freed.bytes)
    }
}

/// Adds up the content of the releases that `mirror` keeps according to `state`.
///
/// # Errors
/// Fails if a manifest cannot be read.
pub fn usage(mirror: &dyn Mirror, state: &MirrorState) -> Result<Usage, String> {
    // The staged release comes last, so content that it shares with other releases never counts as
    // freed.
    let kept = state.releases.iter().chain(&state.staged);
    let mut newest: HashMap<ObjectId, (u64, usize)> = HashMap::new();
    for (index, release) in kept.enumerate() {
        add_release(mirror, release, index, &mut newest)?;
    }
    Ok(total_usage(&newest, &state.releases))
}

/// Records each object of `release` with its size and with `index`, that of the newest release that
/// contains it.
fn add_release(
    mirror: &dyn Mirror,
    release: &Release,
    index: usize,
    newest: &mut HashMap<ObjectId, (u64, usize)>,
) -> Result<(), String> {
    let of_mirror = |error: MirrorError| error_chain(&error);
    let bytes = mirror.manifest(&release.manifest).map_err(of_mirror)?;
    for entry in
        ManifestReader::new(bytes, Some(release.manifest)).map_err(|error| error_chain(&error))?
    {
        let entry = entry.map_err(|error| error_chain(&error))?;
        if let Some(file) = entry.file() {
            // Releases are processed oldest first, so the last insertion is that of the newest
            // release.
            newest.insert(file.object, (file.size, index));
        }
    }
    Ok(())
}

fn total_usage(newest: &HashMap<ObjectId, (u64, usize)>, releases: &[Release]) -> Usage {
    // One more entry than there are releases, for the staged release, which pruning keeps.
    let mut last = vec![0u64; releases.len() + 1];
    for (size, index) in newest.values() {
        last[*index] = last[*index].saturating_add(*size);
    }
    let mut freed = 0u64;
    // The current release stays, and so does the previous one, which is in the other slot.
    let droppable = releases.len().saturating_sub(2);
    let prune =
        releases[..droppable].iter().zip(&last).enumerate().map(|(index, (release, bytes))| {
            freed = freed.saturating_add(*bytes);
            PruneEstimate {
                keep: releases.len() - index - 1,
                sequence: release.sequence,
                bytes: freed,
            }
        });
    let prune = prune.collect();
    Usage { bytes: last.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)), prune }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{ContentId, HistoryId, ManifestId};
    use crate::tree_path::Site;

    #[test]
    fn content_is_freed_with_its_last_release() {
        let (site, history) = (Site::new("s").unwrap(), HistoryId::from_bytes([1; 16]));
        let (manifest, content) = (ManifestId::of(b"m"), ContentId::of(b"c"));
        let release = |sequence| Release::new(site.clone(), history, sequence, manifest, content);
        let releases: Vec<Release> = (1..=4).map(release).collect();
        let object = |number: u8| ObjectId::of(&[number]);
        let newest = [
            (object(0), (10, 0)),
            (object(1), (1, 1)),
            (object(2), (100, 3)),
            (object(3), (1000, 4)),
        ];
        let usage = total_usage(&newest.into_iter().collect(), &releases);
        assert_eq!(usage.bytes, 1111);
        let freed: Vec<_> =
            usage.prune.iter().map(|freed| (freed.keep, freed.sequence, freed.bytes)).collect();
        assert_eq!(freed, [(3, 1, 10), (2, 2, 11)]);
        assert_eq!((usage.freed_by(2), usage.freed_by(3)), (Some(11), None));
        assert_eq!(total_usage(&HashMap::new(), &releases[..1]), Usage::default());
    }
}
