//! The content cache: old content that the origin keeps in order to send changed files as deltas.
//! It uses a few large files, because CI packs and restores its cache on every run, and creating
//! many small files is slow.
//!
//! Losing all or part of the cache costs network traffic, never correctness. Nothing in it is
//! synced; a damaged file is detected and dropped. Objects are identified by their ids. This module
//! does not know releases or mirrors.

mod decoded_blocks;
mod prune;
mod segment;
mod segment_writer;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::fsx::{self, Dir, IoError};
use crate::hash::{ObjectId, StoreId};
use crate::pack::StoredFrame;

use decoded_blocks::{BlockKey, DecodedBlocks};
use segment::{BlockRecord, Segment};
pub use segment::{CachedBase, ObjectRecord};
pub use segment_writer::{NewPart, SegmentWriter};

const SEGMENT_SUFFIX: &str = ".content";
/// The suffix of an unfinished segment. Pruning removes those that killed pushes left behind.
const DRAFT_SUFFIX: &str = ".draft";

/// The open cache of one site and tree.
#[derive(Debug)]
pub struct ContentCache {
    dir: Dir,
    /// The segments, newest first.
    segments: Vec<Segment>,
    /// The locations of base objects, newest first.
    bases: Mutex<HashMap<ObjectId, Vec<CachedContent>>>,
    decoded: DecodedBlocks,
    untrusted_segments: Mutex<HashSet<usize>>,
    removed_damaged: usize,
}

/// The location of an object's content.
#[derive(Debug, Clone)]
pub struct CachedContent {
    segment: usize,
    record: Arc<ObjectRecord>,
    depth: u32,
}

impl CachedContent {
    /// The object's record.
    #[must_use]
    pub fn record(&self) -> &ObjectRecord {
        &self.record
    }

    /// The length of the longest chain of blocks that must be decoded first; 0 if the object's
    /// blocks have no bases.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// The segment and the first block of the object. Reading objects in this order avoids decoding
    /// blocks repeatedly.
    #[must_use]
    pub fn storage_order(&self) -> Option<(usize, u32)> {
        self.blocks().next()
    }

    fn blocks(&self) -> impl Iterator<Item = BlockKey> {
        self.record.parts.iter().map(|part| (self.segment, part.block))
    }

    /// Whether all of the object is in blocks before the given one. If so, it can be a base for
    /// that block.
    fn is_before(&self, (segment, block): BlockKey) -> bool {
        self.segment > segment
            || self.segment == segment && self.record.parts.iter().all(|part| part.block < block)
    }
}

/// The number in a segment's name, before its random part. A newer segment has a higher number.
fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(SEGMENT_SUFFIX)?.split('-').next()?.parse().ok()
}

impl ContentCache {
    /// Opens the cache in `dir`. Removes files that are not valid segments.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub fn open(dir: Dir) -> Result<Self, IoError> {
        let mut names: Vec<(u64, String)> = Vec::new();
        for (name, _) in dir.entries()? {
            let name = name.to_string_lossy().into_owned();
            names.extend(segment_number(&name).map(|number| (number, name)));
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        let (bases, distrusted) = (Mutex::default(), Mutex::default());
        let mut cache = Self {
            dir,
            segments: Vec::new(),
            bases,
            decoded: DecodedBlocks::default(),
            untrusted_segments: distrusted,
            removed_damaged: 0,
        };
        for (_, name) in names {
            // Another push may have removed the file in the meantime.
            let Some(file) = fsx::none_if_missing(cache.dir.open_file(&name))? else { continue };
            match Segment::open(name.clone(), file) {
                Some(segment) => cache.segments.push(segment),
                None => {
                    // Damage in a cache is not worth repairing: the content is sent whole once
                    // more.
                    cache.dir.unlink_if_any(&name)?;
                    cache.removed_damaged += 1;
                }
            }
        }
        Ok(cache)
    }

    /// The number of damaged files found so far.
    #[must_use]
    pub fn damaged(&self) -> usize {
        self.removed_damaged + self.lock_untrusted().len()
    }

    fn lock_untrusted(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.untrusted_segments.lock()
    }

    /// The number of files.
    #[must_use]
    pub const fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Total size of the stored content in bytes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::frame_bytes).sum()
    }

    /// The objects for which `is_wanted` returns `true`, from the newest segment to the oldest.
    fn records(
        &self,
        is_wanted: impl Fn(&ObjectId) -> bool,
    ) -> impl Iterator<Item = CachedContent> {
        self.segments.iter().enumerate().flat_map(move |(index, segment)| {
            let records = segment.records(&is_wanted);
            if records.is_none() {
                self.lock_untrusted().insert(index);
            }
            records.unwrap_or_default().into_iter().map(move |record| {
                let depths = record
                    .parts
                    .iter()
                    .filter_map(|part| segment.block(part.block))
                    .map(|block| block.depth);
                let depth = depths.max().unwrap_or(0);
                CachedContent { segment: index, record: Arc::new(record), depth }
            })
        })
    }

    /// Finds the objects for which `is_wanted` returns `true`. Memory grows only with these objects
    /// and their bases.
    pub fn find(&self, is_wanted: impl Fn(&ObjectId) -> bool) -> HashMap<ObjectId, CachedContent> {
        let mut found = HashMap::new();
        for kept in self.records(is_wanted) {
            found.entry(kept.record.id).or_insert(kept);
        }
        self.load_bases(found.values().cloned().collect());
        found
    }

    /// Finds all bases of the given objects, and the bases of those bases.
    fn load_bases(&self, mut objects: Vec<CachedContent>) {
        let mut known = self.bases.lock();
        loop {
            let blocks =
                objects.iter().flat_map(CachedContent::blocks).filter_map(|key| self.block(key));
            let bases = blocks.flat_map(|block| block.bases.iter().map(|base| base.id));
            let missing: HashSet<ObjectId> = bases.filter(|id| !known.contains_key(id)).collect();
            if missing.is_empty() {
                return;
            }
            // Recorded before the search, so that a base that is in no segment is not searched for
            // again. Otherwise, the loop would not end.
            known.extend(missing.iter().map(|id| (*id, Vec::new())));
            objects = self.records(|id| missing.contains(id)).collect();
            for kept in &objects {
                known.entry(kept.record.id).or_default().push(kept.clone());
            }
        }
    }

    fn block(&self, (segment, block): BlockKey) -> Option<&BlockRecord> {
        self.segments[segment].block(block)
    }

    /// The copy of a base object that a block may use.
    fn base_of(&self, id: &ObjectId, block: BlockKey) -> Option<CachedContent> {
        let known = self.bases.lock();
        known.get(id)?.iter().find(|kept| kept.is_before(block)).cloned()
    }

    /// Appends `length` bytes of an object from `offset` to `out`. Returns `false` if the content
    /// is damaged; the next pruning then drops its segment. The bytes are correct, because each
    /// block was verified when it was made and is checked when it is read.
    pub fn read(&self, kept: &CachedContent, offset: u64, length: u32, out: &mut Vec<u8>) -> bool {
        let (before, end) = (out.len(), offset + u64::from(length));
        let mut at = 0;
        for part in &kept.record.parts {
            let part_end = at + u64::from(part.length);
            if part_end > offset && at < end {
                let Some(content) = self.content((kept.segment, part.block)) else { break };
                let within = |place: u64| {
                    part.start as usize + usize::try_from(place - at).unwrap_or(usize::MAX)
                };
                out.extend_from_slice(&content[within(offset.max(at))..within(end.min(part_end))]);
            }
            at = part_end;
        }
        let is_read = out.len() - before == length as usize;
        if !is_read {
            // The caller continues without this base, and the buffer keeps those before it.
            out.truncate(before);
        }
        is_read
    }

    fn content(&self, key: BlockKey) -> Option<Arc<Vec<u8>>> {
        let block = self.block(key)?;
        // The bases of a block are in earlier blocks, so no block waits for itself.
        self.decoded.get(key, block.content_bytes, |content| self.decode(key, block, content))
    }

    fn decode(&self, key: BlockKey, block: &BlockRecord, content: &mut Vec<u8>) -> bool {
        let mut prefix = Vec::new();
        for base in &block.bases {
            let kept = self.base_of(&base.id, key);
            if !kept.is_some_and(|kept| self.read(&kept, base.offset, base.length, &mut prefix)) {
                return false;
            }
        }
        let is_decoded = self.segments[key.0].frame(block).is_some_and(|frame| {
            let (is_packed, content_bytes) = (block.is_encoded, block.content_bytes);
            if !is_packed {
                // The frame has passed its digest check, and it is the content itself.
                *content = frame;
                return content.len() == content_bytes;
            }
            StoredFrame { bytes: &frame, is_encoded: is_packed, content_bytes }
                .decode_in(&prefix, content)
                .is_ok()
        });
        // If the frame is damaged or cannot be decoded, its segment is no longer trusted.
        if !is_decoded {
            self.lock_untrusted().insert(key.0);
        }
        is_decoded
    }

    /// Begins a new segment.
    ///
    /// # Errors
    /// Fails if the segment cannot be created.
    pub fn begin_segment(&self) -> Result<SegmentWriter, IoError> {
        let newest =
            self.segments.first().and_then(|segment| segment_number(&segment.name)).unwrap_or(0);
        self.begin_numbered(newest + 1)
    }

    fn begin_numbered(&self, number: u64) -> Result<SegmentWriter, IoError> {
        // Two pushes may begin segments with the same number.
        let unique = StoreId::random()
            .map_err(|error| IoError::new("name a file in", self.dir.path(), error))?;
        let name = format!("{number:012}-{unique}{SEGMENT_SUFFIX}");
        let draft = format!("{name}{DRAFT_SUFFIX}");
        let file = self.dir.create_file(&draft)?;
        // Locked while the draft is written, so that pruning does not remove it. The result is not
        // checked: if another push removes the file before this line runs, the rename in
        // `SegmentWriter::finish` fails, and the content is simply not cached.
        fsx::lock(&file, Duration::ZERO, &self.dir.join(&draft))?;
        Ok(SegmentWriter::new(self.dir.try_clone()?, name, draft, file))
    }

    /// Free bytes on the cache's file system.
    ///
    /// # Errors
    /// Fails if the system does not report the free space.
    pub fn free_bytes(&self) -> Result<u64, IoError> {
        Ok(self.dir.file_system()?.free_bytes)
    }
}

#[cfg(test)]
mod tests;
