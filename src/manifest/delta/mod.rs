//! Manifest deltas, the transfer form of a manifest: operations on a base manifest that the mirror
//! has. The size depends only on what changed.
//!
//! Object ids are not transferred, because they are incompressible and the receiver must compute
//! them anyway. New content is named by its ordinal in the bundle, and content in the base by the
//! position of an entry that has it. Only objects that the mirror reported in addition to its base
//! are named by id. `FORMAT.md`, which calls a delta a change, describes the format.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{ChangeLimits, DeltaHeader, DeltaSummary, apply, objects_at, summarize};
pub use encode::{encode, encode_with_held};

use std::sync::Arc;

use crate::hash::ObjectId;
use crate::tree_path::TreePath;

const MAGIC: &[u8; 4] = b"HWMC";
const VERSION: u8 = 1;
/// The zstd level: fast, and within a few per cent of the best result for these small streams.
const LEVEL: i32 = 3;

const OP_END: u8 = 0;
const OP_KEEP: u8 = 1;
const OP_DROP: u8 = 2;
const OP_ADD: u8 = 3;
const OP_CHANGE: u8 = 4;

const SYMLINK: u8 = 1;
const EXEC: u8 = 2;
const UNTIL: u8 = 4;
const CREATED: u8 = 8;
const CONTENT: u8 = 0x70;
const SAME: u8 = 0x00;
const NEXT_NEW: u8 = 0x10;
const EARLIER_NEW: u8 = 0x20;
const FROM_BASE: u8 = 0x30;
const HELD: u8 = 0x40;

/// A new object in a bundle. Its index is its ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewObject {
    /// The length of the object in bytes.
    pub size: u64,
    /// The modification time of the first entry with this content, in seconds since 1970.
    pub mtime: u64,
    /// Whether the first entry with this content is executable.
    pub exec: bool,
}

/// A new object that the encoder found, with the id that only the origin knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewObjectRef {
    /// The object.
    pub object: ObjectId,
    /// The length of the object in bytes.
    pub size: u64,
    /// The path of the first entry with this content.
    pub path: TreePath,
}

/// A manifest delta and the objects that it needs.
#[derive(Debug, Clone)]
pub struct ManifestDelta {
    /// The encoded delta.
    pub bytes: Arc<[u8]>,
    /// The new objects, by ordinal.
    pub wanted: Vec<NewObjectRef>,
}
