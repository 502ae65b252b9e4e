#![doc = include_str!("FORMAT.md")]
//!
//! ---
//!
//! This room knows how content becomes blocks and packs and how it comes out
//! of them again, within the bounds that the format sets. It touches no file,
//! socket, clock or environment: bytes in, bytes out. It does not know what
//! the contents should be: whoever reads a pack hashes what it decoded, checks
//! that the pieces cover each object once, and compares with a manifest.
//!
//! Nothing is allocated for a number that a pack claims before the number has
//! been compared with a limit and with the bytes that are there. One block
//! takes at most [`MAX_CONTENT_BYTES`] + [`MAX_PREFIX_BYTES`] to decode, but a
//! pack of small frames can claim many such blocks: a reader that stores what
//! it decodes compares the pieces with the announced sizes before it decodes.
//!
//! The only user of the `zstd` crate for packs is `frame.rs`.

mod bases;
mod block;
mod delta;
mod encode;
mod frame;
mod group;
mod layout;
mod level;
mod reader;
mod sketch;
mod stable_name;
mod writer;

pub use bases::{Base, base_ranges};
pub use block::{Block, StoredFrame};
pub use encode::{BlockEncoder, EncodedBlock, encode_block};
pub use group::{Groups, ObjectToPack, group, group_within};
pub use layout::{BaseRange, Piece};
pub use level::{Level, ParseLevelError};
pub use reader::{Blocks, PackReader};
pub use sketch::Sketch;
pub use stable_name::{hash_token, stable_name};
pub use writer::{Pack, PackWriter};

use std::io;

use crate::hash::PackId;

/// Uncompressed content of one block: what a receiver holds in memory for it.
pub const MAX_CONTENT_BYTES: usize = 4 << 20;
/// Bases of one block together: the other part of what a receiver holds.
pub const MAX_PREFIX_BYTES: usize = 16 << 20;
/// Pieces of one block, and also its bases: bounds the header.
pub const MAX_RANGES: usize = 65_536;
/// The ranges of a block, before they are compressed: three numbers for each of twice as many.
const MAX_DENSE_BYTES: usize = 4 << 20;
/// A whole pack: a receiver may hold one in memory.
pub const MAX_PACK_BYTES: usize = 32 << 20;
/// A pack is sealed once it has reached this size: small enough that a retry
/// costs little and a transfer starts early, large enough that requests and
/// syncs do not show.
pub const TARGET_PACK_BYTES: usize = 8 << 20;
/// A pack is also sealed once so much content is in it: blocks against bases are
/// so small that one pack could hold hours of a mirror's work, all of which would begin at the end.
pub const TARGET_PACK_CONTENT_BYTES: u64 = 8 << 20;

const MAGIC: &[u8; 4] = b"HWPK";
const VERSION: u8 = 1;
const KIND_END: u8 = 0;
const KIND_ZSTD: u8 = 1;
const KIND_RAW: u8 = 2;
const KIND_DENSE: u8 = 3;
const DIGEST_BYTES: usize = 32;

/// What is wrong with a pack, or with what should become one.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The first bytes are not those of a pack.
    #[error("not a pack: it does not begin as one")]
    NotAPack,
    /// Written by a newer headwater.
    #[error("pack format version {found} is newer than this headwater knows (1); upgrade headwater")]
    Version {
        /// The version it claims.
        found: u8,
    },
    /// The bytes end too early.
    #[error("pack is cut: {what} is missing or incomplete")]
    Truncated {
        /// What should have been there.
        what: &'static str,
    },
    /// Bytes that mean nothing, or more bytes than belong there.
    #[error("pack is garbled: {what}")]
    Garbled {
        /// What does not hold.
        what: &'static str,
    },
    /// Pieces, bases and bytes of a block that do not fit each other.
    #[error("block is invalid: {what}")]
    Layout {
        /// What does not hold.
        what: &'static str,
    },
    /// More than the format allows.
    #[error("pack exceeds a limit: {what}, at most {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// The end record's digest is not that of the bytes before it.
    #[error("pack {found} stands where {expected} should: it is damaged")]
    Digest {
        /// The digest that was announced.
        expected: PackId,
        /// The digest of the bytes.
        found: PackId,
    },
    /// A frame that breaks a rule or does not decode to what was declared.
    #[error("block content is corrupt: {what}")]
    Frame {
        /// What does not hold.
        what: &'static str,
        /// What the decoder said, where it was asked.
        source: Option<io::Error>,
    },
    /// The bases that were handed in are not as long as the block says.
    #[error("the block needs {expected} bytes of bases, not {found}")]
    Prefix {
        /// The sum of the lengths of the bases.
        expected: usize,
        /// The bytes handed in.
        found: usize,
    },
    /// The encoder gave up.
    #[error("cannot compress a block")]
    Encoder {
        /// Why.
        source: io::Error,
    },
    /// A new block did not decode to its input. It must not be sent.
    #[error("a new block does not decode to what went into it: memory or software is faulty")]
    EncoderFault {
        /// What decoding said, unless it came to other bytes without an error.
        source: Option<Box<Self>>,
    },
}

impl PackError {
    pub(crate) const fn frame(what: &'static str) -> Self {
        Self::Frame { what, source: None }
    }
}

#[cfg(test)]
mod tests;
