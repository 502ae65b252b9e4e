//! What a push offers a mirror: packs, and the release that they make.

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
    /// Its bytes, at most 32 MiB; they may come from a disk.
    ///
    /// # Errors
    /// When they cannot be read.
    fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError>;

    /// The same, to be read in small parts: however many mirrors do that at once, none has them all in memory.
    ///
    /// # Errors
    /// When they cannot be opened.
    fn open(&self) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// Walks the packs of a bundle, each as soon as it is sealed.
pub trait PackCursor: Send {
    /// Waits for the next pack; nothing after the last.
    ///
    /// # Errors
    /// When the bundle cannot be built.
    fn next(&mut self) -> Result<Option<Box<dyn OutgoingPack>>, SourceError>;

    /// Waits until [`PackCursor::next`] would answer at once, at most so long. Answers whether it would.
    fn wait(&self, most: Duration) -> bool;
}

/// What takes a mirror from one manifest to another.
pub trait PackSource: ObjectSource {
    /// The packs from the first on. Each mirror walks them once, at its own pace.
    fn packs(&self) -> Box<dyn PackCursor + '_>;
}

/// What a mirror is asked to stage.
#[derive(Debug, Clone, Copy)]
pub struct StageRequest<'a> {
    /// The release.
    pub release: &'a Release,
    /// Names the bundle, for resuming.
    pub key: BundleKey,
    /// The manifest that `change` is against; the mirror has it. Nothing: the empty one.
    pub base: Option<ManifestId>,
    /// The manifest change (see [`crate::manifest::delta`]).
    pub change: &'a Arc<[u8]>,
}
