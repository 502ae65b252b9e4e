//! The mirrors of a push and their states.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fsx::{self, IoError};
use crate::hash::{HistoryId, ManifestId};
use crate::manifest::{Entry, ManifestReader};
use crate::mirror::{LinkKind, Mirror, MirrorError, MirrorState, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::origin::scratch::{ManifestFile, Scratch};
use crate::push::PushError;
use crate::push::guards::{GuardFault, HistoryOfMirror};
use crate::push::options::Require;
use crate::release::{Release, Succession};
use crate::scan::Root;
use crate::text::error_chain;
use crate::threads;

/// The mirrors of a push.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    mirrors: Vec<Arc<dyn Mirror>>,
    /// The indexes and errors of the mirrors that could not be polled a moment ago.
    unreachable: Vec<(usize, Arc<MirrorError>)>,
}

impl Fleet {
    /// A fleet of these mirrors.
    #[must_use]
    pub const fn new(mirrors: Vec<Arc<dyn Mirror>>) -> Self {
        Self { mirrors, unreachable: Vec::new() }
    }

    /// This fleet, with a record of the members that could not be polled. A push does not poll
    /// these again.
    pub(super) fn with_unreachable(&self, members: &[PolledMirror]) -> Self {
        let failed = |member: &PolledMirror| member.shared_error();
        let unreachable =
            members.iter().enumerate().filter_map(|(index, member)| Some((index, failed(member)?)));
        Self { mirrors: self.mirrors.clone(), unreachable: unreachable.collect() }
    }

    /// The mirrors.
    #[must_use]
    pub fn mirrors(&self) -> &[Arc<dyn Mirror>] {
        &self.mirrors
    }

    /// Polls the states of all mirrors in parallel.
    pub fn states(&self, monitor: &dyn Monitor) -> Vec<PolledMirror> {
        self.query_all(|mirror| {
            PolledMirror::new(Arc::clone(mirror), Self::state_of(mirror, monitor))
        })
    }

    /// Polls the state of one mirror.
    ///
    /// # Errors
    /// The errors of [`Mirror::state`].
    pub fn state_of(
        mirror: &Arc<dyn Mirror>,
        monitor: &dyn Monitor,
    ) -> Result<MirrorState, MirrorError> {
        let state = mirror.state();
        report_state(&**mirror, &state, monitor);
        state
    }

    /// The mirrors, none of which has responded yet. Those that could not be polled a moment ago
    /// count as failed.
    pub(super) fn members(&self, monitor: &dyn Monitor) -> Vec<PolledMirror> {
        let members: Vec<PolledMirror> =
            self.mirrors.iter().map(|mirror| PolledMirror::pending(Arc::clone(mirror))).collect();
        for (index, error) in &self.unreachable {
            let mirror = members[*index].mirror.name().to_owned();
            monitor.event(Event::MirrorFailed { mirror, error: error_chain(&**error) });
            members[*index].record_shared_error(Arc::clone(error));
        }
        members
    }

    /// Calls `query` for all mirrors in parallel. The results are in mirror order.
    pub fn query_all<T: Send>(&self, query: impl Fn(&Arc<dyn Mirror>) -> T + Sync) -> Vec<T> {
        threads::each(&self.mirrors, query)
    }
}

/// Reports the result of polling a mirror to `monitor`.
pub(super) fn report_state(
    mirror: &dyn Mirror,
    state: &Result<MirrorState, MirrorError>,
    monitor: &dyn Monitor,
) {
    let mirror = mirror.name().to_owned();
    monitor.event(match state {
        Ok(state) => Event::StateLearned {
            mirror,
            sequence: state.current.map(|current| current.sequence()),
        },
        Err(error) => Event::MirrorFailed { mirror, error: error_chain(error) },
    });
}

/// Whether a mirror has no release yet while others have one. A push fills such a mirror, but does
/// not count it towards a requirement.
pub(super) fn is_joining(members: &[PolledMirror], index: usize) -> bool {
    // The mirror has no visitors to lose, so the others do not wait for it before they switch.
    let is_empty =
        |member: &PolledMirror| member.state().is_some_and(|state| state.current.is_none());
    is_empty(&members[index]) && members.iter().any(|member| member.current().is_some())
}

/// The mirrors that count towards a requirement, by index.
pub(super) fn counted(members: &[PolledMirror]) -> impl Iterator<Item = usize> + '_ {
    (0..members.len()).filter(|index| !is_joining(members, *index))
}

/// The number of reachable mirrors and the number of all mirrors. Includes only mirrors that count.
pub(super) fn count_reachable(members: &[PolledMirror]) -> (usize, usize) {
    let reachable = counted(members).filter(|index| members[*index].state().is_some()).count();
    (reachable, counted(members).count())
}

/// Whether enough mirrors can be reached.
pub(super) fn is_requirement_met(members: &[PolledMirror], require: Require) -> bool {
    let (reachable, total) = count_reachable(members);
    require.is_met(reachable, total)
}

/// The newest release that is current on any mirror. If a mirror's history took over another
/// history, releases from the latter count as older, whatever their sequence.
pub(super) fn newest(members: &[PolledMirror]) -> Option<&Release> {
    newest_where(members, |_| true)
}

/// Like [`newest`], but considers only releases for which `is_eligible` returns true, both as
/// results and as releases that take over a history.
pub(super) fn newest_where(
    members: &[PolledMirror],
    is_eligible: impl Fn(&Release) -> bool,
) -> Option<&Release> {
    let meant: Vec<&Release> = current(members).filter(|release| is_eligible(release)).collect();
    let is_replaced =
        |one: &Release| meant.iter().any(|other| other.replaces.contains(&one.history));
    meant.iter().filter(|one| !is_replaced(one)).max_by_key(|release| release.rank()).copied()
}

/// The records of the current releases. Leaves out unreadable records.
fn current(members: &[PolledMirror]) -> impl Iterator<Item = &Release> {
    members.iter().filter_map(PolledMirror::current_release)
}

/// Returns an error if the history of a current release differs from that of `newest` and neither
/// took over the other.
pub(super) fn check_one_history(
    members: &[PolledMirror],
    newest: Option<&Release>,
) -> Result<(), GuardFault> {
    let Some(newest) = newest else { return Ok(()) };
    let is_foreign = |one: &Release| newest.succession(one) == Succession::OtherHistory;
    if !current(members).any(is_foreign) {
        return Ok(());
    }
    let of = |member: &PolledMirror| {
        let release = member.current_release()?;
        let same = member.releases().iter().filter(|kept| kept.history == release.history);
        Some(HistoryOfMirror {
            mirror: member.mirror.name().to_owned(),
            history: release.history,
            sequence: release.sequence,
            since: same.map(|kept| kept.created).min().unwrap_or(release.created),
        })
    };
    Err(GuardFault::Histories { mirrors: members.iter().filter_map(of).collect() })
}

/// All histories that the mirrors serve, and all histories that those took over; oldest first, as
/// far as the order is known.
pub(super) fn histories(members: &[PolledMirror]) -> Vec<HistoryId> {
    let mut releases: Vec<&Release> = current(members).collect();
    releases.sort_by_key(|release| release.rank());
    let mut histories: Vec<HistoryId> = Vec::new();
    let replaced = releases.iter().flat_map(|release| release.replaces.iter());
    for history in replaced.chain(releases.iter().map(|release| &release.history)) {
        if !histories.contains(history) {
            histories.push(*history);
        }
    }
    histories
}

/// The mirrors that keep a manifest.
pub(super) fn mirrors_with_manifest<'m>(
    members: impl IntoIterator<Item = &'m PolledMirror>,
    manifest: &ManifestId,
) -> impl Iterator<Item = &'m Arc<dyn Mirror>> {
    let holds = |member: &&PolledMirror| {
        let staged = member.state().and_then(|state| state.staged.as_ref());
        member.releases().iter().chain(staged).any(|release| release.manifest == *manifest)
    };
    members.into_iter().filter(holds).map(|member| &member.mirror)
}

/// Copies a manifest to a scratch file, from the first mirror that has an undamaged copy.
pub(super) fn copy_manifest<'m>(
    members: impl IntoIterator<Item = &'m PolledMirror>,
    manifest: &ManifestId,
    scratch: &Scratch,
) -> Result<Option<Arc<ManifestFile>>, IoError> {
    if let Some(known) = scratch.known_manifest(*manifest)? {
        return Ok(Some(Arc::new(known)));
    }
    let mut near_first: Vec<_> = mirrors_with_manifest(members, manifest).collect();
    // Copying from a local mirror costs no transfer. Apart from that, the sort keeps the mirrors'
    // order.
    near_first.sort_by_key(|mirror| mirror.link_kind() == LinkKind::Network);
    for mirror in near_first {
        // An error here is not reported: the next mirror may have the manifest.
        let Ok(bytes) = mirror.manifest(manifest) else { continue };
        if let Some(copy) = ManifestFile::copy(scratch, &manifest.to_string(), bytes, *manifest)? {
            return Ok(Some(Arc::new(copy)));
        }
    }
    Ok(None)
}

/// All entries in a release that a mirror keeps.
pub(super) fn release_entries(
    mirror: &Arc<dyn Mirror>,
    release: &Release,
) -> Result<Vec<Entry>, PushError> {
    let failed = |source| PushError::Manifest { release: release.name(), source };
    let bytes =
        mirror.manifest(&release.manifest).map_err(|source| wrap_source_error(mirror, source))?;
    let entries = ManifestReader::new(bytes, Some(release.manifest)).map_err(failed)?;
    entries.collect::<Result<_, _>>().map_err(failed)
}

/// Wraps an error from the source mirror.
pub(super) fn wrap_source_error(mirror: &Arc<dyn Mirror>, source: MirrorError) -> PushError {
    PushError::Source { mirror: mirror.location().to_owned(), source }
}

/// Another member with the same store as the member `index`; `None` if there is none.
pub(super) fn other_with_store(members: &[PolledMirror], index: usize) -> Option<usize> {
    let store = |index: usize| members[index].state().and_then(|state| state.store);
    let own = store(index)?;
    (0..members.len()).find(|other| *other != index && store(*other) == Some(own))
}

/// Returns an error if two names refer to the same mirror, because their updates would race.
pub(super) fn check_distinct(members: &[PolledMirror]) -> Result<(), PushError> {
    for (index, member) in members.iter().enumerate() {
        let store = |member: &PolledMirror| member.state().and_then(|state| state.store);
        // Before the first push, there is no store id, so paths are compared.
        let real_path = |member: &PolledMirror| {
            member.mirror.local_path().and_then(|path| fsx::resolve(&path).ok())
        };
        let same = |other: &&PolledMirror| {
            other.mirror.location() == member.mirror.location()
                || store(member).is_some() && store(other) == store(member)
                || real_path(member).is_some() && real_path(other) == real_path(member)
        };
        if let Some(other) = members[index + 1..].iter().find(same) {
            let name = |member: &PolledMirror| member.mirror.location().to_owned();
            return Err(PushError::SameMirror { first: name(member), second: name(other) });
        }
        let is_around = |outer: &PolledMirror, inner: &PolledMirror| {
            real_path(outer)
                .zip(real_path(inner))
                .is_some_and(|(outer, inner)| inner.starts_with(outer))
        };
        for other in &members[index + 1..] {
            let name = |member: &PolledMirror| member.mirror.location().to_owned();
            for (outer, inner) in [(member, other), (other, member)] {
                if is_around(outer, inner) {
                    return Err(PushError::NestedMirrors {
                        inner: name(inner),
                        outer: name(outer),
                    });
                }
            }
        }
    }
    Ok(())
}

/// Returns an error if a tree contains one of `others` (the mirrors and the origin's files), or is
/// inside one of them.
pub(super) fn check_nesting(
    roots: &[Root],
    others: impl IntoIterator<Item = PathBuf>,
) -> Result<(), PushError> {
    let others: Vec<_> = others.into_iter().collect();
    for root in roots {
        let Ok(tree) = fsx::resolve(&root.path) else { continue };
        for other in &others {
            // If a path cannot be resolved (below a file, or in a loop of links), only its mirror
            // fails.
            let Ok(resolved) = fsx::resolve(other) else { continue };
            if tree.starts_with(&resolved) || resolved.starts_with(&tree) {
                let shown = |path: &std::path::Path| path.display().to_string();
                return Err(PushError::TreeOverlaps {
                    tree: shown(&root.path),
                    other: shown(other),
                });
            }
        }
    }
    Ok(())
}
