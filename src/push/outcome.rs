//! What became of a push: one outcome a mirror, and nothing glossed over.

use crate::text::error_chain;

use serde::Serialize;

use crate::hash::ReleaseId;
use crate::manifest::{ChangeKind, Diff};
use crate::mirror::{ErrorKind, Expiries, HookRun, MirrorError};
use crate::push::options::Goal;
use crate::push::push_monitor::Traffic;
use crate::release::ReleaseName;
use crate::tree_path::Site;

/// What became of one mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It switched to the release.
    Activated,
    /// It had the release already.
    Current,
    /// The release is complete there and was not activated.
    Staged,
    /// Another push was newer.
    Superseded,
    /// Another push staged a release in its place, which is not served.
    Displaced {
        /// The release that is staged.
        by: ReleaseName,
    },
    /// It serves a newer release, and was left alone.
    Newer {
        /// The release that it serves.
        serves: ReleaseName,
    },
    /// It was not tried.
    Skipped,
    /// It switched, and went back to the content it had.
    Reverted,
    /// It serves a release that is not for all mirrors, and was left alone.
    Apart,
    /// It was left out, as it is to stay as it is.
    Frozen,
    /// It stays on what it had.
    Failed {
        /// What kind of failure.
        #[serde(serialize_with = "failure_name")]
        failure: ErrorKind,
        /// Why, with all causes.
        error: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn failure_name<S: serde::Serializer>(failure: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(failure.report_name())
}

impl Outcome {
    /// The outcome of an error.
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

/// What became of one mirror, with figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorReport {
    /// Its name.
    pub mirror: String,
    /// Where it is.
    pub location: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The sequence it served before.
    pub before: Option<u64>,
    /// The sequence it serves now, as far as known.
    pub now: Option<u64>,
    /// Size of the content that was new to it, in bytes.
    pub new_bytes: u64,
    /// What went to it.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// When what the mirror was reached with ends, as far as known.
    #[serde(flatten)]
    pub expiries: Expiries,
    /// The command that the mirror runs after the switch; `None` if it did not switch, has no such command, or was
    /// not asked yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookRun>,
    /// Whether something is due there that settling does, whatever became of the push.
    #[serde(skip)]
    pub needs_settling: bool,
}

/// Numbers of paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChangeCounts {
    /// New paths.
    pub added: u64,
    /// Paths with other content.
    pub changed: u64,
    /// New paths with the content of a path that went; neither of the two is counted elsewhere but in `still_served`.
    pub renamed: u64,
    /// Paths that went and are still served for a time.
    pub retired: u64,
    /// Paths that went, also by a rename, and are still served for a time.
    pub still_served: u64,
    /// Until when the first of them is served, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_until: Option<u64>,
    /// Until when the last of them is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_until: Option<u64>,
    /// Paths that are no longer served, also those that were retired before.
    pub removed: u64,
    /// Paths that stay as they are.
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

/// How mirrors went back to the content they had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reverted {
    /// Why.
    pub reason: String,
    /// The sequence of the release that has the old content; nothing where that could not be.
    pub sequence: Option<u64>,
    /// Why a mirror that should have gone back did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The site.
    pub site: Site,
    /// The release the mirrors were brought to; nothing if it did not come to that.
    pub release: Option<ReleaseId>,
    /// Its sequence.
    pub sequence: Option<u64>,
    /// Whether the push made it, as opposed to bringing laggards up to one that was there.
    pub is_new: bool,
    /// How the release differs from the newest one before it.
    pub changes: ChangeCounts,
    /// Size of the content that is new to some mirror, in bytes.
    pub new_bytes: u64,
    /// How far it was to go.
    pub goal: Goal,
    /// How many mirrors were needed, and why nothing was activated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmet: Option<String>,
    /// Why not all that were ready switched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// How those that had switched went back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// The longest time between the first and the last mirror of a wave to switch, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_ms: Option<u64>,
    /// One for each mirror, in the order given.
    pub mirrors: Vec<MirrorReport>,
}
