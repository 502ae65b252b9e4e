//! zstd frames: encoded with fixed parameters, decoded within fixed limits.
//!
//! Only this file calls the `zstd` crate. It parses the frame header (RFC 8878, 3.1.1.1) before the
//! library sees the frame, because the library accepts what the format forbids: frames without a
//! size or checksum, frames with a dictionary id, skippable frames, or several frames in a row.

use std::cell::RefCell;
use std::io::{self, Write};

use zstd::bulk::Compressor;
use zstd::stream::raw::{self, DParameter, Operation};
use zstd::stream::write::Encoder;
use zstd::zstd_safe::CParameter;

use super::PackError;

const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The smallest zstd window, as a power of two.
const MIN_WINDOW_LOG: u32 = 10;

/// The window, as a power of two, in which every byte of a block can refer to every base.
fn window_log(content_bytes: usize, prefix_bytes: usize) -> u32 {
    // In the window, the prefix comes before the content, so their sizes add up.
    (content_bytes + prefix_bytes).next_power_of_two().ilog2().max(MIN_WINDOW_LOG)
}

/// Prefix size, in bytes, above which long-distance matching uses denser parameters. By default,
/// the library samples so few positions in a large prefix that it misses many matches. Measured on
/// 385 MB of changed libraries with 16 MiB of prefix each: 60.6 MB in 1.37 s with the defaults,
/// 55.6 MB in 1.70 s with four times as many positions and half the minimum match length.
const LARGE_PREFIX_BYTES: usize = 4 << 20;

/// The level for a frame with a prefix. Long-distance matching leaves little to compress, so up to
/// level 7, the fastest level is used: the pages mentioned at [`encode_with_prefix`] take 0.23 s
/// instead of 0.37 s, and 8 % more bytes.
const fn level_with_prefix(level: i32) -> i32 {
    if level <= 7 { 1 } else { level }
}

/// Compresses `content` against `prefix` into one frame.
///
/// The bytes do not depend on earlier calls.
pub(super) fn encode(content: &[u8], prefix: &[u8], level: i32) -> io::Result<Vec<u8>> {
    if prefix.is_empty() {
        encode_plain(content, level)
    } else {
        encode_with_prefix(content, prefix, level)
    }
}

/// Encodes a frame without a prefix, with the library's one-shot functions. The streaming functions
/// would first copy the content to their own buffer.
fn encode_plain(content: &[u8], level: i32) -> io::Result<Vec<u8>> {
    PLAIN_ENCODER.with_borrow_mut(|plain| {
        let compressor = match plain {
            Some(compressor) => compressor,
            None => plain.insert(Compressor::new(level)?),
        };
        // Every parameter is set again: the compressor is reused, and the previous frame may have
        // had a different level or size.
        compressor.set_compression_level(level)?;
        compressor.set_parameter(CParameter::WindowLog(window_log(content.len(), 0)))?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        compressor.include_dictid(false)?;
        compressor.compress(content)
    })
}

/// Encodes a frame with a prefix. Each frame needs a new context, because a context is bound to its
/// prefix. The one-shot functions are not used, because their patches are several times as large as
/// those of the streaming functions.
///
/// Long-distance matching is always enabled with a prefix: the ordinary match finder, whose table
/// sizes depend on the level, misses matches further back. Measured on 10,145 changed pages (275
/// MB) in blocks of 256 KiB: 3.2 MB in 0.41 s without it, 0.16 MB in 0.40 s with it.
fn encode_with_prefix(content: &[u8], prefix: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::with_ref_prefix(Vec::new(), level_with_prefix(level), prefix)?;
    encoder.set_parameter(CParameter::WindowLog(window_log(content.len(), prefix.len())))?;
    encoder.long_distance_matching(true)?;
    if prefix.len() > LARGE_PREFIX_BYTES {
        encoder.set_parameter(CParameter::LdmHashRateLog(6))?;
        encoder.set_parameter(CParameter::LdmMinMatch(32))?;
    }
    // Without the checksum, a wrong base would silently decode to wrong bytes.
    encoder.include_checksum(true)?;
    encoder.include_contentsize(true)?;
    encoder.include_dictid(false)?;
    // A stream's header has no size unless the size is pledged.
    encoder.set_pledged_src_size(Some(content.len() as u64))?;
    encoder.write_all(content)?;
    encoder.finish()
}

#[derive(Debug, PartialEq, Eq)]
struct FrameHeader {
    content_bytes: u64,
    window_bytes: u64,
}

/// Reads `count` bytes as a little-endian number. Returns `None` beyond the end.
fn little_endian(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(count)?)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

fn parse_header(frame: &[u8]) -> Result<FrameHeader, PackError> {
    const CUT: PackError = PackError::frame("its header is truncated");
    if !frame.starts_with(&FRAME_MAGIC) {
        return Err(PackError::frame("it is not a zstd frame"));
    }
    let &descriptor = frame.get(4).ok_or(CUT)?;
    let single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x18 != 0 {
        return Err(PackError::frame("reserved bits are set"));
    }
    if descriptor & 0x04 == 0 {
        return Err(PackError::frame("no checksum"));
    }
    if descriptor & 0x03 != 0 {
        return Err(PackError::frame("it requires a dictionary"));
    }
    let size_at = if single_segment { 5 } else { 6 };
    let content_bytes = match (descriptor >> 6, single_segment) {
        (0, false) => return Err(PackError::frame("no content size")),
        (0, true) => little_endian(frame, size_at, 1),
        // RFC 8878: two bytes store the size minus 256.
        (1, _) => little_endian(frame, size_at, 2).map(|size| size + 256),
        (2, _) => little_endian(frame, size_at, 4),
        _ => little_endian(frame, size_at, 8),
    };
    let content_bytes = content_bytes.ok_or(CUT)?;
    let window_bytes = if single_segment {
        content_bytes
    } else {
        let &window = frame.get(5).ok_or(CUT)?;
        // The exponent is at most 10 + 31, so neither the shift nor the sum overflows.
        let base = 1u64 << (10 + (window >> 3));
        base + base / 8 * u64::from(window & 7)
    };
    Ok(FrameHeader { content_bytes, window_bytes })
}

/// Decodes `frame`, which must be exactly one frame, to exactly `content_bytes`.
///
/// # Errors
/// Fails if the frame breaks a rule of the format or does not decode, or if the bases differ from
/// the encoder's.
pub(super) fn decode(
    frame: &[u8],
    prefix: &[u8],
    content_bytes: usize,
) -> Result<Vec<u8>, PackError> {
    let mut content = Vec::new();
    decode_into(frame, prefix, content_bytes, &mut content)?;
    Ok(content)
}

/// Like [`decode`], but reuses a buffer. Overwrites the buffer, even on an error.
pub(super) fn decode_into(
    frame: &[u8],
    prefix: &[u8],
    content_bytes: usize,
    content: &mut Vec<u8>,
) -> Result<(), PackError> {
    let header = parse_header(frame)?;
    if header.content_bytes != content_bytes as u64 {
        return Err(PackError::frame("its size is not that of the pieces"));
    }
    // Computed from the declared sizes, so that a small block cannot demand memory for a large
    // window.
    let window_log = window_log(content_bytes, prefix.len());
    if header.window_bytes > 1 << window_log {
        return Err(PackError::frame("its window is too large"));
    }
    // Bounded: the caller has compared the size with the limit for a block.
    content.resize(content_bytes, 0);
    let status = with_decoder(prefix, |decoder| {
        decoder.set_parameter(DParameter::WindowLogMax(window_log))?;
        // The slice bounds the output. A run stops at the end of the frame, the input or the
        // output, whichever comes first.
        decoder.run_on_buffers(frame, content)
    });
    let corrupt = |source| PackError::Frame { what: "it does not decode", source: Some(source) };
    let status = status.map_err(corrupt)?;
    if status.remaining != 0 || status.bytes_written != content_bytes {
        return Err(PackError::frame("it is truncated"));
    }
    if status.bytes_read != frame.len() {
        return Err(PackError::frame("something follows it"));
    }
    Ok(())
}

thread_local! {
    /// The encoder and decoder for frames without a prefix. Creating one takes longer than most
    /// small frames.
    static PLAIN_ENCODER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static PLAIN_DECODER: RefCell<Option<raw::Decoder<'static>>> = const { RefCell::new(None) };
}

/// Calls `run` with a decoder that has no state from earlier frames. A decoder with a prefix is
/// created for this call alone.
fn with_decoder<T>(
    prefix: &[u8],
    run: impl FnOnce(&mut raw::Decoder<'_>) -> io::Result<T>,
) -> io::Result<T> {
    if !prefix.is_empty() {
        // A context is bound to its prefix, so this one cannot be kept.
        return run(&mut raw::Decoder::with_ref_prefix(prefix)?);
    }
    PLAIN_DECODER.with_borrow_mut(|plain| match plain {
        Some(decoder) => {
            // An error may have ended the last frame in the middle.
            decoder.reinit()?;
            run(decoder)
        }
        None => run(plain.insert(raw::Decoder::new()?)),
    })
}

/// Size of samples in [`looks_compressed`] and the distance between them, in bytes.
const SAMPLE_BYTES: usize = 4 << 10;
const SAMPLE_STRIDE: usize = 128 << 10;

/// Whether samples of `content` hardly compress, as in images, fonts and archives. Compressing such
/// content would waste time.
///
/// This does not detect similar parts that are far apart. Content shorter than two strides is not
/// worth sampling.
pub(super) fn looks_compressed(content: &[u8]) -> bool {
    if content.len() < 2 * SAMPLE_STRIDE {
        return false;
    }
    // Taken from all of the content: its beginning may differ in kind from the rest.
    let samples: Vec<u8> = content
        .chunks_exact(SAMPLE_STRIDE)
        .flat_map(|stride| &stride[..SAMPLE_BYTES])
        .copied()
        .collect();
    // 3 % is about what Huffman coding saves in JPEG and WOFF2 files.
    zstd::bulk::compress(&samples, 1).is_ok_and(|packed| packed.len() > samples.len() / 100 * 97)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::tests::noise;

    fn text() -> Vec<u8> {
        (0..2000).flat_map(|line: u32| format!("line {line} of some text\n").into_bytes()).collect()
    }

    fn encode_as(content: &[u8], with: impl FnOnce(&mut Encoder<'_, Vec<u8>>)) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
        with(&mut encoder);
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn fault(frame: &[u8], content_bytes: usize) -> &'static str {
        match decode(frame, &[], content_bytes) {
            Err(PackError::Frame { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn written_frames_are_single_segment_with_size_and_checksum() {
        let content = text();
        for prefix in [vec![], noise(600 << 10)] {
            let frame = encode(&content, &prefix, 3).unwrap();
            let bytes = content.len() as u64;
            assert_eq!(
                parse_header(&frame).unwrap(),
                FrameHeader { content_bytes: bytes, window_bytes: bytes }
            );
            assert_eq!(decode(&frame, &prefix, content.len()).unwrap(), content);
        }
    }

    #[test]
    fn distant_matches_are_found_in_a_full_prefix() {
        let prefix = noise(16 << 20);
        let mut content = prefix[..1 << 20].to_vec();
        content[1000] ^= 1;
        content.insert(500_000, b'x');
        let frame = encode(&content, &prefix, 3).unwrap();
        assert!(frame.len() < 2000, "{}", frame.len());
        assert_eq!(decode(&frame, &prefix, content.len()).unwrap(), content);
    }

    #[test]
    fn other_bases_are_detected() {
        let prefix = noise(10_000);
        let frame = encode(&prefix[100..9000], &prefix, 3).unwrap();
        let mut other = prefix;
        other[5000] ^= 1;
        assert!(matches!(
            decode(&frame, &other, 8900),
            Err(PackError::Frame { source: Some(_), .. })
        ));
    }

    #[test]
    fn non_canonical_frames_are_refused() {
        let content = text();
        let bytes = content.len();
        let good = encode(&content, &[], 3).unwrap();
        let no_size = encode_as(&content, |encoder| encoder.set_pledged_src_size(None).unwrap());
        assert_eq!(fault(&no_size, bytes), "no content size");
        let no_checksum = encode_as(&content, |encoder| encoder.include_checksum(false).unwrap());
        assert_eq!(fault(&no_checksum, bytes), "no checksum");
        assert_eq!(fault(&[&good[..], &good[..]].concat(), bytes), "something follows it");
        assert_eq!(fault(&[&good[..], &[0]].concat(), bytes), "something follows it");
        // A skippable frame before or after it.
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert_eq!(fault(&[&skippable[..], &good[..]].concat(), bytes), "it is not a zstd frame");
        assert_eq!(fault(&[&good[..], &skippable[..]].concat(), bytes), "something follows it");
        assert_eq!(fault(&good, bytes - 1), "its size is not that of the pieces");
        assert_eq!(fault(&good, bytes + 1), "its size is not that of the pieces");
        let mut reserved = good.clone();
        reserved[4] |= 8;
        assert_eq!(fault(&reserved, bytes), "reserved bits are set");
        let mut dictionary = good;
        dictionary[4] |= 1;
        assert_eq!(fault(&dictionary, bytes), "it requires a dictionary");
    }

    #[test]
    fn every_truncation_of_a_frame_is_refused() {
        let content = text();
        let frame = encode(&content, &[], 3).unwrap();
        for end in 0..frame.len() {
            fault(&frame[..end], content.len());
        }
    }

    /// A frame header with a window byte, then blocks of one repeated byte.
    fn repeated(window: u8, claimed: u32, blocks: &[u32]) -> Vec<u8> {
        let mut frame = FRAME_MAGIC.to_vec();
        frame.extend([0x84, window]);
        frame.extend(claimed.to_le_bytes());
        for (index, size) in blocks.iter().enumerate() {
            let is_last = u32::from(index + 1 == blocks.len());
            frame.extend(&(size << 3 | 1 << 1 | is_last).to_le_bytes()[..3]);
            frame.push(b'a');
        }
        frame.extend([0; 4]);
        frame
    }

    #[test]
    fn window_is_limited_to_the_need_of_the_block() {
        let window_of = |log: u8| (log - 10) << 3;
        assert_eq!(fault(&repeated(window_of(11), 1000, &[1000]), 1000), "its window is too large");
        assert_eq!(
            fault(&repeated(window_of(10) + 1, 1000, &[1000]), 1000),
            "its window is too large"
        );
        assert_eq!(fault(&repeated(0xff, 1000, &[1000]), 1000), "its window is too large");
        // Within the limits, so that only the missing checksum is wrong.
        assert_eq!(fault(&repeated(window_of(10), 1000, &[1000]), 1000), "it does not decode");
        let content = vec![7; 3000];
        let frame = encode_as(&content, |encoder| encoder.window_log(11).unwrap());
        assert_eq!(parse_header(&frame).unwrap().window_bytes, 2048);
        assert_eq!(decode(&frame, &[], 3000).unwrap(), content);
    }

    #[test]
    fn decompression_bombs_stop_at_the_declared_size() {
        let blocks = vec![128 << 10; 1000];
        assert_eq!(fault(&repeated(0, 1000, &blocks), 1000), "it does not decode");
        assert_eq!(fault(&repeated(7 << 3, 128 << 10, &blocks), 128 << 10), "it does not decode");
        assert_eq!(
            fault(&repeated(0, u32::MAX, &blocks), 1000),
            "its size is not that of the pieces"
        );
    }

    #[test]
    fn samples_distinguish_compressed_content_from_text() {
        let large = noise(1 << 20);
        assert!(looks_compressed(&large));
        assert!(!looks_compressed(&large[..100_000]));
        assert!(!looks_compressed(&text().repeat(20)));
        assert!(!looks_compressed(&[text().repeat(10), large].concat()));
    }
}
