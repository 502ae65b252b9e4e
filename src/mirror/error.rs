//! Why a mirror did not do what was asked.

use crate::error_kind::ErrorKind;
use crate::fsx::IoError;
use crate::hash::{HistoryId, ObjectId, StoreId};
use crate::mirror::SourceError;
use crate::mirror::transport_error::TransportError;
use crate::protocol::ProtocolError;
use crate::release::ReleaseName;
use crate::store::StoreError;
use crate::threads::ThreadError;

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
    #[error("it serves release {current} of history {found}, and its fleet has history {history}")]
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

impl MirrorError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Remote { refusal } => refusal.kind(),
            Self::Transport(error) => error.kind(),
            Self::Source(_) | Self::Thread(_) => ErrorKind::SourceUnavailable,
            Self::OtherStore { .. } => ErrorKind::OtherStore,
            Self::FarBeyond { .. } => ErrorKind::FarBeyond,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::ForeignHistory { .. } => ErrorKind::OtherHistory,
            Self::Store(error) => error.kind(),
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

impl From<IoError> for MirrorError {
    fn from(error: IoError) -> Self {
        Self::Store(error.into())
    }
}
