//! Switching: the lead alone, then the others together.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use crate::cancel::{CANCEL_POLL_INTERVAL, pause};
use crate::hash::StoreId;
use crate::mirror::{Failure, MirrorError, MirrorState};
use crate::monitor::{Event, Monitor as _};
use crate::push::gate::Gate;
use crate::push::options::Options;
use crate::push::outcome::{Outcome, error_chain};
use crate::push::rollout::{mirror, stage_alone};
use crate::push::target::Target;
use crate::push::{PushError, fleet};
use crate::release::{Release, ReleaseName, Succession};
use crate::threads;

/// How often a slot is taken back from pushes that have lost.
const MAX_TRIES: u32 = 8;
/// How long a newer release that is only staged has to become current: a push that is about to switch needs less.
const TIME_TO_SWITCH: Duration = Duration::from_secs(1);

/// Who won where a compare-and-set was lost.
pub(super) enum Race {
    /// Ours is current after all.
    Ours,
    /// The other one is older: start again on top of it.
    Older,
    /// The other one is newer.
    Newer,
    /// There is no other one: the mirror serves what it served, and has no other release staged.
    Nobody,
    /// The other one is newer and staged, and not served.
    Staged(ReleaseName),
}

/// Activates the target on the `staged` mirrors and notes their outcomes.
/// Answers whether to start again on top of another push.
pub(super) fn activate(
    target: &Target,
    staged: &[usize],
    outcomes: &mut [Option<Outcome>],
    options: &Options,
    gate: &Gate<'_>,
) -> Result<bool, PushError> {
    let mut rest = by_store(target, staged);
    let mut tries = 0;
    while !rest.is_empty() {
        if gate.is_cancelled() {
            return Err(PushError::Cancelled);
        }
        let lead = rest.remove(0);
        let activated = match try_one(target, lead, target.members[lead].current(), options, gate) {
            Err(error) if is_lost(target, error.failure()) => match ask_race(target, lead, options) {
                Race::Ours => Ok(()),
                // Another push took the slot and gave it up.
                Race::Nobody if tries < MAX_TRIES && stage_alone(target, lead, options, gate).is_ok() => {
                    tries += 1;
                    rest.insert(0, lead);
                    continue;
                }
                // The mirror contradicts itself. That is no reason to leave the others unpublished.
                Race::Nobody => Err(error),
                race @ (Race::Older | Race::Newer | Race::Staged(_)) => {
                    return Ok(lose(target, lead, &race, outcomes, gate));
                }
            },
            other => other,
        };
        match activated {
            Ok(()) => {
                outcomes[lead] = Some(Outcome::Activated);
                together(target, &rest, outcomes, options, gate);
                return Ok(false);
            }
            // The next one leads.
            Err(error) => outcomes[lead] = Some(failed(target, lead, &error, gate)),
        }
    }
    Ok(false)
}

/// Activates the target on one more mirror, after the lead. What another push
/// that has lost did there meanwhile is undone: an older release is replaced,
/// and where the slot was taken the target is staged again.
pub(super) fn one(target: &Target, index: usize, options: &Options, gate: &Gate<'_>) -> Outcome {
    let mut expected = target.members[index].current();
    for _ in 0..MAX_TRIES {
        let error = match try_one(target, index, expected, options, gate) {
            Ok(()) => return Outcome::Activated,
            Err(error) if is_lost(target, error.failure()) => error,
            Err(error) => return failed(target, index, &error, gate),
        };
        let Ok(state) = mirror(target, index).state() else { return failed(target, index, &error, gate) };
        match race(target, index, &state, options) {
            Race::Ours => return Outcome::Activated,
            // A lower sequence is what ours goes on top of, whenever it began.
            Race::Newer if state.current.is_some_and(|current| current.sequence() >= target.release.sequence) => {
                return Outcome::Superseded;
            }
            // It goes on top of ours.
            Race::Newer | Race::Staged(_)
                if state.staged.as_ref().is_some_and(|staged| {
                    staged.sequence > target.release.sequence && is_soon_served(target, index, staged.name(), gate)
                }) =>
            {
                return Outcome::Superseded;
            }
            Race::Older | Race::Newer | Race::Staged(_) | Race::Nobody => {}
        }
        expected = state.current;
        if state.staged.is_none_or(|staged| staged.name() != target.release.name())
            && let Err(error) = stage_alone(target, index, options, gate)
        {
            return failed(target, index, &error, gate);
        }
    }
    Outcome::Superseded
}

/// Whether a mirror refused the target because another push was quicker. Of a new release that is also so where
/// the mirror has another history: it had none, or the same, when it was asked.
pub(super) fn is_lost(target: &Target, failure: Failure) -> bool {
    failure == Failure::Conflict || target.is_new && failure == Failure::OtherHistory
}

/// What becomes of a push that lost a compare-and-set on `index` in this `race`: everything
/// that was staged is let go. Answers whether to start again on top of the other one.
pub(super) fn lose(
    target: &Target,
    index: usize,
    race: &Race,
    outcomes: &mut [Option<Outcome>],
    gate: &Gate<'_>,
) -> bool {
    let (outcome, is_ahead) = match *race {
        // Others may stage a release without ever serving it. It is replaced, as by a push that begins now.
        Race::Staged(by) if !is_soon_served(target, index, by, gate) => (Outcome::Displaced { by }, true),
        Race::Older | Race::Nobody => (Outcome::Superseded, true),
        Race::Ours | Race::Newer | Race::Staged(_) => (Outcome::Superseded, false),
    };
    give_up(target, outcomes, &outcome);
    outcomes[index] = Some(outcome);
    target.is_repeatable && is_ahead
}

/// Waits a moment for the release `name`, which a mirror has staged, to become current there.
fn is_soon_served(target: &Target, index: usize, name: ReleaseName, gate: &Gate<'_>) -> bool {
    let deadline = Instant::now() + TIME_TO_SWITCH;
    loop {
        // Without knowing the winner nothing may be put on top of it.
        let Ok(state) = mirror(target, index).state() else { return true };
        if state.current.is_some_and(|current| current.sequence() >= name.sequence()) {
            return true;
        }
        let is_staged = state.staged.is_some_and(|staged| staged.name() == name);
        if !is_staged || Instant::now() >= deadline || !pause(CANCEL_POLL_INTERVAL, gate) {
            return false;
        }
    }
}

fn try_one(
    target: &Target,
    index: usize,
    expected: Option<ReleaseName>,
    options: &Options,
    gate: &Gate<'_>,
) -> Result<(), MirrorError> {
    let mirror = mirror(target, index);
    mirror.activate(target.release.name(), expected)?;
    // Now, and not at the end: the next push must know it also if this one is killed between two mirrors.
    if let Some(store) = mirror.store_id() {
        options.stores.remember(mirror.location(), store, Some(target.release.name()));
    }
    gate.event(Event::Activated { mirror: mirror.name().to_owned(), sequence: target.release.sequence });
    Ok(())
}

pub(super) fn together(
    target: &Target,
    rest: &[usize],
    outcomes: &mut [Option<Outcome>],
    options: &Options,
    gate: &Gate<'_>,
) {
    let activated = threads::each(rest, |index| (*index, one(target, *index, options, gate)));
    for (index, outcome) in activated {
        outcomes[index] = Some(outcome);
    }
}

pub(super) fn name(target: &Target, index: usize) -> &str {
    mirror(target, index).name()
}

fn failed(target: &Target, index: usize, error: &MirrorError, gate: &Gate<'_>) -> Outcome {
    let mirror = mirror(target, index).name().to_owned();
    gate.event(Event::MirrorFailed { mirror, error: error_chain(error) });
    Outcome::failed(error)
}

/// The staged mirrors in order of their store ids; a new one has an id only now.
fn by_store(target: &Target, staged: &[usize]) -> Vec<usize> {
    // Alone it leads, whatever its id: a new one is not asked for it.
    if staged.len() < 2 {
        return staged.to_vec();
    }
    in_order(target, staged, |index| known_store(target, index).or_else(|| mirror(target, index).state().ok()?.store))
}

/// The id of a mirror's store, if it had one when it was asked for its state.
pub(super) fn known_store(target: &Target, index: usize) -> Option<StoreId> {
    target.members[index].state()?.store
}

/// Mirrors in the order in which they lead.
pub(super) fn in_order(target: &Target, members: &[usize], store: impl Fn(usize) -> Option<StoreId>) -> Vec<usize> {
    // Others that push may not know of one that is joining: it leads only its like.
    let rank = |index: usize| (fleet::is_joining(&target.members, index), store(index), index);
    let mut order: Vec<_> = members.iter().map(|&index| rank(index)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, _, index)| index).collect()
}

/// Asks a mirror that refused the target who won there.
pub(super) fn ask_race(target: &Target, index: usize, options: &Options) -> Race {
    match mirror(target, index).state() {
        Ok(state) => race(target, index, &state, options),
        // Without knowing the winner nothing may be put on top of it.
        Err(_) => Race::Newer,
    }
}

/// Who won on a mirror that now has this `state`: no clock decides but between two pushes of which one lost.
fn race(target: &Target, index: usize, state: &MirrorState, options: &Options) -> Race {
    let is_switched = state.current != target.members[index].current();
    let rival = match (is_switched, state.current_release()) {
        (true, None) if state.current.is_some() => return Race::Newer,
        (true, current) => current,
        // Nobody switched: the other one took the slot that ours was staged in.
        (false, _) => match state.staged.as_ref().filter(|staged| staged.name() != target.release.name()) {
            Some(staged) => Some(staged),
            None => return Race::Nobody,
        },
    };
    let newer = |rival: &Release| if is_switched { Race::Newer } else { Race::Staged(rival.name()) };
    match rival {
        Some(rival) if rival.name() == target.release.name() && is_switched => Race::Ours,
        // A release that is not made here has its rank already, and nothing else counts.
        Some(rival) if !target.is_new => match target.release.succession(rival) {
            Succession::Follows => Race::Older,
            Succession::NotNewer | Succession::OtherHistory => newer(rival),
        },
        Some(rival) if is_newer(rival, &target.release, options) => newer(rival),
        _ => Race::Older,
    }
}

/// Whether a rival goes before ours: by order, where both have one in the same
/// stream, else by the time at which the pushes began.
fn is_newer(rival: &Release, ours: &Release, options: &Options) -> bool {
    let began = |release: &Release| (release.began, release.id());
    let order = options.order.as_ref().filter(|_| !options.allow_older);
    match order.and_then(|order| rival.orders.get(&order.stream).map(|seen| seen.cmp(&order.number))) {
        Some(Ordering::Greater) => true,
        Some(Ordering::Less) => false,
        Some(Ordering::Equal) | None => began(rival) > began(ours),
    }
}

/// Lets go of everything that was staged and not switched; `why` is its outcome.
pub(super) fn give_up(target: &Target, outcomes: &mut [Option<Outcome>], why: &Outcome) {
    for (index, outcome) in outcomes.iter_mut().enumerate().filter(|(_, outcome)| **outcome == Some(Outcome::Staged)) {
        // If that fails the release stays staged, unseen, until the next push takes its slot.
        mirror(target, index).abandon(target.release.name()).ok();
        *outcome = Some(why.clone());
    }
}
