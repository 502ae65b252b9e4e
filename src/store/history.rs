//! The log of events in a store, in order, for people to read.
//!
//! No code depends on the log. A torn or lost line, or a wrong time, affects only what users see,
//! and a failure to write a line is ignored.

use std::error::Error as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fsx::{self, Context as _, FileKind, FileMode};
use crate::release::ReleaseName;
use crate::store::layout::HISTORY;
use crate::store::open::LockedStore;
use crate::store::{Store, StoreError};

/// Maximum size of the log in bytes; a longer log is cut to its newer half. The limit is enough for
/// several months on a busy mirror.
const MAX_LOG_BYTES: u64 = 128 * 1024;
/// Maximum length of a recorded reason, in bytes.
const MAX_REASON_BYTES: usize = 400;

/// Something that happened in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// When the event happened, by the mirror's clock, in seconds since 1970.
    pub time: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A release became current.
    Switched {
        /// The release.
        release: ReleaseName,
        /// The previous release; `None` for the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<ReleaseName>,
    },
    /// A push failed because of a disk error.
    Failed {
        /// The release that was being pushed.
        release: ReleaseName,
        /// The disk error.
        #[serde(rename = "why")]
        reason: String,
    },
    /// The mirror's hook (`post_activate`) failed. The release is current nevertheless.
    HookFailed {
        /// The release.
        release: ReleaseName,
        /// What went wrong.
        #[serde(rename = "why")]
        reason: String,
    },
    /// The store was verified.
    Verified {
        /// Whether the verification only compared sizes and times.
        quick: bool,
        /// Number of faults found.
        faults: u64,
    },
    /// Faults were repaired.
    Repaired {
        /// Number of faults before the repair.
        found: u64,
        /// Number of faults that remain.
        left: u64,
    },
    /// Old releases were dropped.
    Pruned {
        /// Number of releases.
        releases: u64,
        /// Size of the content that only these releases needed, in bytes.
        bytes: u64,
    },
    /// Retired entries expired and were removed from the served slot.
    Expired {
        /// Number of entries.
        entries: u64,
    },
    /// A kind of event that only a newer headwater knows.
    #[serde(other)]
    Unknown,
}

impl Store {
    /// The newest part of the log, oldest event first, without torn lines.
    ///
    /// # Errors
    /// Fails if the log exists but cannot be read.
    pub fn history(&self) -> Result<Vec<HistoryEvent>, StoreError> {
        // The log is cut before the next append, so it may exceed the limit by one line.
        let bytes = fsx::none_if_missing(self.layout.headwater.read(HISTORY, 2 * MAX_LOG_BYTES))?
            .unwrap_or_default();
        Ok(parse(&bytes))
    }

    /// Records that the hook (`post_activate`) for `release` failed.
    ///
    /// # Errors
    /// Fails if the lock is not free within `wait`.
    pub fn log_hook_failure(
        &self,
        release: ReleaseName,
        why: &str,
        wait: Duration,
    ) -> Result<(), StoreError> {
        let store = self.lock(wait)?;
        store.log_event(EventKind::HookFailed { release, reason: shortened(why.to_owned()) });
        Ok(())
    }
}

impl LockedStore<'_> {
    /// Records an event with the current time.
    pub(super) fn log_event(&self, what: EventKind) {
        let time = fsx::unix_seconds();
        let mut line =
            serde_json::to_vec(&HistoryEvent { time, kind: what }).expect("plain values");
        line.push(b'\n');
        // The event has happened, so a failure to log it must not fail the operation.
        self.append(line).ok();
    }

    fn append(&self, mut line: Vec<u8>) -> Result<(), StoreError> {
        let headwater = &self.layout.headwater;
        let size = match headwater.stat(HISTORY)? {
            // The log is only for people, so anything that another program put in its place is left
            // alone.
            Some(meta) if meta.kind != FileKind::File => return Ok(()),
            Some(meta) if meta.links > 1 => self.unshare_log()?,
            Some(meta) if meta.size > MAX_LOG_BYTES => self.truncate_log()?,
            Some(meta) => meta.size,
            None => 0,
        };
        let file = headwater.open_or_create_record(HISTORY)?;
        let path = || headwater.join(HISTORY);
        // Another process with write access may have replaced the file since `stat`.
        let opened = fsx::fstat(&file, &path())?;
        if !opened.is_file() || opened.nlink() > 1 {
            return Ok(());
        }
        // A crash may have torn the last line. Start a new line after it.
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1).context("read", path)?;
        }
        if last != [b'\n'] {
            line.insert(0, b'\n');
        }
        // The end that `stat` reported is still the end: nobody else can append while this process
        // holds the lock.
        Ok(fsx::write_at(&file, &line, size, path)?)
    }

    /// Drops the older half of the log. Returns the remaining length in bytes.
    fn truncate_log(&self) -> Result<u64, StoreError> {
        // A log much larger than the limit was not written by headwater, so its content is dropped.
        let bytes = self.layout.headwater.read(HISTORY, 2 * MAX_LOG_BYTES).unwrap_or_default();
        let half = &bytes[bytes.len() / 2..];
        self.replace(
            half.iter().position(|byte| *byte == b'\n').map_or(&[][..], |at| &half[at + 1..]),
        )
    }

    /// Replaces the log with a new file, because its inode has other names. These may belong to a
    /// backup, or to a foreign file whose content must be neither shown nor changed. Returns the
    /// new length in bytes.
    fn unshare_log(&self) -> Result<u64, StoreError> {
        let bytes = self.layout.headwater.read(HISTORY, 2 * MAX_LOG_BYTES).unwrap_or_default();
        let is_event = |line: &&[u8]| serde_json::from_slice::<HistoryEvent>(line).is_ok();
        let events: Vec<&[u8]> =
            bytes.split_inclusive(|byte| *byte == b'\n').filter(is_event).collect();
        self.replace(&events.concat())
    }

    /// Replaces the log with a file whose content is `kept`. Returns its length in bytes.
    fn replace(&self, kept: &[u8]) -> Result<u64, StoreError> {
        let (headwater, tmp) = (&self.layout.headwater, &self.layout.tmp);
        tmp.unlink_if_any(HISTORY)?;
        tmp.write_new(HISTORY, kept, FileMode::RECORD, None)?;
        // Not synced, like all writes to the log: nothing depends on them.
        tmp.rename(HISTORY, headwater, HISTORY)?;
        Ok(kept.len() as u64)
    }
}

impl EventKind {
    /// The event for a push of `release` that failed with `error`.
    pub(super) fn failed(release: ReleaseName, error: &StoreError) -> Self {
        let why =
            error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        Self::Failed { release, reason: shortened(why) }
    }
}

fn shortened(mut why: String) -> String {
    while why.len() > MAX_REASON_BYTES {
        why.pop();
    }
    why
}

fn parse(bytes: &[u8]) -> Vec<HistoryEvent> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::empty_store;

    fn pruned(releases: u64) -> EventKind {
        EventKind::Pruned { releases, bytes: 0 }
    }

    fn releases(store: &Store) -> Vec<u64> {
        let number = |event: HistoryEvent| match event.kind {
            EventKind::Pruned { releases, .. } => releases,
            other => panic!("{other:?}"),
        };
        store.history().unwrap().into_iter().map(number).collect()
    }

    #[test]
    fn events_are_returned_in_order() {
        let (_dir, store) = empty_store();
        assert_eq!(store.history().unwrap(), []);
        for number in 1..=3 {
            store.lock(Duration::ZERO).unwrap().log_event(pruned(number));
        }
        assert_eq!(releases(&store), [1, 2, 3]);
    }

    #[test]
    fn torn_line_affects_no_other_line() {
        let (_dir, store) = empty_store();
        let path = store.path().join(".headwater").join(HISTORY);
        store.lock(Duration::ZERO).unwrap().log_event(pruned(1));
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, [&whole[..], &whole[..cut]].concat()).unwrap();
            store.lock(Duration::ZERO).unwrap().log_event(pruned(2));
            let told = releases(&store);
            // A line that lacks only its line feed is complete.
            let wanted = if cut + 1 >= whole.len() { vec![1, 1, 2] } else { vec![1, 2] };
            assert_eq!(told, wanted, "cut at {cut}");
        }
    }

    #[test]
    fn log_stays_small_and_keeps_the_newest_events() {
        let (_dir, store) = empty_store();
        let path = store.path().join(".headwater").join(HISTORY);
        for number in 0..4_000 {
            store.lock(Duration::ZERO).unwrap().log_event(pruned(number));
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= MAX_LOG_BYTES + 100);
        let told = releases(&store);
        assert!(told.len() > 500 && told.last() == Some(&3_999), "{}", told.len());
        assert!(told.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        // A file that is not our log is replaced or left alone, and causes no error.
        std::fs::write(&path, vec![b'x'; 3 * 128 * 1024]).unwrap();
        store.lock(Duration::ZERO).unwrap().log_event(pruned(1));
        assert_eq!(releases(&store), [1]);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        store.lock(Duration::ZERO).unwrap().log_event(pruned(2));
        assert!(store.history().is_err());
    }

    #[test]
    fn hard_linked_log_is_left_unchanged_and_replaced() {
        let (dir, store) = empty_store();
        let path = store.path().join(".headwater").join(HISTORY);
        store.lock(Duration::ZERO).unwrap().log_event(pruned(1));
        let other = dir.path().join("other");
        let content = [&std::fs::read(&path).unwrap()[..], b"a secret\n"].concat();
        std::fs::write(&other, &content).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&other, &path).unwrap();
        store.lock(Duration::ZERO).unwrap().log_event(pruned(2));
        assert_eq!(std::fs::read(&other).unwrap(), content);
        assert_eq!(releases(&store), [1, 2]);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("secret"));
    }

    #[test]
    fn clock_jumps_and_unknown_events_are_tolerated() {
        let lines = b"{\"time\":9,\"event\":\"pruned\",\"releases\":1,\"bytes\":2}\n\
            {\"time\":3,\"event\":\"levitated\",\"height\":7}\nrubbish\n\
            {\"time\":5,\"event\":\"verified\",\"quick\":false,\"faults\":0,\"later\":1}\n";
        let told: Vec<_> = parse(lines).into_iter().map(|event| (event.time, event.kind)).collect();
        let verified = EventKind::Verified { quick: false, faults: 0 };
        assert_eq!(
            told,
            [
                (9, EventKind::Pruned { releases: 1, bytes: 2 }),
                (3, EventKind::Unknown),
                (5, verified)
            ]
        );
    }
}
