//! The result of a push, with one outcome for each mirror.

use crate::text::error_chain;

use serde::Serialize;

use crate::hash::ReleaseId;
use crate::manifest::{ChangeKind, Diff};
use crate::mirror::{ErrorKind, Expiries, HookRun, MirrorError};
use crate::push::options::Goal;
use crate::push::push_monitor::Traffic;
use crate::release::ReleaseName;
use crate::tree_path::Site;

/// The result of a push on one mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The mirror switched to the release.
    Activated,
    /// The mirror already served the release.
    Current,
    /// The release is complete on the mirror but was not activated.
    Staged,
    /// Another push was newer.
    Superseded,
    /// Another push staged a different release instead. That release is not served yet.
    Displaced {
        /// The release that is staged.
        by: ReleaseName,
    },
    /// The mirror serves a newer release and was left alone.
    Newer {
        /// The release that the mirror serves.
        serves: ReleaseName,
    },
    /// The push did nothing on the mirror.
    Skipped,
    /// The mirror switched and then reverted to its previous content.
    Reverted,
    /// The mirror serves a release that was made for only some mirrors, and was left alone.
    Apart,
    /// The mirror is frozen and was left out.
    Frozen,
    /// The push failed on the mirror, which keeps serving what it served before.
    Failed {
        /// The kind of the failure.
        #[serde(serialize_with = "failure_name")]
        failure: ErrorKind,
        /// Why, with all causes.
        error: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn failure_name<S: serde::Serializer>(
    failure: &ErrorKind,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(failure.report_name())
}

impl Outcome {
    /// The outcome for an error from the mirror.
    #[must_use]
    pub fn failed(error: &MirrorError) -> Self {
        Self::Failed { failure: error.kind(), error: error_chain(error) }
    }

    /// Whether the mirror serves the release.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        matches!(self, Self::Activated | Self::Current)
    }
}

/// The result of a push on one mirror, in detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorReport {
    /// Its name.
    pub mirror: String,
    /// The location of the mirror.
    pub location: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The sequence that the mirror served before.
    pub before: Option<u64>,
    /// The sequence that the mirror serves now, if known.
    pub now: Option<u64>,
    /// Size of the content that was new to the mirror, in bytes.
    pub new_bytes: u64,
    /// The amount of data sent.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// When the token or certificate for the mirror expires, if known.
    #[serde(flatten)]
    pub expiries: Expiries,
    /// The hook that the mirror runs after the switch; `None` if the mirror did not switch, has no
    /// hook, or has not reported on it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookRun>,
    /// Whether the mirror is due for a clean-up, whatever the outcome of the push.
    #[serde(skip)]
    pub needs_clean_up: bool,
}

/// Numbers of paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChangeCounts {
    /// New paths.
    pub added: u64,
    /// Paths whose content changed.
    pub changed: u64,
    /// New paths with the content of a removed path. The two paths are counted only here and in
    /// `still_served`.
    pub renamed: u64,
    /// Removed paths that are still served for a while.
    pub retired: u64,
    /// Removed or renamed paths that are still served for a while.
    pub still_served: u64,
    /// When the first of the paths in `still_served` expires, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_until: Option<u64>,
    /// When the last of the paths in `still_served` expires, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_until: Option<u64>,
    /// Paths that are no longer served, including previously retired paths.
    pub removed: u64,
    /// Unchanged paths.
    pub same: u64,
}

impl From<&Diff> for ChangeCounts {
    fn from(diff: &Diff) -> Self {
        let count = |kind| diff.count(kind) as u64;
        Self {
            added: count(ChangeKind::Added),
            changed: count(ChangeKind::Changed),
            renamed: count(ChangeKind::Renamed),
            retired: count(ChangeKind::Retired),
            removed: count(ChangeKind::Removed),
            same: diff.same,
            ..Self::default()
        }
    }
}

/// How mirrors reverted to their previous content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reverted {
    /// Why.
    pub reason: String,
    /// The sequence of the release with the old content; `None` if it could not be made.
    pub sequence: Option<u64>,
    /// Why a mirror that should have reverted did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The result of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The site.
    pub site: Site,
    /// The release that the push brought to the mirrors; `None` if the push ended before that.
    pub release: Option<ReleaseId>,
    /// Its sequence.
    pub sequence: Option<u64>,
    /// Whether the push created the release; `false` if it only brought mirrors to an existing one.
    pub is_new: bool,
    /// How the release differs from the newest one before.
    pub changes: ChangeCounts,
    /// Size of the content that was new to any mirror, in bytes.
    pub new_bytes: u64,
    /// The goal of the push.
    pub goal: Goal,
    /// Why nothing was activated, if too few mirrors were ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmet: Option<String>,
    /// Why not all ready mirrors switched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// How the mirrors that had switched reverted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// The longest time between the first and the last switch of any wave, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_ms: Option<u64>,
    /// The report on each mirror, in the order given.
    pub mirrors: Vec<MirrorReport>,
}
