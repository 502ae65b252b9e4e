//! Keeping new content for the pushes to come, as it goes by into packs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::cache::{ContentCache, Draft, Record};
use crate::fsx::IoError;
use crate::manifest::transit::Wanted;
use crate::pack::{Piece, Sketch};
use crate::push::scratch::Scratch;

/// Content beyond that of two releases that is left alone.
const SPARE_BYTES: u64 = 64 << 20;

/// Drops content that the kept manifests do not need, once there is more than twice what a
/// release has: reading all of them for every push would cost more than the room it saves.
pub(super) fn tidy(
    cache: &ContentCache,
    scratch: &Scratch,
    release_bytes: u64,
    most_bytes: u64,
) -> Result<(), IoError> {
    let least = release_bytes.saturating_mul(2).saturating_add(SPARE_BYTES);
    if cache.damaged() == 0 && cache.content_bytes() <= least.min(most_bytes) {
        return Ok(());
    }
    let mut releases = Vec::new();
    for manifest in scratch.known_manifests()? {
        // What cannot be read needs nothing.
        let entries = manifest.entries().into_iter().flatten();
        let mut objects: Vec<_> =
            entries.map_while(Result::ok).filter_map(|entry| Some(entry.file()?.object)).collect();
        objects.sort_unstable();
        objects.dedup();
        releases.push(objects);
    }
    cache.prune(&releases, most_bytes)
}

/// New content on its way into the cache. An error costs only what was to be kept.
#[derive(Debug)]
pub(super) struct Keeping {
    draft: Draft,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    end: u64,
    error: Option<IoError>,
}

impl Keeping {
    /// Room for `bytes` of new content in `cache`; nothing where that is too much, for the
    /// limit of `most_bytes` or for the disk.
    pub(super) fn begin(cache: &ContentCache, bytes: u64, most_bytes: u64) -> Result<Option<Self>, IoError> {
        // A disk that the cache fills would be no service to anyone.
        if bytes == 0 || bytes > most_bytes || bytes > cache.free_bytes()? / 2 {
            return Ok(None);
        }
        Ok(Some(Self { draft: cache.begin()?, state: Mutex::default() }))
    }

    /// Where the content of a block will stand; `sketches` are by ordinal. Blocks come in the order of their pieces.
    pub(super) fn place(&self, pieces: &[Piece], wanted: &[Wanted], sketches: &HashMap<u32, Sketch>) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.end;
        for piece in pieces {
            let object = &wanted[piece.ordinal as usize];
            let (offset, size) = (state.end, object.size);
            if piece.offset == 0 {
                let sketch = sketches.get(&piece.ordinal).cloned().unwrap_or_default();
                state.records.push(Record { id: object.object, offset, size, sketch });
            }
            state.end += u64::from(piece.length);
        }
        start
    }

    /// Writes the content of a block to its place. May be called from several threads.
    pub(super) fn write(&self, content: &[u8], at: u64) {
        if let Err(error) = self.draft.write_at(content, at) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(error);
        }
    }

    /// Completes what was written, once all content turned out to be what it should be.
    ///
    /// # Errors
    /// When it could not be written; nothing is kept of it then.
    pub(super) fn finish(self) -> Result<(), IoError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.error {
            return Err(error);
        }
        self.draft.finish(&state.records)
    }
}
