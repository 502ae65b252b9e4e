//! Switching: the lead alone, then the others together.

use crate::mirror::{Failure, MirrorError};
use crate::monitor::{Event, Monitor};
use crate::push::PushError;
use crate::push::gate::Gate;
use crate::push::outcome::{Outcome, error_chain};
use crate::push::prepare::Target;
use crate::push::rollout::mirror;
use crate::release::Release;

/// Who won where a compare-and-set was lost.
enum Race {
    /// Ours is current after all.
    Ours,
    /// The other one is older: start again on top of it.
    Older,
    /// The other one is newer.
    Newer,
}

/// Activates the target on the `staged` mirrors and notes their outcomes.
/// Answers whether to start again on top of another push.
pub(super) fn activate(
    target: &Target,
    staged: &[usize],
    outcomes: &mut [Option<Outcome>],
    gate: &Gate<'_>,
) -> Result<bool, PushError> {
    let mut rest = by_store(target, staged);
    while !rest.is_empty() {
        if gate.is_cancelled() {
            return Err(PushError::Cancelled);
        }
        let lead = rest.remove(0);
        match try_one(target, lead, gate) {
            Ok(()) => {
                outcomes[lead] = Some(Outcome::Activated);
                together(target, &rest, outcomes, gate);
                return Ok(false);
            }
            Err(error) if error.failure() == Failure::Conflict => match race(target, lead) {
                Race::Ours => {
                    outcomes[lead] = Some(Outcome::Activated);
                    together(target, &rest, outcomes, gate);
                    return Ok(false);
                }
                Race::Older if target.is_new => {
                    give_up(target, staged, outcomes);
                    return Ok(true);
                }
                Race::Older | Race::Newer => {
                    give_up(target, staged, outcomes);
                    return Ok(false);
                }
            },
            // The next one leads.
            Err(error) => outcomes[lead] = Some(failed(target, lead, &error, gate)),
        }
    }
    Ok(false)
}

/// Activates the target on one more mirror, after the lead.
pub(super) fn one(target: &Target, index: usize, gate: &Gate<'_>) -> Outcome {
    match try_one(target, index, gate) {
        Ok(()) => Outcome::Activated,
        Err(error) if error.failure() == Failure::Conflict => match race(target, index) {
            Race::Ours => Outcome::Activated,
            Race::Older | Race::Newer => Outcome::Superseded,
        },
        Err(error) => failed(target, index, &error, gate),
    }
}

fn try_one(target: &Target, index: usize, gate: &Gate<'_>) -> Result<(), MirrorError> {
    let mirror = mirror(target, index);
    mirror.activate(target.release.name(), target.members[index].current())?;
    gate.event(Event::Activated { mirror: mirror.name().to_owned(), sequence: target.release.sequence });
    Ok(())
}

fn together(target: &Target, rest: &[usize], outcomes: &mut [Option<Outcome>], gate: &Gate<'_>) {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            rest.iter().map(|&index| (index, scope.spawn(move || one(target, index, gate)))).collect();
        for (index, thread) in threads {
            outcomes[index] = Some(thread.join().expect("activating does not panic"));
        }
    });
}

fn failed(target: &Target, index: usize, error: &MirrorError, gate: &Gate<'_>) -> Outcome {
    let mirror = mirror(target, index).name().to_owned();
    gate.event(Event::MirrorFailed { mirror, error: error_chain(error) });
    Outcome::failed(error)
}

/// The staged mirrors in order of their store ids; a new one has an id only now.
fn by_store(target: &Target, staged: &[usize]) -> Vec<usize> {
    let id = |index: usize| {
        let known = target.members[index].state.as_ref().ok().and_then(|state| state.store);
        known.or_else(|| mirror(target, index).state().ok()?.store)
    };
    let mut order: Vec<_> = staged.iter().map(|&index| (id(index), index)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, index)| index).collect()
}

/// Asks the mirror again: no clock decides but between two pushes of which one lost.
fn race(target: &Target, index: usize) -> Race {
    let began = |release: &Release| (release.began, release.id());
    // Without knowing the winner nothing may be put on top of it.
    let Ok(state) = mirror(target, index).state() else { return Race::Newer };
    match state.current_release() {
        Some(winner) if winner.name() == target.release.name() => Race::Ours,
        Some(winner) if began(winner) < began(&target.release) => Race::Older,
        Some(_) => Race::Newer,
        None if state.current.is_none() => Race::Older,
        None => Race::Newer,
    }
}

/// Lets go of everything that was staged and not switched.
fn give_up(target: &Target, staged: &[usize], outcomes: &mut [Option<Outcome>]) {
    for &index in staged {
        // If that fails the release stays staged, unseen, until the next push takes its slot.
        mirror(target, index).abandon(target.release.name()).ok();
        if outcomes[index] == Some(Outcome::Staged) {
            outcomes[index] = Some(Outcome::Superseded);
        }
    }
}
