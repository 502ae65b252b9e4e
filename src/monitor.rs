//! What the library tells about its work, while it works.
//!
//! The library reports facts to a [`Monitor`] and never draws, prints or
//! sleeps for anyone's sake. Whoever listens decides what to show; tests
//! record the events and assert the work that was done.

use serde::Serialize;

use crate::hash::{BundleKey, PackId};

/// A fact, in the past tense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The scan of a content tree began.
    ScanStarted {
        /// The root, as given.
        root: String,
    },
    /// The scan went on; sums since it began.
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
    /// Something odd that stops nothing.
    Warned {
        /// What, for people.
        message: String,
    },
    /// A mirror told its state.
    StateLearned {
        /// The mirror.
        mirror: String,
        /// The sequence of its current release; nothing for one that has none.
        sequence: Option<u64>,
    },
    /// A mirror had not answered in time. The others go on without it if they are enough.
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
    /// Content of a bundle went into blocks; sums since it began.
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
    /// A part of a pack left for a mirror behind a network. Nothing is reported of a pack after it was sent.
    PackAdvanced {
        /// The mirror.
        mirror: String,
        /// The pack.
        pack: PackId,
        /// Bytes of it that have left, in this attempt: fewer than before where it is sent again.
        bytes: u64,
    },
    /// A pack was sent to a mirror: told once, and before the mirror says what it thinks of it.
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
    /// A release was complete on a mirror, unseen.
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
    /// A wave switched. It is watched for a time before the probes and the others.
    SoakStarted {
        /// The number of the wave, from 1.
        wave: u64,
        /// The time, in seconds.
        seconds: u64,
        /// When the time is over, in seconds since 1970.
        until: u64,
    },
    /// The time of a wave is over, or the user asked to stop.
    SoakEnded {
        /// The number of the wave, from 1.
        wave: u64,
    },
    /// A mirror had nothing to do.
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
        /// Retired entries that are not served any more, their time being over.
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

/// Listens to the library and may ask it to stop.
pub trait Monitor: Sync {
    /// Takes a fact. Called from many threads; must be quick.
    fn event(&self, event: Event);

    /// Whether the user asked to stop. The library looks between steps that
    /// each leave every mirror on a whole release.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event) {}
}
