//! Why a receiver refused a request.

use serde::{Deserialize, Serialize};

use crate::error_kind::ErrorKind;
use crate::hash::ObjectId;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ProtocolError {
    /// What kind of failure it is. [`Self::kind`] is more exact for a client.
    pub kind: ErrorKind,
    /// For people, one line. Of a peer: to be escaped before it is shown.
    pub message: String,
    /// Old objects that are damaged there, where that is why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectId>,
    /// What of its kind it is, where that decides what is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// The message of a refusal `forbidden` to whoever may read and wants to push.
pub const READ_ONLY: &str = "this token may read, and not push";

/// What the kind of a refusal does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// `no_space` where there may be room, but the site has a quota.
    Quota,
    /// `unauthorized` by a token that held once.
    Expired,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl ProtocolError {
    /// A refusal.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), objects: Vec::new(), detail: None }
    }

    /// The kind for the client that got this answer. To a client, a request that the receiver did not understand is a
    /// matter of the protocol.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match (self.kind, self.detail) {
            (ErrorKind::NoSpace, Some(Detail::Quota)) => ErrorKind::OverQuota,
            (ErrorKind::Unauthorized, Some(Detail::Expired)) => ErrorKind::Forbidden,
            (ErrorKind::Malformed | ErrorKind::TooLarge | ErrorKind::NotAskedFor | ErrorKind::Unknown, _) => {
                ErrorKind::Protocol
            }
            (kind, _) => kind,
        }
    }
}
