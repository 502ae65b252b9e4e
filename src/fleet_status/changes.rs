//! The changes in a release, read from a mirror that keeps it and the previous one.

use crate::fleet_status::Poll;
use crate::manifest::{Diff, ManifestReader, diff};
use crate::mirror::{LinkKind, Mirror};
use crate::origin::scratch::Entries;
use crate::push::Fleet;
use crate::release::Release;

/// How `new` differs from `old`, or from an empty release; `None` if no mirror has undamaged copies
/// of both manifests. `seen` contains the polls of the mirrors in `fleet`, in the same order.
/// Memory grows with the size of the change.
#[must_use]
pub fn changes(
    fleet: &Fleet,
    polls: &[Poll],
    old: Option<&Release>,
    new: &Release,
) -> Option<Diff> {
    let keeps = |one: &Poll, release: &Release| {
        one.state
            .as_ref()
            .is_ok_and(|state| state.releases.iter().any(|kept| kept.manifest == release.manifest))
    };
    let has_both = |one: &Poll| keeps(one, new) && old.is_none_or(|old| keeps(one, old));
    let mut holders: Vec<_> = fleet
        .mirrors()
        .iter()
        .zip(polls)
        .filter(|(_, one)| has_both(one))
        .map(|(mirror, _)| mirror)
        .collect();
    // Mirrors on this machine come first: reading their manifests causes no transfer.
    holders.sort_by_key(|mirror| mirror.link_kind() == LinkKind::Network);
    holders.into_iter().find_map(|mirror| compare(&**mirror, old, new))
}

fn compare(mirror: &dyn Mirror, old: Option<&Release>, new: &Release) -> Option<Diff> {
    let entries = |release: &Release| -> Option<Entries> {
        let bytes = mirror.manifest(&release.manifest).ok()?;
        Some(Box::new(ManifestReader::new(bytes, Some(release.manifest)).ok()?))
    };
    let old = match old {
        Some(old) => entries(old)?,
        None => Box::new(std::iter::empty()),
    };
    diff(old, entries(new)?).ok()
}
