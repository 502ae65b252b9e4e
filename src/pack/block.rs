//! A block as a reader sees it: checked ranges, and a frame that is not decoded yet.

use std::borrow::Cow;

use super::layout::{self, BlockKind, ByteCursor};
use super::{BaseRange, MAX_CONTENT_BYTES, MAX_DENSE_BYTES, PackError, Piece, delta, frame};

/// A block in a pack. Its ranges are within the limits of the format; its frame has been delimited
/// but not parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<'a> {
    kind: BlockKind,
    pieces: Vec<Piece>,
    bases: Vec<BaseRange>,
    content_bytes: usize,
    prefix_bytes: usize,
    frame: &'a [u8],
}

/// A block's encoded content, without the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredFrame<'a> {
    /// A zstd frame, a delta, or the content itself.
    pub bytes: &'a [u8],
    /// Whether `bytes` is encoded; `false` if it is the plain content.
    pub is_encoded: bool,
    /// Length of the content, at most [`MAX_CONTENT_BYTES`].
    pub content_bytes: usize,
}

impl<'a> StoredFrame<'a> {
    /// Decodes the content. `prefix` is the concatenation of the bases.
    ///
    /// # Errors
    /// Fails if the format forbids the frame, or if the frame does not decode to the declared
    /// length and checksum.
    pub fn decode(&self, prefix: &[u8]) -> Result<Cow<'a, [u8]>, PackError> {
        debug_assert!(self.content_bytes <= MAX_CONTENT_BYTES, "checked when the block was taken");
        if !self.is_encoded {
            return self.plain().map(Cow::Borrowed);
        }
        let mut content = Vec::new();
        self.decode_in(prefix, &mut content)?;
        Ok(Cow::Owned(content))
    }

    /// The content of a raw block.
    fn plain(&self) -> Result<&'a [u8], PackError> {
        if self.bytes.len() == self.content_bytes {
            Ok(self.bytes)
        } else {
            Err(PackError::frame("it is truncated"))
        }
    }

    /// Like [`Self::decode`], but reuses a buffer. A raw block is returned without touching the
    /// buffer.
    ///
    /// # Errors
    /// The errors of [`Self::decode`].
    pub fn decode_in<'b>(
        &self,
        prefix: &[u8],
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], PackError>
    where
        'a: 'b,
    {
        if !self.is_encoded {
            return self.plain();
        }
        // The first byte decides, not the block's kind: a delta has the same bases and ranges as a
        // frame.
        let decode_into =
            if delta::is_delta(self.bytes) { delta::decode_into } else { frame::decode_into };
        decode_into(self.bytes, prefix, self.content_bytes, buffer)?;
        Ok(buffer)
    }
}

impl<'a> Block<'a> {
    /// The pieces of the content, in order. The caller must check that their objects exist and the
    /// pieces do not overlap.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The ranges of the prefix, in order.
    #[must_use]
    pub fn bases(&self) -> &[BaseRange] {
        &self.bases
    }

    /// Length of the content: the sum of the pieces, at most [`MAX_CONTENT_BYTES`].
    #[must_use]
    pub const fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Length of the prefix that [`Self::decode`] needs: the sum of the bases.
    #[must_use]
    pub const fn prefix_bytes(&self) -> usize {
        self.prefix_bytes
    }

    /// Reads one block, beginning with its kind byte.
    pub(super) fn take(input: &mut ByteCursor<'a>) -> Result<Self, PackError> {
        let kind = BlockKind::from_byte(input.byte("kind of a block")?)?;
        let (pieces, bases) = match kind {
            BlockKind::Zstd | BlockKind::Raw => {
                (layout::take_pieces(input)?.0, layout::take_bases(input)?.0)
            }
            BlockKind::Dense => take_dense(input)?,
        };
        let (content_bytes, prefix_bytes) =
            (layout::content_bytes(&pieces)?, layout::prefix_bytes(&bases)?);
        let length = input.number("length of a frame")?;
        if kind == BlockKind::Raw {
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

    /// Decodes the content, which is the concatenation of the pieces and exactly
    /// [`Self::content_bytes`] long. `prefix` is the concatenation of the bases.
    ///
    /// Only the objects' hashes show whether the content is what the sender had.
    ///
    /// # Errors
    /// Fails if the prefix has a different length, if the format forbids the frame, or if the frame
    /// does not decode to the declared length and checksum.
    pub fn decode(&self, prefix: &[u8]) -> Result<Cow<'a, [u8]>, PackError> {
        self.frame_for_prefix(prefix)?.decode(prefix)
    }

    /// Like [`Self::decode`], but reuses a buffer.
    ///
    /// # Errors
    /// The errors of [`Self::decode`].
    pub fn decode_in<'b>(
        &self,
        prefix: &[u8],
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], PackError>
    where
        'a: 'b,
    {
        self.frame_for_prefix(prefix)?.decode_in(prefix, buffer)
    }

    /// Returns the frame. Fails if the prefix has the wrong length.
    fn frame_for_prefix(&self, prefix: &[u8]) -> Result<StoredFrame<'a>, PackError> {
        if prefix.len() != self.prefix_bytes {
            return Err(PackError::Prefix { expected: self.prefix_bytes, found: prefix.len() });
        }
        let (is_packed, content_bytes) = (self.kind != BlockKind::Raw, self.content_bytes);
        Ok(StoredFrame { bytes: self.frame, is_encoded: is_packed, content_bytes })
    }
}

/// Reads the compressed ranges of a dense block.
fn take_dense(input: &mut ByteCursor<'_>) -> Result<(Vec<Piece>, Vec<BaseRange>), PackError> {
    const WHAT: &str = "ranges of a block";
    let bytes = input.number(WHAT)?;
    // Checked before the frame is decoded, because even a small frame can declare any size.
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_DENSE_BYTES);
    let bytes = bytes.ok_or(PackError::Limit { what: WHAT, limit: MAX_DENSE_BYTES })?;
    let length = input.number(WHAT)?;
    let packed = input.take(length, WHAT)?;
    layout::take_dense(&frame::decode(packed, &[], bytes)?)
}
