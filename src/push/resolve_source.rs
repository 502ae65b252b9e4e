//! Resolves a source other than a tree: a release that a mirror serves, keeps, or has staged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::sleep_unless_cancelled;
use crate::manifest::Entry;
use crate::mirror::{ErrorKind, Mirror, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::origin::stores::KnownStores;
use crate::packing::source_entries::SourceEntries;
use crate::push::claims::{self, Claims};
use crate::push::fleet::{self, Fleet};
use crate::push::options::Options;
use crate::push::source::DecidedBy;
use crate::push::states::StatePoll;
use crate::push::{PushError, fleet_wide, staged};
use crate::release::{Release, ReleaseName};

/// A resolved source.
pub(super) struct ResolvedSource {
    pub(super) source_entries: SourceEntries,
    /// The source mirror and its state.
    pub(super) source_mirror: Option<PolledMirror>,
    pub(super) rolled_back_to: Option<Release>,
    /// Who decided on the rollback.
    pub(super) decided_by: Option<DecidedBy>,
    /// The existing release to publish unchanged, if the push does not create one.
    pub(super) existing_release: Option<Release>,
    /// Whether `existing_release` is staged on mirrors rather than served by the source.
    pub(super) is_staged: bool,
    /// Whether the content of `source_mirror` is promoted into another history.
    pub(super) is_promoted: bool,
    /// Whether mirrors with a newer release are left alone.
    pub(super) skips_newer_mirrors: bool,
}

impl ResolvedSource {
    /// A source with only live entries and no source mirror.
    pub(super) fn from_entries(source_entries: SourceEntries) -> Self {
        Self {
            source_entries,
            source_mirror: None,
            rolled_back_to: None,
            decided_by: None,
            existing_release: None,
            is_staged: false,
            is_promoted: false,
            skips_newer_mirrors: false,
        }
    }

    /// An empty source.
    pub(super) fn empty() -> Self {
        Self::from_entries(SourceEntries::Entries(Vec::new()))
    }
}

/// Loads a staged release. Loads only its record, because the content is on the mirrors where the
/// release is staged.
pub(super) fn load_staged(
    members: &[PolledMirror],
    text: &str,
) -> Result<ResolvedSource, PushError> {
    let release = staged::find_named(members, text)?.clone();
    Ok(ResolvedSource {
        existing_release: Some(release),
        is_staged: true,
        ..ResolvedSource::empty()
    })
}

fn live_entries(mirror: &Arc<dyn Mirror>, release: &Release) -> Result<Vec<Entry>, PushError> {
    let mut entries = fleet::release_entries(mirror, release)?;
    entries.retain(Entry::is_live);
    Ok(entries)
}

/// Loads a mirror's current release, to copy it unchanged to others.
pub(super) fn load_current(mirror: &Arc<dyn Mirror>) -> Result<ResolvedSource, PushError> {
    let (from, release) = current_release_of(mirror)?;
    Ok(ResolvedSource {
        source_mirror: Some(from),
        existing_release: Some(release),
        ..ResolvedSource::empty()
    })
}

/// Loads the content of a mirror's current release, from which to create a release for other
/// mirrors.
pub(super) fn load_promoted(mirror: &Arc<dyn Mirror>) -> Result<ResolvedSource, PushError> {
    let (from, release) = current_release_of(mirror)?;
    let live = SourceEntries::Entries(live_entries(mirror, &release)?);
    Ok(ResolvedSource {
        source_mirror: Some(from),
        is_promoted: true,
        ..ResolvedSource::from_entries(live)
    })
}

fn current_release_of(mirror: &Arc<dyn Mirror>) -> Result<(PolledMirror, Release), PushError> {
    let state = mirror.state().map_err(|source| fleet::wrap_source_error(mirror, source))?;
    let empty = || PushError::EmptySource { mirror: mirror.location().to_owned() };
    let release = state.current_release().cloned().ok_or_else(empty)?;
    Ok((PolledMirror::new(Arc::clone(mirror), Ok(state)), release))
}

/// Loads the newest release that a mirror serves and that is for all mirrors, to copy it unchanged.
/// There is none if every release was made for only some mirrors.
pub(super) fn load_newest(
    members: &[PolledMirror],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<ResolvedSource, PushError> {
    fleet::check_one_history(members, fleet::newest(members))?;
    if fleet::newest(members).is_none() {
        return Err(PushError::Rollback("no mirror has a release yet".into()));
    }
    let as_it_is = fleet_wide::newest_for_heal(members, options, monitor).cloned();
    Ok(ResolvedSource {
        existing_release: as_it_is,
        skips_newer_mirrors: true,
        ..ResolvedSource::empty()
    })
}

/// How long a rollback without a sequence keeps polling mirrors that serve different releases. A
/// concurrent push takes only a moment to switch all mirrors.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between these polls.
const REPOLL_INTERVAL: Duration = Duration::from_millis(150);

/// Polls the reachable mirrors again for a moment while they serve different releases, as they do
/// during a push. A mirror that could not be polled is not polled again.
///
/// # Errors
/// [`PushError::Cancelled`].
pub(super) fn repoll_until_agreed(
    mut members: Vec<PolledMirror>,
    stores: &KnownStores,
    monitor: &dyn Monitor,
) -> Result<Vec<PolledMirror>, PushError> {
    let reset_poll = |member: PolledMirror| match member.state() {
        Some(_) => PolledMirror::pending(member.mirror),
        None => member,
    };
    // A deadline rather than a number of polls: a mirror that always differs may also be slow.
    let deadline = Instant::now() + AGREEMENT_TIMEOUT;
    while serve_different_releases(&members)
        && Instant::now() < deadline
        && sleep_unless_cancelled(REPOLL_INTERVAL, monitor)
    {
        let asked = members.into_iter().map(reset_poll).collect();
        members = StatePoll::begin(asked, stores, monitor).wait_for_all(Duration::MAX)?;
    }
    Ok(members)
}

/// The mirrors that could be polled.
fn reachable(members: &[PolledMirror]) -> impl Iterator<Item = &PolledMirror> {
    members.iter().filter(|member| member.state().is_some())
}

/// Whether the reachable mirrors serve different releases.
fn serve_different_releases(members: &[PolledMirror]) -> bool {
    let current: Vec<Option<ReleaseName>> = reachable(members).map(PolledMirror::current).collect();
    current.windows(2).any(|pair| pair[0] != pair[1])
}

/// The target of a rollback, and the states of the mirrors.
#[derive(Debug, Clone)]
pub struct RollbackPlan {
    /// The kept release whose content the rollback would publish; `None` if no mirror could be
    /// polled.
    pub to: Option<Release>,
    /// The mirrors. If a mirror could not be polled, a push does not poll it again.
    pub fleet: Fleet,
    /// The name of each mirror, and the sequence that it serves or why it could not be polled.
    pub mirrors: Vec<(String, Result<Option<u64>, ErrorKind>)>,
}

/// Determines which release a rollback of `fleet` would return to.
///
/// # Errors
/// [`PushError::Rollback`] if there is no such release or more than one. [`PushError::Cancelled`].
pub fn plan_rollback(
    fleet: &Fleet,
    to: Option<u64>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<RollbackPlan, PushError> {
    let stores = &options.stores;
    let mut members = StatePoll::begin(fleet.members(monitor), stores, monitor)
        .wait_for_all(options.response_timeout)?;
    if to.is_none() {
        members = repoll_until_agreed(members, stores, monitor)?;
    }
    // As in a push, so that both choose the same release.
    let members = claims::fail_implausible_mirrors(members, options, monitor);
    let to = if reachable(&members).next().is_none() {
        None
    } else {
        let claims = Claims::new(&members, options);
        Some(rollback_release(&claims, to, options, monitor)?.clone())
    };
    let serves = |member: &PolledMirror| match member.error() {
        Some(error) => Err(error.kind()),
        None => Ok(member.current().map(|current| current.sequence())),
    };
    let mirrors =
        members.iter().map(|member| (member.mirror.name().to_owned(), serves(member))).collect();
    Ok(RollbackPlan { to, fleet: fleet.with_unreachable(&members), mirrors })
}

fn rollback_release<'m>(
    claims: &Claims<'m>,
    to: Option<u64>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<&'m Release, PushError> {
    match to {
        Some(sequence) => kept_release(claims, sequence),
        None => rollback_target(claims, options, monitor),
    }
}

/// Loads the release to return to, which is the same for the whole fleet.
pub(super) fn load_rollback(
    claims: &Claims<'_>,
    to: Option<u64>,
    by: &DecidedBy,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<ResolvedSource, PushError> {
    let release = rollback_release(claims, to, options, monitor)?;
    // If one mirror's manifest is damaged, another mirror may have an undamaged copy.
    let mut resolved = fleet::mirrors_with_manifest(claims.members(), &release.manifest)
        .map(|mirror| live_entries(mirror, release));
    let first = resolved.next().expect("the release was found on a mirror");
    let live = first.or_else(|error| resolved.find_map(Result::ok).ok_or(error))?;
    let (rolled_back_to, decided_by) = (Some(release.clone()), Some(by.clone()));
    Ok(ResolvedSource {
        rolled_back_to,
        decided_by,
        ..ResolvedSource::from_entries(SourceEntries::Entries(live))
    })
}

/// The confirmed release with this sequence, if all mirrors that keep such a release keep the same
/// one. If one release replaced another with the same sequence, a mirror keeps both; the one with
/// the higher rank is meant.
fn kept_release<'m>(claims: &Claims<'m>, sequence: u64) -> Result<&'m Release, PushError> {
    let of_sequence = |member: &'m PolledMirror| {
        member.releases().iter().filter(move |release| release.sequence == sequence)
    };
    let confirmed = |member: &'m PolledMirror| {
        of_sequence(member)
            .filter(|release| claims.is_confirmed(release))
            .max_by_key(|release| release.rank())
    };
    let mut found = claims.members().iter().filter_map(confirmed);
    let Some(first) = found.next() else {
        let keeps = |member: &&'m PolledMirror| of_sequence(member).next().is_some();
        let keeping: Vec<&str> =
            claims.members().iter().filter(keeps).map(|member| member.mirror.name()).collect();
        return Err(PushError::Rollback(match &keeping[..] {
            [] => format!("no mirror keeps a release {sequence}"),
            _ => format!(
                "only {} keeps a release {sequence}, so that release may be made up: name no other \
                 mirror",
                keeping.join(", ")
            ),
        }));
    };
    if found.any(|other| other.id() != first.id()) {
        let text = format!("release {sequence} is not the same on all mirrors: name fewer mirrors");
        return Err(PushError::Rollback(text));
    }
    Ok(first)
}

/// The release that a rollback without a sequence leaves: the newest release that counts. Warns of
/// mirrors that serve a different release.
///
/// A single mirror must not block the rollback of all others, whatever it claims to serve. Such a
/// mirror may serve an older release, because it was left behind or refuses newer releases, or it
/// may serve a newer release that was not pushed to it from here. If only a minority serves a
/// release that counts, the rollback is ambiguous: the release may be a canary, or its waves may
/// have stopped, and the user may mean that release or the majority's.
fn release_to_roll_back<'m>(
    claims: &Claims<'m>,
    monitor: &dyn Monitor,
) -> Result<&'m Release, PushError> {
    let members = claims.members();
    let newest = claims.newest();
    let is_unambiguous = |newest: &Release| {
        let count = |name| members.iter().filter(|member| member.current() == Some(name)).count();
        let serving = members.iter().filter(|member| member.current().is_some()).count();
        let is_made_for = |member: &PolledMirror| {
            let made_for = newest.partial.as_ref();
            made_for.is_none_or(|made_for| made_for.is_for(member.mirror.name()))
        };
        let is_of_several = |other: ReleaseName| {
            other.sequence() > newest.sequence && other != newest.name() && count(other) > 1
        };
        let following = count(newest.name());
        // Half rather than more than half: out of four mirrors, one may be left behind and one
        // hostile.
        following > 1
            && 2 * following >= serving
            && mirrors_not_serving(newest, members).all(is_made_for)
            && !members.iter().filter_map(PolledMirror::current).any(is_of_several)
    };
    if serve_different_releases(members)
        && !(reachable(members).count() >= fleet_wide::MIN_FLEET_FOR_MAJORITY
            && newest.is_some_and(is_unambiguous))
    {
        let text = "the mirrors serve different releases, so the previous release is ambiguous: \
                    use --to SEQ";
        return Err(PushError::Rollback(text.into()));
    }
    let newest = newest.ok_or_else(|| PushError::Rollback("no mirror has a release yet".into()))?;
    let serves = |member: &PolledMirror| {
        Some(format!("{} (on release {})", member.mirror.name(), member.current()?))
    };
    let others: Vec<String> = mirrors_not_serving(newest, members).filter_map(serves).collect();
    if !others.is_empty() {
        let message = format!(
            "{} did not decide the previous release: the other mirrors serve release {}",
            others.join(", "),
            newest.name()
        );
        monitor.event(Event::Warned { message });
    }
    Ok(newest)
}

/// The mirrors that serve a different release. Leaves out mirrors without a release, which have
/// nothing to roll back.
fn mirrors_not_serving<'m>(
    release: &Release,
    members: &'m [PolledMirror],
) -> impl Iterator<Item = &'m PolledMirror> {
    let name = release.name();
    members.iter().filter(move |member| member.current().is_some_and(|current| current != name))
}

/// The newest confirmed release before the one that the fleet rolls back. Skips releases that were
/// made for only some of the mirrors, such as canaries.
fn rollback_target<'m>(
    claims: &Claims<'m>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<&'m Release, PushError> {
    let newest = release_to_roll_back(claims, monitor)?;
    let releases = claims.members().iter().flat_map(PolledMirror::releases);
    let before = releases.filter(|release| {
        // The target has a lower sequence and different content. The other conditions exclude
        // content that was rolled back, canaries, and releases that a single mirror may have made
        // up.
        release.sequence < newest.sequence
            && release.content != newest.content
            && newest.rejection(release.content).is_none()
            && fleet_wide::is_for_requested_mirrors(release, options)
            && claims.is_confirmed(release)
    });
    before.max_by_key(|release| release.rank()).ok_or_else(|| {
        let sequence = newest.sequence;
        PushError::Rollback(if sequence == 1 {
            "release 1 is the first one: there is nothing to go back to".to_owned()
        } else {
            format!("no kept release before {sequence} differs from it")
        })
    })
}
