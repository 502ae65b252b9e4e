//! Error responses: a status and the error that the peer reads.

use std::error::Error;
use std::time::Duration;

use hyper::StatusCode;

use crate::error_kind::ErrorKind;
use crate::fsx::IoError;
use crate::protocol::{ErrorDetail, ProtocolError};
use crate::store::StoreError;
use crate::text::error_chain;

/// An error of the protocol with its HTTP status and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpError {
    pub(crate) status: StatusCode,
    pub(crate) protocol_error: ProtocolError,
    /// Value of the `Retry-After` header.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the connection must close, because it is unknown where the next request begins.
    pub(crate) ends_connection: bool,
}

impl HttpError {
    pub(crate) fn new(status: StatusCode, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            status,
            protocol_error: ProtocolError::new(kind, message),
            retry_after: None,
            ends_connection: false,
        }
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::Malformed, message)
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::Unknown, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, message)
    }

    pub(crate) fn no_space(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, ErrorKind::NoSpace, message)
    }

    /// The quota of the site is exceeded, even if its disk has free space.
    pub(crate) fn over_quota(message: impl Into<String>) -> Self {
        Self::no_space(message).with_detail(ErrorDetail::Quota)
    }

    /// This error with a subtype that the client can act on.
    pub(crate) const fn with_detail(mut self, detail: ErrorDetail) -> Self {
        self.protocol_error.detail = Some(detail);
        self
    }

    pub(crate) fn not_requested(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, ErrorKind::NotRequested, message)
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Busy, message) }
    }

    /// Another client or process holds the lock or the stage.
    pub(crate) fn locked(message: impl Into<String>) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Self { retry_after, ..Self::new(StatusCode::LOCKED, ErrorKind::Locked, message) }
    }

    /// The body arrived too slowly or was cut off.
    pub(crate) fn incomplete_body(message: impl Into<String>) -> Self {
        Self {
            ends_connection: true,
            ..Self::new(StatusCode::REQUEST_TIMEOUT, ErrorKind::Malformed, message)
        }
    }

    /// A worker ended without a result, which is a bug. Its panic message goes only to the log.
    pub(crate) fn no_result() -> Self {
        let message = "the work on this request ended without a result: it panicked, or the \
                       receiver is stopping";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Other, message)
    }

    /// The system failed, or an invariant is broken.
    pub(crate) fn internal(error: &dyn Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Other, error_chain(error))
    }
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        let message = error_chain(&error);
        // The peer sent the invalid data. If the status were 500, the origin would assume that the
        // disk has failed here.
        if matches!(error, StoreError::Mismatch { .. } | StoreError::Pack(_)) {
            return Self::malformed(message);
        }
        let kind = error.kind();
        let status = match kind {
            ErrorKind::Denied | ErrorKind::OtherOwner | ErrorKind::OtherSite => {
                StatusCode::FORBIDDEN
            }
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Locked => StatusCode::LOCKED,
            ErrorKind::Conflict | ErrorKind::OtherHistory | ErrorKind::NotEmpty => {
                StatusCode::CONFLICT
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let retry_after = (kind == ErrorKind::Locked).then_some(Duration::from_secs(1));
        let objects = match error {
            StoreError::DamagedBases { objects } | StoreError::BaseMismatch { objects } => objects,
            _ => Vec::new(),
        };
        let refusal = ProtocolError { objects, ..ProtocolError::new(kind, message) };
        Self { status, protocol_error: refusal, retry_after, ends_connection: false }
    }
}

impl From<IoError> for HttpError {
    fn from(error: IoError) -> Self {
        StoreError::Io(error).into()
    }
}

/// Converts a store error. If something does not exist, the result is [`ErrorKind::Unknown`] with
/// status 404.
pub(crate) fn map_not_found(error: StoreError) -> HttpError {
    match &error {
        StoreError::Io(io) if io.kind() == std::io::ErrorKind::NotFound => {
            HttpError::unknown(error_chain(&error))
        }
        StoreError::NotAStore { .. } => HttpError::unknown(error_chain(&error)),
        _ => error.into(),
    }
}
