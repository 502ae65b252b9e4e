//! The header of a block: the ranges of new objects that the block contains, and the ranges of old
//! objects that its frame is encoded against.
//!
//! Writes and reads both lists, and enforces their limits.

use super::{
    KIND_DENSE, KIND_RAW, KIND_ZSTD, MAX_CONTENT_BYTES, MAX_PREFIX_BYTES, MAX_RANGES, PackError,
};
use crate::varint;

/// A range of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// Ordinal of the new object in the bundle, counted from 0.
    pub ordinal: u32,
    /// Where the piece begins in the object.
    pub offset: u64,
    /// Length of the piece in bytes; never 0.
    pub length: u32,
}

/// A range of an object that the receiver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseRange {
    /// Position of a file among all entries in the base manifest, counted from 0.
    pub entry: u64,
    /// Where the range begins in the object.
    pub offset: u64,
    /// Length of the range in bytes; never 0.
    pub length: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    Zstd,
    /// Like `Zstd`, but with compressed ranges.
    Dense,
    Raw,
}

impl BlockKind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Zstd => KIND_ZSTD,
            Self::Dense => KIND_DENSE,
            Self::Raw => KIND_RAW,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Result<Self, PackError> {
        match byte {
            KIND_ZSTD => Ok(Self::Zstd),
            KIND_DENSE => Ok(Self::Dense),
            KIND_RAW => Ok(Self::Raw),
            _ => Err(PackError::Malformed { what: "a block of unknown kind" }),
        }
    }
}

/// The unread rest of a pack. It returns only bytes that are present.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByteCursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> ByteCursor<'a> {
    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, PackError> {
        let (&byte, rest) = self.rest.split_first().ok_or(PackError::Truncated { what })?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn number(&mut self, what: &'static str) -> Result<u64, PackError> {
        varint::take(&mut self.rest).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => PackError::Truncated { what },
            _ => PackError::Malformed { what },
        })
    }

    pub(super) fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], PackError> {
        let count = usize::try_from(count).map_err(|_| PackError::Truncated { what })?;
        let (bytes, rest) =
            self.rest.split_at_checked(count).ok_or(PackError::Truncated { what })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A cursor over the next `count` numbers, which are not parsed yet.
    pub(super) fn numbers(&mut self, count: u64, what: &'static str) -> Result<Self, PackError> {
        let Some(before_last) = count.checked_sub(1) else { return Ok(ByteCursor { rest: &[] }) };
        let mut ends = self.rest.iter().enumerate().filter(|(_, byte)| **byte < 0x80);
        let last = usize::try_from(before_last).ok().and_then(|before_last| ends.nth(before_last));
        let (last, _) = last.ok_or(PackError::Truncated { what })?;
        let rest = self.take(last as u64 + 1, what)?;
        Ok(ByteCursor { rest })
    }

    /// Reads a number of ranges, which must exceed neither the limit nor what the remaining bytes
    /// can hold.
    fn count(&mut self, what: &'static str) -> Result<usize, PackError> {
        /// Minimum length of a range in bytes: three numbers.
        const MIN_RANGE_BYTES: usize = 3;
        let count = self.number(what)?;
        let count = usize::try_from(count).ok().filter(|&count| count <= MAX_RANGES);
        let count = count.ok_or(PackError::Limit { what, limit: MAX_RANGES })?;
        // The caller allocates memory for this count. Without the check, a few bytes could claim
        // 65,536 ranges.
        if count * MIN_RANGE_BYTES > self.rest.len() {
            return Err(PackError::Truncated { what });
        }
        Ok(count)
    }
}

/// Adds the length of a range to `total`, and checks both against their limits.
fn add(
    total: usize,
    offset: u64,
    length: u32,
    what: &'static str,
    limit: usize,
) -> Result<usize, PackError> {
    if length == 0 {
        return Err(PackError::Layout { what: "a range without bytes" });
    }
    if offset.saturating_add(u64::from(length)) > varint::MAX_NUMBER {
        return Err(PackError::Layout { what: "a range that does not end below 2^53" });
    }
    usize::try_from(length)
        .ok()
        .and_then(|length| total.checked_add(length))
        .filter(|&total| total <= limit)
        .ok_or(PackError::Limit { what, limit })
}

fn add_piece(total: usize, piece: &Piece) -> Result<usize, PackError> {
    add(total, piece.offset, piece.length, "content bytes of a block", MAX_CONTENT_BYTES)
}

fn add_base(total: usize, base: &BaseRange) -> Result<usize, PackError> {
    add(total, base.offset, base.length, "base bytes of a block", MAX_PREFIX_BYTES)
}

/// The total length of `pieces`.
///
/// # Errors
/// Fails if there are no pieces, if a piece is empty, or if the pieces exceed the limits of the
/// format.
pub(super) fn content_bytes(pieces: &[Piece]) -> Result<usize, PackError> {
    if pieces.is_empty() {
        return Err(PackError::Layout { what: "no pieces" });
    }
    if pieces.len() > MAX_RANGES {
        return Err(PackError::Limit { what: "pieces of a block", limit: MAX_RANGES });
    }
    pieces.iter().try_fold(0, add_piece)
}

/// The total length of `bases`.
///
/// # Errors
/// Fails if a range is empty, or if the ranges exceed the limits of the format.
pub(super) fn prefix_bytes(bases: &[BaseRange]) -> Result<usize, PackError> {
    if bases.len() > MAX_RANGES {
        return Err(PackError::Limit { what: "bases of a block", limit: MAX_RANGES });
    }
    bases.iter().try_fold(0, add_base)
}

pub(super) fn push_pieces(pieces: &[Piece], out: &mut Vec<u8>) {
    varint::push(pieces.len() as u64, out);
    for piece in pieces {
        varint::push(u64::from(piece.ordinal), out);
        varint::push(piece.offset, out);
        varint::push(u64::from(piece.length), out);
    }
}

pub(super) fn push_bases(bases: &[BaseRange], out: &mut Vec<u8>) {
    varint::push(bases.len() as u64, out);
    for base in bases {
        varint::push(base.entry, out);
        varint::push(base.offset, out);
        varint::push(u64::from(base.length), out);
    }
}

fn length(input: &mut ByteCursor<'_>, what: &'static str, limit: usize) -> Result<u32, PackError> {
    u32::try_from(input.number(what)?).map_err(|_| PackError::Limit { what, limit })
}

/// Reads the pieces. Returns them with their total length.
pub(super) fn take_pieces(input: &mut ByteCursor<'_>) -> Result<(Vec<Piece>, usize), PackError> {
    let count = input.count("pieces of a block")?;
    if count == 0 {
        return Err(PackError::Layout { what: "no pieces" });
    }
    let mut pieces = Vec::with_capacity(count);
    let mut total = 0;
    for _ in 0..count {
        let ordinal = input.number("ordinal of a piece")?;
        let piece = Piece {
            ordinal: u32::try_from(ordinal)
                .map_err(|_| PackError::Malformed { what: "ordinal of a piece" })?,
            offset: input.number("offset of a piece")?,
            length: length(input, "content bytes of a block", MAX_CONTENT_BYTES)?,
        };
        total = add_piece(total, &piece)?;
        pieces.push(piece);
    }
    Ok((pieces, total))
}

/// Reads the bases. Returns them with their total length.
pub(super) fn take_bases(input: &mut ByteCursor<'_>) -> Result<(Vec<BaseRange>, usize), PackError> {
    let count = input.count("bases of a block")?;
    let mut bases = Vec::with_capacity(count);
    let mut total = 0;
    for _ in 0..count {
        let base = BaseRange {
            entry: input.number("entry of a base")?,
            offset: input.number("offset of a base")?,
            length: length(input, "base bytes of a block", MAX_PREFIX_BYTES)?,
        };
        total = add_base(total, &base)?;
        bases.push(base);
    }
    Ok((bases, total))
}

/// Encodes both lists as columns of differences. If neighbouring objects have neighbouring bases,
/// these are mostly zeros, so they compress to a third.
pub(super) fn encode_dense(pieces: &[Piece], bases: &[BaseRange]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::push(pieces.len() as u64, &mut out);
    varint::push(bases.len() as u64, &mut out);
    push_steps(pieces.iter().map(|piece| u64::from(piece.ordinal)), &mut out);
    pieces.iter().for_each(|piece| varint::push(piece.offset, &mut out));
    pieces.iter().for_each(|piece| varint::push(u64::from(piece.length), &mut out));
    let mut expected = ExpectedBase::new(pieces);
    for base in bases {
        push_difference(base.entry, expected.entry(), &mut out);
        expected.advance(base.entry);
    }
    bases.iter().for_each(|base| varint::push(base.offset, &mut out));
    for (index, base) in bases.iter().enumerate() {
        push_difference(u64::from(base.length), expected_length(pieces, index), &mut out);
    }
    out
}

/// The length of the piece with the same index, which probably is the one that the base is for.
fn expected_length(pieces: &[Piece], index: usize) -> u64 {
    pieces.get(index).map_or(0, |piece| u64::from(piece.length))
}

/// Predicts the entry of the next base: as far after the previous base as its piece is after the
/// previous piece.
struct ExpectedBase<'p> {
    pieces: &'p [Piece],
    index: usize,
    last: u64,
}

impl<'p> ExpectedBase<'p> {
    const fn new(pieces: &'p [Piece]) -> Self {
        Self { pieces, index: 0, last: 0 }
    }

    fn entry(&self) -> u64 {
        let ordinal = |index: usize| self.pieces.get(index).map(|piece| u64::from(piece.ordinal));
        let before = self.index.checked_sub(1).map_or(Some(0), ordinal);
        // Wrapping, here and in the differences below: the numbers come from a peer, and no number
        // may cause a panic. The ranges are checked afterwards.
        let step =
            ordinal(self.index).zip(before).map_or(1, |(now, before)| now.wrapping_sub(before));
        self.last.wrapping_add(step)
    }

    const fn advance(&mut self, entry: u64) {
        (self.index, self.last) = (self.index + 1, entry);
    }
}

/// Writes the difference between `value` and `expected` in zigzag form.
pub(super) fn push_difference(value: u64, expected: u64, out: &mut Vec<u8>) {
    let difference = value.wrapping_sub(expected).cast_signed();
    varint::push(((difference << 1) ^ (difference >> 63)).cast_unsigned(), out);
}

/// Writes numbers as differences. Each number is expected to be one more than the previous one.
fn push_steps(values: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
    let mut expected = 0;
    for value in values {
        push_difference(value, expected, out);
        expected = value.wrapping_add(1);
    }
}

/// Reads a number that [`push_difference`] wrote.
pub(super) fn take_difference(
    input: &mut ByteCursor<'_>,
    expected: u64,
    what: &'static str,
) -> Result<u64, PackError> {
    let zigzag = input.number(what)?;
    let difference = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
    Ok(expected.wrapping_add(difference.cast_unsigned()))
}

fn take_column<T>(
    count: usize,
    mut next: impl FnMut(usize) -> Result<T, PackError>,
) -> Result<Vec<T>, PackError> {
    (0..count).map(&mut next).collect()
}

fn take_steps(
    input: &mut ByteCursor<'_>,
    count: usize,
    what: &'static str,
) -> Result<Vec<u64>, PackError> {
    let mut expected = 0;
    take_column(count, |_| {
        let value = take_difference(input, expected, what)?;
        expected = value.wrapping_add(1);
        Ok(value)
    })
}

/// Reads the output of [`encode_dense`]. All bytes must be used.
pub(super) fn take_dense(bytes: &[u8]) -> Result<(Vec<Piece>, Vec<BaseRange>), PackError> {
    const PIECE: &str = "length of a piece";
    const BASE: &str = "length of a base";
    let input = &mut ByteCursor { rest: bytes };
    let counts = [input.count("pieces of a block")?, input.count("bases of a block")?];
    let ordinals = take_steps(input, counts[0], "ordinal of a piece")?;
    let offsets = take_column(counts[0], |_| input.number("offset of a piece"))?;
    let lengths = take_column(counts[0], |_| length(input, PIECE, MAX_CONTENT_BYTES))?;
    let mut pieces = Vec::with_capacity(counts[0]);
    for ((ordinal, offset), length) in ordinals.into_iter().zip(offsets).zip(lengths) {
        let ordinal = u32::try_from(ordinal)
            .map_err(|_| PackError::Malformed { what: "ordinal of a piece" })?;
        // Neither the sum nor the end is checked here, because `Block::take` checks them for both
        // forms.
        pieces.push(Piece { ordinal, offset, length });
    }
    let mut expected = ExpectedBase::new(&pieces);
    let entries = take_column(counts[1], |_| {
        let entry = take_difference(input, expected.entry(), "entry of a base")?;
        expected.advance(entry);
        Ok(entry)
    })?;
    let offsets = take_column(counts[1], |_| input.number("offset of a base"))?;
    let lengths = take_column(counts[1], |index| {
        let length = take_difference(input, expected_length(&pieces, index), BASE)?;
        u32::try_from(length).map_err(|_| PackError::Limit { what: BASE, limit: MAX_PREFIX_BYTES })
    })?;
    if !input.rest.is_empty() {
        return Err(PackError::Malformed { what: "bytes after the ranges of a block" });
    }
    let ranges = entries.into_iter().zip(offsets).zip(lengths);
    let bases =
        ranges.map(|((entry, offset), length)| BaseRange { entry, offset, length }).collect();
    Ok((pieces, bases))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_round_trip(
            raw in prop::collection::vec(
                (any::<u32>(), 0..varint::MAX_NUMBER / 2, 1u32..1000),
                1..50,
            )
        ) {
            let pieces: Vec<_> =
                raw.iter()
                    .map(|&(ordinal, offset, length)| Piece { ordinal, offset, length })
                    .collect();
            let bases: Vec<_> = raw
                .iter()
                .map(|&(entry, offset, length)| {
                    BaseRange { entry: u64::from(entry) << 20, offset, length }
                })
                .collect();
            let mut bytes = Vec::new();
            push_pieces(&pieces, &mut bytes);
            push_bases(&bases, &mut bytes);
            let mut input = ByteCursor { rest: &bytes };
            let length = content_bytes(&pieces).unwrap();
            prop_assert_eq!(take_pieces(&mut input).unwrap(), (pieces.clone(), length));
            let length = prefix_bytes(&bases).unwrap();
            prop_assert_eq!(take_bases(&mut input).unwrap(), (bases.clone(), length));
            prop_assert!(input.rest.is_empty());
            let packed = encode_dense(&pieces, &bases);
            prop_assert_eq!(take_dense(&packed).unwrap(), (pieces, bases));
            prop_assert!(take_dense(&packed[..packed.len() - 1]).is_err());
            prop_assert!(take_dense(&[&packed[..], &[0]].concat()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _pieces = take_pieces(&mut ByteCursor { rest: &bytes });
            let _bases = take_bases(&mut ByteCursor { rest: &bytes });
        }
    }

    fn pieces_of(numbers: &[u64]) -> Result<(Vec<Piece>, usize), PackError> {
        let mut bytes = Vec::new();
        numbers.iter().for_each(|&number| varint::push(number, &mut bytes));
        take_pieces(&mut ByteCursor { rest: &bytes })
    }

    #[test]
    fn counts_beyond_the_available_bytes_are_refused() {
        assert!(matches!(pieces_of(&[65_536, 0, 0, 1]), Err(PackError::Truncated { .. })));
        assert!(matches!(pieces_of(&[65_537, 0, 0, 1]), Err(PackError::Limit { .. })));
        assert!(matches!(pieces_of(&[u64::MAX, 0, 0, 1]), Err(PackError::Limit { .. })));
        assert!(matches!(pieces_of(&[0]), Err(PackError::Layout { .. })));
    }

    #[test]
    fn ranges_out_of_bounds_are_refused() {
        let max = MAX_CONTENT_BYTES as u64;
        assert!(pieces_of(&[1, 0, 0, max]).is_ok());
        assert!(matches!(pieces_of(&[1, 0, 0, max + 1]), Err(PackError::Limit { .. })));
        assert!(matches!(pieces_of(&[2, 0, 0, max, 1, 0, 1]), Err(PackError::Limit { .. })));
        assert!(matches!(pieces_of(&[1, 0, 0, 1 << 32]), Err(PackError::Limit { .. })));
        assert!(matches!(pieces_of(&[1, 0, 0, 0]), Err(PackError::Layout { .. })));
        assert!(pieces_of(&[1, 0, varint::MAX_NUMBER - 1, 1]).is_ok());
        assert!(matches!(pieces_of(&[1, 0, varint::MAX_NUMBER, 1]), Err(PackError::Layout { .. })));
        assert!(matches!(pieces_of(&[1, 1 << 32, 0, 1]), Err(PackError::Malformed { .. })));
        assert!(pieces_of(&[1, (1 << 32) - 1, 0, 1]).is_ok());
    }

    #[test]
    fn prefix_over_its_limit_is_refused_in_both_directions() {
        let base = BaseRange { entry: 0, offset: 0, length: 1 << 24 };
        assert_eq!(prefix_bytes(&[base]).unwrap(), MAX_PREFIX_BYTES);
        let over = [base, BaseRange { entry: 1, offset: 0, length: 1 }];
        assert!(matches!(prefix_bytes(&over), Err(PackError::Limit { .. })));
        let mut bytes = Vec::new();
        push_bases(&over, &mut bytes);
        assert!(matches!(
            take_bases(&mut ByteCursor { rest: &bytes }),
            Err(PackError::Limit { .. })
        ));
        let many = vec![BaseRange { entry: 0, offset: 0, length: 1 }; MAX_RANGES + 1];
        assert!(matches!(prefix_bytes(&many), Err(PackError::Limit { .. })));
    }
}
