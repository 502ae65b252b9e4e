//! Staged releases: finds them by name, and abandons them.

use std::collections::BTreeSet;

use crate::mirror::PolledMirror;
use crate::monitor::{Event, Monitor};
use crate::push::PushError;
use crate::push::fleet::Fleet;
use crate::release::{Release, ReleaseName};
use crate::text::error_chain;

/// Finds the release whose name, sequence or id is `text`, among the mirrors' staged and current
/// releases. If several releases have this sequence, returns the release that more than half of the
/// mirrors with this sequence have, if there is one.
pub(super) fn find_named<'m>(
    members: &'m [PolledMirror],
    text: &str,
) -> Result<&'m Release, PushError> {
    let is_named = |release: &&Release| {
        let name = release.name();
        text == name.to_string()
            || text == release.id().to_string()
            || text.parse() == Ok(name.sequence())
    };
    let state = |member: &'m PolledMirror| member.state();
    let staged = || members.iter().filter_map(state).filter_map(|state| state.staged.as_ref());
    let not_staged = |what: String| {
        let names: BTreeSet<ReleaseName> = staged().map(Release::name).collect();
        PushError::NotStaged { what, staged: names.into_iter().collect() }
    };
    let current = members.iter().filter_map(PolledMirror::current_release);
    let found: Vec<&Release> = staged().chain(current).filter(is_named).collect();
    let first = found
        .first()
        .ok_or_else(|| not_staged(format!("no mirror has a staged release {text}")))?;
    // A single mirror must not make the number ambiguous for the others.
    let count = |release: &Release| found.iter().filter(|other| **other == release).count();
    let is_of_most = |release: &&&Release| count(release) > 1 && 2 * count(release) > found.len();
    if let Some(majority) = found.iter().find(is_of_most) {
        Ok(majority)
    } else if found.iter().all(|other| other == first) {
        Ok(first)
    } else {
        Err(not_staged(format!(
            "{text} names more than one release: write the full name, as in {}",
            first.name()
        )))
    }
}

/// The result of abandoning a staged release on a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Abandoned {
    /// The release was dropped.
    Dropped,
    /// The mirror did not have the release staged.
    NotStaged,
    /// The release may still be staged.
    Failed {
        /// Why, with all causes.
        error: String,
    },
}

/// Abandons the staged release that `text` names, on every mirror of `fleet`. The results are in
/// mirror order.
///
/// # Errors
/// If no mirror has the release staged.
pub fn abandon(
    text: &str,
    fleet: &Fleet,
    monitor: &dyn Monitor,
) -> Result<Vec<(String, Abandoned)>, PushError> {
    let members = fleet.states(monitor);
    let release = find_named(&members, text)?.name();
    let abandon_on = |member: &PolledMirror| match member.state() {
        None => Abandoned::Failed {
            error: member.error().map(|error| error_chain(error)).unwrap_or_default(),
        },
        Some(state) if state.current == Some(release) => {
            Abandoned::Failed { error: "it is served".to_owned() }
        }
        Some(state) if state.staged.as_ref().is_none_or(|staged| staged.name() != release) => {
            Abandoned::NotStaged
        }
        Some(_) => match member.mirror.abandon(release) {
            Ok(()) => Abandoned::Dropped,
            Err(error) => Abandoned::Failed { error: error_chain(&error) },
        },
    };
    let abandon = |member: &PolledMirror| {
        let mirror = member.mirror.name().to_owned();
        let abandoned = abandon_on(member);
        // An unreachable mirror was reported when it was polled.
        if let (Some(_), Abandoned::Failed { error }) = (member.state(), &abandoned) {
            monitor.event(Event::MirrorFailed { mirror: mirror.clone(), error: error.clone() });
        }
        (mirror, abandoned)
    };
    Ok(members.iter().map(abandon).collect())
}
