//! One block as a reader sees it: checked ranges and a frame not yet decoded.

use std::borrow::Cow;

use super::layout::{self, Cursor, Kind};
use super::{BaseRange, MAX_CONTENT_BYTES, MAX_DENSE_BYTES, PackError, Piece, frame};

/// A block of a pack. Its ranges are within the limits of the format; its
/// frame has been delimited but not looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<'a> {
    kind: Kind,
    pieces: Vec<Piece>,
    bases: Vec<BaseRange>,
    content_bytes: usize,
    prefix_bytes: usize,
    frame: &'a [u8],
}

impl<'a> Block<'a> {
    /// What the content consists of, in its order. Whether the pieces are of
    /// objects that exist and do not overlap is for the reader to check.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// What the prefix consists of, in its order.
    #[must_use]
    pub fn bases(&self) -> &[BaseRange] {
        &self.bases
    }

    /// Bytes of the content: the sum of the pieces, at most [`MAX_CONTENT_BYTES`].
    #[must_use]
    pub const fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Bytes of the prefix that [`Self::decode`] wants: the sum of the bases.
    #[must_use]
    pub const fn prefix_bytes(&self) -> usize {
        self.prefix_bytes
    }

    /// Takes one block, its kind byte first.
    pub(super) fn take(input: &mut Cursor<'a>) -> Result<Self, PackError> {
        let kind = Kind::from_byte(input.byte("kind of a block")?)?;
        let (pieces, bases) = match kind {
            Kind::Zstd | Kind::Raw => (layout::take_pieces(input)?.0, layout::take_bases(input)?.0),
            Kind::Dense => take_dense(input)?,
        };
        let (content_bytes, prefix_bytes) = (layout::content_bytes(&pieces)?, layout::prefix_bytes(&bases)?);
        let length = input.number("length of a frame")?;
        if kind == Kind::Raw {
            if !bases.is_empty() {
                return Err(PackError::Layout { what: "a raw block has no bases" });
            }
            if length != content_bytes as u64 {
                return Err(PackError::Layout { what: "the content is not as long as its pieces" });
            }
        }
        let frame = input.take(length, "frame")?;
        Ok(Self { kind, pieces, bases, content_bytes, prefix_bytes, frame })
    }

    /// The content, exactly [`Self::content_bytes`] long: the concatenation of
    /// the pieces. `prefix` is the concatenation of the bases.
    ///
    /// That it is the content which the sender had is only known once the
    /// objects have been hashed.
    ///
    /// # Errors
    /// A prefix of another length, and every frame that the format forbids or
    /// that does not decode to the declared length and checksum.
    pub fn decode(&self, prefix: &[u8]) -> Result<Cow<'a, [u8]>, PackError> {
        debug_assert!(self.content_bytes <= MAX_CONTENT_BYTES, "checked when the block was taken");
        if prefix.len() != self.prefix_bytes {
            return Err(PackError::Prefix { expected: self.prefix_bytes, found: prefix.len() });
        }
        match self.kind {
            Kind::Raw => Ok(Cow::Borrowed(self.frame)),
            Kind::Zstd | Kind::Dense => frame::decode(self.frame, prefix, self.content_bytes).map(Cow::Owned),
        }
    }
}

/// Takes ranges that are compressed.
fn take_dense(input: &mut Cursor<'_>) -> Result<(Vec<Piece>, Vec<BaseRange>), PackError> {
    const WHAT: &str = "ranges of a block";
    let bytes = input.number(WHAT)?;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_DENSE_BYTES);
    let bytes = bytes.ok_or(PackError::Limit { what: WHAT, limit: MAX_DENSE_BYTES })?;
    let length = input.number(WHAT)?;
    let packed = input.take(length, WHAT)?;
    layout::take_dense(&frame::decode(packed, &[], bytes)?)
}
