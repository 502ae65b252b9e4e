//! A mirror and its state, if the mirror has responded.

use std::sync::{Arc, OnceLock};

use crate::mirror::{Expiries, Mirror, MirrorError, MirrorState};
use crate::release::{Release, ReleaseName};
use crate::tree_path::Site;

/// A mirror and the state that it reported.
#[derive(Debug)]
pub struct PolledMirror {
    /// The mirror.
    pub mirror: Arc<dyn Mirror>,
    /// Its state, or why it could not be polled; empty until the mirror has responded.
    poll_result: OnceLock<Result<MirrorState, Arc<MirrorError>>>,
}

impl PolledMirror {
    /// A mirror with the result of its poll.
    #[must_use]
    pub fn new(mirror: Arc<dyn Mirror>, answer: Result<MirrorState, MirrorError>) -> Self {
        Self { mirror, poll_result: OnceLock::from(answer.map_err(Arc::new)) }
    }

    /// A mirror that has not responded yet.
    #[must_use]
    pub const fn pending(mirror: Arc<dyn Mirror>) -> Self {
        Self { mirror, poll_result: OnceLock::new() }
    }

    /// Whether polling has ended, with a state or with an error.
    #[must_use]
    pub fn has_responded(&self) -> bool {
        self.poll_result.get().is_some()
    }

    /// The state; `None` if polling failed or has not ended.
    #[must_use]
    pub fn state(&self) -> Option<&MirrorState> {
        self.poll_result.get()?.as_ref().ok()
    }

    /// Why polling failed; `None` if it succeeded or has not ended.
    #[must_use]
    pub fn error(&self) -> Option<&MirrorError> {
        self.poll_result.get()?.as_ref().err().map(|error| &**error)
    }

    /// Like [`Self::error`], but shared.
    pub(crate) fn shared_error(&self) -> Option<Arc<MirrorError>> {
        self.poll_result.get()?.as_ref().err().cloned()
    }

    /// Records that polling the mirror failed. Only the first result counts.
    pub(crate) fn record_shared_error(&self, error: Arc<MirrorError>) {
        self.poll_result.set(Err(error)).ok();
    }

    /// Stores the result of the poll. Only the first result counts.
    pub(crate) fn record_result(&self, answer: Result<MirrorState, MirrorError>) {
        self.poll_result.set(answer.map_err(Arc::new)).ok();
    }

    /// The site of its store; without a store, the site that its receiver is configured for.
    pub(crate) fn site(&self) -> Option<&Site> {
        let state = self.state()?;
        state.site.as_ref().or(state.only_site.as_ref())
    }

    pub(crate) fn releases(&self) -> &[Release] {
        self.state().map_or(&[], |state| &state.releases)
    }

    /// Whether the mirror needs a clean-up by `now`.
    pub(crate) fn needs_clean_up(&self, now: u64) -> bool {
        let Some(state) = self.state() else { return false };
        // After a crash, expired entries may still be present.
        let time = now.max(state.expired_through);
        state.incoming_bytes > 0 || state.next_expiry.is_some_and(|next| next <= time)
    }

    /// When the token or the certificate used for the mirror expires, if known.
    pub(crate) fn expiries(&self) -> Expiries {
        self.state().map_or_else(Expiries::default, |state| state.expiries)
    }

    pub(crate) fn current_release(&self) -> Option<&Release> {
        self.state()?.current_release()
    }

    pub(crate) fn current(&self) -> Option<ReleaseName> {
        self.state()?.current
    }
}
