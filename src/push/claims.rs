//! Which claims of mirrors the decisions for all others are made by.
//!
//! A mirror may be damaged, restored from an old backup, or hostile. What it alone says of sequences, histories and
//! run numbers must not keep the others from being published: it fails alone, or its claim does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::mirror::MirrorError;
use crate::monitor::{Event, Monitor};
use crate::push::PushError;
use crate::push::fleet::Member;
use crate::push::options::Options;
use crate::push::outcome::error_chain;
use crate::release::{MAX_SEQUENCE, Release};

/// How far the sequences of one mirror may be above those of all others. Mirrors that were left out for long are behind
/// by the number of releases since; no fleet makes a million of them meanwhile.
const MAX_LEAD: u64 = 1 << 20;
/// How far the time of a release may be ahead of this clock to be believed, in seconds: a day, as clocks differ.
const MAX_AHEAD_SECONDS: u64 = 24 * 60 * 60;

/// The members, of which those fail whose claims cannot be those of this fleet: sequences far beyond those of all
/// others, or a history that most others do not have.
pub(super) fn checked(members: Vec<Member>, options: &Options, monitor: &dyn Monitor) -> Vec<Member> {
    let far: Vec<_> = (0..members.len()).map(|index| far_beyond(&members, index)).collect();
    let members = fail_where(members, far, monitor);
    if options.new_history {
        return members;
    }
    let foreign: Vec<_> = members.iter().map(|member| foreign_history(&members, member)).collect();
    fail_where(members, foreign, monitor)
}

fn fail_where(members: Vec<Member>, errors: Vec<Option<MirrorError>>, monitor: &dyn Monitor) -> Vec<Member> {
    let fail = |(member, error): (Member, Option<MirrorError>)| match error {
        Some(error) => {
            let mirror = member.mirror.name().to_owned();
            monitor.event(Event::MirrorFailed { mirror, error: error_chain(&error) });
            Member::new(Arc::clone(&member.mirror), Err(error))
        }
        None => member,
    };
    members.into_iter().zip(errors).map(fail).collect()
}

fn highest_sequence(member: &Member) -> Option<u64> {
    member.state().map(|state| state.highest_sequence).filter(|sequence| *sequence > 0)
}

/// Why the mirror `index` is not believed: its sequences are far beyond those of all others.
fn far_beyond(members: &[Member], index: usize) -> Option<MirrorError> {
    let sequence = highest_sequence(&members[index])?;
    let others = members.iter().enumerate().filter(|(other, _)| *other != index);
    let highest = others.filter_map(|(_, member)| highest_sequence(member)).max()?;
    (sequence > highest.saturating_add(MAX_LEAD)).then_some(MirrorError::FarBeyond { sequence, highest })
}

/// Whether `release` is of the history of `newest`, or of one that it took over.
fn is_of_history(release: &Release, newest: &Release) -> bool {
    release.history == newest.history || newest.replaces.contains(&release.history)
}

/// Why a mirror cannot be brought up with the others: more than half of all serve another history.
fn foreign_history(members: &[Member], member: &Member) -> Option<MirrorError> {
    let own = member.current_release()?;
    let served: Vec<&Release> = members.iter().filter_map(Member::current_release).collect();
    let followers = |newest: &Release| served.iter().filter(|release| is_of_history(release, newest)).count();
    let by_rank = |release: &&&Release| release.rank();
    let of_most = served.iter().filter(|release| 2 * followers(release) > served.len()).max_by_key(by_rank)?;
    if is_of_history(own, of_most) || own.replaces.contains(&of_most.history) {
        return None;
    }
    Some(MirrorError::ForeignHistory { current: own.name(), found: own.history, history: of_most.history })
}

/// The highest run number of each stream that was published, as far as enough mirrors say so: as many as the push
/// requires, or more than half. What fewer say is of a push that never met its requirement, or not true; it is warned of.
///
/// Where there are waves, one mirror is enough: it is ahead of the others by design.
pub(super) fn published_orders(members: &[Member], options: &Options, monitor: &dyn Monitor) -> BTreeMap<String, u64> {
    let served: Vec<(&str, &Release)> =
        members.iter().filter_map(|member| Some((member.mirror.name(), member.current_release()?))).collect();
    let enough = match options.policy.waves.is_empty() {
        true => options.require.of(served.len()).min(served.len() / 2 + 1).max(1),
        false => 1,
    };
    let mut numbers: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for (mirror, release) in &served {
        for (stream, number) in &release.orders {
            numbers.entry(stream).or_default().push((*number, mirror));
        }
    }
    let mut published = BTreeMap::new();
    for (stream, mut numbers) in numbers {
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        let believed = numbers.get(enough - 1).map(|(number, _)| *number);
        if let Some((number, mirror)) = numbers.first().filter(|(number, _)| Some(*number) != believed) {
            let message = format!(
                "only {mirror} says that run {number} of {stream} was published: it does not count until {enough} mirrors serve it"
            );
            monitor.event(Event::Warned { message });
        }
        published.extend(believed.map(|number| (stream.to_owned(), number)));
    }
    published
}

/// The sequence of the next release: above everything that the mirrors have.
pub(super) fn next_sequence(members: &[Member]) -> Result<u64, PushError> {
    let served = |member: &Member| member.current().map_or(0, |current| current.sequence());
    let claims = members.iter().filter_map(|member| Some((highest_sequence(member)?.max(served(member)), member)));
    let Some((highest, member)) = claims.max_by_key(|(sequence, _)| *sequence) else { return Ok(1) };
    if highest >= MAX_SEQUENCE {
        return Err(PushError::SequencesSpent { mirror: member.mirror.name().to_owned(), highest });
    }
    Ok(highest + 1)
}

/// The time of the next release, in seconds since 1970: `now`, or after the `releases` that there are. One far ahead of
/// this clock was never right; its release is outrun by sequence. No two have the same time, so that a file that changes
/// never keeps its validators.
pub(super) fn time_after<'r>(releases: impl Iterator<Item = &'r Release>, now: u64) -> u64 {
    let times: BTreeSet<u64> = releases.map(|release| release.created).collect();
    let believed = times.range(..=now + MAX_AHEAD_SECONDS).next_back();
    let first = now.max(believed.map_or(0, |created| created + 1));
    (first..).find(|time| !times.contains(time)).unwrap_or(first)
}

/// Refuses an order that is older than the newest published one of its stream.
pub(super) fn check_order(options: &Options, published: &BTreeMap<String, u64>) -> Result<(), PushError> {
    let Some(order) = &options.order else { return Ok(()) };
    match published.get(&order.stream) {
        Some(&seen) if order.number < seen && !options.allow_older => {
            Err(PushError::Superseded { stream: order.stream.clone(), number: order.number, seen })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{ContentId, HistoryId, ManifestId};
    use crate::tree_path::Site;

    #[test]
    fn the_next_time_is_after_all_that_are_believed_and_is_new() {
        let day = MAX_AHEAD_SECONDS;
        let release = |created: u64| {
            let (history, site) = (HistoryId::from_bytes([1; 16]), Site::new("docs").unwrap());
            let mut release = Release::new(site, history, 1, ManifestId::of(b"m"), ContentId::of(b"c"));
            release.created = created;
            release
        };
        let next = |times: &[u64]| {
            let releases: Vec<Release> = times.iter().map(|time| release(*time)).collect();
            time_after(releases.iter(), 1000)
        };
        assert_eq!(next(&[]), 1000);
        assert_eq!(next(&[900, 1000]), 1001);
        assert_eq!(next(&[1000 + day]), 1001 + day);
        assert_eq!(next(&[1000 + day, 1001 + day]), 1002 + day, "not that of a release that is not believed");
        assert_eq!(next(&[1 << 50]), 1000);
    }
}
