//! The error from an operation on a mirror.

use std::fmt;

use crate::error_kind::ErrorKind;
use crate::fsx::IoError;
use crate::hash::{HistoryId, ObjectId, StoreId};
use crate::mirror::SourceError;
use crate::mirror::transport_error::TransportError;
use crate::protocol::ProtocolError;
use crate::release::ReleaseName;
use crate::store::StoreError;
use crate::threads::ThreadError;

/// The store that a mirror must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedStore {
    /// The configuration names it.
    Configured(StoreId),
    /// An earlier push recorded it.
    Remembered(StoreId),
}

impl ExpectedStore {
    /// The id of the expected store.
    #[must_use]
    pub const fn id(self) -> StoreId {
        match self {
            Self::Configured(id) | Self::Remembered(id) => id,
        }
    }
}

impl fmt::Display for ExpectedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(id) => write!(f, "the configuration names store {id}"),
            Self::Remembered(id) => {
                write!(f, "headwater remembers an earlier push to store {id} there")
            }
        }
    }
}

/// Why an operation on a mirror failed.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The mirror's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A remote mirror refused the request.
    #[error("{refusal}")]
    Remote {
        /// The refusal. Its text comes from a peer: escape it before you show it.
        refusal: ProtocolError,
    },
    /// A remote mirror could not be reached, or did not respond like a receiver.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The origin could not read content that it had announced.
    #[error("the origin could not read content that it announced")]
    Source(#[source] SourceError),
    /// The mirror's store is not the one it had before, or has been lost.
    #[error("it has {}, but {expected}", store_now(*found))]
    OtherStore {
        /// The store that the mirror had before.
        expected: ExpectedStore,
        /// The store that the mirror has now.
        found: Option<StoreId>,
    },
    /// The history of the mirror's releases differs from that of its fleet.
    #[error("it serves release {current} of history {found}, but its fleet has history {history}")]
    ForeignHistory {
        /// The release that the mirror serves.
        current: ReleaseName,
        /// The history of that release.
        found: HistoryId,
        /// The history of the other mirrors.
        history: HistoryId,
    },
    /// The mirror's highest sequence is too far above those of its fleet to be genuine.
    #[error(
        "its highest release sequence {sequence} is not plausible: the highest of all other \
         mirrors is {highest}"
    )]
    ImplausibleSequence {
        /// The mirror's highest sequence.
        sequence: u64,
        /// The highest sequence of the other mirrors.
        highest: u64,
    },
    /// No thread could be started for the mirror.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The user asked to stop.
    #[error("stopped")]
    Cancelled,
}

fn store_now(found: Option<StoreId>) -> String {
    found.map_or_else(|| "no store now".to_owned(), |found| format!("store {found} now"))
}

impl MirrorError {
    /// The kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Remote { refusal } => refusal.kind(),
            Self::Transport(error) => error.kind(),
            Self::Source(_) | Self::Thread(_) => ErrorKind::SourceUnavailable,
            Self::OtherStore { .. } => ErrorKind::OtherStore,
            Self::ImplausibleSequence { .. } => ErrorKind::ImplausibleSequence,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::ForeignHistory { .. } => ErrorKind::OtherHistory,
            Self::Store(error) => error.kind(),
        }
    }

    /// The damaged base objects, if new content was refused because of them.
    #[must_use]
    pub fn damaged_bases(&self) -> &[ObjectId] {
        match self {
            Self::Store(
                StoreError::DamagedBases { objects } | StoreError::BaseMismatch { objects },
            ) => objects,
            Self::Remote { refusal } => &refusal.objects,
            _ => &[],
        }
    }
}

impl From<IoError> for MirrorError {
    fn from(error: IoError) -> Self {
        Self::Store(error.into())
    }
}
