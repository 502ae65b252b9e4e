//! One mirror in a push: its known state, and what the push must do there.

use crate::hash::StoreId;
use crate::mirror::{ErrorKind, Mirror, MirrorError, MirrorState, PolledMirror};
use crate::monitor::{Event, Monitor as _};
use crate::push::context::PushContext;
use crate::push::fleet;
use crate::push::outcome::Outcome;
use crate::release::{Release, ReleaseName, Succession};
use crate::text::error_chain;

/// The part of a push that concerns one mirror. It has no mutable state: each thread that stages or
/// activates gets a copy, and the rollout receives the outcome.
#[derive(Clone, Copy)]
pub(super) struct MirrorPush<'a> {
    pub(super) context: PushContext<'a>,
    /// The mirror's index in the members of the publication.
    pub(super) index: usize,
}

impl<'a> MirrorPush<'a> {
    pub(super) fn polled(self) -> &'a PolledMirror {
        &self.context.publication.members[self.index]
    }

    pub(super) fn mirror(self) -> &'a dyn Mirror {
        &*self.polled().mirror
    }

    pub(super) fn name(self) -> &'a str {
        self.mirror().name()
    }

    /// The release that the mirror should get.
    pub(super) const fn release(self) -> &'a Release {
        &self.context.publication.release
    }

    /// The release that the mirror served when it was polled.
    pub(super) fn served_before(self) -> Option<ReleaseName> {
        self.polled().current()
    }

    /// The id of the mirror's store, if it had one when it was polled.
    pub(super) fn known_store(self) -> Option<StoreId> {
        self.polled().state()?.store
    }

    /// Whether the mirror had not responded when the release was decided.
    pub(super) fn is_late(self) -> bool {
        self.context.publication.late_members.contains(&self.index)
    }

    pub(super) fn is_joining(self) -> bool {
        fleet::is_joining(&self.context.publication.members, self.index)
    }

    /// The outcome of a mirror that needs nothing or cannot be updated; `None` if the mirror needs
    /// the release or has not responded yet.
    pub(super) fn immediate_outcome(self) -> Option<Outcome> {
        let polled = self.polled();
        let Some(state) = polled.state() else { return polled.error().map(Outcome::failed) };
        if state.current == Some(self.release().name()) {
            return Some(Outcome::Current);
        }
        // `heal` expects that some mirrors have a newer release that was made for only part of the
        // fleet. Such mirrors are apart and do not stop `heal`.
        if self.context.publication.skips_newer_mirrors && self.serves_newer() {
            return Some(Outcome::Apart);
        }
        if state.staged.as_ref().is_some_and(|staged| staged.name() == self.release().name()) {
            return Some(Outcome::Staged);
        }
        irreplaceable_outcome(self.release(), state)
    }

    /// Whether the mirror serves a newer release from a history that our release did not take over.
    fn serves_newer(self) -> bool {
        let release = self.release();
        let is_above = |current: &Release| {
            current.rank() > release.rank() && !release.replaces.contains(&current.history)
        };
        self.polled().current_release().is_some_and(is_above)
    }

    /// Reports the outcome of a mirror that needed nothing.
    pub(super) fn report(self, outcome: &Outcome) {
        let mirror = self.name().to_owned();
        match outcome {
            Outcome::Current => {
                let sequence = self.release().sequence;
                self.context.monitor.event(Event::AlreadyCurrent { mirror, sequence });
            }
            // A mirror that could not be polled was already reported.
            Outcome::Failed { error, .. } if self.polled().state().is_some() => {
                self.context.monitor.event(Event::MirrorFailed { mirror, error: error.clone() });
            }
            _ => {}
        }
    }

    /// Reports an error from the mirror. Returns the outcome.
    pub(super) fn report_failure(self, error: &MirrorError) -> Outcome {
        let mirror = self.name().to_owned();
        self.context.monitor.event(Event::MirrorFailed { mirror, error: error_chain(error) });
        Outcome::failed(error)
    }
}

/// The outcome of a mirror whose current release `release` must not replace.
fn irreplaceable_outcome(release: &Release, state: &MirrorState) -> Option<Outcome> {
    let serves = state.current?;
    // The record is lost. In this case, the store compares only the sequences, and so does this
    // function.
    let Some(current) = state.current_release() else {
        return (serves.sequence() >= release.sequence).then_some(Outcome::Newer { serves });
    };
    match release.succession(current) {
        Succession::Follows => None,
        Succession::NotNewer => Some(Outcome::Newer { serves }),
        Succession::OtherHistory => Some(Outcome::Failed {
            failure: ErrorKind::OtherHistory,
            error: format!(
                "it serves release {serves} of history {}, and release {} is of history {}",
                current.history.short(),
                release.name(),
                release.history.short()
            ),
        }),
    }
}
