//! Fills a pack with blocks and seals it.
//!
//! Any sealed pack can be opened. The same blocks give the same bytes.

use super::encode::EncodedBlock;
use super::{
    DIGEST_BYTES, KIND_END, MAGIC, MAX_PACK_BYTES, PackError, TARGET_PACK_BYTES,
    TARGET_PACK_CONTENT_BYTES, VERSION,
};
use crate::hash::PackId;
use crate::varint;

/// Maximum length of the end record in bytes.
const MAX_END_BYTES: usize = 1 + varint::MAX_BYTES + DIGEST_BYTES;

/// A pack that still accepts blocks.
#[derive(Debug, Clone)]
pub struct PackWriter {
    bytes: Vec<u8>,
    block_count: u64,
    content_bytes: u64,
}

/// A sealed pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The digest that ends the pack: BLAKE3 of all bytes before it.
    pub id: PackId,
    /// The bytes of the pack.
    pub bytes: Vec<u8>,
    /// The number of blocks.
    pub block_count: u64,
    /// Total length of the uncompressed content in bytes.
    pub content_bytes: u64,
}

impl PackWriter {
    /// Creates a pack without blocks.
    #[must_use]
    pub fn new() -> Self {
        // The capacity leaves room for a last block of 1 MiB beyond the target, so the buffer
        // seldom grows.
        let mut bytes = Vec::with_capacity(TARGET_PACK_BYTES + TARGET_PACK_BYTES / 8);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        Self { bytes, block_count: 0, content_bytes: 0 }
    }

    /// Whether the pack has no blocks yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.block_count == 0
    }

    /// Whether the pack has reached [`TARGET_PACK_BYTES`], or [`TARGET_PACK_CONTENT_BYTES`] of
    /// content, and should be sealed. Any block fits into a pack that is not full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        // A block takes less than 16 MiB, so it fits in a pack that has less than 8 MiB.
        self.bytes.len() + MAX_END_BYTES >= TARGET_PACK_BYTES
            || self.content_bytes >= TARGET_PACK_CONTENT_BYTES
    }

    /// Whether the pack stays within [`MAX_PACK_BYTES`] if `block` is added.
    #[must_use]
    pub fn fits(&self, block: &EncodedBlock) -> bool {
        self.bytes.len() + block.encoded_bytes() + MAX_END_BYTES <= MAX_PACK_BYTES
    }

    /// Appends `block`.
    ///
    /// # Errors
    /// [`PackError::Limit`] if the block does not fit. In that case, the pack is unchanged.
    pub fn push(&mut self, block: &EncodedBlock) -> Result<(), PackError> {
        if !self.fits(block) {
            return Err(PackError::Limit { what: "bytes of a pack", limit: MAX_PACK_BYTES });
        }
        self.bytes.extend_from_slice(block.as_bytes());
        self.block_count += 1;
        self.content_bytes += block.content_bytes() as u64;
        Ok(())
    }

    /// Seals the pack.
    #[must_use]
    pub fn finish(mut self) -> Pack {
        self.bytes.push(KIND_END);
        varint::push(self.block_count, &mut self.bytes);
        let id = PackId::of(&self.bytes);
        self.bytes.extend_from_slice(id.as_bytes());
        Pack {
            id,
            bytes: self.bytes,
            block_count: self.block_count,
            content_bytes: self.content_bytes,
        }
    }
}

impl Default for PackWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Level, MAX_CONTENT_BYTES, PackReader, Piece, encode_block};

    fn largest_block() -> EncodedBlock {
        let content = vec![0; MAX_CONTENT_BYTES];
        let piece = Piece { ordinal: 0, offset: 0, length: u32::try_from(content.len()).unwrap() };
        encode_block(&[piece], &content, &[], &[], Level::Raw).unwrap()
    }

    #[test]
    fn pack_is_full_at_its_target_and_ends_at_its_limit() {
        let block = largest_block();
        let mut writer = PackWriter::new();
        let mut full_at = None;
        while writer.fits(&block) {
            writer.push(&block).unwrap();
            if writer.is_full() && full_at.is_none() {
                full_at = Some(writer.block_count);
            }
        }
        assert_eq!((full_at, writer.block_count), (Some(2), 7));
        assert!(matches!(writer.push(&block), Err(PackError::Limit { .. })));
        let pack = writer.finish();
        assert!(pack.bytes.len() <= MAX_PACK_BYTES);
        assert_eq!(
            PackReader::open(&pack.bytes).unwrap().blocks().filter(Result::is_ok).count(),
            7
        );
    }

    #[test]
    fn pack_without_blocks_is_valid() {
        assert!(PackWriter::default().is_empty());
        let pack = PackWriter::new().finish();
        let reader = PackReader::open(&pack.bytes).unwrap();
        assert_eq!((reader.id(), pack.block_count, reader.blocks().count()), (pack.id, 0, 0));
    }
}
