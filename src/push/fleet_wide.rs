//! Decides which releases are meant for all mirrors in a fleet. `heal` spreads only these.
//!
//! A release is not for all mirrors if its record says so, or if no mirror in the last wave ever
//! served it: a push with waves may still be observing its first waves, or may have stopped after
//! them.

use crate::mirror::PolledMirror;
use crate::monitor::{Event, Monitor};
use crate::push::fleet;
use crate::push::options::{Options, Wave};
use crate::release::Release;

/// Smallest fleet in which a majority can decide: with two mirrors, neither can outvote the other.
pub(super) const MIN_FLEET_FOR_MAJORITY: usize = 3;

/// The newest release that is current on any mirror and meant for all mirrors.
pub(super) fn newest_for_all<'m>(
    members: &'m [PolledMirror],
    waves: &[Wave],
) -> Option<&'m Release> {
    fleet::newest_where(members, |release| {
        release.partial.is_none() && has_reached_last_wave(release, members, waves)
    })
}

/// Like [`newest_for_all`], but skips a release, and warns, if only one of several mirrors has the
/// release and this machine last pushed a different release to that mirror: the mirror's owner may
/// have made the release up. If nothing is known about that mirror, because the cache was lost, the
/// release counts; otherwise, a machine that did not publish could not heal any fleet.
pub(super) fn newest_for_heal<'m>(
    members: &'m [PolledMirror],
    options: &Options,
    monitor: &dyn Monitor,
) -> Option<&'m Release> {
    let waves = &options.policy.waves;
    let newest = newest_for_all(members, waves)?;
    let serving = members.iter().filter(|member| member.current_release().is_some()).count();
    let owner = sole_mirror(newest, members)
        .filter(|_| waves.is_empty() && serving >= MIN_FLEET_FOR_MAJORITY);
    let brought =
        |owner: &PolledMirror| options.stores.last_pushed_release(owner.mirror.location());
    let was_not_pushed_from_here =
        |owner: &&PolledMirror| brought(owner).is_some_and(|brought| brought != newest.name());
    let Some(owner) = owner.filter(was_not_pushed_from_here) else { return Some(newest) };
    let (name, sequence) = (owner.mirror.name(), newest.sequence);
    let message = format!(
        "release {sequence} is only on {name}, and this machine did not put it there: it is not \
         copied to other mirrors; `headwater heal --from {name}` copies it"
    );
    monitor.event(Event::Warned { message });
    fleet::newest_where(members, |release| {
        release.partial.is_none()
            && sole_mirror(release, members).is_none()
            && has_reached_last_wave(release, members, waves)
    })
}

/// The only mirror that serves a release; `None` if several do.
fn sole_mirror<'m>(release: &Release, members: &'m [PolledMirror]) -> Option<&'m PolledMirror> {
    let mut serving = members.iter().filter(|member| member.current() == Some(release.name()));
    serving.next().filter(|_| serving.next().is_none())
}

/// Whether a release is for all mirrors, or for the mirrors in this push. Otherwise, its content
/// needs a new release.
pub(super) fn is_for_requested_mirrors(release: &Release, options: &Options) -> bool {
    match (&release.partial, &options.partial) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(made_for), Some(wanted)) => {
            wanted.mirrors.iter().all(|mirror| made_for.is_for(mirror))
        }
    }
}

/// Whether a mirror in the last wave serves the release or has served it.
fn has_reached_last_wave(release: &Release, members: &[PolledMirror], waves: &[Wave]) -> bool {
    let wave_of = |member: &PolledMirror| {
        let is_in = |wave: &Wave| wave.mirrors.iter().any(|name| name == member.mirror.name());
        // Mirrors that are in none of the policy's waves switch after all others.
        waves.iter().position(is_in).unwrap_or(waves.len())
    };
    let last = members.iter().map(wave_of).max();
    let served =
        |member: &PolledMirror| member.releases().iter().any(|kept| kept.name() == release.name());
    members.iter().any(|member| Some(wave_of(member)) == last && served(member))
}
