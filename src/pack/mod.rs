#![doc = include_str!("FORMAT.md")]
//!
//! ---
//!
//! This module encodes content into blocks and packs, and decodes it within the limits of the
//! format. It uses no file, socket, clock or environment: bytes in, bytes out. It does not know
//! what the content should be: a caller that reads a pack hashes the decoded content, checks that
//! the pieces cover each object once, and compares the result with a manifest.
//!
//! No memory is allocated for a number in a pack before that number has been compared with a limit
//! and with the bytes present. Decoding one block takes at most [`MAX_CONTENT_BYTES`] +
//! [`MAX_PREFIX_BYTES`], but a pack of small frames can claim many such blocks. A reader that
//! stores the decoded content therefore compares the pieces with the announced sizes before it
//! decodes.
//!
//! Only `frame.rs` uses the `zstd` crate for packs.

mod bases;
mod block;
mod delta;
mod encode;
mod frame;
mod group;
mod layout;
mod level;
mod reader;
mod signature;
mod sketch;
mod stable_name;
mod writer;

pub use bases::{Base, KnownRange, base_ranges, known_ranges};
pub use block::{Block, StoredFrame};
pub use encode::{BlockEncoder, BlockInput, EncodedBlock, encode_block};
pub use group::{Groups, ObjectToPack, group, group_within};
pub use layout::{BaseRange, Piece};
pub use level::{Level, ParseLevelError};
pub use reader::{Blocks, PackReader};
pub use signature::{
    MatchedRange, Signature, SignatureBuilder, SignatureKey, SignatureSearch, SignatureShape,
    search, size_bits,
};
pub use sketch::Sketch;
pub use stable_name::{hash_token, stable_name};
pub use writer::{Pack, PackWriter};

use std::io;

use crate::hash::PackId;

/// Maximum uncompressed content of a block, in bytes. A receiver holds it in memory.
pub const MAX_CONTENT_BYTES: usize = 4 << 20;
/// Maximum total size of the bases of a block, in bytes. A receiver holds them in memory too.
pub const MAX_PREFIX_BYTES: usize = 16 << 20;
/// Maximum number of pieces in a block, and of its bases. This bounds the header.
pub const MAX_RANGES: usize = 65_536;
/// Maximum size of a dense block's ranges before compression, in bytes: three numbers for each of 2
/// * [`MAX_RANGES`] ranges.
// Each of the 393,216 numbers has at most ten bytes.
const MAX_DENSE_BYTES: usize = 4 << 20;
/// Maximum size of a pack, in bytes. A receiver may hold a whole pack in memory.
pub const MAX_PACK_BYTES: usize = 32 << 20;
/// A pack is sealed once it reaches this size, in bytes: small enough to make a retry cheap and
/// start the transfer early, large enough to make the cost per request and per sync negligible.
pub const TARGET_PACK_BYTES: usize = 8 << 20;
/// A pack is also sealed once it has this much content, in bytes. Blocks with bases are so small
/// that a single pack could otherwise take hours to decode, and decoding would start only after all
/// of it had arrived.
pub const TARGET_PACK_CONTENT_BYTES: u64 = 8 << 20;

const MAGIC: &[u8; 4] = b"HWPK";
const VERSION: u8 = 1;
const KIND_END: u8 = 0;
const KIND_ZSTD: u8 = 1;
const KIND_RAW: u8 = 2;
const KIND_DENSE: u8 = 3;
const DIGEST_BYTES: usize = 32;

/// Why a pack cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The data does not begin as a pack does.
    #[error("not a pack: the magic bytes are missing")]
    NotAPack,
    /// The pack was written by a newer headwater.
    #[error(
        "the pack has format version {found}, but this headwater supports only version 1; upgrade \
         headwater"
    )]
    Version {
        /// The version that the pack declares.
        found: u8,
    },
    /// The pack ends too early.
    #[error("pack is truncated: {what} is missing or incomplete")]
    Truncated {
        /// What is missing or incomplete.
        what: &'static str,
    },
    /// The bytes make no sense, or there are too many of them.
    #[error("pack is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The pieces, bases and bytes of a block do not fit together.
    #[error("block is invalid: {what}")]
    Layout {
        /// What is wrong.
        what: &'static str,
    },
    /// The pack exceeds a limit of the format.
    #[error("pack exceeds a limit: {what} (at most {limit})")]
    Limit {
        /// What exceeds the limit.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The end record's digest does not match the bytes before it.
    #[error("pack digest mismatch: expected {expected}, got {found}")]
    Digest {
        /// The expected digest.
        expected: PackId,
        /// The digest of the bytes.
        found: PackId,
    },
    /// A frame breaks a rule, or does not decode to the declared content.
    #[error("block content is corrupt: {what}")]
    Frame {
        /// What is wrong.
        what: &'static str,
        /// The decoder's error, if it was called.
        source: Option<io::Error>,
    },
    /// The given bases differ in length from what the block declares.
    #[error("the block needs {expected} bytes of bases, not {found}")]
    Prefix {
        /// The total length of the bases that the block declares.
        expected: usize,
        /// The length of the given bases.
        found: usize,
    },
    /// The encoder failed.
    #[error("cannot compress a block")]
    Encoder {
        /// The encoder's error.
        source: io::Error,
    },
    /// A new block does not decode to its input. It must not be sent.
    #[error("a new block does not decode to its input: faulty memory or a software error")]
    EncoderFault {
        /// The decoding error; `None` if decoding succeeded but gave different bytes.
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
