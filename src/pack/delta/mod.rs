//! Deltas: content encoded as copies of prefix ranges, and the bytes between these copies.
//!
//! Deltas are used for content that is mostly in the prefix. Encoding one is several times as fast
//! as encoding a zstd frame with long-distance matching. A delta is also smaller, because copies
//! near the last one can be as short as eight bytes. Measured on 275 MB of changed pages: 0.08 MB
//! in 0.08 s, compared with 0.17 MB in 0.38 s; on 105 MB of scripts: 1.40 MB in 0.10 s, compared
//! with 1.94 MB in 0.29 s.

mod matches;

use std::io;

use twox_hash::XxHash3_64;

pub(super) use self::matches::Match;
use self::matches::Matcher;
use super::layout::{self, ByteCursor};
use super::{PackError, frame};
use crate::varint;

/// The first byte of a delta. No zstd frame begins with it.
const DELTA_MARKER: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// At most 1/4 of the content may lack a match in the prefix. These literals are compressed without
/// the prefix, so with more of them, a zstd frame is the better choice.
const MAX_LITERAL_DIVISOR: usize = 4;

/// Whether `bytes` is a delta; otherwise it is a zstd frame.
pub(super) fn is_delta(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DELTA_MARKER)
}

/// Encodes deltas, reusing its memory.
#[derive(Debug, Default)]
pub(super) struct DeltaEncoder {
    matcher: Matcher,
}

impl DeltaEncoder {
    /// Encodes `content` against `prefix`. Returns `None` if too little of it is in the prefix.
    pub(super) fn encode(
        &mut self,
        content: &[u8],
        prefix: &[u8],
        level: i32,
    ) -> io::Result<Option<Vec<u8>>> {
        if prefix.is_empty() {
            return Ok(None);
        }
        // The search itself gives up if there are more literals than this.
        let Some(matches) = self.matcher.find(content, prefix, content.len() / MAX_LITERAL_DIVISOR)
        else {
            return Ok(None);
        };
        encode_matches(content, &matches, level)
    }
}

/// Encodes `content` with these copies, given in ascending order. Returns `None` if the delta would
/// be larger than the content.
pub(super) fn encode_matches(
    content: &[u8],
    matches: &[Match],
    level: i32,
) -> io::Result<Option<Vec<u8>>> {
    let body = encode_body(content, matches);
    // The format forbids a larger body, so that a reader can bound it by the content.
    if body.len() > content.len() {
        return Ok(None);
    }
    // Without the prefix: what the content shares with it is in the copies.
    let packed = frame::encode(&body, &[], level)?;
    let mut bytes = vec![DELTA_MARKER];
    varint::push(body.len() as u64, &mut bytes);
    bytes.extend_from_slice(&packed);
    // The frame's checksum covers only the body. This one also detects bases that differ from the
    // encoder's.
    bytes.extend_from_slice(&checksum(content));
    Ok(Some(bytes))
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_64::oneshot(content).to_le_bytes()
}

/// The copies in columns, because neighbours are similar, and then all literals.
fn encode_body(content: &[u8], matches: &[Match]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::push(matches.len() as u64, &mut out);
    let ends = || std::iter::once((0, 0)).chain(matches.iter().map(Match::ends));
    let literals = || matches.iter().zip(ends()).map(|(found, (end, _))| &content[end..found.at]);
    literals().for_each(|literals| varint::push(literals.len() as u64, &mut out));
    matches.iter().for_each(|found| varint::push(found.length as u64, &mut out));
    for (found, (end, old_end)) in matches.iter().zip(ends()) {
        layout::push_difference(found.from as u64, (old_end + found.at - end) as u64, &mut out);
    }
    literals().for_each(|literals| out.extend_from_slice(literals));
    let (end, _) = ends().last().unwrap_or_default();
    out.extend_from_slice(&content[end..]);
    out
}

/// Decodes a delta to exactly `content_bytes`. Overwrites `content`, even on an error.
///
/// # Errors
/// Fails if the delta breaks a rule of the format, or if the bases differ from the encoder's.
pub(super) fn decode_into(
    delta: &[u8],
    prefix: &[u8],
    content_bytes: usize,
    content: &mut Vec<u8>,
) -> Result<(), PackError> {
    const WHAT: &str = "delta";
    content.clear();
    let mut input = ByteCursor { rest: delta };
    if input.byte(WHAT)? != DELTA_MARKER {
        return Err(PackError::frame("no delta"));
    }
    let body_bytes = input.number(WHAT)?;
    let body_bytes = usize::try_from(body_bytes).ok().filter(|bytes| *bytes <= content_bytes);
    let body_bytes = body_bytes.ok_or(PackError::frame("the delta is larger than its content"))?;
    let Some((packed, sum)) = input.rest.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(PackError::Truncated { what: WHAT });
    };
    apply(&frame::decode(packed, &[], body_bytes)?, prefix, content_bytes, content)?;
    if checksum(content) != *sum {
        return Err(PackError::frame("its checksum is not that of the content"));
    }
    Ok(())
}

/// Reassembles the content from `body`.
fn apply(
    body: &[u8],
    prefix: &[u8],
    content_bytes: usize,
    content: &mut Vec<u8>,
) -> Result<(), PackError> {
    const WHAT: &str = "copies of a delta";
    const TOO_LONG: PackError = PackError::frame("the delta produces more than its content");
    let mut input = ByteCursor { rest: body };
    let count = input.number(WHAT)?;
    let mut columns = [ByteCursor { rest: &[] }; 3];
    for column in &mut columns {
        // If there are too few bytes for the count, this fails before anything is allocated.
        *column = input.numbers(count, WHAT)?;
    }
    let [mut runs, mut lengths, mut places] = columns;
    content.reserve_exact(content_bytes);
    let mut old_end = 0u64;
    for _ in 0..count {
        let run = runs.number(WHAT)?;
        let length = lengths.number(WHAT)?;
        // Checked before copying, so that the content never grows beyond the declared length.
        let made = [content.len() as u64, run, length].into_iter().try_fold(0u64, u64::checked_add);
        if made.is_none_or(|made| made > content_bytes as u64) {
            return Err(TOO_LONG);
        }
        // The sum cannot overflow: the last copy lies within the prefix, and the run within the
        // content.
        let from = layout::take_difference(&mut places, old_end + run, WHAT)?;
        old_end =
            from.checked_add(length).ok_or(PackError::frame("a copy from outside the bases"))?;
        content.extend_from_slice(input.take(run, "literals of a delta")?);
        // The difference wraps around, so a hostile one can give any position; `get` refuses
        // positions outside the prefix.
        let range = usize::try_from(from).ok().zip(usize::try_from(old_end).ok());
        let copied = range.and_then(|(from, end)| prefix.get(from..end));
        content.extend_from_slice(copied.ok_or(PackError::frame("a copy from outside the bases"))?);
    }
    if content.len() + input.rest.len() != content_bytes {
        return Err(PackError::frame("the delta does not produce its content"));
    }
    content.extend_from_slice(input.rest);
    Ok(())
}

#[cfg(test)]
mod tests;
