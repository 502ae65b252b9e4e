//! Mirrors: what can be asked of a downstream destination, wherever it is.
//!
//! [`Mirror`] speaks of releases and bundles. A bundle offers packs and also
//! single objects, so that a place that runs no code of ours can be a mirror
//! too. Refuses to know what a fleet is and in which order mirrors switch.

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

pub use error::MirrorError;
pub use expiry::{EXPIRES_SOON, Expiries, Expiring, Expiry};
pub use http::{
    BearerToken, ClientIdentity, Credentials, CredentialsError, Exchange, HttpMirror, Limiter, ProxyChoice, Semaphore,
    Trace, TransferLimits, read_state,
};
pub use local::DirectoryMirror;
pub use location::{HttpUrl, Location, LocationError, SshUrl, has_token};
pub use object_source::{Effort, ObjectSource, RepairSource};
pub use pack_source::{OutgoingPack, PackCursor, PackSource, StageRequest};
pub use polled::PolledMirror;
pub use public_url::PublicUrl;
pub use ssh::{ParseReceiveCommandError, ParseSshCommandError, ReceiveCommand, SshCommand, SshSettings};
pub use state::{MirrorState, ReceiverInfo};
pub use transport_error::TransportError;

use std::error::Error;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

pub use crate::error_kind::ErrorKind;
use crate::hash::{ManifestId, ObjectId, StoreId};
use crate::monitor::Monitor;
use crate::release::ReleaseName;
pub use crate::store::{Depth, EventKind, Fault, FetchRecords, HistoryEvent, Pruned, Repaired, Verified};

pub use crate::protocol::{HookRun, HookState, ObjectPart, Settled};
use crate::tree_path::Site;

/// An error of whoever supplies content.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// What lies between the origin and a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Nothing: the same machine. Compressing costs more than it saves.
    Local,
    /// A network.
    Network,
}

/// A downstream destination.
///
/// At every instant, whatever is called and wherever it stops, visitors of a
/// mirror get one complete release. Every operation may be called again.
pub trait Mirror: Send + Sync + fmt::Debug {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Where it is, as the user wrote it.
    fn location(&self) -> &str;

    /// What lies between here and there.
    fn link(&self) -> Link;

    /// Where it is on this machine, if it is: a content tree must lie apart from it.
    fn local_path(&self) -> Option<PathBuf>;

    /// The site that its location names; `None` if the location names none.
    fn site_in_location(&self) -> Option<Site> {
        None
    }

    /// Its state. Changes nothing; a mirror that is still to be created answers an empty one.
    ///
    /// # Errors
    /// When there can be no mirror.
    fn state(&self) -> Result<MirrorState, MirrorError>;

    /// Refuses a mirror that this user may read and not change, as far as is known without asking: a receiver
    /// refuses for itself.
    ///
    /// # Errors
    /// When another user owns its directory.
    fn check_owner(&self) -> Result<(), MirrorError> {
        Ok(())
    }

    /// The id of its store, as far as is known without asking again; `None` if it has none.
    fn store_id(&self) -> Option<StoreId>;

    /// What happened there, in the order in which it was noted, as far as the mirror remembers.
    /// Times are of its own clock. Changes nothing; nothing happened where no mirror is yet.
    ///
    /// # Errors
    /// When it cannot tell.
    fn history(&self) -> Result<Vec<HistoryEvent>, MirrorError>;

    /// The canonical bytes of a manifest, unchecked.
    ///
    /// # Errors
    /// When the mirror has it not.
    fn manifest(&self, id: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError>;

    /// The content of an object from `offset` on, unchecked.
    ///
    /// # Errors
    /// When the mirror has it not.
    fn object(&self, id: &ObjectId, offset: u64) -> Result<Box<dyn Read + Send>, MirrorError>;

    /// Reads these parts of objects, in their order; `None` for one that is not there or is shorter. Unchecked.
    /// All of them are in memory at once.
    ///
    /// # Errors
    /// When the mirror cannot be read.
    fn read_parts(
        &self,
        parts: &[ObjectPart],
        effort: Effort,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Vec<u8>>>, MirrorError>;

    /// Which of `objects` are there and whole, in their order: read at this moment, and no promise
    /// for the next one. Changes nothing.
    ///
    /// # Errors
    /// When it cannot tell.
    fn holds(&self, objects: &[ObjectId], monitor: &dyn Monitor) -> Result<Vec<bool>, MirrorError>;

    /// Refuses a release that [`Mirror::stage`] would refuse before any content is sent: for lack of room or of the
    /// right to push, as far as the mirror says so. Changes nothing; uses what [`Mirror::state`] returned last.
    ///
    /// # Errors
    /// Why it would be refused.
    fn check_stage(&self, request: &StageRequest<'_>) -> Result<(), MirrorError>;

    /// Makes a release complete and durable there, unseen; creates the mirror
    /// if need be. Packs that it holds from an interrupted push are not taken again.
    ///
    /// # Errors
    /// When it is not staged; what is served is not touched.
    fn stage(
        &self,
        request: &StageRequest<'_>,
        bundle: &dyn PackSource,
        monitor: &dyn Monitor,
    ) -> Result<(), MirrorError>;

    /// Makes a staged release current if `expected` is current and older:
    /// compare-and-set. Durable when it returns.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another one is current.
    fn activate(&self, release: ReleaseName, expected: Option<ReleaseName>) -> Result<(), MirrorError>;

    /// Forgets a staged release.
    ///
    /// # Errors
    /// When it is current.
    fn abandon(&self, release: ReleaseName) -> Result<(), MirrorError>;

    /// What follows an activation once that was answered: drops what no kept release needs, and
    /// lets retired entries that are due expire. Waits some seconds for a command that the mirror
    /// runs after a switch, and returns how that went.
    ///
    /// # Errors
    /// Those of the mirror; nothing that is needed is touched.
    fn clean_up(&self, keep: usize) -> Result<Settled, MirrorError>;

    /// Keeps the newest `keep` releases and drops everything else that nothing needs; lets retired
    /// entries that are due expire.
    ///
    /// # Errors
    /// Those of the mirror; nothing that is needed is touched.
    fn prune(&self, keep: usize) -> Result<Pruned, MirrorError>;

    /// Looks for faults. Changes nothing but the history.
    ///
    /// # Errors
    /// When it cannot be looked at; faults are no errors.
    fn verify(&self, depth: Depth, monitor: &dyn Monitor) -> Result<Verified, MirrorError>;

    /// Mends every fault for which `supply` has what is needed.
    ///
    /// # Errors
    /// When it cannot be written; what could not be mended is no error.
    fn repair(&self, supply: &dyn RepairSource, monitor: &dyn Monitor) -> Result<Repaired, MirrorError>;
}
