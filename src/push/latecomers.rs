//! Mirrors that respond after the release is decided. Each is brought to the release on its own.
//!
//! A late response does not affect the other mirrors. If the response would have stopped the push
//! had it come in time, only that mirror fails. A mirror that serves a newer release is left alone.

use std::thread::Scope;

use crossbeam_channel::Sender;

use crate::cancel::CANCEL_POLL_INTERVAL;
use crate::mirror::{ErrorKind, MirrorError};
use crate::monitor::Monitor as _;
use crate::push::context::PushContext;
use crate::push::guards::GuardFault;
use crate::push::mirror_push::MirrorPush;
use crate::push::outcome::Outcome;
use crate::push::rollout::StagingResult;
use crate::push::{PushError, claims, fleet};
use crate::release::Release;
use crate::threads;

/// Starts to stage the publication on late members as they respond. If no thread can be created,
/// these members fail.
pub(super) fn start<'s>(
    scope: &'s Scope<'s, '_>,
    context: PushContext<'s>,
    staged: &Sender<StagingResult>,
) {
    let late = &context.publication.late_members;
    if late.is_empty() {
        return;
    }
    let result_sender = staged.clone();
    let stage = move || stage_latecomers(scope, context, &result_sender);
    if let Err(error) = threads::start(scope, stage) {
        for index in late {
            staged.send((*index, Err(error.clone().into()))).ok();
        }
    }
}

/// Receives the responses from the late members and stages the publication on each, in its own
/// thread, until all have responded or the push ends.
fn stage_latecomers<'s>(
    scope: &'s Scope<'s, '_>,
    context: PushContext<'s>,
    staged: &Sender<StagingResult>,
) {
    let PushContext { publication, options, monitor } = context;
    let mut unanswered = publication.late_members.len();
    while unanswered > 0 && !monitor.is_cancelled() {
        let answered = publication.pending.receive_next(
            &publication.members,
            CANCEL_POLL_INTERVAL,
            &options.stores,
            monitor,
        );
        let Some(index) = answered else { continue };
        unanswered -= 1;
        let result_sender = staged.clone();
        let mirror = MirrorPush { context, index };
        let stage = move || result_sender.send((index, mirror.stage_late())).ok();
        if let Err(error) = threads::start(scope, stage) {
            staged.send((index, Err(error.into()))).ok();
        }
    }
}

impl MirrorPush<'_> {
    fn stage_late(self) -> Result<Outcome, MirrorError> {
        let decided = self
            // Checked first, because two threads must not write to the same store under two names.
            .duplicate_store_outcome()
            .or_else(|| self.immediate_outcome())
            .or_else(|| self.blocking_outcome(self.polled().current_release()?));
        match decided {
            Some(outcome) => Ok(outcome),
            None => self.stage_alone().map(|()| Outcome::Staged),
        }
    }

    /// The outcome of a mirror that is listed again under a different name.
    fn duplicate_store_outcome(self) -> Option<Outcome> {
        let members = &self.context.publication.members;
        let first = fleet::other_with_store(members, self.index)?;
        let location = |index: usize| members[index].mirror.location().to_owned();
        let error = PushError::SameMirror { first: location(first), second: location(self.index) };
        Some(Outcome::Failed { failure: ErrorKind::UnsuitableLocation, error: error.to_string() })
    }

    /// The outcome of a mirror whose `current` release would have stopped the push. The mirror with
    /// the newest release decides which run numbers are too low and which content is rejected.
    fn blocking_outcome(self, current: &Release) -> Option<Outcome> {
        let PushContext { publication, options, .. } = self.context;
        let was_newest = publication.newest_before.as_ref().is_none_or(|newest| {
            newest.history == current.history && current.rank() > newest.rank()
        });
        // The release on which the publication is based has already decided this.
        if !publication.is_new || !was_newest {
            return None;
        }
        if claims::check_run_number(options, &current.orders).is_err() {
            // Not a failure: the mirror is ahead of this push.
            return Some(Outcome::Newer { serves: current.name() });
        }
        let rejected =
            current.rejection(publication.release.content).filter(|_| !options.allow_rejected)?;
        let error = GuardFault::Rejected(rejected.clone()).to_string();
        Some(Outcome::Failed { failure: ErrorKind::Other, error })
    }
}
