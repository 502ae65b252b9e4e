//! One file of the cache: contents one behind the other, then a table of them.
//!
//! ```text
//! contents
//! table     for each object
//!   id        32 bytes
//!   offset    varint
//!   size      varint
//!   sketch    varint number of hashes, then 4 bytes each, little endian
//! trailer
//!   length    8 bytes, little endian: of the table
//!   digest    32 bytes: BLAKE3 of the table
//!   magic     8 bytes "HWKEPT\r\n"
//! ```
//!
//! Content is plain. Measured on 292 MB of pages: 0.10 s of a core to write it
//! so, 0.41 s with zstd -1, which makes it 24 MB; but every push writes and reads
//! much of it, and what packs a cache between runs of CI compresses it anyway.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::hash::ObjectId;
use crate::pack::Sketch;
use crate::varint;

const MAGIC: &[u8; 8] = b"HWKEPT\r\n";
const DIGEST_BYTES: usize = 32;
const TRAILER_BYTES: usize = 8 + DIGEST_BYTES + MAGIC.len();
/// Objects of 40 bytes and a full sketch each, of more than a million files.
const MAX_TABLE_BYTES: u64 = 512 << 20;

/// Where an object stands in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The object.
    pub id: ObjectId,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
    /// Its sketch, if one was made.
    pub sketch: Sketch,
}

/// A whole segment, opened.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) file: File,
    table: u64,
    table_bytes: usize,
    digest: [u8; DIGEST_BYTES],
}

/// The bytes of a table and its trailer.
pub(super) fn table_of(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * 44 + TRAILER_BYTES);
    for record in records {
        bytes.extend_from_slice(record.id.as_bytes());
        varint::push(record.offset, &mut bytes);
        varint::push(record.size, &mut bytes);
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
    /// Opens a segment; nothing if its end is not that of one.
    pub(super) fn open(name: String, file: File) -> Option<Self> {
        let end = file.metadata().ok()?.len().checked_sub(TRAILER_BYTES as u64)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, end).ok()?;
        let (length, rest) = trailer.split_first_chunk::<8>()?;
        let (digest, magic) = rest.split_first_chunk::<DIGEST_BYTES>()?;
        let length = u64::from_le_bytes(*length);
        let table = end.checked_sub(length)?;
        let is_one = magic == MAGIC && length <= MAX_TABLE_BYTES;
        let table_bytes = usize::try_from(length).ok()?;
        is_one.then_some(Self { name, file, table, table_bytes, digest: *digest })
    }

    /// Bytes of all its contents.
    pub(super) const fn content_bytes(&self) -> u64 {
        self.table
    }

    /// What it has; nothing if that is damaged.
    pub(super) fn records(&self) -> Option<Vec<Record>> {
        let mut table = vec![0; self.table_bytes];
        self.file.read_exact_at(&mut table, self.table).ok()?;
        if *blake3::hash(&table).as_bytes() != self.digest {
            return None;
        }
        let mut rest = &table[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            records.push(take_record(&mut rest).filter(|record| self.has(record))?);
        }
        Some(records)
    }

    fn has(&self, record: &Record) -> bool {
        record.offset.checked_add(record.size).is_some_and(|end| end <= self.table)
    }

    /// Copies objects of it behind `at` in `to`; answers where they stand there and the new end.
    pub(super) fn copy(&self, records: &[Record], to: &File, mut at: u64) -> io::Result<(Vec<Record>, u64)> {
        let mut copies = Vec::with_capacity(records.len());
        let mut buffer = vec![0; 1 << 20];
        for record in records {
            let mut done = 0;
            while done < record.size {
                let count = usize::try_from(record.size - done).unwrap_or(usize::MAX).min(buffer.len());
                self.file.read_exact_at(&mut buffer[..count], record.offset + done)?;
                to.write_all_at(&buffer[..count], at + done)?;
                done += count as u64;
            }
            copies.push(Record { offset: at, ..record.clone() });
            at += record.size;
        }
        Ok((copies, at))
    }
}

fn take_record(rest: &mut &[u8]) -> Option<Record> {
    let (id, tail) = rest.split_first_chunk()?;
    *rest = tail;
    let (offset, size) = (varint::take(rest).ok()?, varint::take(rest).ok()?);
    let count = usize::try_from(varint::take(rest).ok()?).ok()?;
    let (hashes, tail) = rest.split_at_checked(count.checked_mul(4)?)?;
    *rest = tail;
    let hashes = hashes.as_chunks().0.iter().map(|hash| u32::from_le_bytes(*hash)).collect();
    Some(Record { id: ObjectId::from_bytes(*id), offset, size, sketch: Sketch::from_hashes(hashes)? })
}

/// The records of several segments by object: the first of each counts.
pub(super) fn by_object(records: impl IntoIterator<Item = (usize, Record)>) -> HashMap<ObjectId, (usize, Record)> {
    let mut found = HashMap::new();
    for (segment, record) in records {
        found.entry(record.id).or_insert((segment, record));
    }
    found
}
