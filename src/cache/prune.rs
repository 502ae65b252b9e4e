//! Pruning: keeps the content that the releases need, within a size limit and in few files.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use super::decoded_blocks::BlockKey;
use super::segment::{ObjectRecord, Part};
use super::{CachedContent, ContentCache, DRAFT_SUFFIX, segment_number};
use crate::fsx::{self, IoError};
use crate::hash::ObjectId;

const LOCK_FILE: &str = "lock";

/// If there are more files than this, some are joined. Each file costs every push a file descriptor
/// and a table to read.
pub(super) const MAX_SEGMENTS: usize = 16;

impl ContentCache {
    /// Whether the cache needs no pruning: it has no damage, few files, and at most `max_bytes`.
    #[must_use]
    pub fn needs_no_pruning(&self, max_bytes: u64) -> bool {
        self.damaged() == 0
            && self.segment_count() <= MAX_SEGMENTS
            && self.stored_bytes() <= max_bytes
    }

    /// Drops content that the releases do not need. `releases` lists the objects of each release in
    /// ascending order, starting with the newest release. If all releases together need more than
    /// `max_bytes`, the oldest releases are ignored.
    ///
    /// # Errors
    /// Fails if the disk fails. The remaining files are intact.
    pub fn prune(&self, releases: &[Vec<ObjectId>], max_bytes: u64) -> Result<(), IoError> {
        let lock = self.dir.open_or_create_file(LOCK_FILE)?;
        // Another push is already pruning, so waiting would only delay this one.
        if !fsx::lock(&lock, Duration::ZERO, &self.dir.join(LOCK_FILE))? {
            return Ok(());
        }
        self.remove_stale_drafts()?;
        // The oldest release is dropped first: a mirror that still serves it gets whole content.
        let mut needed = releases;
        let live = loop {
            let live = self.needed_blocks(needed);
            match needed.split_last() {
                Some((_, rest)) if self.bytes_of(&live) > max_bytes && !rest.is_empty() => {
                    needed = rest;
                }
                _ => break live,
            }
        };
        let live = if self.bytes_of(&live) > max_bytes {
            self.newest_within(&live, max_bytes)
        } else {
            live
        };
        let sizes: Vec<u64> =
            (0..self.segments.len()).map(|index| self.bytes_of(blocks_of(&live, index))).collect();
        let joined = segments_to_merge(&sizes);
        // The new segment is complete before the old ones are removed. A crash in between leaves
        // both, which only costs space.
        if joined.len() > 1 {
            self.rewrite(joined.clone(), &live)?;
        }
        for (index, segment) in self.segments.iter().enumerate() {
            if !joined.contains(&index) && sizes[index] > 0 {
                // Rewriting a segment is worthwhile only if it frees more than half of it.
                if sizes[index] >= segment.frame_bytes() / 2 {
                    continue;
                }
                self.rewrite(index..index + 1, &live)?;
            }
            // A push that has the file open can still read it.
            self.dir.unlink_if_any(&segment.name)?;
        }
        Ok(())
    }

    fn bytes_of<'k>(&self, keys: impl IntoIterator<Item = &'k BlockKey>) -> u64 {
        keys.into_iter()
            .filter_map(|key| self.block(*key))
            .map(|block| block.frame_bytes as u64)
            .sum()
    }

    /// Returns the blocks that releases need, including their bases. Leaves out damaged segments.
    fn needed_blocks(&self, releases: &[Vec<ObjectId>]) -> HashSet<BlockKey> {
        let found =
            self.find(|id| releases.iter().any(|objects| objects.binary_search(id).is_ok()));
        let mut live = HashSet::new();
        for kept in found.values() {
            let mut path = HashSet::new();
            if self.collect_chain(kept, &live, &mut path) {
                live.extend(path);
            }
        }
        live
    }

    /// Adds the blocks of an object and their bases to `path`, except blocks that are already in
    /// `live`. Returns whether all of them exist.
    fn collect_chain(
        &self,
        kept: &CachedContent,
        live: &HashSet<BlockKey>,
        path: &mut HashSet<BlockKey>,
    ) -> bool {
        kept.blocks().all(|key| {
            // Many objects share bases. Without this check, the search would follow each chain
            // again for every object.
            if live.contains(&key) || path.contains(&key) {
                return true;
            }
            let Some(block) = self.block(key).filter(|_| !self.lock_untrusted().contains(&key.0))
            else {
                return false;
            };
            path.insert(key);
            block.bases.iter().all(|base| {
                self.base_of(&base.id, key)
                    .is_some_and(|kept| self.collect_chain(&kept, live, path))
            })
        })
    }

    /// Chooses whole segments that fit, oldest first, because newer segments may use blocks in
    /// older ones as bases.
    fn newest_within(&self, live: &HashSet<BlockKey>, max_bytes: u64) -> HashSet<BlockKey> {
        let mut room = max_bytes;
        let mut fitting = HashSet::new();
        for index in (0..self.segments.len()).rev() {
            let blocks: Vec<_> = blocks_of(live, index).collect();
            let bytes = self.bytes_of(blocks.iter().copied());
            if bytes <= room {
                room -= bytes;
                fitting.extend(blocks);
            }
        }
        fitting
    }

    /// Writes the live blocks of some segments into a new segment, which takes the number of the
    /// newest of them.
    fn rewrite(&self, segments: Range<usize>, live: &HashSet<BlockKey>) -> Result<(), IoError> {
        let number = segment_number(&self.segments[segments.start].name).unwrap_or(0);
        let mut draft = self.begin_numbered(number)?;
        // Oldest first, so that every block comes after its bases.
        for index in segments.rev() {
            let segment = &self.segments[index];
            let mut numbers = BTreeMap::new();
            for (old, block) in
                (0u32..).zip(segment.blocks()).filter(|(old, _)| live.contains(&(index, *old)))
            {
                // A block that turns out to be damaged is left out; blocks that need it become
                // unreadable.
                let Some(frame) = segment.frame(block) else { continue };
                numbers.insert(old, draft.push_block(block.clone(), &frame)?);
            }
            for record in segment.records(|_| true).unwrap_or_default() {
                if let Some(parts) = renumbered(&record, &numbers) {
                    draft.push_record(ObjectRecord { parts, ..record });
                }
            }
        }
        draft.finish()
    }

    /// Removes the drafts of killed pushes.
    fn remove_stale_drafts(&self) -> Result<(), IoError> {
        for (name, _) in self.dir.entries()? {
            let Some(name) = name.to_str().filter(|name| name.ends_with(DRAFT_SUFFIX)) else {
                continue;
            };
            let Some(file) = fsx::none_if_missing(self.dir.open_file(name))? else { continue };
            // A push that writes a draft holds its lock; if the push was killed, the kernel has
            // released it.
            if fsx::lock(&file, Duration::ZERO, &self.dir.join(name))? {
                self.dir.unlink_if_any(name)?;
            }
        }
        Ok(())
    }
}

fn blocks_of(live: &HashSet<BlockKey>, index: usize) -> impl Iterator<Item = &BlockKey> {
    live.iter().filter(move |(segment, _)| *segment == index)
}

fn renumbered(record: &ObjectRecord, numbers: &BTreeMap<u32, u32>) -> Option<Vec<Part>> {
    record
        .parts
        .iter()
        .map(|part| Some(Part { block: *numbers.get(&part.block)?, ..*part }))
        .collect()
}

/// Returns which of the newest segments to join, by size: up to the first segment that is larger
/// than all newer ones together. So large segments are rarely copied, and the number of segments
/// stays small.
fn segments_to_merge(sizes: &[u64]) -> Range<usize> {
    if sizes.len() <= MAX_SEGMENTS {
        return 0..0;
    }
    let mut sum = sizes[0];
    let mut end = 1;
    while end < sizes.len() && (end < 2 || sizes[end] <= sum) {
        sum += sizes[end];
        end += 1;
    }
    0..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_new_segments_are_merged_and_a_large_old_one_stays() {
        let mut sizes = vec![1; 16];
        assert_eq!(segments_to_merge(&sizes), 0..0);
        sizes.push(1000);
        assert_eq!(segments_to_merge(&sizes), 0..16);
        assert_eq!(segments_to_merge(&[7; 20]), 0..20);
        let doubling: Vec<u64> = (0..20).map(|log| 3 << log).collect();
        assert_eq!(segments_to_merge(&doubling), 0..2);
    }
}
