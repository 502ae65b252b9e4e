//! Polls the states of mirrors, each on its own thread, and receives the responses as they arrive.
//!
//! The threads are not joined: connection attempts cannot be interrupted, and a push that has ended
//! must not wait for them. A poll changes nothing; it ends at its deadline or with the process.

use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use crate::cancel::CANCEL_POLL_INTERVAL;
use crate::fsx::IoError;
use crate::mirror::{Mirror, MirrorError, MirrorState, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::origin::stores::KnownStores;
use crate::push::PushError;
use crate::push::fleet::{self, report_state};
use crate::push::options::{OnFailure, Options};
use crate::push::source::Source;
use crate::text::error_chain;

/// Responses that are still to come, each with the index of a member and its state.
#[derive(Debug)]
pub(super) struct PendingStates(Receiver<(usize, Result<MirrorState, MirrorError>)>);

/// Polls the states of a fleet's members.
pub(super) struct StatePoll<'a> {
    members: Vec<PolledMirror>,
    pending: PendingStates,
    started_at: Instant,
    stores: &'a KnownStores,
    monitor: &'a dyn Monitor,
}

/// Whether the release can be decided before all mirrors have responded.
///
/// It cannot if any mirror's response may affect the decision: if the content comes from the
/// mirrors, if none of the mirrors that have responded has a release, or if a new history takes
/// over the histories of all mirrors. Nor can it if the mirrors depend on each other's outcomes:
/// with waves, or if all revert when one fails.
pub(super) fn may_decide_early(
    source: &Source,
    members: &[PolledMirror],
    options: &Options,
) -> bool {
    let has_own_content =
        matches!(source, Source::Trees { .. } | Source::CurrentRelease(_) | Source::Promote(_));
    let is_independent =
        options.policy.waves.is_empty() && options.policy.on_failure == OnFailure::Leave;
    has_own_content
        && is_independent
        && !options.new_history
        && fleet::newest(members).is_some()
        && fleet::is_requirement_met(members, options.require)
}

impl PendingStates {
    /// Polls all `members` that have not responded.
    fn start_polls(members: &[PolledMirror]) -> Self {
        let (sender, answers) = unbounded();
        for (index, member) in
            members.iter().enumerate().filter(|(_, member)| !member.has_responded())
        {
            let mirror = Arc::clone(&member.mirror);
            let answer = sender.clone();
            let name = mirror.name().to_owned();
            // If the push has ended, nothing receives the response.
            let asked = Builder::new().spawn(move || answer.send((index, mirror.state())).ok());
            if let Err(error) = asked {
                sender
                    .send((index, Err(IoError::new("start a thread for", name, error).into())))
                    .ok();
            }
        }
        Self(answers)
    }

    /// Waits up to `timeout` for the next response, and stores it in its member. Returns the
    /// member's index; `None` if no response came. A mirror is recorded as failed if it belongs to
    /// another user, or if its store is not the known one.
    ///
    /// At least one of `members` must not have responded yet.
    pub(super) fn receive_next(
        &self,
        members: &[PolledMirror],
        timeout: Duration,
        stores: &KnownStores,
        monitor: &dyn Monitor,
    ) -> Option<usize> {
        let (index, state) = match self.0.recv_timeout(timeout) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("asking a mirror for its state does not panic")
            }
        };
        let member = &members[index];
        report_state(&*member.mirror, &state, monitor);
        member.record_result(
            state.and_then(|state| check_writable(&*member.mirror, state, stores, monitor)),
        );
        Some(index)
    }
}

/// Checks that it is safe to write to a mirror: this user owns it, and its store is the same as
/// before.
fn check_writable(
    mirror: &dyn Mirror,
    state: MirrorState,
    stores: &KnownStores,
    monitor: &dyn Monitor,
) -> Result<MirrorState, MirrorError> {
    let store = || stores.check(mirror.name(), mirror.location(), state.store);
    // Checked before anything is sent: another user's directory cannot be written to, and a missing
    // or different store may mean that a volume is not mounted.
    let checked = mirror.check_owner().and_then(|()| store());
    if let Err(error) = &checked {
        monitor.event(Event::MirrorFailed {
            mirror: mirror.name().to_owned(),
            error: error_chain(error),
        });
    }
    checked.map(|()| state)
}

impl<'a> StatePoll<'a> {
    /// Polls all `members` that have not responded.
    pub(super) fn begin(
        members: Vec<PolledMirror>,
        stores: &'a KnownStores,
        monitor: &'a dyn Monitor,
    ) -> Self {
        let pending = PendingStates::start_polls(&members);
        Self { members, pending, started_at: Instant::now(), stores, monitor }
    }

    /// Waits until all members have responded, or until `response_timeout` has passed and
    /// `is_enough` returns true. Reports members that have not responded within `response_timeout`.
    ///
    /// # Errors
    /// [`PushError::Cancelled`].
    pub(super) fn wait(
        &self,
        response_timeout: Duration,
        is_enough: impl Fn(&[PolledMirror]) -> bool,
    ) -> Result<(), PushError> {
        let mut is_reported = false;
        while !self.is_complete() {
            let left = response_timeout.saturating_sub(self.started_at.elapsed());
            if left.is_zero() && !is_reported {
                self.report_overdue();
                is_reported = true;
            }
            if left.is_zero() && is_enough(&self.members) {
                return Ok(());
            }
            if self.monitor.is_cancelled() {
                return Err(PushError::Cancelled);
            }
            let timeout =
                if left.is_zero() { CANCEL_POLL_INTERVAL } else { left.min(CANCEL_POLL_INTERVAL) };
            self.receive_next(timeout);
        }
        // If the push was cancelled, any polls still running failed because of that.
        if self.monitor.is_cancelled() { Err(PushError::Cancelled) } else { Ok(()) }
    }

    /// Waits until all members have responded. Reports members that have not responded within
    /// `response_timeout`.
    ///
    /// # Errors
    /// [`PushError::Cancelled`].
    pub(super) fn wait_for_all(
        self,
        response_timeout: Duration,
    ) -> Result<Vec<PolledMirror>, PushError> {
        self.wait(response_timeout, |_| false)?;
        Ok(self.members)
    }

    /// The members with the responses received so far, and the responses still to come.
    pub(super) fn finish(self) -> (Vec<PolledMirror>, PendingStates) {
        // Takes the responses that have arrived in the meantime, so that these mirrors do not count
        // as late.
        while !self.is_complete() && self.receive_next(Duration::ZERO) {}
        (self.members, self.pending)
    }

    fn is_complete(&self) -> bool {
        self.members.iter().all(PolledMirror::has_responded)
    }

    /// Returns whether a response came.
    fn receive_next(&self, timeout: Duration) -> bool {
        self.pending.receive_next(&self.members, timeout, self.stores, self.monitor).is_some()
    }

    fn report_overdue(&self) {
        for member in self.members.iter().filter(|member| !member.has_responded()) {
            self.monitor.event(Event::AnswerOverdue { mirror: member.mirror.name().to_owned() });
        }
    }
}
