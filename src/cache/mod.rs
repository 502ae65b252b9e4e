//! Old content that the origin keeps, so that it can send what changed inside
//! of files: in few large files, because a cache of CI is packed and fetched
//! again with every run, and creating many small ones is slow.
//!
//! Losing it, or any part of it, costs bytes on the way to the mirrors, never
//! correctness: nothing of it is synced, and what is damaged is noticed and thrown
//! away. Knows objects by their ids. Refuses to know releases and mirrors.

mod decoded;
mod draft;
mod prune;
mod segment;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fsx::{self, Dir, IoError};
use crate::hash::{ObjectId, StoreId};
use crate::pack::StoredFrame;

use decoded::{BlockKey, Decoded};
pub use draft::{Draft, NewPart};
use segment::{BlockRecord, Segment};
pub use segment::{KeptBase, ObjectRecord};

const ENDING: &str = ".content";
/// Of a segment under way; what a killed push left of it is swept away by the next pruning.
const DRAFT: &str = ".draft";

/// The cache of one site and tree, opened.
#[derive(Debug)]
pub struct ContentCache {
    dir: Dir,
    /// The newest first.
    segments: Vec<Segment>,
    /// Where objects are kept that blocks build on, the newest first.
    bases: Mutex<HashMap<ObjectId, Vec<CachedContent>>>,
    decoded: Decoded,
    distrusted: Mutex<HashSet<usize>>,
    damaged: usize,
}

/// Where the content of an object is kept.
#[derive(Debug, Clone)]
pub struct CachedContent {
    segment: usize,
    record: Arc<ObjectRecord>,
    depth: u32,
}

impl CachedContent {
    /// What is known of the object.
    #[must_use]
    pub fn record(&self) -> &ObjectRecord {
        &self.record
    }

    /// How many blocks must be decoded, one behind the other, before those that have it: 0 where they build on nothing.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// The file and the first block that it is in: who reads several objects in this order decodes little twice.
    #[must_use]
    pub fn place(&self) -> Option<(usize, u32)> {
        self.blocks().next()
    }

    fn blocks(&self) -> impl Iterator<Item = BlockKey> {
        self.record.parts.iter().map(|part| (self.segment, part.block))
    }

    /// Whether a block can build on it: it was there before.
    fn is_before(&self, (segment, block): BlockKey) -> bool {
        self.segment > segment || self.segment == segment && self.record.parts.iter().all(|part| part.block < block)
    }
}

/// Age and a random part: later ones sort behind.
fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(ENDING)?.split('-').next()?.parse().ok()
}

impl ContentCache {
    /// Opens the cache in `dir`. Files that are no whole segments are removed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(dir: Dir) -> Result<Self, IoError> {
        let mut names: Vec<(u64, String)> = Vec::new();
        for (name, _) in dir.entries()? {
            let name = name.to_string_lossy().into_owned();
            names.extend(segment_number(&name).map(|number| (number, name)));
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        let (bases, distrusted) = (Mutex::default(), Mutex::default());
        let mut cache = Self { dir, segments: Vec::new(), bases, decoded: Decoded::default(), distrusted, damaged: 0 };
        for (_, name) in names {
            // Another push may have removed it meanwhile.
            let Some(file) = fsx::found(cache.dir.open_file(&name))? else { continue };
            match Segment::open(name.clone(), file) {
                Some(segment) => cache.segments.push(segment),
                None => {
                    cache.dir.unlink_if_any(&name)?;
                    cache.damaged += 1;
                }
            }
        }
        Ok(cache)
    }

    /// How many files turned out to be damaged so far.
    #[must_use]
    pub fn damaged(&self) -> usize {
        self.damaged + self.distrusted().len()
    }

    fn distrusted(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many files there are.
    #[must_use]
    pub const fn files(&self) -> usize {
        self.segments.len()
    }

    /// Bytes that all content takes as it is kept.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::frame_bytes).sum()
    }

    /// The objects for which `is_wanted`, from the newest segment to the oldest.
    fn records(&self, is_wanted: impl Fn(&ObjectId) -> bool) -> impl Iterator<Item = CachedContent> {
        self.segments.iter().enumerate().flat_map(move |(index, segment)| {
            let records = segment.records(&is_wanted);
            if records.is_none() {
                self.distrusted().insert(index);
            }
            records.unwrap_or_default().into_iter().map(move |record| {
                let depths = record.parts.iter().filter_map(|part| segment.block(part.block)).map(|block| block.depth);
                let depth = depths.max().unwrap_or(0);
                CachedContent { segment: index, record: Arc::new(record), depth }
            })
        })
    }

    /// Where each of the objects for which `is_wanted` is kept. Takes memory for these, and for what they build on, only.
    pub fn find(&self, is_wanted: impl Fn(&ObjectId) -> bool) -> HashMap<ObjectId, CachedContent> {
        let mut found = HashMap::new();
        for kept in self.records(is_wanted) {
            found.entry(kept.record.id).or_insert(kept);
        }
        self.learn_bases(found.values().cloned().collect());
        found
    }

    /// Finds out where everything is kept that objects build on.
    fn learn_bases(&self, mut objects: Vec<CachedContent>) {
        let mut known = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let blocks = objects.iter().flat_map(CachedContent::blocks).filter_map(|key| self.block(key));
            let bases = blocks.flat_map(|block| block.bases.iter().map(|base| base.id));
            let missing: HashSet<ObjectId> = bases.filter(|id| !known.contains_key(id)).collect();
            if missing.is_empty() {
                return;
            }
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

    /// Where the object is kept that a block builds on.
    fn base_of(&self, id: &ObjectId, block: BlockKey) -> Option<CachedContent> {
        let known = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id)?.iter().find(|kept| kept.is_before(block)).cloned()
    }

    /// Appends `length` bytes of an object from `offset` to `out`, the right ones: each block was proven
    /// when it was made, and is checked when it is read. Answers whether they could be had; where
    /// they are damaged, their segment goes with the next pruning.
    pub fn read(&self, kept: &CachedContent, offset: u64, length: u32, out: &mut Vec<u8>) -> bool {
        let (before, end) = (out.len(), offset + u64::from(length));
        let mut at = 0;
        for part in &kept.record.parts {
            let part_end = at + u64::from(part.length);
            if part_end > offset && at < end {
                let Some(content) = self.content((kept.segment, part.block)) else { break };
                let within = |place: u64| part.start as usize + usize::try_from(place - at).unwrap_or(usize::MAX);
                out.extend_from_slice(&content[within(offset.max(at))..within(end.min(part_end))]);
            }
            at = part_end;
        }
        let is_read = out.len() - before == length as usize;
        if !is_read {
            out.truncate(before);
        }
        is_read
    }

    /// The content of a block.
    fn content(&self, key: BlockKey) -> Option<Arc<Vec<u8>>> {
        let block = self.block(key)?;
        // What a block builds on comes before it, so that none waits for itself.
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
            let (is_packed, content_bytes) = (block.is_packed, block.content_bytes);
            if !is_packed {
                *content = frame;
                return content.len() == content_bytes;
            }
            StoredFrame { bytes: &frame, is_packed, content_bytes }.decode_in(&prefix, content).is_ok()
        });
        if !is_decoded {
            self.distrusted().insert(key.0);
        }
        is_decoded
    }

    /// Begins a new segment.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn begin(&self) -> Result<Draft, IoError> {
        let newest = self.segments.first().and_then(|segment| segment_number(&segment.name)).unwrap_or(0);
        self.begin_numbered(newest + 1)
    }

    fn begin_numbered(&self, number: u64) -> Result<Draft, IoError> {
        let unique = StoreId::random().map_err(|error| IoError::new("name a file in", self.dir.path(), error))?;
        let name = format!("{number:012}-{unique}{ENDING}");
        let draft = format!("{name}{DRAFT}");
        let file = self.dir.create_file(&draft)?;
        // Held while it is written: nobody sweeps it away.
        fsx::lock(&file, Duration::ZERO, &self.dir.join(&draft))?;
        Ok(Draft::new(self.dir.try_clone()?, name, draft, file))
    }

    /// Bytes free where it is.
    ///
    /// # Errors
    /// When the file system does not tell.
    pub fn free_bytes(&self) -> Result<u64, IoError> {
        Ok(self.dir.file_system()?.free_bytes)
    }
}

#[cfg(test)]
mod tests;
