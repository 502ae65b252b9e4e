//! The content id, which is equal for two trees that look the same to visitors.

use crate::hash::ContentId;
use crate::manifest::entry::{Entry, EntryKind};
use crate::varint;

/// How many bytes are collected before they are hashed. BLAKE3 is several times faster on long
/// inputs than on many short ones.
const BATCH_BYTES: usize = 64 * 1024;

/// Computes a [`ContentId`] from entries in manifest order.
#[derive(Debug)]
pub struct ContentIdHasher {
    hasher: blake3::Hasher,
    batch: Vec<u8>,
}

impl Default for ContentIdHasher {
    fn default() -> Self {
        let mut batch = Vec::with_capacity(BATCH_BYTES + 4096);
        batch.extend_from_slice(b"headwater content 1\n");
        Self { hasher: blake3::Hasher::new(), batch }
    }
}

impl ContentIdHasher {
    /// Adds the next entry. Retired entries are ignored.
    pub fn push(&mut self, entry: &Entry) {
        if !entry.is_live() {
            return;
        }
        let path = entry.path.as_str();
        match &entry.kind {
            EntryKind::File(file) => {
                self.batch.push(if file.exec { b'X' } else { b'F' });
                self.push_text(path);
                self.batch.extend_from_slice(file.object.as_bytes());
            }
            EntryKind::Symlink(target) => {
                self.batch.push(b'L');
                self.push_text(path);
                self.push_text(target.as_str());
            }
        }
        if self.batch.len() >= BATCH_BYTES {
            self.hasher.update(&self.batch);
            self.batch.clear();
        }
    }

    fn push_text(&mut self, text: &str) {
        // The length comes first. Without it, moving bytes from a path to a target or back could
        // give the same input.
        varint::push(text.len() as u64, &mut self.batch);
        self.batch.extend_from_slice(text.as_bytes());
    }

    /// The content id of all entries added so far.
    #[must_use]
    pub fn finish(mut self) -> ContentId {
        self.hasher.update(&self.batch);
        ContentId::finish(&self.hasher)
    }
}
