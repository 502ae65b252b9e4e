//! Hashes an object in pieces, in any order and on several threads.
//!
//! BLAKE3 is a tree hash: a piece that is a subtree can be hashed separately, and the hashes of all
//! pieces together give the hash of the object (see `blake3::hazmat`).

use blake3::hazmat::{
    HasherExt as _, Mode, left_subtree_len, max_subtree_len, merge_subtrees_non_root,
    merge_subtrees_root,
};

use super::ObjectId;

/// Size of a leaf in the BLAKE3 tree, in bytes.
const CHUNK_BYTES: u64 = 1024;

/// The hash of a piece of an object: the chaining value if the piece is a subtree of the object's
/// BLAKE3 tree, otherwise the BLAKE3 hash of the piece itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceHash([u8; 32]);

impl PieceHash {
    /// The hash of the piece `bytes`, which begins at `offset` in its object.
    #[must_use]
    pub fn of(bytes: &[u8], offset: u64) -> Self {
        if is_subtree(offset, bytes.len() as u64) {
            Self(blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root())
        } else {
            Self::of_object(bytes)
        }
    }

    /// The hash of a piece that is the whole object: the object's id.
    #[must_use]
    pub fn of_object(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The object's id, if this is the hash of a piece that is the whole object.
    #[must_use]
    pub const fn as_object_id(&self) -> ObjectId {
        ObjectId::from_bytes(self.0)
    }

    /// The hash with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn is_subtree(offset: u64, length: u64) -> bool {
    length > 0
        && offset.is_multiple_of(CHUNK_BYTES)
        && max_subtree_len(offset).is_none_or(|max| length <= max)
}

/// Collects the hashes of the pieces of an object.
#[derive(Debug, Clone, Default)]
pub struct PieceHashes {
    pieces: Vec<(u64, u64, PieceHash)>,
}

impl PieceHashes {
    /// Adds the hash of the piece of `length` bytes at `offset`.
    pub fn push(&mut self, offset: u64, length: u64, hash: PieceHash) {
        self.pieces.push((offset, length, hash));
    }

    /// The id of the object, which has `size` bytes. Returns `None` if the pieces overlap, leave
    /// gaps, or do not match the BLAKE3 tree, or if there is only one piece.
    #[must_use]
    pub fn finish(mut self, size: u64) -> Option<ObjectId> {
        self.pieces.sort_unstable_by_key(|(offset, ..)| *offset);
        let mut end = 0;
        for (offset, length, _) in &self.pieces {
            if *offset != end || !is_subtree(*offset, *length) {
                return None;
            }
            end = offset.checked_add(*length)?;
        }
        if end != size || self.pieces.len() < 2 {
            return None;
        }
        let (left, right) = split(&self.pieces, 0, size)?;
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        Some(ObjectId::from_bytes(*root.as_bytes()))
    }
}

type Pieces = [(u64, u64, PieceHash)];

/// The chaining values of both children of the subtree at `offset` with `length` bytes.
fn split(pieces: &Pieces, offset: u64, length: u64) -> Option<([u8; 32], [u8; 32])> {
    let left = left_subtree_len(length);
    let at = pieces.binary_search_by_key(&(offset + left), |(start, ..)| *start).ok()?;
    let (before, behind) = pieces.split_at(at);
    Some((subtree(before, offset, left)?, subtree(behind, offset + left, length - left)?))
}

fn subtree(pieces: &Pieces, offset: u64, length: u64) -> Option<[u8; 32]> {
    if let [(_, _, hash)] = pieces {
        return Some(hash.0);
    }
    let (left, right) = split(pieces, offset, length)?;
    Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(content: &[u8], cuts: &[usize]) -> PieceHashes {
        let mut hashes = PieceHashes::default();
        let ends = cuts.iter().skip(1).copied().chain([content.len()]);
        // In reverse: the order does not matter.
        for (start, end) in cuts.iter().copied().zip(ends).collect::<Vec<_>>().into_iter().rev() {
            let hash = PieceHash::of(&content[start..end], start as u64);
            hashes.push(start as u64, (end - start) as u64, hash);
        }
        hashes
    }

    #[test]
    fn piece_hashes_combine_to_the_hash_of_the_whole() {
        let mut content = vec![0; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        for piece in [1024, 4096, 65_536, 262_144] {
            for size in [piece + 1, 2 * piece, 2 * piece + 1023, 3 * piece, 300_000] {
                let Some(content) = content.get(..size) else { continue };
                let cuts: Vec<usize> = (0..size).step_by(piece).collect();
                assert_eq!(
                    hashes(content, &cuts).finish(size as u64),
                    Some(ObjectId::of(content)),
                    "{piece} {size}"
                );
            }
        }
    }

    #[test]
    fn pieces_that_are_not_subtrees_have_no_hash() {
        let content = [7; 9000];
        for cuts in [&[0, 1000][..], &[0, 3072], &[0, 1024, 4096], &[0], &[1024, 2048]] {
            assert_eq!(hashes(&content, cuts).finish(9000), None, "{cuts:?}");
        }
        assert_eq!(hashes(&content, &[0, 8192]).finish(9001), None);
        let mut twice = hashes(&content, &[0, 8192]);
        twice.push(0, 8192, PieceHash::of(&content[..8192], 0));
        assert_eq!(twice.finish(9000), None);
    }
}
