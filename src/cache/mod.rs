//! Old content that the origin keeps, so that it can send what changed inside
//! of files: in few large files, because a cache of CI is packed and fetched
//! again with every run, and creating many small ones is slow.
//!
//! Losing it, or any part of it, costs bytes on the way to the mirrors, never
//! correctness: nothing of it is synced, what is damaged is noticed and thrown
//! away, and whoever reads an object hashes it. Knows objects by their ids.
//! Refuses to know releases and mirrors.

mod segment;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::fsx::{self, Dir, IoError};
use crate::hash::{ObjectId, StoreId};

pub use segment::Record;
use segment::{Segment, by_object, table_of};

const ENDING: &str = ".content";
const LOCK: &str = "lock";
/// Of a segment under way; what a killed push left of it is swept away by the next pruning.
const DRAFT: &str = ".draft";

/// The cache of one site and tree, opened.
#[derive(Debug)]
pub struct ContentCache {
    dir: Dir,
    /// The newest first.
    segments: Vec<Segment>,
    distrusted: Mutex<HashSet<usize>>,
    damaged: usize,
}

/// Where the content of an object is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    segment: usize,
    record: Record,
}

impl Kept {
    /// What is known of the object.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
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
        let mut cache = Self { dir, segments: Vec::new(), distrusted: Mutex::default(), damaged: 0 };
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

    fn distrusted(&self) -> std::sync::MutexGuard<'_, HashSet<usize>> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all content that is kept.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::content_bytes).sum()
    }

    fn records(&self) -> impl Iterator<Item = (usize, Record)> {
        let of = |(index, segment): (usize, &Segment)| {
            let records = segment.records();
            if records.is_none() {
                self.distrusted().insert(index);
            }
            records.unwrap_or_default().into_iter().map(move |record| (index, record))
        };
        self.segments.iter().enumerate().flat_map(of)
    }

    /// Where each of the objects for which `is_wanted` is kept. Takes memory for these only.
    pub fn find(&self, is_wanted: impl Fn(&ObjectId) -> bool) -> HashMap<ObjectId, Kept> {
        let found = by_object(self.records().filter(|(_, record)| is_wanted(&record.id)));
        found.into_iter().map(|(id, (segment, record))| (id, Kept { segment, record })).collect()
    }

    /// Reads bytes of an object; whether they are right is for the caller to find out.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_at(&self, kept: &Kept, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.segments[kept.segment].file.read_exact_at(bytes, kept.record.offset + offset)
    }

    /// Takes note that an object is not what it should be: its segment goes with the next pruning.
    pub fn distrust(&self, kept: &Kept) {
        self.distrusted().insert(kept.segment);
    }

    /// Begins a new segment.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn begin(&self) -> Result<Draft, IoError> {
        let newest = self.segments.first().and_then(|segment| segment_number(&segment.name)).unwrap_or(0);
        let unique = StoreId::random().map_err(|error| IoError::new("name a file in", self.dir.path(), error))?;
        let name = format!("{:012}-{unique}{ENDING}", newest + 1);
        let draft = format!("{name}{DRAFT}");
        let file = self.dir.create_file(&draft)?;
        // Held while it is written: nobody sweeps it away.
        fsx::lock(&file, Duration::ZERO, &self.dir.join(&draft))?;
        Ok(Draft { dir: self.dir.try_clone()?, name, draft, file, is_kept: false })
    }

    /// Drops what the releases do not need: `releases` are the objects of each, ascending, the newest release
    /// first. Releases at the end count for nothing where all of them would take more than `most_bytes`.
    ///
    /// # Errors
    /// When the disk fails; what is left is whole.
    pub fn prune(&self, releases: &[Vec<ObjectId>], most_bytes: u64) -> Result<(), IoError> {
        let lock = self.dir.open_or_create_file(LOCK)?;
        if !fsx::lock(&lock, Duration::ZERO, &self.dir.join(LOCK))? {
            return Ok(());
        }
        self.sweep_drafts()?;
        let mut needed = releases;
        let live = loop {
            let live = self.live(needed);
            let bytes: u64 = live.iter().flatten().map(|record| record.size).sum();
            match needed.split_last() {
                Some((_, rest)) if bytes > most_bytes && !rest.is_empty() => needed = rest,
                _ => break live,
            }
        };
        let mut room = most_bytes;
        for ((index, segment), live) in self.segments.iter().enumerate().zip(live) {
            let bytes: u64 = live.iter().map(|record| record.size).sum();
            let is_sound = !self.distrusted().contains(&index);
            if is_sound && bytes > 0 && bytes <= room {
                room -= bytes;
                if bytes >= segment.content_bytes() / 2 {
                    continue;
                }
                self.rewrite(segment, &live)?;
            }
            self.dir.unlink_if_any(&segment.name)?;
        }
        Ok(())
    }

    /// The records of each segment that a release needs, each object once.
    fn live(&self, releases: &[Vec<ObjectId>]) -> Vec<Vec<Record>> {
        let mut live = vec![Vec::new(); self.segments.len()];
        let is_needed = |id: &ObjectId| releases.iter().any(|objects| objects.binary_search(id).is_ok());
        for (segment, record) in by_object(self.records()).into_values().filter(|(_, record)| is_needed(&record.id)) {
            live[segment].push(record);
        }
        live.iter_mut().for_each(|records| records.sort_unstable_by_key(|record| record.offset));
        live
    }

    fn rewrite(&self, segment: &Segment, live: &[Record]) -> Result<(), IoError> {
        let draft = self.begin()?;
        let copied = segment.copy(live, &draft.file, 0);
        let (records, _) = copied.map_err(|error| IoError::new("copy", self.dir.join(&segment.name), error))?;
        draft.finish(&records)
    }

    /// Removes what killed pushes left.
    fn sweep_drafts(&self) -> Result<(), IoError> {
        for (name, _) in self.dir.entries()? {
            let Some(name) = name.to_str().filter(|name| name.ends_with(DRAFT)) else { continue };
            let Some(file) = fsx::found(self.dir.open_file(name))? else { continue };
            if fsx::lock(&file, Duration::ZERO, &self.dir.join(name))? {
                self.dir.unlink_if_any(name)?;
            }
        }
        Ok(())
    }

    /// Bytes free where it is.
    ///
    /// # Errors
    /// When the file system does not tell.
    pub fn free_bytes(&self) -> Result<u64, IoError> {
        Ok(self.dir.file_system()?.free_bytes)
    }
}

/// A segment that is being written; gone if it is not finished.
#[derive(Debug)]
pub struct Draft {
    dir: Dir,
    name: String,
    draft: String,
    file: File,
    is_kept: bool,
}

impl Draft {
    /// Writes content. May be called from several threads.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), IoError> {
        fsx::write_at(&self.file, bytes, offset, || self.dir.join(&self.draft))
    }

    /// Completes the segment with what stands where in it.
    ///
    /// # Errors
    /// When it cannot be written; nothing remains of it then.
    pub fn finish(mut self, records: &[Record]) -> Result<(), IoError> {
        let end = records.iter().map(|record| record.offset + record.size).max().unwrap_or(0);
        self.write_at(&table_of(records), end)?;
        self.dir.rename(&self.draft, &self.dir, &self.name)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // A left-over costs space only, until it is swept.
            self.dir.unlink_if_any(&self.draft).ok();
        }
    }
}

#[cfg(test)]
mod tests;
