//! Attempts to reach a receiver, over HTTP or SSH: their time limit, and what happens when one
//! fails.

use std::time::Duration;

use crate::mirror::MirrorError;

/// The time limit for a connection, including the TLS handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether and when a failed attempt is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryAction {
    /// Never: the attempt would fail again.
    Never,
    /// Immediately: the server closed an idle connection.
    AtOnce,
    /// After a pause.
    Later,
    /// After the delay that the receiver asked for.
    After(Duration),
    /// Repeatedly, until [`TransferLimits::lock_wait`](crate::mirror::TransferLimits::lock_wait)
    /// has passed.
    WhileLocked,
}

/// The error from an attempt, and whether the attempt is retried.
#[derive(Debug)]
pub(super) struct AttemptError {
    pub(super) error: MirrorError,
    pub(super) retry: RetryAction,
}

impl AttemptError {
    pub(super) const fn final_(error: MirrorError) -> Self {
        Self { error, retry: RetryAction::Never }
    }
}
