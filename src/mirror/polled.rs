//! A mirror and its state, as far as the mirror has answered.

use std::sync::{Arc, OnceLock};

use crate::mirror::{Expiries, Mirror, MirrorError, MirrorState};
use crate::release::{Release, ReleaseName};

/// A mirror and the state that it reported.
#[derive(Debug)]
pub struct PolledMirror {
    /// The mirror.
    pub mirror: Arc<dyn Mirror>,
    /// Its state, or why it could not be learned; empty until it has answered.
    answer: OnceLock<Result<MirrorState, Arc<MirrorError>>>,
}

impl PolledMirror {
    /// A mirror that has answered.
    #[must_use]
    pub fn new(mirror: Arc<dyn Mirror>, answer: Result<MirrorState, MirrorError>) -> Self {
        Self { mirror, answer: OnceLock::from(answer.map_err(Arc::new)) }
    }

    /// A mirror that has not answered yet.
    #[must_use]
    pub const fn unanswered(mirror: Arc<dyn Mirror>) -> Self {
        Self { mirror, answer: OnceLock::new() }
    }

    /// Whether its state is known, or why it could not be learned.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.answer.get().is_some()
    }

    /// Its state; `None` if it could not be learned, or has not been until now.
    #[must_use]
    pub fn state(&self) -> Option<&MirrorState> {
        self.answer.get()?.as_ref().ok()
    }

    /// Why its state could not be learned; `None` if it was, or may still be.
    #[must_use]
    pub fn error(&self) -> Option<&MirrorError> {
        self.answer.get()?.as_ref().err().map(|error| &**error)
    }

    /// The same, shared.
    pub(crate) fn shared_error(&self) -> Option<Arc<MirrorError>> {
        self.answer.get()?.as_ref().err().cloned()
    }

    /// Notes that the mirror could not be asked. Only the first answer counts.
    pub(crate) fn note_shared_error(&self, error: Arc<MirrorError>) {
        self.answer.set(Err(error)).ok();
    }

    /// Notes what it answered. Only the first answer counts.
    pub(crate) fn note_answer(&self, answer: Result<MirrorState, MirrorError>) {
        self.answer.set(answer.map_err(Arc::new)).ok();
    }

    pub(crate) fn releases(&self) -> &[Release] {
        self.state().map_or(&[], |state| &state.releases)
    }

    /// Whether something is due there by `now` that settling does.
    pub(crate) fn needs_settling(&self, now: u64) -> bool {
        let Some(state) = self.state() else { return false };
        // What expired may still be there, after a crash.
        let time = now.max(state.expired_through);
        state.incoming_bytes > 0 || state.next_expiry.is_some_and(|next| next <= time)
    }

    /// When what the mirror was reached with ends, as far as known.
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
