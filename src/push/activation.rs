//! Activation: switches the lead mirror first, then the others in parallel.
//!
//! All pushes use the same order of mirrors, so two that compete meet at the same lead, and its
//! compare-and-set decides which of them wins.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use crate::cancel::{CANCEL_POLL_INTERVAL, pause};
use crate::hash::StoreId;
use crate::mirror::{ErrorKind, MirrorError, MirrorState};
use crate::monitor::{Event, Monitor as _};
use crate::push::options::Options;
use crate::push::outcome::Outcome;
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::rollout::{mirror, stage_alone};
use crate::push::{PushError, fleet};
use crate::release::{Release, ReleaseName, Succession};
use crate::text::error_chain;
use crate::threads;

/// Maximum number of times that a slot is taken back from pushes that have lost.
const MAX_TRIES: u32 = 8;
/// How long to wait for a newer, staged release to become current. A push that is about to switch
/// needs less.
const TIME_TO_SWITCH: Duration = Duration::from_secs(1);

/// The winner of a compare-and-set that this push lost.
pub(super) enum RaceWinner {
    /// Our release is current after all.
    Ours,
    /// The other release is older: start again on top of it.
    Older,
    /// The other release is newer.
    Newer,
    /// There is no other release: the mirror serves what it served before and has none staged.
    NoRelease,
    /// The other release is newer, but only staged.
    Staged(ReleaseName),
}

/// Activates the publication on the `staged` mirrors and records their outcomes. Returns whether to
/// start again on top of another push.
pub(super) fn activate(
    publication: &Publication,
    staged: &[usize],
    outcomes: &mut [Option<Outcome>],
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<bool, PushError> {
    let mut rest = by_store(publication, staged);
    let mut tries = 0;
    while !rest.is_empty() {
        if monitor.is_cancelled() {
            return Err(PushError::Cancelled);
        }
        let lead = rest.remove(0);
        let activated =
            match try_one(publication, lead, publication.members[lead].current(), options, monitor)
            {
                Err(error) if is_lost(publication, error.kind()) => {
                    match ask_who_won(publication, lead, options) {
                        RaceWinner::Ours => Ok(()),
                        // Another push took the slot and gave it up; stage again.
                        RaceWinner::NoRelease
                            if tries < MAX_TRIES
                                && stage_alone(publication, lead, options, monitor).is_ok() =>
                        {
                            tries += 1;
                            rest.insert(0, lead);
                            continue;
                        }
                        // The mirror contradicts itself. It fails alone; the others are published.
                        RaceWinner::NoRelease => Err(error),
                        race @ (RaceWinner::Older | RaceWinner::Newer | RaceWinner::Staged(_)) => {
                            return Ok(on_lost_race(publication, lead, &race, outcomes, monitor));
                        }
                    }
                }
                other => other,
            };
        match activated {
            Ok(()) => {
                outcomes[lead] = Some(Outcome::Activated);
                activate_all(publication, &rest, outcomes, options, monitor);
                return Ok(false);
            }
            // The next mirror becomes the lead.
            Err(error) => outcomes[lead] = Some(failed(publication, lead, &error, monitor)),
        }
    }
    Ok(false)
}

/// Activates the publication on one more mirror, after the lead. Undoes what a losing push did
/// there meanwhile: an older release is replaced, and if the slot was taken, the publication is
/// staged again.
pub(super) fn activate_one(
    publication: &Publication,
    index: usize,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Outcome {
    let mut expected = publication.members[index].current();
    for _ in 0..MAX_TRIES {
        let error = match try_one(publication, index, expected, options, monitor) {
            Ok(()) => return Outcome::Activated,
            Err(error) if is_lost(publication, error.kind()) => error,
            Err(error) => return failed(publication, index, &error, monitor),
        };
        let Ok(state) = mirror(publication, index).state() else {
            return failed(publication, index, &error, monitor);
        };
        match race(publication, index, &state, options) {
            RaceWinner::Ours => return Outcome::Activated,
            // A release with a lower sequence is replaced, whenever its push began.
            RaceWinner::Newer
                if state
                    .current
                    .is_some_and(|current| current.sequence() >= publication.release.sequence) =>
            {
                return Outcome::Superseded;
            }
            // The other release is built on top of ours, so it stays.
            RaceWinner::Newer | RaceWinner::Staged(_)
                if state.staged.as_ref().is_some_and(|staged| {
                    staged.sequence > publication.release.sequence
                        && is_soon_served(publication, index, staged.name(), monitor)
                }) =>
            {
                return Outcome::Superseded;
            }
            RaceWinner::Older
            | RaceWinner::Newer
            | RaceWinner::Staged(_)
            | RaceWinner::NoRelease => {}
        }
        expected = state.current;
        if state.staged.is_none_or(|staged| staged.name() != publication.release.name())
            && let Err(error) = stage_alone(publication, index, options, monitor)
        {
            return failed(publication, index, &error, monitor);
        }
    }
    Outcome::Superseded
}

/// Whether a mirror refused the publication because another push was quicker. For a new release,
/// another history on the mirror means the same: when it was polled, it had no history or ours.
pub(super) fn is_lost(publication: &Publication, failure: ErrorKind) -> bool {
    failure == ErrorKind::Conflict || publication.is_new && failure == ErrorKind::OtherHistory
}

/// Handles a compare-and-set lost on the mirror `index` with this result: drops everything that was
/// staged. Returns whether to start again on top of the other release.
pub(super) fn on_lost_race(
    publication: &Publication,
    index: usize,
    race: &RaceWinner,
    outcomes: &mut [Option<Outcome>],
    monitor: &PushMonitor<'_>,
) -> bool {
    let (outcome, is_ahead) = match *race {
        // A release may stay staged without ever being served. It is replaced, as by a push that
        // starts now.
        RaceWinner::Staged(by) if !is_soon_served(publication, index, by, monitor) => {
            (Outcome::Displaced { by }, true)
        }
        RaceWinner::Older | RaceWinner::NoRelease => (Outcome::Superseded, true),
        RaceWinner::Ours | RaceWinner::Newer | RaceWinner::Staged(_) => {
            (Outcome::Superseded, false)
        }
    };
    give_up(publication, outcomes, &outcome);
    outcomes[index] = Some(outcome);
    publication.is_repeatable && is_ahead
}

/// Waits up to [`TIME_TO_SWITCH`] for the staged release `name` to become current on the mirror.
fn is_soon_served(
    publication: &Publication,
    index: usize,
    name: ReleaseName,
    monitor: &PushMonitor<'_>,
) -> bool {
    let deadline = Instant::now() + TIME_TO_SWITCH;
    loop {
        // Without knowing the winner nothing may be put on top of it.
        let Ok(state) = mirror(publication, index).state() else { return true };
        if state.current.is_some_and(|current| current.sequence() >= name.sequence()) {
            return true;
        }
        let is_staged = state.staged.is_some_and(|staged| staged.name() == name);
        if !is_staged || Instant::now() >= deadline || !pause(CANCEL_POLL_INTERVAL, monitor) {
            return false;
        }
    }
}

fn try_one(
    publication: &Publication,
    index: usize,
    expected: Option<ReleaseName>,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<(), MirrorError> {
    let mirror = mirror(publication, index);
    mirror.activate(publication.release.name(), expected)?;
    // Recorded now and not at the end: the next push needs it even if this one is killed between
    // two mirrors.
    if let Some(store) = mirror.store_id() {
        options.stores.remember(mirror.location(), store, Some(publication.release.name()));
    }
    monitor.event(Event::Activated {
        mirror: mirror.name().to_owned(),
        sequence: publication.release.sequence,
    });
    Ok(())
}

pub(super) fn activate_all(
    publication: &Publication,
    rest: &[usize],
    outcomes: &mut [Option<Outcome>],
    options: &Options,
    monitor: &PushMonitor<'_>,
) {
    let activated =
        threads::each(rest, |index| (*index, activate_one(publication, *index, options, monitor)));
    for (index, outcome) in activated {
        outcomes[index] = Some(outcome);
    }
}

pub(super) fn name(publication: &Publication, index: usize) -> &str {
    mirror(publication, index).name()
}

fn failed(
    publication: &Publication,
    index: usize,
    error: &MirrorError,
    monitor: &PushMonitor<'_>,
) -> Outcome {
    let mirror = mirror(publication, index).name().to_owned();
    monitor.event(Event::MirrorFailed { mirror, error: error_chain(error) });
    Outcome::failed(error)
}

/// The staged mirrors in the order in which they lead. The id of a new store is only known now.
fn by_store(publication: &Publication, staged: &[usize]) -> Vec<usize> {
    // A single mirror leads, whatever its id, so no request for the id is needed.
    if staged.len() < 2 {
        return staged.to_vec();
    }
    in_order(publication, staged, |index| {
        known_store(publication, index).or_else(|| mirror(publication, index).state().ok()?.store)
    })
}

/// The id of a mirror's store, if it had one when it was polled.
pub(super) fn known_store(publication: &Publication, index: usize) -> Option<StoreId> {
    publication.members[index].state()?.store
}

/// Mirrors in the order in which they lead.
pub(super) fn in_order(
    publication: &Publication,
    members: &[usize],
    store: impl Fn(usize) -> Option<StoreId>,
) -> Vec<usize> {
    // Competing pushes may not know about a joining mirror, so it leads only if all are joining.
    let rank = |index: usize| (fleet::is_joining(&publication.members, index), store(index), index);
    let mut order: Vec<_> = members.iter().map(|&index| rank(index)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, _, index)| index).collect()
}

/// Queries a mirror that refused the publication, and returns who won there.
pub(super) fn ask_who_won(
    publication: &Publication,
    index: usize,
    options: &Options,
) -> RaceWinner {
    match mirror(publication, index).state() {
        Ok(state) => race(publication, index, &state, options),
        // Without knowing the winner nothing may be put on top of it.
        Err(_) => RaceWinner::Newer,
    }
}

/// Who won on a mirror that now has this `state`. Clocks are compared only between two competing
/// pushes.
fn race(
    publication: &Publication,
    index: usize,
    state: &MirrorState,
    options: &Options,
) -> RaceWinner {
    let is_switched = state.current != publication.members[index].current();
    let rival = match (is_switched, state.current_release()) {
        (true, None) if state.current.is_some() => return RaceWinner::Newer,
        (true, current) => current,
        // No switch happened: the other push took the slot that our release was staged in.
        (false, _) => {
            match state.staged.as_ref().filter(|staged| staged.name() != publication.release.name())
            {
                Some(staged) => Some(staged),
                None => return RaceWinner::NoRelease,
            }
        }
    };
    let newer = |rival: &Release| {
        if is_switched { RaceWinner::Newer } else { RaceWinner::Staged(rival.name()) }
    };
    match rival {
        Some(rival) if rival.name() == publication.release.name() && is_switched => {
            RaceWinner::Ours
        }
        // A release that was not created by this push already has its rank; only that counts.
        Some(rival) if !publication.is_new => match publication.release.succession(rival) {
            Succession::Follows => RaceWinner::Older,
            Succession::NotNewer | Succession::OtherHistory => newer(rival),
        },
        Some(rival) if is_newer(rival, &publication.release, options) => newer(rival),
        _ => RaceWinner::Older,
    }
}

/// Whether a rival is newer than our release: by run number if both have one in the same stream,
/// otherwise by the time at which the pushes began.
fn is_newer(rival: &Release, ours: &Release, options: &Options) -> bool {
    let began = |release: &Release| (release.began, release.id());
    let order = options.order.as_ref().filter(|_| !options.allow_older);
    match order
        .and_then(|order| rival.orders.get(order.stream()).map(|seen| seen.cmp(&order.number())))
    {
        Some(Ordering::Greater) => true,
        Some(Ordering::Less) => false,
        Some(Ordering::Equal) | None => began(rival) > began(ours),
    }
}

/// Drops everything that was staged and not switched; `why` becomes the outcome of these mirrors.
pub(super) fn give_up(publication: &Publication, outcomes: &mut [Option<Outcome>], why: &Outcome) {
    for (index, outcome) in
        outcomes.iter_mut().enumerate().filter(|(_, outcome)| **outcome == Some(Outcome::Staged))
    {
        // If this fails, the release stays staged, without being served, until the next push takes
        // the slot.
        mirror(publication, index).abandon(publication.release.name()).ok();
        *outcome = Some(why.clone());
    }
}
