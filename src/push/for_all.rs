//! Which releases are for all mirrors of a fleet: `heal` spreads no other one.
//!
//! A release is not for all if its record says so, or if no mirror of the last wave ever served it: a push that goes
//! by waves may still be looking at the first ones, or was stopped there.

use crate::push::fleet::{self, Member};
use crate::push::options::Wave;
use crate::release::Release;

/// The newest release that is current anywhere and for all mirrors.
pub(super) fn newest_for_all<'m>(members: &'m [Member], waves: &[Wave]) -> Option<&'m Release> {
    fleet::newest_where(members, |release| release.partial.is_none() && has_passed(release, members, waves))
}

/// Whether a mirror of the last wave serves the release or has served it.
fn has_passed(release: &Release, members: &[Member], waves: &[Wave]) -> bool {
    let wave_of = |member: &Member| {
        let is_in = |wave: &Wave| wave.mirrors.iter().any(|name| name == member.mirror.name());
        waves.iter().position(is_in).unwrap_or(waves.len())
    };
    let last = members.iter().map(wave_of).max();
    let served = |member: &Member| member.releases().iter().any(|kept| kept.name() == release.name());
    members.iter().any(|member| Some(wave_of(member)) == last && served(member))
}
