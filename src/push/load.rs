//! Loads what a push without a tree of its own is made of: what a mirror
//! serves, keeps, or has staged.

use std::sync::Arc;

use crate::manifest::Entry;
use crate::mirror::Mirror;
use crate::push::fleet::{self, Member};
use crate::push::source::Live;
use crate::push::{PushError, later};
use crate::release::{Release, ReleaseName};

/// What is pushed, loaded.
pub(super) struct Loaded {
    pub(super) live: Live,
    /// The mirror it comes from, and that mirror's state.
    pub(super) from: Option<Member>,
    pub(super) rolled_back_to: Option<Release>,
    /// The release that is wanted whatever the source has.
    pub(super) as_it_is: Option<Release>,
}

impl Loaded {
    /// Only what is live, from no mirror.
    pub(super) fn of(live: Live) -> Self {
        Self { live, from: None, rolled_back_to: None, as_it_is: None }
    }

    /// Nothing.
    pub(super) fn nothing() -> Self {
        Self::of(Live::Entries(Vec::new()))
    }
}

/// Loads a staged release: nothing but its name, as its content is where it is staged.
pub(super) fn load_staged(members: &[Member], text: &str) -> Result<Loaded, PushError> {
    Ok(Loaded { as_it_is: Some(later::named(members, text)?.clone()), ..Loaded::nothing() })
}

fn live_entries(mirror: &Arc<dyn Mirror>, release: &Release) -> Result<Vec<Entry>, PushError> {
    let mut entries = fleet::release_entries(mirror, release)?;
    entries.retain(Entry::is_live);
    Ok(entries)
}

/// Loads the current release of a mirror.
pub(super) fn load_store(mirror: &Arc<dyn Mirror>) -> Result<Loaded, PushError> {
    let name = || mirror.location().to_owned();
    let state = mirror.state().map_err(|source| fleet::in_source(mirror, source))?;
    let release = state.current_release().cloned().ok_or_else(|| PushError::EmptySource { mirror: name() })?;
    let live = Live::Entries(live_entries(mirror, &release)?);
    Ok(Loaded {
        live,
        from: Some(Member { mirror: Arc::clone(mirror), state: Ok(state) }),
        rolled_back_to: None,
        as_it_is: None,
    })
}

/// Loads the newest release, to be brought to all as it is; where a mirror has one that it cannot
/// replace, its content, of which a new one is made.
pub(super) fn load_newest(members: &[Member]) -> Result<Loaded, PushError> {
    let newest = fleet::newest(members).ok_or_else(|| PushError::Rollback("no mirror has a release yet".into()))?;
    let mut live = fleet::holders(members, &newest.manifest).map(|mirror| live_entries(mirror, newest));
    let first = live.next().expect("the release was found on a mirror");
    let live = first.or_else(|error| live.find_map(Result::ok).ok_or(error))?;
    let as_it_is = Some(newest.clone()).filter(|newest| !has_diverged(members, newest));
    Ok(Loaded { as_it_is, ..Loaded::of(Live::Entries(live)) })
}

/// Whether a mirror is on a release that the newest one cannot replace: a
/// new one, above both, brings them together again.
pub(super) fn has_diverged(members: &[Member], newest: &Release) -> bool {
    let is_stuck = |current: ReleaseName| current != newest.name() && current.sequence() >= newest.sequence;
    members.iter().filter_map(Member::current).any(is_stuck)
}

/// Loads the release to go back to: one for the whole fleet.
pub(super) fn load_rollback(members: &[Member], to: Option<u64>) -> Result<Loaded, PushError> {
    let release = match to {
        Some(sequence) => kept_release(members, sequence)?,
        None => rollback_target(members)?,
    };
    // Where one mirror's manifest is damaged, another may have it whole.
    let mut loaded = fleet::holders(members, &release.manifest).map(|mirror| live_entries(mirror, release));
    let first = loaded.next().expect("the release was found on a mirror");
    let live = first.or_else(|error| loaded.find_map(Result::ok).ok_or(error))?;
    Ok(Loaded { rolled_back_to: Some(release.clone()), ..Loaded::of(Live::Entries(live)) })
}

/// The release of a sequence, if that is one and the same wherever it is kept.
fn kept_release(members: &[Member], sequence: u64) -> Result<&Release, PushError> {
    let mut kept = members.iter().flat_map(Member::releases).filter(|release| release.sequence == sequence);
    let first = kept.next().ok_or_else(|| PushError::Rollback(format!("no mirror keeps a release {sequence}")))?;
    match kept.all(|other| other.id() == first.id()) {
        true => Ok(first),
        false => {
            Err(PushError::Rollback(format!("release {sequence} is not the same on all mirrors: name fewer of them")))
        }
    }
}

/// The release before the current one, if all mirrors agree on both.
fn rollback_target(members: &[Member]) -> Result<&Release, PushError> {
    let reachable = || members.iter().filter(|member| member.state.is_ok());
    let current: Vec<Option<ReleaseName>> = reachable().map(Member::current).collect();
    if current.windows(2).any(|pair| pair[0] != pair[1]) {
        let text = "the mirrors are not on one release, so what to go back to is ambiguous: say --to SEQ";
        return Err(PushError::Rollback(text.into()));
    }
    let newest = fleet::newest(members).ok_or_else(|| PushError::Rollback("no mirror has a release yet".into()))?;
    let releases = members.iter().flat_map(Member::releases);
    let before = releases.filter(|release| {
        release.sequence < newest.sequence
            && release.content != newest.content
            && !newest.rejected.contains(&release.content)
    });
    before
        .max_by_key(|release| release.rank())
        .ok_or_else(|| PushError::Rollback(format!("no kept release before {} differs from it", newest.sequence)))
}
