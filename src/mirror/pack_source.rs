//! The packs of a bundle, and the request to stage a release from them.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::{BundleKey, ManifestId, PackId};
use crate::mirror::{ObjectSource, SourceError};
use crate::release::Release;

/// A pack that can be sent.
pub trait OutgoingPack: Send + Sync {
    /// Its id.
    fn id(&self) -> PackId;
    /// Its length in bytes.
    fn size(&self) -> u64;
    /// Returns its bytes, at most 32 MiB; they may be read from disk.
    ///
    /// # Errors
    /// If they cannot be read.
    fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError>;

    /// Opens its bytes as a stream, so that many mirrors can be sent the pack at once without a
    /// copy in memory for each.
    ///
    /// # Errors
    /// If they cannot be opened.
    fn open(&self) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// Iterates over the packs of a bundle and returns each as soon as it is complete.
pub trait PackCursor: Send {
    /// Waits for the next pack; `None` after the last one.
    ///
    /// # Errors
    /// If the bundle cannot be built.
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, SourceError>;

    /// Waits at most `most` until [`PackCursor::next`] would return at once. Returns whether it
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
    /// The manifest to which `change` applies; the mirror has it. `None` for the empty manifest.
    pub base: Option<ManifestId>,
    /// The manifest change (see [`crate::manifest::delta`]).
    pub change: &'a Arc<[u8]>,
}
