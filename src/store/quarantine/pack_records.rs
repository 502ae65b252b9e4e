//! The records of what packs wrote to a quarantine: see `FORMAT.md`.

use crate::hash::{ObjectId, PieceHash};
use crate::pack::Piece;
use crate::varint;

/// A piece that a pack wrote.
pub(super) struct PieceRecord {
    pub(super) piece: Piece,
    pub(super) hash: PieceHash,
}

impl PieceRecord {
    /// Appends it to a record.
    pub(super) fn push(&self, record: &mut Vec<u8>) {
        varint::push(u64::from(self.piece.ordinal), record);
        varint::push(self.piece.offset, record);
        varint::push(u64::from(self.piece.length), record);
        record.extend_from_slice(self.hash.as_bytes());
    }
}

/// Ends a record: one that was cut must not pass for a whole one of fewer pieces.
pub(super) fn seal(record: &mut Vec<u8>) {
    record.extend_from_slice(ObjectId::of(record).as_bytes());
}

/// The pieces of a record; nothing if it is not whole.
pub(super) fn parse(record: &[u8]) -> Option<Vec<PieceRecord>> {
    // A crash may have cut it, also between two pieces: less than all of it says nothing.
    let (mut record, digest) = record.split_last_chunk::<32>()?;
    if ObjectId::of(record).as_bytes() != digest {
        return None;
    }
    let mut pieces = Vec::new();
    while !record.is_empty() {
        let ordinal = u32::try_from(varint::take(&mut record).ok()?).ok()?;
        let offset = varint::take(&mut record).ok()?;
        let length = u32::try_from(varint::take(&mut record).ok()?).ok()?;
        let (hash, rest) = record.split_first_chunk::<32>()?;
        record = rest;
        pieces.push(PieceRecord { piece: Piece { ordinal, offset, length }, hash: PieceHash::from_bytes(*hash) });
    }
    Some(pieces)
}
