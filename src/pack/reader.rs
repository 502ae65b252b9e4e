//! Opens packs that were made elsewhere.
//!
//! A pack that opens is complete and undamaged. If its end record does not match its blocks,
//! iterating over them ends with an error.

use super::block::Block;
use super::layout::ByteCursor;
use super::{DIGEST_BYTES, KIND_END, MAGIC, MAX_PACK_BYTES, PackError, VERSION};
use crate::hash::PackId;

/// A pack in memory.
#[derive(Debug, Clone, Copy)]
pub struct PackReader<'a> {
    id: PackId,
    /// The blocks and the end record without its digest.
    body: &'a [u8],
}

impl<'a> PackReader<'a> {
    /// Opens the pack in `bytes`, which must be a whole pack, and recomputes its digest.
    ///
    /// # Errors
    /// Fails if the bytes are not a pack, if it has a newer version or exceeds [`MAX_PACK_BYTES`],
    /// or if the digest does not match because the pack was truncated, extended or changed.
    pub fn open(bytes: &'a [u8]) -> Result<Self, PackError> {
        // The digest is checked before any block is read, so that damage in transit is not mistaken
        // for the sender's error.
        let (reader, hashed) = Self::split(bytes)?;
        let found = PackId::of(hashed);
        if found != reader.id {
            return Err(PackError::Digest { expected: reader.id, found });
        }
        Ok(reader)
    }

    /// Opens the pack `id`, which this process has already opened or made. Reads the digest without
    /// recomputing it.
    ///
    /// # Errors
    /// Those of [`Self::open`], but damage is found only if it breaks the structure.
    pub fn open_known(bytes: &'a [u8], id: PackId) -> Result<Self, PackError> {
        let (reader, _) = Self::split(bytes)?;
        if reader.id != id {
            return Err(PackError::Digest { expected: id, found: reader.id });
        }
        Ok(reader)
    }

    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), PackError> {
        if bytes.len() > MAX_PACK_BYTES {
            return Err(PackError::Limit { what: "bytes of a pack", limit: MAX_PACK_BYTES });
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(PackError::NotAPack)?;
        match rest.first() {
            Some(&VERSION) => {}
            // Checked before the digest, so that a newer format is reported as such.
            Some(&found) => return Err(PackError::Version { found }),
            None => return Err(PackError::Truncated { what: "version" }),
        }
        let (body, digest) = rest[1..]
            .split_last_chunk::<DIGEST_BYTES>()
            .ok_or(PackError::Truncated { what: "end record" })?;
        let reader = Self { id: PackId::from_bytes(*digest), body };
        Ok((reader, &bytes[..bytes.len() - DIGEST_BYTES]))
    }

    /// The digest in the end record.
    #[must_use]
    pub const fn id(&self) -> PackId {
        self.id
    }

    /// The blocks in pack order. Only headers are read; [`Block::decode`] decodes a frame.
    /// Iteration ends after an error. The end record is checked after the last block.
    #[must_use]
    pub const fn blocks(&self) -> Blocks<'a> {
        Blocks { input: ByteCursor { rest: self.body }, count: 0, is_done: false }
    }
}

/// The blocks in a pack: see [`PackReader::blocks`].
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    input: ByteCursor<'a>,
    count: u64,
    is_done: bool,
}

impl<'a> Blocks<'a> {
    fn step(&mut self) -> Result<Option<Block<'a>>, PackError> {
        if self.input.rest.first() != Some(&KIND_END) {
            let block = Block::take(&mut self.input)?;
            self.count += 1;
            return Ok(Some(block));
        }
        self.input.byte("end record")?;
        if self.input.number("number of blocks")? != self.count {
            return Err(PackError::Malformed {
                what: "the end record has a different number of blocks",
            });
        }
        if !self.input.rest.is_empty() {
            return Err(PackError::Malformed { what: "data follows the end record" });
        }
        Ok(None)
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, PackError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let item = self.step().transpose();
        self.is_done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl std::iter::FusedIterator for Blocks<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{DIGEST_BYTES, KIND_RAW, KIND_ZSTD};
    use crate::varint;

    /// A pack with any `body` and a valid digest.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[VERSION], body].concat();
        let id = PackId::of(&bytes);
        bytes.extend_from_slice(id.as_bytes());
        bytes
    }

    /// The result of reading all of such a pack.
    fn read(body: &[u8]) -> Result<usize, PackError> {
        let bytes = sealed(body);
        let mut content_bytes = 0;
        for block in PackReader::open(&bytes)?.blocks() {
            let block = block?;
            content_bytes += block.decode(&vec![0; block.prefix_bytes()])?.len();
        }
        Ok(content_bytes)
    }

    fn body(kind: u8, numbers: &[u64], rest: &[u8]) -> Vec<u8> {
        let mut body = vec![kind];
        numbers.iter().for_each(|&number| varint::push(number, &mut body));
        body.extend_from_slice(rest);
        body
    }

    #[test]
    fn valid_pack_is_read() {
        assert_eq!(read(&body(KIND_RAW, &[1, 0, 0, 2, 0, 2], b"ab\0\x01")).unwrap(), 2);
    }

    #[test]
    fn hostile_structures_are_refused() {
        for (what, body) in [
            ("no end record", vec![]),
            ("end record cut", vec![0]),
            ("count too high", vec![0, 1]),
            ("count too low", body(KIND_RAW, &[1, 0, 0, 2, 0, 2], b"ab\0\0")),
            ("count not canonical", vec![0, 0x80, 0]),
            ("bytes behind the end record", vec![0, 0, 0]),
            ("unknown kind", body(3, &[1, 0, 0, 2, 0, 2], b"ab\0\x01")),
            ("no pieces", body(KIND_RAW, &[0, 0, 0], b"\0\x01")),
            ("many pieces", body(KIND_RAW, &[u64::MAX], b"")),
            ("many bases", body(KIND_ZSTD, &[1, 0, 0, 2, u64::MAX], b"")),
            ("bases claimed", body(KIND_ZSTD, &[1, 0, 0, 2, 65_536], &[1; 1000])),
            ("raw with bases", body(KIND_RAW, &[1, 0, 0, 2, 1, 0, 0, 9, 2], b"ab\0\x01")),
            ("raw too short", body(KIND_RAW, &[1, 0, 0, 3, 0, 2], b"ab\0\x01")),
            ("raw too long", body(KIND_RAW, &[1, 0, 0, 1, 0, 2], b"ab\0\x01")),
            ("huge frame", body(KIND_ZSTD, &[1, 0, 0, 2, 0, u64::MAX], b"ab\0\x01")),
            ("frame over the end", body(KIND_RAW, &[1, 0, 0, 5, 0, 5], b"ab\0\x01")),
            ("empty frame", body(KIND_ZSTD, &[1, 0, 0, 2, 0, 0], b"\0\x01")),
            ("content over its limit", body(KIND_ZSTD, &[1, 0, 0, (4 << 20) + 1, 0, 0], b"\0\x01")),
            (
                "prefix over its limit",
                body(KIND_ZSTD, &[1, 0, 0, 1, 1, 0, 0, (16 << 20) + 1, 0], b"\0\x01"),
            ),
            (
                "base beyond 2^53",
                body(KIND_ZSTD, &[1, 0, 0, 1, 1, 0, varint::MAX_NUMBER, 1, 0], b"\0\x01"),
            ),
        ] {
            assert!(read(&body).is_err(), "{what}");
        }
    }

    #[test]
    fn reader_ends_after_an_error() {
        let bytes = sealed(&body(4, &[1, 0, 0, 2, 0, 2], b"ab\0\x01"));
        let mut blocks = PackReader::open(&bytes).unwrap().blocks();
        assert!(matches!(blocks.next(), Some(Err(PackError::Malformed { .. }))));
        assert!(blocks.next().is_none());
    }

    #[test]
    fn other_files_and_versions_have_distinct_errors() {
        assert!(matches!(PackReader::open(b""), Err(PackError::NotAPack)));
        assert!(matches!(PackReader::open(&[0; 100]), Err(PackError::NotAPack)));
        assert!(matches!(PackReader::open(b"HWPK"), Err(PackError::Truncated { .. })));
        assert!(matches!(PackReader::open(b"HWPK\x02"), Err(PackError::Version { found: 2 })));
        assert!(matches!(PackReader::open(b"HWPK\x01\0\0"), Err(PackError::Truncated { .. })));
        let over = vec![0; MAX_PACK_BYTES + 1];
        assert!(matches!(PackReader::open(&over), Err(PackError::Limit { .. })));
    }

    #[test]
    fn known_pack_is_not_hashed_again_but_its_id_is_checked() {
        let mut bytes = sealed(&body(KIND_RAW, &[1, 0, 0, 2, 0, 2], b"ab\0\x01"));
        let id = PackReader::open(&bytes).unwrap().id();
        assert!(matches!(
            PackReader::open_known(&bytes, PackId::of(b"")),
            Err(PackError::Digest { .. })
        ));
        let content_end = bytes.len() - DIGEST_BYTES - 2;
        bytes[content_end - 1] ^= 1;
        assert!(matches!(PackReader::open(&bytes), Err(PackError::Digest { .. })));
        assert!(PackReader::open_known(&bytes, id).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(
            kind in 0u8..3,
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            let _result = read(&[&[kind][..], &body].concat());
        }
    }
}
