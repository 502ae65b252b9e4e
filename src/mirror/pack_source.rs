//! The packs of a bundle, and the request to stage a release from them.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::{BundleKey, ManifestId, PackId};
use crate::mirror::{ObjectSource, SourceError};
use crate::release::Release;

/// A pack that can be sent.
pub trait OutgoingPack: Send + Sync {
    /// The id of the pack.
    fn id(&self) -> PackId;
    /// The length of the pack in bytes.
    fn size(&self) -> u64;
    /// Returns the bytes of the pack, at most 32 MiB. They may be read from disk.
    ///
    /// # Errors
    /// Fails if the bytes cannot be read.
    fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError>;

    /// Opens the bytes of the pack as a stream, so that the pack can be sent to many mirrors at
    /// once without a copy in memory for each mirror.
    ///
    /// # Errors
    /// Fails if the bytes cannot be opened.
    fn open(&self) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// Iterates over the packs of a bundle and returns each as soon as it is complete.
pub trait PackCursor: Send {
    /// Waits for the next pack. Returns `None` after the last one.
    ///
    /// # Errors
    /// Fails if the bundle cannot be built.
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, SourceError>;

    /// Waits up to `most` until [`PackCursor::next`] would return immediately. Returns whether it
    /// would.
    fn wait(&self, most: Duration) -> bool;
}

/// A bundle: the content that a mirror needs to go from one manifest to another.
pub trait PackSource: ObjectSource {
    /// Returns a cursor at the first pack. Each mirror has its own cursor.
    fn packs(&self) -> Box<dyn PackCursor + '_>;
}

/// A request to stage a release.
#[derive(Debug, Clone, Copy)]
pub struct StageRequest<'a> {
    /// The release.
    pub release: &'a Release,
    /// Identifies the bundle, so that an interrupted push can resume.
    pub key: BundleKey,
    /// The manifest that `change` applies to; the mirror has it. `None` for the empty manifest.
    pub base: Option<ManifestId>,
    /// The manifest change (see [`crate::manifest::delta`]).
    pub change: &'a Arc<[u8]>,
}
