//! A push: makes a release from a source, brings it to every mirror and switches the mirrors to it.
//! The report says which mirrors failed.
//!
//! ```text
//! state of every mirror (overlaps) scan -> manifest
//!     -> (per mirror) bundle -> stage -> [barrier] -> activate
//! ```
//!
//! This module knows fleets and the order in which mirrors switch. It does not know where mirrors
//! are or how results are shown.

mod activation;
mod bundle;
mod cache_fallback;
mod churn;
mod claims;
mod context;
mod coordinator;
mod fleet;
mod fleet_wide;
mod guards;
mod latecomers;
mod lead;
mod maintenance;
mod mirror_push;
mod next_manifest;
mod object_presence;
mod options;
mod outcome;
mod plan;
mod prepare;
mod publication;
mod push_monitor;
mod recheck;
mod resolve_source;
mod retention;
mod revert;
mod rollout;
mod schedule;
mod secret_files;
mod site;
mod source;
mod staged;
mod staging;
mod states;
mod waves;

pub use crate::mirror::PolledMirror;
pub use crate::origin::KnownStores;
pub use crate::origin::ScratchLocation;
pub use crate::packing::BuildError;
pub use crate::packing::base_selection::BaseCounts;
pub use churn::Churn;
pub use fleet::Fleet;
pub use guards::{GuardFault, Guards, HistoryOfMirror, MaxRemoved, ParseMaxRemovedError};
pub use maintenance::{DiffSide, clean_up, diff_sides, repair};
pub use options::{
    Goal, KeepContent, LevelChoice, MtimeSource, OnFailure, Options, ParseLevelChoiceError,
    ParseRequireError, Policy, Probe, Require, RunNumber, RunNumberError, Wave,
};
pub use outcome::{ChangeCounts, MirrorReport, Outcome, Report, Reverted};
pub use plan::{MirrorPlan, PlanReport, Planned, plan};
pub use push_monitor::Traffic;
pub use resolve_source::{RollbackPlan, plan_rollback};
pub use retention::{Retention, RetentionRule};
pub use schedule::{Schedule, WavePlan};
pub use secret_files::AllowedSecrets;
pub use site::SiteOfMirror;
pub use source::{DecidedBy, Source};
pub use staged::{Abandoned, abandon};

use crate::fsx::IoError;
use crate::manifest::ManifestError;
use crate::mirror::MirrorError;
use crate::monitor::{Event, Monitor};
use crate::packing::source_entries::SourceEntries;
use crate::push::cache_fallback::with_cache_or_without;
use crate::release::{ReleaseError, ReleaseName};
use crate::scan::ScanError;

use coordinator::RolloutEnd;
use prepare::Prepared;
use recheck::Recheck;

/// Why a push failed as a whole. The [`Report`] contains failures of single mirrors.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The content is missing or unreadable, or it changed while it was read.
    #[error(transparent)]
    Content(#[from] ScanError),
    /// A guard rail refused the release.
    #[error(transparent)]
    Guard(#[from] GuardFault),
    /// A newer run of the same stream was published already.
    #[error("order {number} of {stream:?} is superseded: {seen} has already been published")]
    Superseded {
        /// The stream.
        stream: String,
        /// The run number of this push.
        number: u64,
        /// The highest run number published.
        seen: u64,
    },
    /// The source mirror failed.
    #[error("the source {mirror} failed")]
    Source {
        /// Its name.
        mirror: String,
        /// What happened.
        source: MirrorError,
    },
    /// The only mirror in the operation failed.
    #[error("{mirror}")]
    Mirror {
        /// Its name.
        mirror: String,
        /// What happened.
        source: MirrorError,
    },
    /// The source mirror has no release.
    #[error("the source {mirror} has no release")]
    EmptySource {
        /// Its name.
        mirror: String,
    },
    /// The tree contains a mirror, or lies inside one.
    #[error("the tree {tree} and {other} overlap")]
    TreeOverlaps {
        /// The tree.
        tree: String,
        /// The mirror or the cache.
        other: String,
    },
    /// One mirror is inside another.
    #[error("the mirror {inner} is inside the mirror {outer}")]
    NestedMirrors {
        /// The inner mirror.
        inner: String,
        /// The outer mirror.
        outer: String,
    },
    /// No mirror has the release staged, or the mirrors have several staged releases.
    #[error("{what}")]
    NotStaged {
        /// The message, which says which of these is the case.
        what: String,
        /// The staged releases.
        staged: Vec<ReleaseName>,
    },
    /// There is no release to roll back to.
    #[error("{0}")]
    Rollback(String),
    /// A mirror does not keep the requested release.
    #[error("{0}")]
    NoRelease(String),
    /// No sequence number is left for another release.
    #[error("no release can follow sequence {highest}, which {mirror} has")]
    SequencesExhausted {
        /// The mirror with the highest sequence.
        mirror: String,
        /// That sequence.
        highest: u64,
    },
    /// The mirrors hold different sites, and no site was named.
    #[error("the mirrors hold different sites: {}", site::by_site(mirrors))]
    SitesDiffer {
        /// The mirrors that report a site. If the source is a mirror, it comes first.
        mirrors: Vec<SiteOfMirror>,
    },
    /// Two names refer to the same mirror.
    #[error("{first} and {second} are the same mirror")]
    SameMirror {
        /// The first name.
        first: String,
        /// The second name.
        second: String,
    },
    /// A manifest that is needed cannot be read.
    #[error("cannot read the manifest of release {release}")]
    Manifest {
        /// The release.
        release: ReleaseName,
        /// Why the manifest cannot be read.
        source: ManifestError,
    },
    /// The record of the new release would be invalid, so no mirror could read it.
    #[error("cannot make the new release")]
    NewRelease(#[source] ReleaseError),
    /// The new manifest could not be made.
    #[error("cannot write the new manifest")]
    NewManifest(#[source] ManifestError),
    /// Content could not be read, or it has changed since the scan.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A file on the origin cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A probe requests a path that is not in the release.
    #[error("a probe of a wave requests {path:?}, but the release has no such file")]
    ProbePathMissing {
        /// The path.
        path: String,
    },
    /// The user asked to stop.
    #[error("stopped; every mirror is on a complete release, and the next push resumes")]
    Cancelled,
}

/// Maximum number of attempts: a push starts again if another push got there first.
const MAX_ATTEMPTS: u32 = 5;

/// Pushes `source` to all mirrors of `fleet`.
///
/// # Errors
/// If the push fails as a whole. In that case, nothing was activated, except possibly with
/// [`PushError::Cancelled`].
pub fn push(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Report, PushError> {
    // Once the user has asked to stop, any failure is attributed to that request.
    with_cache_or_without(options, |options| push_with_retries(source, fleet, options, monitor))
        .map_err(|error| if monitor.is_cancelled() { PushError::Cancelled } else { error })
}

fn push_with_retries(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Report, PushError> {
    let mut source = source.clone();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let end = std::thread::scope(|scope| {
            // In the scope, so that the second scan runs while packs are made and sent.
            let mut recheck = Recheck::none();
            let on_new = |live: &SourceEntries| recheck = Recheck::start(scope, live, monitor);
            match prepare::prepare(&source, fleet, options, on_new, monitor)? {
                Prepared::Refused(report) => Ok::<_, PushError>(RolloutEnd::Report(*report)),
                Prepared::Publication(publication) => {
                    let end = coordinator::run(
                        &publication,
                        || recheck.finish(monitor),
                        options,
                        monitor,
                    )?;
                    publication.remember(end.report(), options, monitor);
                    // If another push gets there first, "the previous release" would then be the
                    // release that this rollback leaves, so the target is fixed now.
                    if let Source::Rollback { to: to @ None, .. } = &mut source {
                        *to = publication.release.rolled_back_to;
                    }
                    Ok(end)
                }
            }
        })?;
        match end {
            RolloutEnd::Report(report) => return Ok(report),
            RolloutEnd::Revert(revert) => return Ok(revert.run(fleet, options, monitor)),
            RolloutEnd::Retry(report) if attempt == MAX_ATTEMPTS => return Ok(report),
            RolloutEnd::Retry(_) => {
                monitor.event(Event::Warned {
                    message: "another push finished first: starting again on top of it".into(),
                });
            }
        }
    }
}
