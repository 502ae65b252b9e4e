//! Events with which the library reports its progress.
//!
//! The library reports facts to a [`Monitor`] and never draws or prints. The monitor decides what
//! to show; tests record the events and check the work that was done.

use serde::Serialize;

use crate::hash::{BundleKey, PackId};

/// An event, named in the past tense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The scan of a content tree began.
    ScanStarted {
        /// The root, as given.
        root: String,
    },
    /// Progress of a scan; the numbers are totals since it began.
    ScanAdvanced {
        /// Entries seen.
        entries: u64,
        /// Bytes read and hashed, as opposed to known from the stat cache.
        hashed_bytes: u64,
    },
    /// The scan ended.
    ScanFinished {
        /// Entries of the tree.
        entries: u64,
        /// Size of all its files, in bytes.
        bytes: u64,
        /// Files that were read and hashed.
        hashed_files: u64,
        /// Their size, in bytes.
        hashed_bytes: u64,
    },
    /// A warning that stops nothing.
    Warned {
        /// The warning, for people.
        message: String,
    },
    /// The state of a mirror was received.
    StateLearned {
        /// The mirror.
        mirror: String,
        /// The sequence of its current release; `None` if it has no release.
        sequence: Option<u64>,
    },
    /// A mirror did not respond in time. The push continues without it if the others are enough.
    AnswerOverdue {
        /// The mirror.
        mirror: String,
    },
    /// A bundle was begun.
    BundleStarted {
        /// The bundle.
        bundle: BundleKey,
        /// The mirrors that it is for.
        mirrors: Vec<String>,
        /// New objects in it.
        objects: u64,
        /// Their size, in bytes.
        bytes: u64,
    },
    /// Progress of a bundle; the numbers are totals since it began.
    BundleAdvanced {
        /// The bundle.
        bundle: BundleKey,
        /// Uncompressed bytes.
        bytes: u64,
        /// Bytes in blocks.
        packed_bytes: u64,
    },
    /// A pack was complete.
    PackSealed {
        /// Its id.
        pack: PackId,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A part of a pack was sent to a mirror over a network. Not reported after the pack was sent.
    PackAdvanced {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
        /// Bytes of the pack sent in this attempt: fewer than before if it is sent again.
        bytes: u64,
    },
    /// A pack was sent to a mirror. Reported once, before the mirror has accepted the pack.
    PackSent {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A mirror had a pack already, from a push that was interrupted.
    PackHeld {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
    },
    /// A mirror lacked objects of its base, which were sent whole.
    ObjectsResent {
        /// The mirror.
        mirror: String,
        /// How many.
        objects: u64,
    },
    /// A release was complete on a mirror, but not served.
    Staged {
        /// The mirror.
        mirror: String,
        /// The sequence of the release.
        sequence: u64,
    },
    /// A release became current on a mirror.
    Activated {
        /// The mirror.
        mirror: String,
        /// The sequence of the release.
        sequence: u64,
    },
    /// A wave switched. Its soak time starts, before the probes and the next wave.
    SoakStarted {
        /// The number of the wave, from 1.
        wave: u64,
        /// The time, in seconds.
        seconds: u64,
        /// When the time is over, in seconds since 1970.
        until: u64,
    },
    /// The soak time of a wave is over, or the user cancelled the push.
    SoakEnded {
        /// The number of the wave, from 1.
        wave: u64,
    },
    /// A mirror already served the release.
    AlreadyCurrent {
        /// The mirror.
        mirror: String,
        /// The sequence of its current release.
        sequence: u64,
    },
    /// What no kept release needs was dropped.
    Pruned {
        /// The mirror.
        mirror: String,
        /// Releases dropped.
        releases: u64,
        /// Objects dropped.
        objects: u64,
        /// Retired entries that expired and are no longer served.
        expired: u64,
    },
    /// The command that a mirror runs after a switch failed; the release is current.
    HookFailed {
        /// The mirror.
        mirror: String,
        /// The sequence of the release.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// The command that a mirror runs after a switch did not end within some seconds.
    HookRunning {
        /// The mirror.
        mirror: String,
        /// The sequence of the release.
        sequence: u64,
    },
    /// A mirror failed; the others go on.
    MirrorFailed {
        /// The mirror.
        mirror: String,
        /// Why, with all causes.
        error: String,
    },
}

/// Receives events from the library and can ask it to stop.
pub trait Monitor: Sync {
    /// Receives an event. It is called from many threads and must not block.
    fn event(&self, event: Event);

    /// Whether the user asked to stop. The library checks this between steps, each of which leaves
    /// every mirror on a complete release.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A monitor that ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event) {}
}
