//! A file in the cache: the frames of blocks, in the same form as in packs, followed by a table.
//!
//! ```text
//! frames    one after the other
//! table
//!   blocks  varint number, then for each block
//!     frame     varint length
//!     content   varint: twice its length, plus 1 if the frame is compressed
//!     depth     varint: length of the longest chain of blocks that must be decoded first
//!     digest    32 bytes: BLAKE3 of the frame
//!     bases     varint number, then for each: 32 bytes object id, varint offset, varint length
//!   objects for each, to the end of the table
//!     id        32 bytes
//!     size      varint
//!     parts     varint number, then for each in order: varint block, start in its content, length
//!     sketch    varint number of hashes, then 4 bytes each, little endian
//! trailer
//!   length    8 bytes, little endian: of the table
//!   digest    32 bytes: BLAKE3 of the table
//!   magic     8 bytes "HWKEPT\x02\n"
//! ```
//!
//! The bases of a block are objects in earlier blocks of this file or in older files.
//!
//! Content is stored in packed form, because that takes no extra work: 292 MB of new pages take up
//! 22 MB, plus 0.3 MB when all of them change again. Measurements with plain content showed
//! slightly faster reads, but writing it made a first push a quarter slower, and CI would transfer
//! all of it between runs.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use crate::hash::ObjectId;
use crate::pack::{MAX_CONTENT_BYTES, MAX_PACK_BYTES, Sketch};
use crate::varint;

const MAGIC: &[u8; 8] = b"HWKEPT\x02\n";
const DIGEST_BYTES: usize = 32;
const TRAILER_BYTES: usize = 8 + DIGEST_BYTES + MAGIC.len();
/// Maximum size of a table in bytes: enough for the records of more than a million files, at 40
/// bytes and a full sketch each.
const MAX_TABLE_BYTES: u64 = 512 << 20;

/// A range of an object that a block uses as a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedBase {
    /// The object.
    pub id: ObjectId,
    /// The offset of the range in the object.
    pub offset: u64,
    /// The length of the range in bytes.
    pub length: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockRecord {
    /// Where the block's frame begins in the file.
    pub(super) at: u64,
    pub(super) frame_bytes: usize,
    pub(super) content_bytes: usize,
    pub(super) is_encoded: bool,
    pub(super) depth: u32,
    pub(super) digest: [u8; DIGEST_BYTES],
    pub(super) bases: Vec<CachedBase>,
}

/// The range of a block's content that belongs to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) block: u32,
    pub(super) start: u32,
    pub(super) length: u32,
}

/// A stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// The object.
    pub id: ObjectId,
    /// The size of the object in bytes.
    pub size: u64,
    /// The object's sketch; empty if none was made.
    pub sketch: Sketch,
    pub(super) parts: Vec<Part>,
}

/// An open segment with a valid trailer.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) file: File,
    frames_end: u64,
    table_bytes: usize,
    digest: [u8; DIGEST_BYTES],
    blocks: OnceLock<Vec<BlockRecord>>,
}

/// Encodes a table and its trailer.
pub(super) fn encode_table(blocks: &[BlockRecord], records: &[ObjectRecord]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * 44 + TRAILER_BYTES);
    varint::push(blocks.len() as u64, &mut bytes);
    for block in blocks {
        varint::push(block.frame_bytes as u64, &mut bytes);
        varint::push((block.content_bytes as u64) << 1 | u64::from(block.is_encoded), &mut bytes);
        varint::push(block.depth.into(), &mut bytes);
        bytes.extend_from_slice(&block.digest);
        varint::push(block.bases.len() as u64, &mut bytes);
        for base in &block.bases {
            bytes.extend_from_slice(base.id.as_bytes());
            varint::push(base.offset, &mut bytes);
            varint::push(base.length.into(), &mut bytes);
        }
    }
    for record in records {
        bytes.extend_from_slice(record.id.as_bytes());
        varint::push(record.size, &mut bytes);
        varint::push(record.parts.len() as u64, &mut bytes);
        for part in &record.parts {
            [part.block, part.start, part.length]
                .into_iter()
                .for_each(|number| varint::push(number.into(), &mut bytes));
        }
        varint::push(record.sketch.hashes().len() as u64, &mut bytes);
        record.sketch.hashes().iter().for_each(|hash| bytes.extend_from_slice(&hash.to_le_bytes()));
    }
    let (length, digest) = (bytes.len() as u64, blake3::hash(&bytes));
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(digest.as_bytes());
    bytes.extend_from_slice(MAGIC);
    bytes
}

impl Segment {
    /// Opens a segment. Returns `None` if its trailer is invalid.
    pub(super) fn open(name: String, file: File) -> Option<Self> {
        let end = file.metadata().ok()?.len().checked_sub(TRAILER_BYTES as u64)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, end).ok()?;
        let (length, rest) = trailer.split_first_chunk::<8>()?;
        let (digest, magic) = rest.split_first_chunk::<DIGEST_BYTES>()?;
        let length = u64::from_le_bytes(*length);
        let frames_end = end.checked_sub(length)?;
        // The length is checked now, before any table of this size is read. The table itself is
        // checked when it is read.
        let is_one = magic == MAGIC && length <= MAX_TABLE_BYTES;
        let table_bytes = usize::try_from(length).ok()?;
        let blocks = OnceLock::new();
        is_one.then_some(Self { name, file, frames_end, table_bytes, digest: *digest, blocks })
    }

    /// Total length of the frames in bytes.
    pub(super) const fn frame_bytes(&self) -> u64 {
        self.frames_end
    }

    /// A block; `None` if it does not exist or the table has not been read yet.
    pub(super) fn block(&self, number: u32) -> Option<&BlockRecord> {
        self.blocks.get()?.get(number as usize)
    }

    /// All blocks; empty if the table has not been read yet.
    pub(super) fn blocks(&self) -> &[BlockRecord] {
        self.blocks.get().map_or(&[], Vec::as_slice)
    }

    /// Reads the table. Returns the objects for which `is_wanted` returns `true`, and remembers all
    /// blocks. Returns `None` if the table is damaged.
    pub(super) fn records(
        &self,
        is_wanted: impl Fn(&ObjectId) -> bool,
    ) -> Option<Vec<ObjectRecord>> {
        // Read for each query rather than kept in memory: the records of a million objects would
        // take hundreds of megabytes.
        let mut table = vec![0; self.table_bytes];
        self.file.read_exact_at(&mut table, self.frames_end).ok()?;
        if *blake3::hash(&table).as_bytes() != self.digest {
            return None;
        }
        let mut rest = &table[..];
        let blocks = take_blocks(&mut rest).filter(|blocks| {
            blocks.last().map_or(0, |block| block.at + block.frame_bytes as u64) <= self.frames_end
        })?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            // The digest shows that the table is unchanged since it was written, not that it was
            // correct. `read` slices with these ranges and would panic if they did not fit.
            let record = take_record(&mut rest).filter(|record| is_consistent(record, &blocks))?;
            if is_wanted(&record.id) {
                records.push(record);
            }
        }
        self.blocks.get_or_init(|| blocks);
        Some(records)
    }

    /// The frame of a block; `None` if it is damaged.
    pub(super) fn frame(&self, block: &BlockRecord) -> Option<Vec<u8>> {
        let mut frame = vec![0; block.frame_bytes];
        self.file.read_exact_at(&mut frame, block.at).ok()?;
        (*blake3::hash(&frame).as_bytes() == block.digest).then_some(frame)
    }
}

/// Whether the parts of an object lie within their blocks and add up to its size.
fn is_consistent(record: &ObjectRecord, blocks: &[BlockRecord]) -> bool {
    let is_there = |part: &Part| {
        let end = part.start as usize + part.length as usize;
        blocks.get(part.block as usize).is_some_and(|block| end <= block.content_bytes)
    };
    let bytes: u64 = record.parts.iter().map(|part| u64::from(part.length)).sum();
    bytes == record.size && record.parts.iter().all(is_there)
}

fn take_id(rest: &mut &[u8]) -> Option<[u8; DIGEST_BYTES]> {
    let (id, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*id)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    varint::take(rest).ok()?.try_into().ok()
}

fn take_blocks(rest: &mut &[u8]) -> Option<Vec<BlockRecord>> {
    let (mut blocks, mut at) = (Vec::new(), 0);
    for _ in 0..varint::take(rest).ok()? {
        let frame_bytes = take_u32(rest)? as usize;
        let content = take_u32(rest)?;
        let (content_bytes, is_packed) = ((content >> 1) as usize, content & 1 == 1);
        // These numbers decide how much memory `frame` and the decoder allocate.
        if frame_bytes > MAX_PACK_BYTES || content_bytes > MAX_CONTENT_BYTES {
            return None;
        }
        let (depth, digest) = (take_u32(rest)?, take_id(rest)?);
        let mut bases = Vec::new();
        for _ in 0..varint::take(rest).ok()? {
            let id = ObjectId::from_bytes(take_id(rest)?);
            bases.push(CachedBase {
                id,
                offset: varint::take(rest).ok()?,
                length: take_u32(rest)?,
            });
        }
        blocks.push(BlockRecord {
            at,
            frame_bytes,
            content_bytes,
            is_encoded: is_packed,
            depth,
            digest,
            bases,
        });
        at += frame_bytes as u64;
    }
    Some(blocks)
}

fn take_record(rest: &mut &[u8]) -> Option<ObjectRecord> {
    let (id, size) = (ObjectId::from_bytes(take_id(rest)?), varint::take(rest).ok()?);
    let mut parts = Vec::new();
    for _ in 0..varint::take(rest).ok()? {
        parts.push(Part {
            block: take_u32(rest)?,
            start: take_u32(rest)?,
            length: take_u32(rest)?,
        });
    }
    let count = usize::try_from(varint::take(rest).ok()?).ok()?;
    let (hashes, tail) = rest.split_at_checked(count.checked_mul(4)?)?;
    *rest = tail;
    let hashes = hashes.as_chunks().0.iter().map(|hash| u32::from_le_bytes(*hash)).collect();
    Some(ObjectRecord { id, size, parts, sketch: Sketch::from_hashes(hashes)? })
}
