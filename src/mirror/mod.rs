//! Mirrors: the operations on a destination, local or remote.
//!
//! [`Mirror`] works with releases and bundles. A bundle provides single objects as well as packs,
//! so a server that does not run headwater can be a mirror too. This module does not know what a
//! fleet is or in what order mirrors switch.

mod attempt;
mod error;
mod expiry;
mod http;
mod local;
mod location;
mod object_source;
mod pack_source;
mod polled;
mod public_url;
mod ssh;
mod state;
mod transport_error;

pub use error::{ExpectedStore, MirrorError};
pub use expiry::{CredentialKind, EXPIRES_SOON, Expiries, Expiry};
pub use http::{
    BearerToken, ClientIdentity, Credentials, CredentialsError, HttpMirror, Limiter, ProxyChoice,
    RequestTrace, Semaphore, TraceFn, TransferLimits, read_state,
};
pub use local::DirectoryMirror;
pub use location::{HttpUrl, Location, LocationError, SshUrl, check_control_chars, has_token};
pub use object_source::{Effort, ObjectSource, RepairSource};
pub use pack_source::{OutgoingPack, PackCursor, PackSource, StageRequest};
pub use polled::PolledMirror;
pub use public_url::PublicUrl;
pub use ssh::{
    ParseReceiveCommandError, ParseSshCommandError, ReceiveCommand, SshCommand, SshSettings,
};
pub use state::{MirrorState, ReceiverInfo};
pub use transport_error::TransportError;

use std::error::Error;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

pub use crate::error_kind::ErrorKind;
use crate::hash::{ManifestId, ObjectId, StoreId};
use crate::monitor::Monitor;
use crate::pack::Signature;
use crate::release::ReleaseName;
pub use crate::store::{
    Depth, EventKind, Fault, FetchRecords, HistoryEvent, Pruned, Repaired, Verified,
};

pub use crate::protocol::{CleanUpResult, HookRun, HookState, ObjectPart, SignatureRequest};
use crate::tree_path::Site;

/// An error from a content source.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// The kind of connection between the origin and a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// The same machine. Compression costs more time than it saves.
    Local,
    /// A network.
    Network,
}

/// What the user has configured about a mirror, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorIdentity {
    /// The name that is shown to users.
    pub name: String,
    /// The location, as the user wrote it.
    pub location: String,
    /// The only accepted site; `None` accepts any.
    pub site: Option<Site>,
}

/// A mirror of any kind.
///
/// At every instant, even when an operation is interrupted, a mirror's visitors get one complete
/// release. Every operation is safe to repeat.
pub trait Mirror: Send + Sync + fmt::Debug {
    /// The name that is shown to users.
    fn name(&self) -> &str;

    /// The location, as the user wrote it.
    fn location(&self) -> &str;

    /// The kind of connection to the mirror.
    fn link_kind(&self) -> LinkKind;

    /// The mirror's path if it is on this machine. A content tree must not overlap with this path.
    fn local_path(&self) -> Option<PathBuf>;

    /// The site that the mirror's location names; `None` if it names none.
    fn site_in_location(&self) -> Option<Site> {
        None
    }

    /// Returns the mirror's state without changing it. If the mirror does not exist yet, returns an
    /// empty state.
    ///
    /// # Errors
    /// Fails if the mirror cannot be read, or cannot be created at its location.
    fn state(&self) -> Result<MirrorState, MirrorError>;

    /// Checks that the user who would write to the mirror owns it: the user this process runs as,
    /// or the receiver's user according to the last state. Sends no request.
    ///
    /// # Errors
    /// Fails if another user owns the mirror's directory, or if the receiver cannot write to it.
    fn check_owner(&self) -> Result<(), MirrorError> {
        Ok(())
    }

    /// The id of the mirror's store, if it is known without another request; `None` if there is no
    /// store.
    fn store_id(&self) -> Option<StoreId>;

    /// Returns the mirror's events in the order in which they were recorded, or none if the mirror
    /// does not exist yet. Times are from the mirror's clock. Changes nothing.
    ///
    /// # Errors
    /// Fails if the history cannot be read.
    fn history(&self) -> Result<Vec<HistoryEvent>, MirrorError>;

    /// Reads the canonical bytes of a manifest. Their digest is not verified.
    ///
    /// # Errors
    /// Fails if the mirror does not have the manifest.
    fn manifest(&self, id: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError>;

    /// Reads the content of an object, starting at `offset`. The object's digest is not verified.
    ///
    /// # Errors
    /// Fails if the mirror does not have the object.
    fn object(&self, id: &ObjectId, offset: u64) -> Result<Box<dyn Read + Send>, MirrorError>;

    /// Reads parts of objects, in the order of `parts`. Returns `None` for an object that is
    /// missing or too short. Digests are not verified. The result holds all parts in memory.
    ///
    /// # Errors
    /// Fails if the mirror cannot be read.
    fn read_parts(
        &self,
        parts: &[ObjectPart],
        effort: Effort,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Vec<u8>>>, MirrorError>;

    /// Reports, for each of `objects`, whether the mirror has an undamaged copy. The mirror may
    /// drop an object later. Changes nothing.
    ///
    /// # Errors
    /// Fails if the mirror cannot be read.
    fn holds(&self, objects: &[ObjectId], monitor: &dyn Monitor) -> Result<Vec<bool>, MirrorError>;

    /// Returns the block signatures of files in a manifest, in the order of `question`. Returns
    /// `None` for an object that the mirror does not have, or whose length there differs from the
    /// manifest. `sizes` gives each object's length in the manifest, as the origin knows it.
    /// Signatures are not verified: a wrong one costs bytes, never correctness. Changes nothing.
    ///
    /// # Errors
    /// Fails if the mirror cannot be read, does not know the request, or refuses pushes.
    fn signatures(
        &self,
        question: &SignatureRequest,
        sizes: &[u64],
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Signature>>, MirrorError>;

    /// Checks in advance whether [`Mirror::stage`] would refuse a release for lack of space or of
    /// permission to push. Changes nothing; uses what [`Mirror::state`] returned last.
    ///
    /// # Errors
    /// The reason the release would be refused.
    fn check_stage(&self, request: &StageRequest<'_>) -> Result<(), MirrorError>;

    /// Makes a release complete and durable on the mirror without serving it. Creates the mirror if
    /// necessary. Does not transfer packs that the mirror already holds from an interrupted push.
    ///
    /// # Errors
    /// Fails if the release could not be staged. The served release does not change.
    fn stage(
        &self,
        request: &StageRequest<'_>,
        bundle: &dyn PackSource,
        monitor: &dyn Monitor,
    ) -> Result<(), MirrorError>;

    /// Makes a staged release current by compare-and-set: only if `expected` is current and older
    /// than `release`. The change is durable when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a release other than `expected` is current.
    fn activate(
        &self,
        release: ReleaseName,
        expected: Option<ReleaseName>,
    ) -> Result<(), MirrorError>;

    /// Drops a staged release.
    ///
    /// # Errors
    /// Fails if the release is current.
    fn abandon(&self, release: ReleaseName) -> Result<(), MirrorError>;

    /// Cleans up after an activation: drops content that none of the newest `keep` releases needs
    /// and expires retired entries that are due. Waits a few seconds for the command that the
    /// mirror runs after a switch, and returns its result. Not part of [`Mirror::activate`], so
    /// that the switch does not wait for it.
    ///
    /// # Errors
    /// Fails if the mirror fails. Content that is still needed is not removed.
    fn clean_up(&self, keep: usize) -> Result<CleanUpResult, MirrorError>;

    /// Keeps the newest `keep` releases, drops content that none of them needs, and expires retired
    /// entries that are due.
    ///
    /// # Errors
    /// Fails if the mirror fails. Content that is still needed is not removed.
    fn prune(&self, keep: usize) -> Result<Pruned, MirrorError>;

    /// Searches the mirror for faults. Changes only its history.
    ///
    /// # Errors
    /// Fails if the mirror cannot be read. A fault is part of the result, not an error.
    fn verify(&self, depth: Depth, monitor: &dyn Monitor) -> Result<Verified, MirrorError>;

    /// Repairs every fault that `supply` has the content for.
    ///
    /// # Errors
    /// Fails if the mirror cannot be written. A fault that remains is part of the result, not an
    /// error.
    fn repair(
        &self,
        source: &dyn RepairSource,
        monitor: &dyn Monitor,
    ) -> Result<Repaired, MirrorError>;
}
