//! Chooses the bytes of old objects that a block is encoded against.

use std::collections::HashSet;

use super::{BaseRange, MAX_PREFIX_BYTES, MAX_RANGES, MatchedRange, Piece};

/// An old object that serves as a base for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Position of a file among all entries in the base manifest, counted from 0.
    pub entry: u64,
    /// Size of the file's object in bytes.
    pub size: u64,
}

/// Chooses the base ranges of a block with `pieces`, within the limits of the format. `bases_of`
/// returns the bases of a new object, the best first, and the object's size. Each base is used only
/// once. If a base is larger than the remaining room, only the range around the piece's position is
/// used.
#[must_use]
pub fn base_ranges<'b>(
    pieces: &[Piece],
    bases_of: impl Fn(u32) -> (&'b [Base], u64),
) -> Vec<BaseRange> {
    let mut ranges = Vec::new();
    let mut seen = HashSet::new();
    let mut room = MAX_PREFIX_BYTES as u64;
    for piece in pieces {
        let (bases, size) = bases_of(piece.ordinal);
        for base in bases {
            // The format does not allow an empty range. A base that is already in the prefix helps
            // all pieces in the block.
            if base.size == 0 || room == 0 || ranges.len() == MAX_RANGES || !seen.insert(base.entry)
            {
                continue;
            }
            let length = base.size.min(room);
            room -= length;
            let offset = start_of(piece, size, base.size, length);
            let length = u32::try_from(length).expect("a prefix has at most 16 MiB");
            ranges.push(BaseRange { entry: base.entry, offset, length });
        }
    }
    ranges
}

/// A range of an old object whose bytes are part of a block's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRange {
    /// The range.
    pub base: BaseRange,
    /// The offset of the same bytes in the block's content.
    pub at: usize,
}

/// The parts of old objects whose bytes a block's `pieces` contain, as many as the format allows in
/// a block that also has the base ranges `ranges`. For a new object, `matches_of` returns the
/// position of the old object and the matched ranges, in ascending order.
///
/// If a piece is part of a large object, only matches within the piece are used. What the rest of
/// the object shares with the old object helps little, and the mirror would have to read it.
#[must_use]
pub fn known_ranges<'m>(
    pieces: &[Piece],
    ranges: &[BaseRange],
    matches_of: impl Fn(u32) -> Option<(u64, &'m [MatchedRange])>,
) -> Vec<KnownRange> {
    let used: u64 = ranges.iter().map(|range| u64::from(range.length)).sum();
    let mut room = (MAX_PREFIX_BYTES as u64).saturating_sub(used);
    let mut known = Vec::new();
    let mut start = 0;
    for piece in pieces {
        let (entry, matches) = matches_of(piece.ordinal).unwrap_or_default();
        let piece_end = piece.offset + u64::from(piece.length);
        let first = matches.partition_point(|range| range.new + range.length <= piece.offset);
        for range in matches[first..].iter().take_while(|range| range.new < piece_end) {
            let new = range.new.max(piece.offset);
            let length = (range.new + range.length).min(piece_end).min(new + room) - new;
            if length == 0 || ranges.len() + known.len() == MAX_RANGES {
                break;
            }
            room -= length;
            let offset = range.base + (new - range.new);
            let at = start + usize::try_from(new - piece.offset).expect("a piece fits in memory");
            let length = u32::try_from(length).expect("a prefix has at most 16 MiB");
            known.push(KnownRange { base: BaseRange { entry, offset, length }, at });
        }
        start += piece.length as usize;
    }
    known
}

/// The start of a range of `length` bytes in an old object of `old` bytes. The middle of the range
/// corresponds to the middle of `piece` in the new object of `new` bytes.
fn start_of(piece: &Piece, new: u64, old: u64, length: u64) -> u64 {
    // 128 bits: the product of two sizes below 2^53 does not fit in 64.
    let middle = u128::from(piece.offset) + u128::from(piece.length) / 2;
    let place = middle * u128::from(old) / u128::from(new.max(1));
    let place = u64::try_from(place).unwrap_or(u64::MAX);
    place.saturating_sub(length / 2).min(old - length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bases_are_used_whole_and_once() {
        let table = [
            vec![Base { entry: 5, size: 100 }],
            vec![Base { entry: 5, size: 100 }, Base { entry: 9, size: 7 }],
        ];
        let pieces = [0, 1].map(|ordinal| Piece { ordinal, offset: 0, length: 50 });
        let ranges = base_ranges(&pieces, |ordinal| (&table[ordinal as usize], 50));
        let range = |entry, length| BaseRange { entry, offset: 0, length };
        assert_eq!(ranges, [range(5, 100), range(9, 7)]);
    }

    #[test]
    fn large_base_is_used_at_the_corresponding_offset() {
        let bases = [Base { entry: 0, size: 200 << 20 }];
        let at = |offset: u64| {
            let piece = Piece { ordinal: 0, offset, length: 4 << 20 };
            base_ranges(&[piece], |_| (&bases, 100 << 20))[0]
        };
        assert_eq!(at(0), BaseRange { entry: 0, offset: 0, length: 16 << 20 });
        assert_eq!(at(48 << 20).offset, (100 << 20) - (8 << 20));
        assert_eq!(at(96 << 20).offset, (200 << 20) - (16 << 20));
    }

    #[test]
    fn matches_are_clipped_to_the_piece_with_block_offsets() {
        let matches = [(0, 10, 90), (300, 100, 200), (900, 400, 50)]
            .map(|(base, new, length)| MatchedRange { base, new, length });
        let pieces = [
            Piece { ordinal: 0, offset: 0, length: 7 },
            Piece { ordinal: 1, offset: 150, length: 260 },
        ];
        let of = |ordinal| (ordinal == 1).then_some((5, &matches[..]));
        let range = |offset, length| BaseRange { entry: 5, offset, length };
        let known = |base, at| KnownRange { base, at };
        assert_eq!(
            known_ranges(&pieces, &[], of),
            [known(range(350, 150), 7), known(range(900, 10), 257)]
        );
        let full = [range(0, u32::try_from(MAX_PREFIX_BYTES).unwrap() - 60)];
        assert_eq!(known_ranges(&pieces, &full, of), [known(range(350, 60), 7)]);
    }

    #[test]
    fn prefix_limit_is_respected() {
        let bases: Vec<_> = (0..9).map(|entry| Base { entry, size: 3 << 20 }).collect();
        let ranges = base_ranges(&[Piece { ordinal: 0, offset: 0, length: 1 }], |_| (&bases, 1));
        assert_eq!(
            ranges.iter().map(|range| range.length as usize).sum::<usize>(),
            MAX_PREFIX_BYTES
        );
        assert_eq!(ranges.len(), 6);
    }
}
