//! Mirror maintenance: clean-up after a push, repair, and comparison.

use std::sync::Arc;

use crate::manifest::{Diff, Entry, ManifestError, diff};
use crate::mirror::{CleanUpResult, HookRun, HookState, Mirror, Pruned, Repaired};
use crate::monitor::{Event, Monitor};
use crate::packing::content_source::ContentSource;
use crate::packing::mirror_sources::MirrorSources;
use crate::packing::source_entries::SourceEntries;
use crate::push::PushError;
use crate::push::fleet::{self, Fleet, wrap_source_error};
use crate::push::outcome::{Outcome, Report};
use crate::push::source::Source;
use crate::release::Release;
use crate::scan::{Root, ScanOptions, Tree};
use crate::text::error_chain;
use crate::threads;

/// Cleans up after a push, on every mirror that switched or is due for a clean-up: drops old
/// releases and expires retired entries. A failure is reported but stops nothing, because the next
/// push tries again. Adds the results of the mirrors' hooks to the report.
pub fn clean_up(report: &mut Report, fleet: &Fleet, keep: usize, monitor: &dyn Monitor) {
    threads::each(fleet.mirrors().iter().zip(&mut report.mirrors), |(mirror, outcome)| {
        let has_switched = matches!(outcome.outcome, Outcome::Activated | Outcome::Reverted);
        // A mirror that failed would probably fail again, or wait for a lock again.
        let has_failed = matches!(outcome.outcome, Outcome::Failed { .. });
        if !has_switched && (has_failed || !outcome.needs_clean_up) {
            return;
        }
        // A mirror that did not switch reports the hook from an earlier push.
        let hook = clean_up_one(&**mirror, keep, monitor).filter(|_| has_switched);
        if let Some(event) = hook.as_ref().and_then(|hook| hook_event(mirror.name(), hook)) {
            monitor.event(event);
        }
        outcome.hook = hook;
    });
}

/// Cleans up one mirror. Returns the state of the hook from its last switch, if the mirror reports
/// it.
fn clean_up_one(mirror: &dyn Mirror, keep: usize, monitor: &dyn Monitor) -> Option<HookRun> {
    let name = mirror.name().to_owned();
    match mirror.clean_up(keep) {
        Ok(CleanUpResult { pruned: Pruned { releases, objects, expired, .. }, hook }) => {
            monitor.event(Event::Pruned { mirror: name, releases, objects, expired });
            hook
        }
        Err(error) => {
            monitor.event(Event::Warned {
                message: format!("{name}: cannot tidy up: {}", error_chain(&error)),
            });
            None
        }
    }
}

fn hook_event(mirror: &str, hook: &HookRun) -> Option<Event> {
    let (mirror, sequence) = (mirror.to_owned(), hook.release.sequence());
    match &hook.state {
        HookState::Failed { reason } => {
            Some(Event::HookFailed { mirror, sequence, reason: reason.clone() })
        }
        HookState::Running => Some(Event::HookRunning { mirror, sequence }),
        HookState::Succeeded | HookState::Unknown => None,
    }
}

/// Repairs `mirror` from trees or from another mirror.
///
/// # Errors
/// If the source cannot be read or the mirror cannot be written.
pub fn repair(
    source: &Source,
    mirror: &Arc<dyn Mirror>,
    monitor: &dyn Monitor,
) -> Result<Repaired, PushError> {
    let sources = |mirrors: &[&Arc<dyn Mirror>]| {
        MirrorSources::from_mirrors(mirrors.iter().map(|mirror| Arc::clone(mirror)))
    };
    let content_source = match source {
        Source::Trees { roots, scan } => ContentSource::new(
            SourceEntries::Tree(Arc::new(Tree::scan(roots, scan, monitor)?)),
            sources(&[mirror]),
            Vec::new(),
        ),
        Source::CurrentRelease(from) | Source::Promote(from) => {
            let releases = from.state().map_err(|source| wrap_source_error(from, source))?.releases;
            ContentSource::new(
                SourceEntries::Entries(Vec::new()),
                sources(&[from, mirror]),
                releases,
            )
        }
        Source::Rollback { .. } | Source::Staged(_) | Source::Newest => {
            ContentSource::new(SourceEntries::Entries(Vec::new()), sources(&[mirror]), Vec::new())
        }
    };
    let failed = |source| PushError::Mirror { mirror: mirror.name().to_owned(), source };
    mirror.repair(&content_source.cancellable_by(monitor), monitor).map_err(failed)
}

/// One side of a comparison.
#[derive(Debug, Clone)]
pub enum DiffSide {
    /// Content trees, merged.
    Trees {
        /// The trees.
        roots: Vec<Root>,
        /// How they are scanned.
        scan: ScanOptions,
    },
    /// A release on a mirror; the current one if there is no sequence.
    Release {
        /// The mirror.
        mirror: Arc<dyn Mirror>,
        /// The sequence of the release.
        sequence: Option<u64>,
    },
}

impl DiffSide {
    fn entries(&self, monitor: &dyn Monitor) -> Result<Vec<Entry>, PushError> {
        match self {
            Self::Trees { roots, scan } => {
                Ok(SourceEntries::Tree(Arc::new(Tree::scan(roots, scan, monitor)?))
                    .entries()
                    .collect())
            }
            Self::Release { mirror, sequence } => {
                let (release, expired_through) = find_release(mirror, *sequence)?;
                let mut entries = fleet::release_entries(mirror, &release)?;
                // The manifest keeps expired entries, but the mirror no longer serves them.
                entries.retain(|entry| !entry.has_expired(expired_through));
                Ok(entries)
            }
        }
    }
}

/// The record of a release, and the time up to which the mirror has expired retired entries.
fn find_release(
    mirror: &Arc<dyn Mirror>,
    sequence: Option<u64>,
) -> Result<(Release, u64), PushError> {
    let state = mirror.state().map_err(|source| wrap_source_error(mirror, source))?;
    let release = match sequence {
        None => state
            .current_release()
            .cloned()
            .ok_or_else(|| PushError::EmptySource { mirror: mirror.location().to_owned() }),
        Some(sequence) => {
            let found = state.releases.iter().find(|release| release.sequence == sequence).cloned();
            let kept: Vec<String> =
                state.releases.iter().map(|release| release.sequence.to_string()).collect();
            let text = || {
                format!(
                    "{} keeps no release {sequence}; it keeps {}",
                    mirror.location(),
                    kept.join(", ")
                )
            };
            found.ok_or_else(|| PushError::NoRelease(text()))
        }
    };
    Ok((release?, state.expired_through))
}

/// Compares two sides, each a tree or a release on a mirror.
///
/// # Errors
/// If one of the sides cannot be read.
pub fn diff_sides(
    old: &DiffSide,
    new: &DiffSide,
    monitor: &dyn Monitor,
) -> Result<Diff, PushError> {
    // A tree has no retired entries, so retired entries are not a difference if one side is a tree.
    let is_tree = |side: &DiffSide| matches!(side, DiffSide::Trees { .. });
    let is_live_only = is_tree(old) || is_tree(new);
    let (mut old, mut new) = (old.entries(monitor)?, new.entries(monitor)?);
    if is_live_only {
        [&mut old, &mut new].into_iter().for_each(|entries| entries.retain(Entry::is_live));
    }
    let stream = |entries: Vec<Entry>| entries.into_iter().map(Ok::<_, ManifestError>);
    diff(stream(old), stream(new)).map_err(PushError::NewManifest)
}
