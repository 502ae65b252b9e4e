//! Mirrors: what can be asked of a downstream destination, wherever it is.
//!
//! [`Mirror`] speaks of releases and bundles. A bundle offers packs and also
//! single objects, so that a place that runs no code of ours can be a mirror
//! too. Refuses to know what a fleet is and in which order mirrors switch.

mod expiry;
mod http;
mod local;
mod location;
mod object_source;
mod pack_source;
mod public_url;
mod ssh;
mod state;
mod transport_error;

pub use expiry::{EXPIRES_SOON, Expiries, Expiring, Expiry};
pub use http::{
    BearerToken, ClientIdentity, Credentials, CredentialsError, Exchange, HttpMirror, Limiter, ProxyChoice, Semaphore,
    Trace, TransferLimits, read_state,
};
pub use local::DirectoryMirror;
pub use location::{HttpUrl, Location, LocationError, SshUrl, has_token};
pub use object_source::{Effort, ObjectSource, RepairSource};
pub use pack_source::{OutgoingPack, PackCursor, PackSource, StageRequest};
pub use public_url::PublicUrl;
pub use ssh::{ParseReceiveCommandError, ParseSshCommandError, ReceiveCommand, SshCommand, SshSettings};
pub use state::{MirrorState, ReceiverInfo};
pub use transport_error::TransportError;

use std::error::Error;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use crate::fsx::IoError;
use crate::hash::{HistoryId, ManifestId, ObjectId, StoreId};
use crate::monitor::Monitor;
use crate::release::ReleaseName;
pub use crate::store::{Depth, EventKind, Fault, FetchRecords, HistoryEvent, Pruned, Repaired, Verified};

use crate::protocol::{Detail, ProtocolError};
pub use crate::protocol::{HookRun, HookState, ObjectPart, Settled};
use crate::store::StoreError;
use crate::threads::ThreadError;
use crate::tree_path::Site;

/// An error of whoever supplies content.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// Why a mirror did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A remote mirror refused.
    #[error("{refusal}")]
    Remote {
        /// What it answered. Of a peer: to be escaped before it is shown.
        refusal: ProtocolError,
    },
    /// The way to a remote mirror.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The origin could not supply what it had announced.
    #[error("the origin could not supply what it announced")]
    Source(#[source] SourceError),
    /// It has another store than before, or none any more.
    #[error("{}", other_store(*expected, *found))]
    OtherStore {
        /// The store that was there before.
        expected: StoreId,
        /// The store that is there now.
        found: Option<StoreId>,
    },
    /// Its fleet has another history.
    #[error("it serves release {current} of history {found}, and the other mirrors are of history {history}")]
    ForeignHistory {
        /// What it serves.
        current: ReleaseName,
        /// The history of that.
        found: HistoryId,
        /// The history of the others.
        history: HistoryId,
    },
    /// Its sequences cannot be those of its fleet.
    #[error(
        "it has a release of sequence {sequence}, and the highest of all other mirrors is {highest}: it is not believed"
    )]
    FarBeyond {
        /// The highest sequence there.
        sequence: u64,
        /// The highest sequence of the others.
        highest: u64,
    },
    /// This machine hands out no thread for it.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The user asked to stop.
    #[error("stopped")]
    Cancelled,
}

fn other_store(expected: StoreId, found: Option<StoreId>) -> String {
    match found {
        Some(found) => format!("it has store {found}, and had store {expected} before"),
        None => format!("it is empty, and had store {expected} before"),
    }
}

/// What kind of failure it is, for those who decide what to do about it. Kinds that differ only in
/// what people have to do have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// We may not: permissions.
    Denied,
    /// Its file system is read-only.
    ReadOnly,
    /// It belongs to another user.
    OtherOwner,
    /// It is the mirror of another site.
    OtherSite,
    /// It has another store than before, or none any more.
    OtherStore,
    /// There are files that are not ours.
    NotEmpty,
    /// No mirror can be at this place.
    UnsuitableLocation,
    /// It was written by a newer headwater.
    NewerFormat,
    /// It has too little room.
    NoSpace,
    /// The site may not have so much there, whatever the disk could take.
    OverQuota,
    /// A file is larger than the system lets the process write.
    FileTooLarge,
    /// Somebody else is at work.
    Locked,
    /// Another release became current meanwhile.
    Conflict,
    /// It serves a release of another history.
    OtherHistory,
    /// Its sequences cannot be those of its fleet.
    FarBeyond,
    /// The fault is at the origin.
    SourceUnavailable,
    /// The mirror's base for the manifest change is damaged.
    DamagedBase,
    /// No way there, or it broke.
    Unreachable,
    /// TLS that did not begin, mostly because a certificate was not accepted.
    Certificate,
    /// A proxy in front of it that does not reach it.
    BadGateway,
    /// No token, or one that is not known there.
    Unauthorized,
    /// A token that has expired, is for another site, or may not do this.
    Forbidden,
    /// `ssh` was not let in.
    SshAuth,
    /// A host with another key than the one that is known.
    HostKey,
    /// Silence, or a deadline.
    Timeout,
    /// What answers is no receiver of headwater, or not the one that was meant.
    Protocol,
    /// A proxy in front of it that takes no body of such a length.
    BodyLimit,
    /// A receiver that needs another version of the protocol.
    Version,
    /// The receiver has too much to do.
    Busy,
    /// The user asked to stop.
    Cancelled,
    /// Everything else.
    Other,
}

impl FailureKind {
    /// Whether access was denied.
    #[must_use]
    pub const fn is_denial(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::OtherOwner
                | Self::OtherSite
                | Self::Unauthorized
                | Self::Forbidden
                | Self::SshAuth
                | Self::HostKey
        )
    }

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::ReadOnly => "read_only",
            Self::OtherOwner => "other_owner",
            Self::OtherSite => "other_site",
            Self::OtherStore => "other_store",
            Self::NotEmpty => "not_empty",
            Self::UnsuitableLocation => "bad_place",
            Self::NewerFormat => "newer_format",
            Self::NoSpace | Self::OverQuota => "no_space",
            Self::FileTooLarge => "file_too_large",
            Self::Locked => "locked",
            Self::Conflict => "conflict",
            Self::OtherHistory => "other_history",
            Self::FarBeyond => "far_beyond",
            Self::SourceUnavailable => "origin",
            Self::DamagedBase => "damaged",
            Self::Unreachable | Self::Certificate | Self::BadGateway => "unreachable",
            Self::Unauthorized | Self::Forbidden | Self::SshAuth | Self::HostKey => "unauthorized",
            Self::Timeout => "timeout",
            Self::Protocol | Self::BodyLimit => "protocol",
            Self::Version => "version",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }

    /// The kind of a refusal. What only a mirror's own machine can know comes back as it
    /// was there; that a request was not understood is a matter of the protocol.
    #[must_use]
    pub fn of_refusal(refusal: &ProtocolError) -> Self {
        const SAME: [FailureKind; 15] = [
            FailureKind::Denied,
            FailureKind::ReadOnly,
            FailureKind::OtherOwner,
            FailureKind::OtherSite,
            FailureKind::NotEmpty,
            FailureKind::UnsuitableLocation,
            FailureKind::NewerFormat,
            FailureKind::NoSpace,
            FailureKind::FileTooLarge,
            FailureKind::Locked,
            FailureKind::Conflict,
            FailureKind::OtherHistory,
            FailureKind::DamagedBase,
            FailureKind::Version,
            FailureKind::Busy,
        ];
        let kind = refusal.kind.as_str();
        match (kind, refusal.detail) {
            ("no_space", Some(Detail::Quota)) => return Self::OverQuota,
            ("unauthorized", Some(Detail::Expired)) => return Self::Forbidden,
            _ => {}
        }
        match kind {
            "unauthorized" => Self::Unauthorized,
            "forbidden" => Self::Forbidden,
            "malformed" | "too_large" | "not_asked_for" | "unknown" => Self::Protocol,
            _ => SAME.into_iter().find(|failure| failure.name() == kind).unwrap_or(Self::Other),
        }
    }

    /// The kind of an error on the way.
    #[must_use]
    const fn of_transport(error: &TransportError) -> Self {
        match error {
            TransportError::Unreachable { .. } | TransportError::Lost { .. } | TransportError::Ssh { .. } => {
                Self::Unreachable
            }
            TransportError::Certificate { .. } | TransportError::Tls { .. } => Self::Certificate,
            TransportError::Foreign { status: 502..=504, .. } => Self::BadGateway,
            TransportError::Timeout { .. } | TransportError::Deadline => Self::Timeout,
            TransportError::Version { .. } => Self::Version,
            TransportError::SshDenied { .. } => Self::SshAuth,
            TransportError::HostKey { .. } => Self::HostKey,
            TransportError::BodyTooLarge { .. } => Self::BodyLimit,
            TransportError::OtherSite { .. } => Self::OtherSite,
            TransportError::ReceiverFailed { .. } => Self::Other,
            TransportError::NoTls
            | TransportError::Redirect { .. }
            | TransportError::Foreign { .. }
            | TransportError::NoReceiver { .. }
            | TransportError::OtherDirectory { .. }
            | TransportError::Forgotten => Self::Protocol,
        }
    }
}

impl MirrorError {
    /// What kind of failure it is.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        match self {
            Self::Remote { refusal } => FailureKind::of_refusal(refusal),
            Self::Transport(error) => FailureKind::of_transport(error),
            Self::Source(_) | Self::Thread(_) => FailureKind::SourceUnavailable,
            Self::OtherStore { .. } => FailureKind::OtherStore,
            Self::FarBeyond { .. } => FailureKind::FarBeyond,
            Self::Cancelled | Self::Store(StoreError::Cancelled) => FailureKind::Cancelled,
            Self::Store(StoreError::Locked { .. }) => FailureKind::Locked,
            Self::Store(StoreError::OtherOwner { .. }) => FailureKind::OtherOwner,
            Self::Store(StoreError::OtherSite { .. }) => FailureKind::OtherSite,
            Self::Store(StoreError::NotEmpty { .. }) => FailureKind::NotEmpty,
            Self::Store(
                StoreError::NotDirectory { .. }
                | StoreError::NoParent { .. }
                | StoreError::InsideMirror { .. }
                | StoreError::FileSystem { .. }
                | StoreError::NoLinks { .. }
                | StoreError::NotAStore { .. },
            ) => FailureKind::UnsuitableLocation,
            Self::Store(StoreError::NewerFormat { .. }) => FailureKind::NewerFormat,
            Self::Store(StoreError::NoSpace { .. } | StoreError::NoInodes { .. }) => FailureKind::NoSpace,
            Self::Store(StoreError::Io(error)) if is_denial(error) => FailureKind::Denied,
            Self::Store(StoreError::Io(error)) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                FailureKind::ReadOnly
            }
            Self::Store(StoreError::Io(error)) if is_full(error) => FailureKind::NoSpace,
            Self::Store(StoreError::Io(error)) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                FailureKind::FileTooLarge
            }
            Self::Store(StoreError::Conflict { .. } | StoreError::NotNewer { .. } | StoreError::NotStaged { .. }) => {
                FailureKind::Conflict
            }
            Self::ForeignHistory { .. } | Self::Store(StoreError::OtherHistory { .. }) => FailureKind::OtherHistory,
            Self::Store(error @ StoreError::Manifest { .. }) if !error.is_damage() => FailureKind::Other,
            Self::Store(StoreError::Manifest { .. } | StoreError::DamagedBases { .. }) => FailureKind::DamagedBase,
            Self::Store(_) => FailureKind::Other,
        }
    }

    /// The old objects that are damaged there, where that is why new content could not be taken.
    #[must_use]
    pub fn damaged_bases(&self) -> &[ObjectId] {
        match self {
            Self::Store(StoreError::DamagedBases { objects }) => objects,
            Self::Remote { refusal } => &refusal.objects,
            _ => &[],
        }
    }
}

fn is_denial(error: &IoError) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

fn is_full(error: &IoError) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl From<IoError> for MirrorError {
    fn from(error: IoError) -> Self {
        Self::Store(error.into())
    }
}

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
    /// [`FailureKind::Conflict`] when another one is current.
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
