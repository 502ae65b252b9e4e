//! Activates the publication on one mirror, by compare-and-set. If another push got there first,
//! finds out which push won.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use crate::cancel::{CANCEL_POLL_INTERVAL, sleep_unless_cancelled};
use crate::mirror::{ErrorKind, MirrorError, MirrorState};
use crate::monitor::{Event, Monitor as _};
use crate::push::mirror_push::MirrorPush;
use crate::push::options::Options;
use crate::push::outcome::Outcome;
use crate::release::{Release, ReleaseName, Succession};

/// Maximum number of times a push takes a slot back from pushes that have lost.
pub(super) const MAX_ACTIVATION_ATTEMPTS: u32 = 8;
/// How long to wait for a newer, staged release to become current. A push that is about to switch
/// needs less time.
const RIVAL_SWITCH_TIMEOUT: Duration = Duration::from_secs(1);

/// The winner of a compare-and-set that this push seemed to lose.
pub(super) enum RaceWinner {
    /// Our release is current after all.
    Ours,
    /// The other release is older: start again on top of it.
    Older,
    /// The other release is newer.
    Newer,
    /// There is no other release: the mirror serves the same release as before and has none staged.
    NoRival,
    /// The other release is newer, but only staged.
    Staged(ReleaseName),
}

impl MirrorPush<'_> {
    /// Activates the publication on this mirror, after the lead. Undoes what a losing push has done
    /// here: replaces an older release, and stages the publication again if the slot was taken.
    pub(super) fn activate(self) -> Outcome {
        let mut expected = self.served_before();
        for _ in 0..MAX_ACTIVATION_ATTEMPTS {
            let error = match self.try_activate(expected) {
                Ok(()) => return Outcome::Activated,
                Err(error) if self.is_lost_race(error.kind()) => error,
                Err(error) => return self.report_failure(&error),
            };
            // If the mirror cannot be asked which push won, only its refusal is known.
            let Ok(state) = self.mirror().state() else { return self.report_failure(&error) };
            let sequence = self.release().sequence;
            match self.race_winner(&state) {
                RaceWinner::Ours => return Outcome::Activated,
                // A release with a lower sequence is replaced, no matter when its push began.
                RaceWinner::Newer
                    if state.current.is_some_and(|current| current.sequence() >= sequence) =>
                {
                    return Outcome::Superseded;
                }
                // The other release is built on top of ours, so it stays.
                RaceWinner::Newer | RaceWinner::Staged(_)
                    if state.staged.as_ref().is_some_and(|staged| {
                        staged.sequence > sequence && self.wait_until_current(staged.name())
                    }) =>
                {
                    return Outcome::Superseded;
                }
                RaceWinner::Older
                | RaceWinner::Newer
                | RaceWinner::Staged(_)
                | RaceWinner::NoRival => {}
            }
            expected = state.current;
            // The other push took the slot, so our release is no longer complete here.
            if state.staged.is_none_or(|staged| staged.name() != self.release().name())
                && let Err(error) = self.stage_alone()
            {
                return self.report_failure(&error);
            }
        }
        Outcome::Superseded
    }

    /// Activates the publication if the mirror serves `expected`.
    pub(super) fn try_activate(self, expected: Option<ReleaseName>) -> Result<(), MirrorError> {
        let (mirror, release) = (self.mirror(), self.release());
        mirror.activate(release.name(), expected)?;
        // Recorded now rather than at the end: the next push needs the store id even if this one is
        // killed between two mirrors.
        if let Some(store) = mirror.store_id() {
            let stores = &self.context.options.stores;
            stores.record(mirror.location(), store, Some(release.name()));
        }
        self.context.monitor.event(Event::Activated {
            mirror: mirror.name().to_owned(),
            sequence: release.sequence,
        });
        Ok(())
    }

    /// Whether the mirror refused the publication because another push got there first. For a new
    /// release, a different history on the mirror means the same, because the mirror had no
    /// history, or ours, when it was polled.
    pub(super) fn is_lost_race(self, failure: ErrorKind) -> bool {
        failure == ErrorKind::Conflict
            || self.context.publication.is_new && failure == ErrorKind::OtherHistory
    }

    /// Waits up to [`RIVAL_SWITCH_TIMEOUT`] for the staged release `name` to become current.
    pub(super) fn wait_until_current(self, name: ReleaseName) -> bool {
        let deadline = Instant::now() + RIVAL_SWITCH_TIMEOUT;
        loop {
            // Without knowing the winner, this push must put nothing on top of it.
            let Ok(state) = self.mirror().state() else { return true };
            if state.current.is_some_and(|current| current.sequence() >= name.sequence()) {
                return true;
            }
            let is_staged = state.staged.is_some_and(|staged| staged.name() == name);
            if !is_staged
                || Instant::now() >= deadline
                || !sleep_unless_cancelled(CANCEL_POLL_INTERVAL, self.context.monitor)
            {
                return false;
            }
        }
    }

    /// Asks a mirror, after it has refused the publication, which push won there.
    pub(super) fn query_race_winner(self) -> RaceWinner {
        match self.mirror().state() {
            Ok(state) => self.race_winner(&state),
            // Without knowing the winner, this push must put nothing on top of it.
            Err(_) => RaceWinner::Newer,
        }
    }

    /// Returns which push won on a mirror in this `state`. Clocks are compared only if two pushes
    /// compete.
    fn race_winner(self, state: &MirrorState) -> RaceWinner {
        let ours = self.release();
        let is_switched = state.current != self.served_before();
        let rival = match (is_switched, state.current_release()) {
            // The rival's record is lost, so its rank is unknown, and nothing may be put on top of
            // it.
            (true, None) if state.current.is_some() => return RaceWinner::Newer,
            (true, current) => current,
            // No switch happened: the other push took the slot that our release was staged in.
            (false, _) => match state.staged.as_ref().filter(|other| other.name() != ours.name()) {
                Some(staged) => Some(staged),
                None => return RaceWinner::NoRival,
            },
        };
        let newer = |rival: &Release| {
            if is_switched { RaceWinner::Newer } else { RaceWinner::Staged(rival.name()) }
        };
        match rival {
            Some(rival) if rival.name() == ours.name() && is_switched => RaceWinner::Ours,
            // This push did not create the release, so the release already has a rank, and only
            // that counts.
            Some(rival) if !self.context.publication.is_new => match ours.succession(rival) {
                Succession::Follows => RaceWinner::Older,
                Succession::NotNewer | Succession::OtherHistory => newer(rival),
            },
            Some(rival) if is_newer(rival, ours, self.context.options) => newer(rival),
            _ => RaceWinner::Older,
        }
    }
}

/// Whether a rival is newer than our release: by run number if both have one in the same stream,
/// otherwise by when the pushes began.
fn is_newer(rival: &Release, ours: &Release, options: &Options) -> bool {
    let began = |release: &Release| (release.began, release.id());
    // `--allow-older` says that a lower number may win.
    let order = options.run_number.as_ref().filter(|_| !options.allow_older);
    match order
        .and_then(|order| rival.orders.get(order.stream()).map(|seen| seen.cmp(&order.number())))
    {
        Some(Ordering::Greater) => true,
        Some(Ordering::Less) => false,
        Some(Ordering::Equal) | None => began(rival) > began(ours),
    }
}
