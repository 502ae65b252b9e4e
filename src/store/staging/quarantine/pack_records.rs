//! The records of the pieces that packs wrote to a quarantine. `FORMAT.md` describes them.

use crate::hash::{ObjectId, PieceHash};
use crate::pack::Piece;
use crate::varint;

/// A piece that was written from a pack.
pub(super) struct PieceRecord {
    pub(super) piece: Piece,
    pub(super) hash: PieceHash,
}

impl PieceRecord {
    /// Appends the piece to a record.
    pub(super) fn push(&self, record: &mut Vec<u8>) {
        varint::push(u64::from(self.piece.ordinal), record);
        varint::push(self.piece.offset, record);
        varint::push(u64::from(self.piece.length), record);
        record.extend_from_slice(self.hash.as_bytes());
    }
}

/// Appends the digest. Without it a truncated record could pass for a complete one with fewer
/// pieces.
pub(super) fn append_digest(record: &mut Vec<u8>) {
    record.extend_from_slice(ObjectId::of(record).as_bytes());
}

/// Parses the pieces of a record. Returns `None` if the record is incomplete.
pub(super) fn parse(record: &[u8]) -> Option<Vec<PieceRecord>> {
    // A crash may have truncated the record, even between two pieces; the digest detects that.
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
        pieces.push(PieceRecord {
            piece: Piece { ordinal, offset, length },
            hash: PieceHash::from_bytes(*hash),
        });
    }
    Some(pieces)
}
