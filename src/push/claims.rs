//! Decides which of the mirrors' claims count in decisions for the whole fleet.
//!
//! A mirror may be damaged, restored from an old backup, or hostile. What a single mirror claims
//! about sequences, histories and run numbers must not keep the others from getting a release: the
//! mirror fails alone, or its claim is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::mirror::{MirrorError, PolledMirror, TransportError};
use crate::monitor::{Event, Monitor};
use crate::push::options::Options;
use crate::push::{PushError, fleet, fleet_wide};
use crate::release::{MAX_SEQUENCE, Release, ReleaseName, Succession};
use crate::text::error_chain;
use crate::tree_path::Site;

/// How far a mirror's sequence may be above those of all others. Mirrors that were left out for a
/// long time lag by the number of releases since then, but no fleet makes a million releases in
/// that time.
const MAX_SEQUENCE_GAP: u64 = 1 << 20;
/// Maximum sequence of a mirror if no other mirror has one to compare it with. No real fleet
/// reaches this sequence, even with a release each second for 136 years, and enough numbers remain
/// above it for all later releases.
const MAX_UNCONFIRMED_SEQUENCE: u64 = 1 << 32;
/// How far the time of a release may be ahead of this clock, in seconds: one day, because clocks
/// differ.
const MAX_CLOCK_SKEW_SECONDS: u64 = 24 * 60 * 60;

/// Marks members as failed if their claims do not fit this fleet: a sequence far above those of all
/// others, a different site, or a different history.
pub(super) fn fail_implausible_mirrors(
    members: Vec<PolledMirror>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Vec<PolledMirror> {
    // Each check uses the result of the previous one: a mirror whose claims cannot be right gets no
    // vote in the next.
    let far: Vec<_> =
        (0..members.len()).map(|index| implausible_sequence(&members, index)).collect();
    let members = fail_where(members, far, monitor);
    let of_other_sites = other_site_errors(&members, options);
    let members = fail_where(members, of_other_sites, monitor);
    // A new history takes over the histories of all mirrors, so none of them is foreign.
    if options.new_history {
        return members;
    }
    let foreign = foreign_history_errors(&members, options);
    fail_where(members, foreign, monitor)
}

fn fail_where(
    members: Vec<PolledMirror>,
    errors: Vec<Option<MirrorError>>,
    monitor: &dyn Monitor,
) -> Vec<PolledMirror> {
    let fail = |(member, error): (PolledMirror, Option<MirrorError>)| match error {
        Some(error) => {
            let mirror = member.mirror.name().to_owned();
            monitor.event(Event::MirrorFailed { mirror, error: error_chain(&error) });
            PolledMirror::new(Arc::clone(&member.mirror), Err(error))
        }
        None => member,
    };
    members.into_iter().zip(errors).map(fail).collect()
}

fn highest_sequence(member: &PolledMirror) -> Option<u64> {
    member.state().map(|state| state.highest_sequence).filter(|sequence| *sequence > 0)
}

/// The error if the sequence of the mirror `index` is far above those of all others. If all others
/// are joining, the limit is [`MAX_UNCONFIRMED_SEQUENCE`]: otherwise, their first release would get
/// an even higher sequence, and the other mirrors would become just as implausible. A mirror on its
/// own harms only itself.
fn implausible_sequence(members: &[PolledMirror], index: usize) -> Option<MirrorError> {
    let sequence = highest_sequence(&members[index])?;
    let is_other =
        |(other, member): &(usize, &PolledMirror)| *other != index && member.state().is_some();
    let others = || members.iter().enumerate().filter(is_other).map(|(_, member)| member);
    others().next()?;
    let highest = others().filter_map(highest_sequence).max();
    let limit = highest
        .map_or(MAX_UNCONFIRMED_SEQUENCE, |highest| highest.saturating_add(MAX_SEQUENCE_GAP));
    (sequence > limit).then_some(MirrorError::ImplausibleSequence {
        sequence,
        highest: highest.unwrap_or_default(),
    })
}

/// The errors of mirrors that report a site other than that of most mirrors. There are such errors
/// only if at least three mirrors report a site, the user named none, and the remaining mirrors are
/// enough for the push. Otherwise, it is unclear which site is meant, and the push is refused.
fn other_site_errors(members: &[PolledMirror], options: &Options) -> Vec<Option<MirrorError>> {
    let sites: Vec<Option<&Site>> = members.iter().map(PolledMirror::site).collect();
    let named = || sites.iter().copied().flatten();
    let has_majority =
        |site: &&Site| 2 * named().filter(|other| other == site).count() > named().count();
    let wanted = named().find(has_majority).filter(|_| {
        options.site.is_none() && named().count() >= fleet_wide::MIN_FLEET_FOR_MAJORITY
    });
    let error = |found: &Site| {
        let wanted = wanted.filter(|wanted| *wanted != found)?.clone();
        Some(TransportError::OtherSite { found: found.clone(), wanted }.into())
    };
    let errors: Vec<_> = sites.iter().map(|site| site.and_then(error)).collect();
    errors_if_enough_remain(members, errors, options)
}

/// Returns these errors, or none if the mirrors without errors are too few for the push.
fn errors_if_enough_remain(
    members: &[PolledMirror],
    errors: Vec<Option<MirrorError>>,
    options: &Options,
) -> Vec<Option<MirrorError>> {
    let is_left = |index: &usize| members[*index].state().is_some() && errors[*index].is_none();
    let left = fleet::counted(members).filter(is_left).count();
    let total = fleet::counted(members).count();
    if options.require.is_met(left, total) {
        errors
    } else {
        members.iter().map(|_| None).collect()
    }
}

/// Whether `release` has the history of `newest`, or a history that `newest` took over.
fn is_of_history(release: &Release, newest: &Release) -> bool {
    release.history == newest.history || newest.replaces.contains(&release.history)
}

/// The errors of mirrors that serve a history other than the fleet's. The fleet's history is the
/// one that more than half of the mirrors serve. Without a majority, it is the history that was
/// last pushed from here, if the remaining mirrors are enough for the push.
fn foreign_history_errors(members: &[PolledMirror], options: &Options) -> Vec<Option<MirrorError>> {
    let served: Vec<&Release> = members.iter().filter_map(PolledMirror::current_release).collect();
    let followers =
        |newest: &Release| served.iter().filter(|release| is_of_history(release, newest)).count();
    let newest_where = |is_meant: &dyn Fn(&Release) -> bool| {
        served
            .iter()
            .copied()
            .filter(|release| is_meant(release))
            .max_by_key(|release| release.rank())
    };
    let claims = Claims::new(members, options);
    // A release that does not count must not decide which history is meant: one mirror could have
    // made it up.
    let majority = newest_where(&|release| {
        claims.is_confirmed(release) && 2 * followers(release) > served.len()
    });
    if let Some(of_most) = majority {
        return members.iter().map(|member| foreign_history_error(member, of_most)).collect();
    }
    let is_ours = |release: &Release| claims.pushed_releases.contains(&release.name());
    let none = || members.iter().map(|_| None).collect();
    let Some(ours) = newest_where(&is_ours) else { return none() };
    let foreign: Vec<_> =
        members.iter().map(|member| foreign_history_error(member, ours)).collect();
    // If this machine has pushed both histories, it cannot know which history is meant. The push is
    // then refused with a list of all mirrors' histories.
    let are_both_ours =
        served.iter().any(|release| is_ours(release) && !is_of_history(release, ours));
    if are_both_ours { none() } else { errors_if_enough_remain(members, foreign, options) }
}

/// The error if a mirror does not belong to the fleet, whose newest release is `newest`.
fn foreign_history_error(member: &PolledMirror, newest: &Release) -> Option<MirrorError> {
    let own = member.current_release()?;
    let is_foreign = newest.succession(own) == Succession::OtherHistory;
    is_foreign.then(|| MirrorError::ForeignHistory {
        current: own.name(),
        found: own.history,
        history: newest.history,
    })
}

/// Whether a mirror serves a release that `base` cannot replace.
fn is_irreplaceable(member: &PolledMirror, base: &Release) -> bool {
    let is_other = |current: &ReleaseName| *current != base.name();
    let Some(current) = member.current().filter(is_other) else { return false };
    member.current_release().map_or_else(
        || current.sequence() >= base.sequence,
        |release| base.succession(release) == Succession::NotNewer,
    )
}

/// The mirrors' claims, and which of them count for the whole fleet.
///
/// A release is confirmed if this origin brought it to a mirror, or if enough mirrors have it. A
/// mirror's owner may have made up the record and the manifest of any other release, so nothing
/// from it is passed on. If there are fewer than three mirrors, none can outvote another, so all
/// their releases are confirmed.
pub(super) struct Claims<'m> {
    members: &'m [PolledMirror],
    /// The releases that were last pushed to the mirrors from here.
    pushed_releases: Vec<ReleaseName>,
    /// A release that was not pushed from here counts if at least this many mirrors have it.
    min_confirmations: usize,
    /// A run number that was not published from here counts if at least this many mirrors serve it.
    min_run_confirmations: usize,
    /// The mirrors in the first wave that serve a release. They are ahead of the others by design.
    first_wave: Vec<&'m PolledMirror>,
}

impl<'m> Claims<'m> {
    /// The claims of `members`. "Enough" mirrors are as many as the push requires, or more than
    /// half if that is fewer.
    pub(super) fn new(members: &'m [PolledMirror], options: &Options) -> Self {
        let serving = || members.iter().filter(|member| member.current().is_some());
        let count = serving().count();
        // No more than the push requires: otherwise, a release that met the requirement might never
        // count.
        let enough = options.require.required_count(count).min(count / 2 + 1).max(1);
        let wave = options.policy.waves.first();
        let is_in_first_wave = |member: &&PolledMirror| {
            wave.is_some_and(|wave| wave.mirrors.iter().any(|name| name == member.mirror.name()))
        };
        let brought =
            |member: &PolledMirror| options.stores.last_pushed_release(member.mirror.location());
        Self {
            members,
            pushed_releases: members.iter().filter_map(brought).collect(),
            // A mirror never confirms its own claim, whatever the push requires.
            min_confirmations: if count < fleet_wide::MIN_FLEET_FOR_MAJORITY {
                1
            } else {
                enough.max(2)
            },
            min_run_confirmations: enough,
            first_wave: serving().filter(is_in_first_wave).collect(),
        }
    }

    pub(super) const fn members(&self) -> &'m [PolledMirror] {
        self.members
    }

    /// Whether the release is confirmed.
    pub(super) fn is_confirmed(&self, release: &Release) -> bool {
        let has = |member: &&PolledMirror| member.releases().contains(release);
        self.is_ours(release) || self.members.iter().filter(has).count() >= self.min_confirmations
    }

    /// Whether the release was pushed to a mirror from here, or is on the whole first wave.
    fn is_ours(&self, release: &Release) -> bool {
        let whole_first_wave_has =
            || self.first_wave.iter().all(|member| member.releases().contains(release));
        // The first wave is ahead of the others by design, so it can confirm a release alone.
        self.pushed_releases.contains(&release.name())
            || !self.first_wave.is_empty() && whole_first_wave_has()
    }

    /// The release that the next one is based on: the newest confirmed release that is current on
    /// any mirror. If none is confirmed, no mirror is more credible than another, so the next
    /// release is based on the newest of all.
    pub(super) fn newest(&self) -> Option<&'m Release> {
        fleet::newest_where(self.members, |release| self.is_confirmed(release))
            .or_else(|| fleet::newest(self.members))
    }

    /// Whether the release that a mirror serves is confirmed. If its record is lost, only mirrors
    /// that serve the same release can confirm it.
    fn is_current_confirmed(&self, member: &PolledMirror, current: ReleaseName) -> bool {
        let serves = |member: &&PolledMirror| member.current() == Some(current);
        member.current_release().map_or_else(
            || {
                self.pushed_releases.contains(&current)
                    || self.members.iter().filter(serves).count() >= self.min_confirmations
            },
            |release| self.is_confirmed(release),
        )
    }

    /// The releases that mirrors serve and that `base` cannot replace, each with whether it counts.
    fn irreplaceable<'c>(
        &'c self,
        base: &'c Release,
    ) -> impl Iterator<Item = (ReleaseName, bool)> + 'c {
        self.members.iter().filter_map(|member| {
            let current = member.current().filter(|_| is_irreplaceable(member, base))?;
            Some((current, self.is_current_confirmed(member, current)))
        })
    }

    /// Whether a mirror serves a release that counts and that `newest` cannot replace, because the
    /// record of that release is lost or its history was taken over at a lower sequence. In this
    /// case, a new release with a higher sequence than both is needed. A release that does not
    /// count is no reason for a new release: otherwise, a mirror that always claims to be one
    /// release ahead would cause a new release with every push.
    pub(super) fn needs_higher_release(&self, newest: &Release) -> bool {
        self.irreplaceable(newest).any(|(_, is_confirmed)| is_confirmed)
    }

    /// Warns of each release that `base` cannot replace and that does not count.
    pub(super) fn warn_of_unconfirmed(&self, base: Option<&Release>, monitor: &dyn Monitor) {
        let newest = fleet::newest(self.members).filter(|newest| base != Some(*newest));
        let irreplaceable = base.into_iter().flat_map(|base| self.irreplaceable(base));
        let unconfirmed = irreplaceable.filter(|(_, is_confirmed)| !is_confirmed);
        let names: BTreeSet<ReleaseName> =
            unconfirmed.map(|(name, _)| name).chain(newest.map(Release::name)).collect();
        for name in names {
            let serves = |member: &&PolledMirror| member.current() == Some(name);
            let mirrors: Vec<&str> =
                self.members.iter().filter(serves).map(|member| member.mirror.name()).collect();
            let message = format!(
                "release {name} is only on {}, and this machine did not put it there: none of it \
                 is passed on to the other mirrors; `headwater heal --from` with one of these \
                 mirrors copies the release to all mirrors, and the next new release replaces it",
                mirrors.join(", ")
            );
            monitor.event(Event::Warned { message });
        }
    }

    /// For each stream, the highest published run number that enough mirrors confirm. A number that
    /// fewer mirrors have and that was not published from here is false, or belongs to a push that
    /// did not meet its requirement. Such a number causes a warning.
    pub(super) fn published_run_numbers(&self, monitor: &dyn Monitor) -> BTreeMap<String, u64> {
        let mut numbers: BTreeMap<&str, Vec<(u64, &str, bool)>> = BTreeMap::new();
        for member in self.members {
            let Some(release) = member.current_release() else { continue };
            let is_ours = self.is_ours(release);
            for (stream, number) in &release.orders {
                numbers.entry(stream).or_default().push((*number, member.mirror.name(), is_ours));
            }
        }
        let published = |(stream, mut numbers): (&str, Vec<(u64, &str, bool)>)| {
            numbers.sort_unstable_by(|one, other| other.cmp(one));
            let ours = numbers.iter().find(|(.., is_ours)| *is_ours);
            let confirmed =
                // The numbers descend, so enough mirrors serve the number at this position or a
                // higher number. A number that was published from here needs no confirmation.
                numbers.get(self.min_run_confirmations - 1).max(ours).map(|(number, ..)| *number);
            if let Some((highest, ..)) =
                numbers.first().filter(|(number, ..)| Some(*number) != confirmed)
            {
                let claim = numbers.iter().filter(|(number, ..)| number == highest);
                let mirrors: Vec<&str> = claim.map(|(_, mirror, _)| *mirror).collect();
                self.warn_of_run_number(&mirrors, stream, *highest, monitor);
            }
            Some((stream.to_owned(), confirmed?))
        };
        numbers.into_iter().filter_map(published).collect()
    }

    fn warn_of_run_number(
        &self,
        mirrors: &[&str],
        stream: &str,
        number: u64,
        monitor: &dyn Monitor,
    ) {
        let enough = self.min_run_confirmations;
        let message = format!(
            "run {number} of {stream} is only on {}: it does not count until {enough} mirrors \
             serve it",
            mirrors.join(", ")
        );
        monitor.event(Event::Warned { message });
    }
}

/// The sequence of the next release: higher than any on the mirrors.
pub(super) fn next_sequence(members: &[PolledMirror]) -> Result<u64, PushError> {
    let served = |member: &PolledMirror| member.current().map_or(0, |current| current.sequence());
    let claims = members
        .iter()
        // A mirror may state a highest sequence below that of the release that it serves.
        .filter_map(|member| Some((highest_sequence(member)?.max(served(member)), member)));
    let Some((highest, member)) = claims.max_by_key(|(sequence, _)| *sequence) else {
        return Ok(1);
    };
    if highest >= MAX_SEQUENCE {
        return Err(PushError::SequencesExhausted {
            mirror: member.mirror.name().to_owned(),
            highest,
        });
    }
    Ok(highest + 1)
}

/// The time of the next release, in seconds since 1970: `now`, or later if `releases` have later
/// times. A time far ahead of this clock is ignored, and its release is superseded by sequence
/// alone. No two releases have the same time, so a changed file always gets new validators.
pub(super) fn next_release_time<'r>(releases: impl Iterator<Item = &'r Release>, now: u64) -> u64 {
    let times: BTreeSet<u64> = releases.map(|release| release.created).collect();
    let plausible = times.range(..=now + MAX_CLOCK_SKEW_SECONDS).next_back();
    let first = now.max(plausible.map_or(0, |created| created + 1));
    (first..).find(|time| !times.contains(time)).unwrap_or(first)
}

/// Returns an error if the run number is lower than the highest published number of its stream.
pub(super) fn check_run_number(
    options: &Options,
    published: &BTreeMap<String, u64>,
) -> Result<(), PushError> {
    let Some(order) = &options.run_number else { return Ok(()) };
    match published.get(order.stream()) {
        // An equal number is not older: CI reuses a job's number when it runs the job again.
        Some(&seen) if order.number() < seen && !options.allow_older => {
            Err(PushError::Superseded {
                stream: order.stream().to_owned(),
                number: order.number(),
                seen,
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{ContentId, HistoryId, ManifestId};

    #[test]
    fn next_creation_time_is_after_all_confirmed_ones() {
        let day = MAX_CLOCK_SKEW_SECONDS;
        let release = |created: u64| {
            let (history, site) = (HistoryId::from_bytes([1; 16]), Site::new("docs").unwrap());
            let mut release =
                Release::new(site, history, 1, ManifestId::of(b"m"), ContentId::of(b"c"));
            release.created = created;
            release
        };
        let next = |times: &[u64]| {
            let releases: Vec<Release> = times.iter().map(|time| release(*time)).collect();
            next_release_time(releases.iter(), 1000)
        };
        assert_eq!(next(&[]), 1000);
        assert_eq!(next(&[900, 1000]), 1001);
        assert_eq!(next(&[1000 + day]), 1001 + day);
        assert_eq!(
            next(&[1000 + day, 1001 + day]),
            1002 + day,
            "not that of a release that is not believed"
        );
        assert_eq!(next(&[1 << 50]), 1000);
    }
}
