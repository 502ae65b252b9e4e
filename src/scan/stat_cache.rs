//! The stat cache: the object id of each file, with the stamp that the file had with this content.
//!
//! Losing it costs time, never correctness: the whole cache file is verified before any of it is
//! used, and a damaged cache counts as missing. The cache is read as a stream along with the walk,
//! which is in the same order, and is not kept in memory.
//!
//! # Format
//!
//! Numbers are varints (`varint.rs`); times are nanoseconds since 1970 in zigzag form (`0, -1, 1,
//! -2, …` as `0, 1, 2, 3, …`).
//!
//! ```text
//! magic     8 bytes  "HWSTAT\r\n"
//! version   1 byte   2
//! roots     32 bytes BLAKE3 of the resolved path of each root and a NUL, in order
//! started   varint   when the scan that wrote it began
//! sections           one for each root, in order; in each
//!   records          ascending by path, below the root
//!     shared  varint bytes that the path has in common with the one before it in the section
//!     rest    varint number of the bytes that follow them, at least 1
//!     bytes
//!     size, mtime, ctime, inode, device    varints
//!     object  32 bytes
//!   end              two bytes 0
//! digest    32 bytes BLAKE3 of all before
//! ```
//!
//! # Racy records
//!
//! As in git, a file that was modified around the start of the scan may be modified again within
//! the same tick of the file system's clock, which leaves its stamp unchanged. Such a record is
//! stored but not used. The next scan, for which the stamp is old, replaces it.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use super::open_root::OpenRoot;
use crate::fsx::{self, FileStat};
use crate::hash::ObjectId;
use crate::tree_path::MAX_PATH_BYTES;
use crate::varint;

const MAGIC: &[u8; 8] = b"HWSTAT\r\n";
// Version 1 also stored files with private keys, without marking them.
const VERSION: u8 = 2;
const DIGEST_BYTES: usize = 32;

/// Upper bound on the length of a record, in bytes.
const MAX_RECORD_BYTES: usize = MAX_PATH_BYTES + 7 * varint::MAX_BYTES + DIGEST_BYTES;

/// How many bytes are read or written at a time.
const CHUNK_BYTES: usize = 128 * 1024;

/// How far a file system's clock may lag behind ours, in nanoseconds. It advances with the kernel's
/// tick, which is at most 10 ms.
const TICK_NS: i64 = 20_000_000;

/// The maximum lag for times that seem to be whole seconds: FAT has a resolution of 2 s.
const COARSE_TICK_NS: i64 = 2_000_000_000;

/// A file's stamp and object id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownFile {
    pub(super) stamp: FileStat,
    pub(super) object: ObjectId,
}

/// Whether a file with this stamp may have changed undetectably after a scan that began at
/// `started`.
pub(super) const fn is_racy(stamp: &FileStat, started: i64) -> bool {
    // No system call returns a file system's time resolution. A time without a fraction suggests a
    // coarse one.
    let margin = if stamp.mtime_ns % 1_000_000_000 == 0 { COARSE_TICK_NS } else { TICK_NS };
    // Uses the later time: programs can set `mtime` to any value, but not `ctime`.
    let last = if stamp.mtime_ns > stamp.ctime_ns { stamp.mtime_ns } else { stamp.ctime_ns };
    last >= started.saturating_sub(margin)
}

/// Why there is no cache to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheUnavailable {
    /// There is no cache, or it has different roots or a different version.
    Missing,
    /// The cache is damaged or cannot be read.
    Damaged,
}

/// Reads a cache from start to end.
#[derive(Debug)]
pub(super) struct StatCache {
    input: RecordReader,
    started: i64,
    /// The last record read; `None` at the end of a section or the cache.
    current: Option<KnownFile>,
    path: Vec<u8>,
}

impl StatCache {
    /// Opens the cache at `path`, positioned before the first section. The whole cache must be
    /// intact and for these roots.
    pub(super) fn open(path: &Path, roots: &[OpenRoot]) -> Result<Self, CacheUnavailable> {
        let damaged = |_: io::Error| CacheUnavailable::Damaged;
        let file = match fsx::none_if_missing(fsx::open_read(path)) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(CacheUnavailable::Missing),
            Err(_) => return Err(CacheUnavailable::Damaged),
        };
        // The whole file is read twice. Otherwise, a record torn by a crash could give an unchanged
        // file a wrong object id.
        let end = verify(&file).map_err(damaged)?.ok_or(CacheUnavailable::Damaged)?;
        (&file).rewind().map_err(damaged)?;
        let mut input = RecordReader::new(file, end);
        let bytes = input.fill().map_err(damaged)?;
        let body = bytes.strip_prefix(MAGIC).ok_or(CacheUnavailable::Damaged)?;
        let (version, body) = body.split_first().ok_or(CacheUnavailable::Damaged)?;
        // This is not damage but a different version of headwater, so there is no warning.
        if *version != VERSION {
            return Err(CacheUnavailable::Missing);
        }
        let mut body = body.strip_prefix(&fingerprint(roots)).ok_or(CacheUnavailable::Missing)?;
        let started = unzigzag(varint::take(&mut body).map_err(damaged)?);
        let used = bytes.len() - body.len();
        input.consume(used);
        Ok(Self { input, started, current: None, path: Vec::new() })
    }

    /// Moves to the start of the next section. The previous section must have ended.
    pub(super) fn begin_section(&mut self) {
        self.path.clear();
        self.advance();
    }

    /// Skips the rest of a section.
    pub(super) fn end_section(&mut self) {
        while self.current.is_some() {
            self.advance();
        }
    }

    /// The record of the file at `path`, relative to the section's root. Calls must be in ascending
    /// path order; skipped records are lost.
    pub(super) fn find(&mut self, path: &[u8]) -> Option<KnownFile> {
        while self.current.is_some() && self.path.as_slice() < path {
            self.advance();
        }
        self.current.filter(|known| self.path == path && !is_racy(&known.stamp, self.started))
    }

    fn advance(&mut self) {
        // The digest matched when the cache was opened, so the file has changed since then. The
        // rest counts as missing.
        self.current = self.read_record().unwrap_or(None);
    }

    fn read_record(&mut self) -> io::Result<Option<KnownFile>> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let bytes = self.input.fill()?;
        let mut rest = bytes;
        let mut number = || varint::take(&mut rest);
        let (shared, length) = (number()?, number()?);
        let length = usize::try_from(length).map_err(|_| invalid())?;
        let shared = usize::try_from(shared)
            .ok()
            // This fails only if the file changed after the check, and must not panic.
            .filter(|&shared| shared <= self.path.len())
            .ok_or_else(invalid)?;
        if length == 0 {
            let used = bytes.len() - rest.len();
            self.input.consume(used);
            return Ok(None);
        }
        let (name, mut rest) = rest.split_at_checked(length).ok_or_else(invalid)?;
        self.path.truncate(shared);
        self.path.extend_from_slice(name);
        let mut number = || varint::take(&mut rest);
        let stamp = FileStat {
            size: number()?,
            mtime_ns: unzigzag(number()?),
            ctime_ns: unzigzag(number()?),
            inode: number()?,
            device: number()?,
        };
        let (object, rest) = rest.split_first_chunk::<DIGEST_BYTES>().ok_or_else(invalid)?;
        let known = KnownFile { stamp, object: ObjectId::from_bytes(*object) };
        let used = bytes.len() - rest.len();
        self.input.consume(used);
        Ok(Some(known))
    }
}

/// Returns where the digest begins, if it matches everything before it.
fn verify(mut file: &File) -> io::Result<Option<u64>> {
    let Some(end) = file.metadata()?.len().checked_sub(DIGEST_BYTES as u64) else {
        return Ok(None);
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = end;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.read_exact(&mut buffer[..wanted])?;
        hasher.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    let mut digest = [0; DIGEST_BYTES];
    file.read_exact(&mut digest)?;
    Ok((*hasher.finalize().as_bytes() == digest).then_some(end))
}

/// A buffered file that always has a whole record ready: decoding numbers from a slice is several
/// times faster than through a reader.
#[derive(Debug)]
struct RecordReader {
    file: io::Take<File>,
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
}

impl RecordReader {
    fn new(file: File, end: u64) -> Self {
        Self { file: file.take(end), buffer: vec![0; CHUNK_BYTES], used: 0, filled: 0 }
    }

    /// The next bytes: at least a whole record, unless the file ends earlier.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.filled - self.used < MAX_RECORD_BYTES {
            self.buffer.copy_within(self.used..self.filled, 0);
            self.filled -= self.used;
            self.used = 0;
            while self.filled < self.buffer.len() {
                match self.file.read(&mut self.buffer[self.filled..])? {
                    0 => break,
                    count => self.filled += count,
                }
            }
        }
        Ok(&self.buffer[self.used..self.filled])
    }

    const fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

/// Writes a cache from start to end, in the order of reading.
pub(super) struct StatCacheWriter<W> {
    out: W,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    last: Vec<u8>,
}

impl<W: Write> StatCacheWriter<W> {
    /// Starts a cache for these roots and a scan that began at `started`. The cache is in its first
    /// section.
    pub(super) fn new(out: W, roots: &[OpenRoot], started: i64) -> Self {
        // The buffer may exceed the chunk by one record before it is flushed.
        let mut buffer = Vec::with_capacity(CHUNK_BYTES + MAX_RECORD_BYTES);
        buffer.extend_from_slice(MAGIC);
        buffer.push(VERSION);
        buffer.extend_from_slice(&fingerprint(roots));
        varint::push(zigzag(started), &mut buffer);
        Self { out, hasher: blake3::Hasher::new(), buffer, last: Vec::new() }
    }

    /// Appends a record to the section. Paths must be in ascending order.
    pub(super) fn push(&mut self, path: &[u8], known: &KnownFile) -> io::Result<()> {
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        varint::push(shared as u64, &mut self.buffer);
        varint::push((path.len() - shared) as u64, &mut self.buffer);
        self.buffer.extend_from_slice(&path[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
        let FileStat { size, mtime_ns, ctime_ns, inode, device } = known.stamp;
        for number in [size, zigzag(mtime_ns), zigzag(ctime_ns), inode, device] {
            varint::push(number, &mut self.buffer);
        }
        self.buffer.extend_from_slice(known.object.as_bytes());
        if self.buffer.len() < CHUNK_BYTES { Ok(()) } else { self.flush() }
    }

    pub(super) fn end_section(&mut self) {
        self.buffer.extend_from_slice(&[0, 0]);
        self.last.clear();
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(self.hasher.finalize().as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn fingerprint(roots: &[OpenRoot]) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for root in roots {
        hasher.update(root.path.as_os_str().as_encoded_bytes()).update(b"\0");
    }
    *hasher.finalize().as_bytes()
}

#[expect(clippy::cast_sign_loss, reason = "the sign is in the lowest bit")]
const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[expect(clippy::cast_possible_wrap, reason = "the sign is in the lowest bit")]
const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::super::Root;
    use super::*;

    const STARTED: i64 = 1_800_000_000_123_456_789;

    fn known(n: u64, mtime_ns: i64) -> KnownFile {
        let stamp =
            FileStat { size: n * 1000, mtime_ns, ctime_ns: mtime_ns - 5, inode: 77 + n, device: 9 };
        KnownFile { stamp, object: ObjectId::of(&n.to_le_bytes()) }
    }

    fn roots(dir: &Path) -> Vec<OpenRoot> {
        let root = || OpenRoot::open(&Root { path: dir.to_owned(), tree_prefix: None }).unwrap();
        vec![root(), root()]
    }

    fn write(path: &Path, roots: &[OpenRoot]) {
        fsx::replace_file(path, |out| {
            let mut writer = StatCacheWriter::new(out, roots, STARTED);
            writer.push(b"a-x", &known(1, -3))?;
            writer.push(b"a/b", &known(2, STARTED - TICK_NS - 1))?;
            writer.push(b"a/bc", &known(3, STARTED - TICK_NS))?;
            writer.end_section();
            writer.push(b"z", &known(4, 0))?;
            writer.end_section();
            writer.finish()
        })
        .unwrap();
    }

    #[test]
    fn records_round_trip_except_racy_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (roots, path) = (roots(dir.path()), dir.path().join("cache"));
        assert_eq!(StatCache::open(&path, &roots).err(), Some(CacheUnavailable::Missing));
        write(&path, &roots);
        let mut cache = StatCache::open(&path, &roots).unwrap();
        cache.begin_section();
        assert_eq!(cache.find(b"a"), None);
        assert_eq!(cache.find(b"a-x"), Some(known(1, -3)));
        assert_eq!(cache.find(b"a.x"), None);
        assert_eq!(cache.find(b"a/b"), Some(known(2, STARTED - TICK_NS - 1)));
        assert_eq!(cache.find(b"a/bc"), None, "racy");
        assert_eq!(cache.find(b"z"), None);
        cache.end_section();
        cache.begin_section();
        assert_eq!(cache.find(b"z"), Some(known(4, 0)));
        cache.end_section();
        cache.begin_section();
        assert_eq!(cache.find(b"z"), None);
        assert_eq!(
            StatCache::open(&path, &roots[..1]).err(),
            Some(CacheUnavailable::Missing),
            "other roots"
        );
    }

    #[test]
    fn damage_at_any_byte_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let (roots, path) = (roots(dir.path()), dir.path().join("cache"));
        write(&path, &roots);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(
                StatCache::open(&path, &roots).err(),
                Some(CacheUnavailable::Damaged),
                "byte {at}"
            );
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(
                StatCache::open(&path, &roots).err(),
                Some(CacheUnavailable::Damaged),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn invalid_records_with_a_valid_digest_discard_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (roots, path) = (roots(dir.path()), dir.path().join("cache"));
        write(&path, &roots);
        let good = std::fs::read(&path).unwrap();
        for at in 41..good.len() - DIGEST_BYTES {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good[..good.len() - DIGEST_BYTES].to_vec();
                bad[at] = value;
                let digest = blake3::hash(&bad);
                bad.extend_from_slice(digest.as_bytes());
                std::fs::write(&path, &bad).unwrap();
                if let Ok(mut cache) = StatCache::open(&path, &roots) {
                    for _ in 0..3 {
                        cache.begin_section();
                        cache.find(b"zz");
                        cache.end_section();
                    }
                }
            }
        }
    }

    #[test]
    fn whole_second_times_are_racy_for_two_seconds() {
        let stamp = |mtime_ns| FileStat { size: 0, mtime_ns, ctime_ns: 0, inode: 0, device: 0 };
        let second = 1_000_000_000;
        assert!(is_racy(&stamp(10 * second), 12 * second));
        assert!(!is_racy(&stamp(10 * second), 12 * second + 1));
        assert!(!is_racy(&stamp(10 * second + 1), 12 * second));
        let changed = FileStat { ctime_ns: 12 * second, ..stamp(5) };
        assert!(is_racy(&changed, 12 * second));
    }

    #[test]
    fn zigzag_round_trips() {
        for value in [0, 1, -1, i64::MAX, i64::MIN, STARTED] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}
