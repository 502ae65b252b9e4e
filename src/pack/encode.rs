//! Encodes blocks and verifies each one.
//!
//! Every [`EncodedBlock`] has been decoded and compared with the content that it was made from.
//! Equal inputs give equal bytes.

use std::io;

use super::block::{Block, StoredFrame};
use super::delta::{self, DeltaEncoder, Match};
use super::layout::{self, BlockKind, ByteCursor};
use super::{BaseRange, KnownRange, Level, MAX_PACK_BYTES, PackError, Piece, frame};
use crate::varint;

/// The zstd level for the ranges. They are short, so a high level costs little.
const RANGES_LEVEL: i32 = 9;

/// A block as it is stored in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBlock {
    bytes: Vec<u8>,
    /// Where the frame begins in `bytes`.
    frame_at: usize,
    is_encoded: bool,
    content_bytes: usize,
    piece_count: usize,
    base_count: usize,
}

impl EncodedBlock {
    /// Length of the uncompressed content in bytes.
    #[must_use]
    pub const fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Length of the block in a pack, including its header, in bytes.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The number of pieces.
    #[must_use]
    pub const fn piece_count(&self) -> usize {
        self.piece_count
    }

    /// The number of bases; 0 if they did not help and were left out.
    #[must_use]
    pub const fn base_count(&self) -> usize {
        self.base_count
    }

    /// The encoded content without the ranges, for a caller that stores the ranges itself.
    #[must_use]
    pub fn frame(&self) -> StoredFrame<'_> {
        let (is_packed, content_bytes) = (self.is_encoded, self.content_bytes);
        StoredFrame { bytes: &self.bytes[self.frame_at..], is_encoded: is_packed, content_bytes }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The inputs of a block.
#[derive(Debug, Clone, Copy)]
pub struct BlockInput<'a> {
    /// The pieces.
    pub pieces: &'a [Piece],
    /// The content of the pieces, concatenated.
    pub content: &'a [u8],
    /// The base ranges.
    pub bases: &'a [BaseRange],
    /// The content of the base ranges, concatenated.
    pub prefix: &'a [u8],
    /// Those base ranges, at the end of `bases`, whose bytes have a known position in the content.
    pub known: &'a [KnownRange],
    /// How the content is compressed.
    pub level: Level,
}

impl BlockInput<'_> {
    /// This input without bases.
    #[must_use]
    pub const fn without_bases(self) -> Self {
        Self { bases: &[], prefix: &[], known: &[], ..self }
    }
}

/// Encodes `content`, the concatenation of `pieces`, into a block against `prefix`, the
/// concatenation of `bases`. Like [`BlockEncoder::encode`], for a single block.
///
/// # Errors
/// The errors of [`BlockEncoder::encode`].
pub fn encode_block(
    pieces: &[Piece],
    content: &[u8],
    bases: &[BaseRange],
    prefix: &[u8],
    level: Level,
) -> Result<EncodedBlock, PackError> {
    BlockEncoder::default().encode(BlockInput { pieces, content, bases, prefix, known: &[], level })
}

/// Encodes blocks and reuses its memory: allocating new memory costs more than decoding into it.
#[derive(Debug, Default)]
pub struct BlockEncoder {
    delta: DeltaEncoder,
    verify_buffer: Vec<u8>,
}

impl BlockEncoder {
    /// Encodes a block.
    ///
    /// The block is raw, without bases, if the level is [`Level::Raw`] or compression gains
    /// nothing. When this function returns, the block has been decoded and compared with the
    /// content. The same input gives the same bytes.
    ///
    /// # Errors
    /// Fails if the parts of the input do not fit together or exceed the limits of the format, or
    /// if bases are given for a raw level. Also fails with [`PackError::EncoderFault`].
    pub fn encode(&mut self, input: BlockInput<'_>) -> Result<EncodedBlock, PackError> {
        // Taken out, because the closure needs it while `self` is borrowed for the verification.
        let mut delta = std::mem::take(&mut self.delta);
        let encoder = |content: &[u8], prefix: &[u8], level| {
            if !input.known.is_empty() {
                return encode_known(input, level);
            }
            match delta.encode(content, prefix, level)? {
                Some(delta) => Ok(delta),
                None => frame::encode(content, prefix, level),
            }
        };
        let block = self.encode_with(encoder, input);
        self.delta = delta;
        block
    }

    /// Like [`Self::encode`], but with a given encoder; tests pass a faulty one.
    fn encode_with(
        &mut self,
        encoder: impl FnOnce(&[u8], &[u8], i32) -> io::Result<Vec<u8>>,
        input: BlockInput<'_>,
    ) -> Result<EncodedBlock, PackError> {
        let block = make_block(encoder, input)?;
        verify(&block, input, &mut self.verify_buffer)?;
        Ok(block)
    }
}

/// Encodes content that contains ranges of the prefix at known positions, as a delta with these
/// copies, or as a frame if that is smaller: a frame also compresses what is between the copies
/// against the prefix.
fn encode_known(input: BlockInput<'_>, level: i32) -> io::Result<Vec<u8>> {
    /// No frame is tried if the delta is smaller than the content divided by this number.
    const SKIP_FRAME_RATIO: usize = 512;
    let BlockInput { content, prefix, known, .. } = input;
    let copied: usize = known.iter().map(|range| range.base.length as usize).sum();
    let mut from = prefix.len().saturating_sub(copied);
    let copies = known.iter().map(|KnownRange { base, at }| {
        let length = base.length as usize;
        from += length;
        Match { at: *at, from: from - length, length }
    });
    let copies: Vec<Match> = copies.collect();
    match delta::encode_matches(content, &copies, level)? {
        Some(delta) if delta.len() < content.len() / SKIP_FRAME_RATIO => Ok(delta),
        delta => {
            let frame = frame::encode(content, prefix, level)?;
            Ok(delta.filter(|delta| delta.len() < frame.len()).unwrap_or(frame))
        }
    }
}

/// Encodes a block without verifying it.
fn make_block(
    encoder: impl FnOnce(&[u8], &[u8], i32) -> io::Result<Vec<u8>>,
    input: BlockInput<'_>,
) -> Result<EncodedBlock, PackError> {
    check_input(input)?;
    let BlockInput { pieces, content, bases, prefix, level, .. } = input;
    let frame = match level {
        Level::Raw => None,
        // With bases, even compressed content may be mostly old content.
        Level::Zstd(_) if bases.is_empty() && frame::looks_compressed(content) => None,
        Level::Zstd(level) => {
            Some(encoder(content, prefix, level).map_err(|source| PackError::Encoder { source })?)
        }
    };
    let raw_head = plain_head(BlockKind::Raw, pieces, &[]);
    let zstd = match frame {
        Some(frame) => Some((zstd_head(pieces, bases)?, frame)),
        None => None,
    };
    Ok(match zstd {
        // Compares complete blocks, because a raw block also saves the list of bases.
        Some((head, frame)) if head.len() + frame.len() < raw_head.len() + content.len() => {
            let made =
                StoredFrame { bytes: &frame, is_encoded: true, content_bytes: content.len() };
            assemble(&head, made, pieces, bases)
        }
        _ => {
            let raw =
                StoredFrame { bytes: content, is_encoded: false, content_bytes: content.len() };
            assemble(&raw_head, raw, pieces, &[])
        }
    })
}

fn plain_head(kind: BlockKind, pieces: &[Piece], bases: &[BaseRange]) -> Vec<u8> {
    let mut head = vec![kind.byte()];
    layout::push_pieces(pieces, &mut head);
    layout::push_bases(bases, &mut head);
    head
}

/// The header with plain or compressed ranges, whichever is shorter.
fn zstd_head(pieces: &[Piece], bases: &[BaseRange]) -> Result<Vec<u8>, PackError> {
    let plain = plain_head(BlockKind::Zstd, pieces, bases);
    // Makes both forms, because only their lengths show which is shorter.
    let ranges = layout::encode_dense(pieces, bases);
    let packed = frame::encode(&ranges, &[], RANGES_LEVEL)
        .map_err(|source| PackError::Encoder { source })?;
    let mut head = vec![BlockKind::Dense.byte()];
    varint::push(ranges.len() as u64, &mut head);
    varint::push(packed.len() as u64, &mut head);
    head.extend_from_slice(&packed);
    Ok(if head.len() < plain.len() { head } else { plain })
}

fn check_input(input: BlockInput<'_>) -> Result<(), PackError> {
    let BlockInput { pieces, content, bases, prefix, known, level } = input;
    if layout::content_bytes(pieces)? != content.len() {
        return Err(PackError::Layout { what: "the content is not as long as its pieces" });
    }
    let expected = layout::prefix_bytes(bases)?;
    if expected != prefix.len() {
        return Err(PackError::Prefix { expected, found: prefix.len() });
    }
    let mut end = 0;
    let known_bases = &bases[bases.len().saturating_sub(known.len())..];
    if known_bases.len() < known.len() {
        return Err(PackError::Layout { what: "there are more known ranges than bases" });
    }
    for (range, base) in known.iter().zip(known_bases) {
        if range.at < end || range.base != *base {
            return Err(PackError::Layout { what: "known ranges overlap or are no bases" });
        }
        end = range.at + range.base.length as usize;
    }
    if end > content.len() {
        return Err(PackError::Layout { what: "a known range is not in the content" });
    }
    if !level.is_valid() {
        return Err(PackError::Layout { what: "no such compression level" });
    }
    if level == Level::Raw && !bases.is_empty() {
        return Err(PackError::Layout { what: "a raw block has no bases" });
    }
    Ok(())
}

fn assemble(
    head: &[u8],
    frame: StoredFrame<'_>,
    pieces: &[Piece],
    bases: &[BaseRange],
) -> EncodedBlock {
    let StoredFrame { bytes: frame, is_encoded: is_packed, content_bytes } = frame;
    let mut bytes = Vec::with_capacity(head.len() + varint::MAX_BYTES + frame.len());
    bytes.extend_from_slice(head);
    varint::push(frame.len() as u64, &mut bytes);
    let frame_at = bytes.len();
    bytes.extend_from_slice(frame);
    let (piece_count, base_count) = (pieces.len(), bases.len());
    EncodedBlock { bytes, frame_at, is_encoded: is_packed, content_bytes, piece_count, base_count }
}

/// Decodes the block as a receiver does and compares it with its input.
fn verify(
    block: &EncodedBlock,
    input: BlockInput<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(), PackError> {
    debug_assert!(block.bytes.len() < MAX_PACK_BYTES / 2, "header and frame have their own limits");
    let mut cursor = ByteCursor { rest: &block.bytes };
    // If the block became raw, its bases were left out.
    let (bases, prefix): (&[BaseRange], &[u8]) =
        if block.base_count == 0 { (&[], &[]) } else { (input.bases, input.prefix) };
    let read = Block::take(&mut cursor).and_then(|read| {
        let same = cursor.rest.is_empty()
            && read.pieces() == input.pieces
            // The receiver makes the prefix from this list; here, the prefix is given.
            && read.bases() == bases
            && *read.decode_in(prefix, buffer)? == *input.content;
        Ok(same)
    });
    match read {
        Ok(true) => Ok(()),
        Ok(false) => Err(PackError::EncoderFault { source: None }),
        Err(error) => Err(PackError::EncoderFault { source: Some(Box::new(error)) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::tests::noise;

    const TEXT: &[u8] = b"the same words, the same words, the same words, the same words";

    fn piece(content: &[u8]) -> [Piece; 1] {
        [Piece { ordinal: 0, offset: 0, length: u32::try_from(content.len()).unwrap() }]
    }

    fn plain<'a>(pieces: &'a [Piece], content: &'a [u8]) -> BlockInput<'a> {
        BlockInput { pieces, content, bases: &[], prefix: &[], known: &[], level: Level::default() }
    }

    fn base(prefix: &[u8]) -> [BaseRange; 1] {
        [BaseRange { entry: 3, offset: 5, length: u32::try_from(prefix.len()).unwrap() }]
    }

    #[test]
    fn every_flipped_bit_of_an_encoder_is_detected() {
        let frame = frame::encode(TEXT, &[], 3).unwrap();
        for bit in 0..frame.len() * 8 {
            let faulty = |content: &[u8], prefix: &[u8], level| {
                let mut frame = frame::encode(content, prefix, level)?;
                frame[bit / 8] ^= 1 << (bit % 8);
                Ok(frame)
            };
            let result = BlockEncoder::default().encode_with(faulty, plain(&piece(TEXT), TEXT));
            assert!(matches!(result, Err(PackError::EncoderFault { .. })), "bit {bit}: {result:?}");
        }
    }

    #[test]
    fn no_flipped_bit_of_a_frame_against_bases_changes_content() {
        let old = noise(TEXT.len());
        let content = [&old[..], b"and more"].concat();
        let bits = frame::encode(&content, &old, 3).unwrap().len() * 8;
        let mut noticed = 0;
        for bit in 0..bits {
            let faulty = |content: &[u8], prefix: &[u8], level| {
                let mut frame = frame::encode(content, prefix, level)?;
                frame[bit / 8] ^= 1 << (bit % 8);
                Ok(frame)
            };
            let (pieces, bases) = (piece(&content), base(&old));
            let input = BlockInput { bases: &bases, prefix: &old, ..plain(&pieces, &content) };
            match BlockEncoder::default().encode_with(faulty, input) {
                Err(PackError::EncoderFault { .. }) => noticed += 1,
                // Two encodings may be equivalent.
                Ok(block) => {
                    let read = Block::take(&mut ByteCursor { rest: &block.bytes }).unwrap();
                    assert_eq!(*read.decode(&old).unwrap(), *content, "bit {bit}");
                }
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
        assert!(noticed * 10 > bits * 9, "{noticed} of {bits}");
    }

    #[test]
    fn bases_other_than_those_of_the_input_are_detected() {
        let old = noise(300);
        let content = [&old[..], b"and more"].concat();
        let (pieces, bases) = (piece(&content), base(&old));
        let input = BlockInput { bases: &bases, prefix: &old, ..plain(&pieces, &content) };
        let block = BlockEncoder::default().encode(input).unwrap();
        assert_eq!(block.base_count, 1);
        verify(&block, input, &mut Vec::new()).unwrap();
        let others = [BaseRange { offset: 6, ..bases[0] }];
        let other = BlockInput { bases: &others, ..input };
        assert!(verify(&block, other, &mut Vec::new()).is_err());
    }

    #[test]
    fn frame_against_other_bases_is_detected() {
        let old = noise(300);
        let faulty = |content: &[u8], prefix: &[u8], level| {
            let [content, prefix] = [content, prefix].map(|bytes| {
                let mut bytes = bytes.to_vec();
                bytes[100] ^= 1;
                bytes
            });
            frame::encode(&content, &prefix, level)
        };
        // The output is right, but the checksum of the frame is wrong.
        let (pieces, bases) = (piece(&old), base(&old));
        let input = BlockInput { bases: &bases, prefix: &old, ..plain(&pieces, &old) };
        let result = BlockEncoder::default().encode_with(faulty, input);
        assert!(matches!(result, Err(PackError::EncoderFault { source: Some(_) })), "{result:?}");
    }

    #[test]
    fn valid_frame_of_other_content_is_detected() {
        let faulty = |content: &[u8], prefix: &[u8], level| {
            let mut content = content.to_vec();
            content[7] ^= 1;
            frame::encode(&content, prefix, level)
        };
        let result = BlockEncoder::default().encode_with(faulty, plain(&piece(TEXT), TEXT));
        assert!(matches!(result, Err(PackError::EncoderFault { source: None })), "{result:?}");
    }

    #[test]
    fn encoder_failure_is_not_reported_as_a_frame_error() {
        let broken = |_: &[u8], _: &[u8], _| Err(io::Error::other("no memory"));
        let result = BlockEncoder::default().encode_with(broken, plain(&piece(TEXT), TEXT));
        assert!(matches!(result, Err(PackError::Encoder { .. })), "{result:?}");
    }

    #[test]
    fn incompressible_content_is_raw_and_drops_its_bases() {
        let content = noise(5000);
        let raw = encode_block(&piece(&content), &content, &[], &[], Level::Raw).unwrap();
        let packed = encode_block(&piece(&content), &content, &[], &[], Level::Zstd(19)).unwrap();
        let against =
            encode_block(&piece(&content), &content, &base(TEXT), TEXT, Level::Zstd(3)).unwrap();
        assert_eq!(raw.as_bytes()[0], BlockKind::Raw.byte());
        assert_eq!((&packed, &against), (&raw, &raw));
        assert_eq!(against.base_count(), 0);
    }

    #[test]
    fn large_incompressible_content_skips_the_encoder() {
        let content = noise(1 << 20);
        let unused = |_: &[u8], _: &[u8], _| panic!("the encoder was asked");
        let pieces = piece(&content);
        let input = BlockInput { level: Level::Zstd(19), ..plain(&pieces, &content) };
        let block = BlockEncoder::default().encode_with(unused, input).unwrap();
        assert_eq!(block.content_bytes(), 1 << 20);
    }

    #[test]
    fn incompressible_content_with_bases_is_small() {
        let content = noise(300_000);
        let block =
            encode_block(&piece(&content), &content, &base(&content), &content, Level::default())
                .unwrap();
        assert_eq!((block.piece_count(), block.base_count()), (1, 1));
        assert!(block.encoded_bytes() < 300, "{}", block.encoded_bytes());
    }

    /// Content that is known but for two gaps, with its prefix.
    fn with_gaps() -> (Vec<u8>, Vec<u8>, Vec<KnownRange>) {
        let content = noise(90_000);
        let range =
            |offset, at, length| KnownRange { base: BaseRange { entry: 3, offset, length }, at };
        let known = vec![range(5, 0, 40_000), range(40_900, 41_000, 48_000)];
        let prefix = [&content[..40_000], &content[41_000..89_000]].concat();
        (content, prefix, known)
    }

    #[test]
    fn known_ranges_are_copied_and_the_rest_is_sent() {
        let (content, prefix, known) = with_gaps();
        let bases: Vec<_> = known.iter().map(|range| range.base).collect();
        let pieces = piece(&content);
        let input = BlockInput {
            bases: &bases,
            prefix: &prefix,
            known: &known,
            ..plain(&pieces, &content)
        };
        let block = BlockEncoder::default().encode(input).unwrap();
        assert!((2000..2100).contains(&block.encoded_bytes()), "{}", block.encoded_bytes());
        // They may follow bases that were read.
        let read = noise(100_000)[95_000..].to_vec();
        let bases = [&base(&read)[..], &bases].concat();
        let prefix = [&read[..], &prefix].concat();
        let block = BlockEncoder::default()
            .encode(BlockInput { bases: &bases, prefix: &prefix, ..input })
            .unwrap();
        assert!((2000..2100).contains(&block.encoded_bytes()), "{}", block.encoded_bytes());
    }

    #[test]
    fn invalid_known_ranges_are_refused() {
        let (content, prefix, known) = with_gaps();
        let bases: Vec<_> = known.iter().map(|range| range.base).collect();
        let pieces = piece(&content);
        let encode = |known: &[KnownRange]| {
            let plain = plain(&pieces, &content);
            let input = BlockInput { bases: &bases, prefix: &prefix, known, ..plain };
            BlockEncoder::default().encode(input)
        };
        let with = |index: usize, at| {
            let mut known = known.clone();
            known[index].at = at;
            known
        };
        for known in [with(1, 39_999), with(1, 42_001), [&known[..], &known].concat()] {
            assert!(matches!(encode(&known), Err(PackError::Layout { .. })), "{known:?}");
        }
    }

    #[test]
    fn inconsistent_arguments_are_refused() {
        let encode =
            |pieces: &[Piece], content: &[u8], bases: &[BaseRange], prefix: &[u8], level| {
                encode_block(pieces, content, bases, prefix, level).unwrap_err()
            };
        let level = Level::default();
        assert!(matches!(encode(&[], b"", &[], &[], level), PackError::Layout { .. }));
        assert!(matches!(encode(&piece(b""), b"", &[], &[], level), PackError::Layout { .. }));
        assert!(matches!(encode(&piece(b"a"), b"ab", &[], &[], level), PackError::Layout { .. }));
        assert!(matches!(
            encode(&piece(b"a"), b"a", &base(b"x"), b"xy", level),
            PackError::Prefix { .. }
        ));
        assert!(matches!(
            encode(&piece(b"a"), b"a", &base(b"x"), b"x", Level::Raw),
            PackError::Layout { .. }
        ));
        assert!(matches!(
            encode(&piece(b"a"), b"a", &[], &[], Level::Zstd(0)),
            PackError::Layout { .. }
        ));
        let over = vec![0; crate::pack::MAX_CONTENT_BYTES + 1];
        assert!(matches!(encode(&piece(&over), &over, &[], &[], level), PackError::Limit { .. }));
        let over = vec![0; crate::pack::MAX_PREFIX_BYTES + 1];
        assert!(matches!(
            encode(&piece(b"a"), b"a", &base(&over), &over, level),
            PackError::Limit { .. }
        ));
    }
}
