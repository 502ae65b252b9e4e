//! A cache of recently decoded blocks: the next objects to be read are usually their neighbours.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

/// Maximum size of the cached content in bytes: enough for the blocks that two large prefixes use.
const MAX_DECODED_BYTES: usize = 32 << 20;

/// The index of a segment and the number of a block in it.
pub(super) type BlockKey = (usize, u32);

/// The decoded content of a block. Empty until the block is decoded; `None` inside if decoding
/// failed.
type Slot = Arc<OnceLock<Option<Arc<Vec<u8>>>>>;

/// The contents of blocks, with the most recently used last.
#[derive(Debug, Default)]
pub(super) struct DecodedBlocks {
    blocks: Mutex<VecDeque<(BlockKey, usize, Slot)>>,
    /// Buffers for reuse: allocating new memory costs more than decoding into it.
    spare_buffers: Mutex<Vec<Vec<u8>>>,
}

impl DecodedBlocks {
    /// Returns the content of a block, which has `bytes` bytes. If it is not cached, `decode`
    /// writes it to a reused buffer. Concurrent callers wait, so no block is decoded twice at the
    /// same time.
    pub(super) fn get(
        &self,
        key: BlockKey,
        bytes: usize,
        decode: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Option<Arc<Vec<u8>>> {
        let slot = self.slot(key, bytes);
        // The list is not locked while a block is decoded, so other blocks can be decoded at the
        // same time.
        let content = slot.get_or_init(|| {
            let mut content = self.lock_spare_buffers().pop().unwrap_or_default();
            decode(&mut content).then(|| Arc::new(content))
        });
        content.clone()
    }

    fn slot(&self, key: BlockKey, bytes: usize) -> Slot {
        let mut blocks = self.blocks.lock();
        let found =
            blocks.iter().rposition(|(other, ..)| *other == key).and_then(|at| blocks.remove(at));
        let entry = found.unwrap_or_else(|| (key, bytes, Slot::default()));
        let slot = Arc::clone(&entry.2);
        blocks.push_back(entry);
        let mut sum: usize = blocks.iter().map(|(_, bytes, _)| bytes).sum();
        // The last entry stays, however large: it is the one that was requested.
        while sum > MAX_DECODED_BYTES && blocks.len() > 1 {
            let Some((_, bytes, slot)) = blocks.pop_front() else { break };
            sum -= bytes;
            // If the content is still in use, its last reader frees the buffer.
            let content = Arc::into_inner(slot).and_then(OnceLock::into_inner).flatten();
            self.lock_spare_buffers().extend(content.and_then(Arc::into_inner));
        }
        slot
    }

    fn lock_spare_buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare_buffers.lock()
    }
}
