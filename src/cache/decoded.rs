//! Blocks that were decoded last: neighbours of an object are asked for next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of content that are held: the blocks that two large prefixes reach into.
const MOST_BYTES: usize = 32 << 20;

/// A segment and a block of it.
pub(super) type BlockKey = (usize, u32);

/// The content of a block once it was decoded; nothing within if it could not be.
type Slot = Arc<OnceLock<Option<Arc<Vec<u8>>>>>;

/// Contents of blocks, the one asked for last at the end.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    held: Mutex<VecDeque<(BlockKey, usize, Slot)>>,
    /// Buffers of contents that are no longer held: memory that is new costs more than decoding into it.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Decoded {
    /// The content of a block of `bytes`, if it is not held as `decode` writes it to an old buffer. Whoever
    /// asks for it meanwhile waits: no block is decoded twice at once.
    pub(super) fn get(
        &self,
        key: BlockKey,
        bytes: usize,
        decode: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Option<Arc<Vec<u8>>> {
        let slot = self.slot(key, bytes);
        let content = slot.get_or_init(|| {
            let mut content = self.spare().pop().unwrap_or_default();
            decode(&mut content).then(|| Arc::new(content))
        });
        content.clone()
    }

    fn slot(&self, key: BlockKey, bytes: usize) -> Slot {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.iter().rposition(|(other, ..)| *other == key).and_then(|at| held.remove(at));
        let entry = found.unwrap_or_else(|| (key, bytes, Slot::default()));
        let slot = Arc::clone(&entry.2);
        held.push_back(entry);
        let mut sum: usize = held.iter().map(|(_, bytes, _)| bytes).sum();
        while sum > MOST_BYTES && held.len() > 1 {
            let Some((_, bytes, slot)) = held.pop_front() else { break };
            sum -= bytes;
            // Where it is still read its buffer goes with its last reader.
            let content = Arc::into_inner(slot).and_then(OnceLock::into_inner).flatten();
            self.spare().extend(content.and_then(Arc::into_inner));
        }
        slot
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
