//! The events that report the library's progress.
//!
//! The library reports facts to a [`Monitor`] and never draws or prints. The monitor decides what
//! to show; tests record the events to check what was done.

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
    /// Progress of a scan; the numbers are totals since its start.
    ScanAdvanced {
        /// Entries found.
        entries: u64,
        /// Bytes that were read and hashed because the files were not in the stat cache.
        hashed_bytes: u64,
    },
    /// The scan ended.
    ScanFinished {
        /// Entries in the tree.
        entries: u64,
        /// Size of all files in the tree, in bytes.
        bytes: u64,
        /// Files that were read and hashed.
        hashed_files: u64,
        /// Size of these files, in bytes.
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
        /// The mirrors that need the bundle.
        mirrors: Vec<String>,
        /// New objects in the bundle.
        objects: u64,
        /// Size of these objects, in bytes.
        bytes: u64,
    },
    /// Progress of a bundle; the numbers are totals since its start.
    BundleAdvanced {
        /// The bundle.
        bundle: BundleKey,
        /// Uncompressed bytes processed.
        bytes: u64,
        /// Bytes in finished blocks.
        packed_bytes: u64,
    },
    /// A pack was complete.
    PackSealed {
        /// The id of the pack.
        pack: PackId,
        /// The size of the pack, in bytes.
        bytes: u64,
    },
    /// Part of a pack was sent to a mirror over a network. Not reported once the whole pack has
    /// been sent.
    PackAdvanced {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
        /// Bytes of the pack sent in this attempt. The number starts over if the pack is sent
        /// again.
        bytes: u64,
    },
    /// A pack was sent to a mirror. Reported once, before the mirror has accepted the pack.
    PackSent {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
        /// The size of the pack, in bytes.
        bytes: u64,
    },
    /// A mirror already had a pack, from an interrupted push.
    PackHeld {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
    },
    /// A mirror lacked objects from its base. They were sent whole.
    ObjectsResent {
        /// The mirror.
        mirror: String,
        /// The number of objects.
        objects: u64,
    },
    /// A release is complete on a mirror, but not yet served.
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
    /// A wave switched. Its soak time starts; the probes and the next wave come after it.
    SoakStarted {
        /// The number of the wave, from 1.
        wave: u64,
        /// The soak time, in seconds.
        seconds: u64,
        /// When the soak time ends, in seconds since 1970.
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
    /// Data that no kept release needs was dropped.
    Pruned {
        /// The mirror.
        mirror: String,
        /// The number of dropped releases.
        releases: u64,
        /// The number of dropped objects.
        objects: u64,
        /// The number of retired entries that have expired and are no longer served.
        expired: u64,
    },
    /// A mirror switched, but the hook that it runs afterwards failed. The release is current.
    HookFailed {
        /// The mirror.
        mirror: String,
        /// The sequence of the release.
        sequence: u64,
        /// Why the command failed.
        reason: String,
    },
    /// A mirror switched, but the hook that it runs afterwards has not finished within a few
    /// seconds.
    HookRunning {
        /// The mirror.
        mirror: String,
        /// The sequence of the release.
        sequence: u64,
    },
    /// A mirror failed; the others continue.
    MirrorFailed {
        /// The mirror.
        mirror: String,
        /// Why, with all causes.
        error: String,
    },
}

/// Receives events from the library and can ask it to stop.
pub trait Monitor: Sync {
    /// Receives an event. This is called from many threads and must not block.
    fn event(&self, event: Event);

    /// Whether the user asked to stop. The library checks this between steps. Each step leaves
    /// every mirror on a complete release.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A monitor that ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentMonitor;

impl Monitor for SilentMonitor {
    fn event(&self, _: Event) {}
}
