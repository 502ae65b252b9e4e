//! Why a receiver refused a request.

use serde::{Deserialize, Serialize};

use crate::error_kind::ErrorKind;
use crate::hash::ObjectId;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ProtocolError {
    /// The kind of the failure. [`Self::kind`] is more precise for a client.
    pub kind: ErrorKind,
    /// One line for people. It comes from the peer, so escape it before you show it.
    pub message: String,
    /// Base objects that are damaged on the mirror, if they are the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectId>,
    /// Subtype of the error, if the client must act on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<ErrorDetail>,
}

/// The message of the error `forbidden` for a client that wants to push but may only read.
pub const READ_ONLY_MESSAGE: &str = "this token may only read, not push";

/// Subtype of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorDetail {
    /// `no_space` because of the site's quota, not because the disk is full.
    Quota,
    /// `unauthorized` because the token has expired.
    Expired,
    /// A subtype that this version does not know.
    #[serde(other)]
    Other,
}

impl ProtocolError {
    /// An error without objects or a subtype.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), objects: Vec::new(), detail: None }
    }

    /// The kind of the error, as the client that received this response sees it. If the receiver
    /// did not understand the request, the client treats it as a protocol error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match (self.kind, self.detail) {
            (ErrorKind::NoSpace, Some(ErrorDetail::Quota)) => ErrorKind::OverQuota,
            // The hint for `Forbidden` names the command that makes a new token, which solves the
            // problem here.
            (ErrorKind::Unauthorized, Some(ErrorDetail::Expired)) => ErrorKind::Forbidden,
            (
                ErrorKind::Malformed
                | ErrorKind::TooLarge
                | ErrorKind::NotRequested
                | ErrorKind::Unknown,
                _,
            ) => ErrorKind::Protocol,
            (kind, _) => kind,
        }
    }
}
