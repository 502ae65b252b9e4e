//! `--events FILE`: everything the library reports, one JSON object a line.
//!
//! The first line names format and version. Each other line has a `time`
//! (RFC 3339, UTC, milliseconds), the name of the `event` and its own fields.
//! New events and fields may come within a version; readers skip what they do
//! not know.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use headwater::fsx::{Context as _, IoError};
use headwater::monitor::Event;
use jiff::Timestamp;
use serde::Serialize;

/// Raised when a field or an event changes its meaning or goes.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Header {
    headwater: &'static str,
    version: u32,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes events as they come. After a failed write it writes no more: a full
/// disk here must not stop a push.
pub(crate) struct EventLog {
    out: Box<dyn Write + Send>,
    failure: Option<io::Error>,
    has_failed: bool,
}

impl EventLog {
    /// A log in the file at `path`, which is emptied if it exists.
    pub(crate) fn create(path: &Path) -> Result<Self, IoError> {
        // Not by fsx: that refuses links, and here /dev/stderr and the pipes of
        // a shell's >(…) are as welcome as a file.
        let file = File::create(path).context("create", || path.to_owned())?;
        Ok(Self::new(file))
    }

    /// A log into `out`.
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        let mut log = Self { out: Box::new(out), failure: None, has_failed: false };
        log.line(&Header { headwater: "events", version: VERSION });
        log
    }

    /// Writes `event`, which happened at `time`.
    pub(crate) fn event(&mut self, event: &Event, time: Timestamp) {
        self.line(&Line { time: format!("{time:.3}"), event });
    }

    /// The failure to write, once.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Each line in one write, so that who follows the file sees whole lines.
    fn line(&mut self, line: &impl Serialize) {
        if self.has_failed {
            return;
        }
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut json| {
            json.push(b'\n');
            self.out.write_all(&json)?;
            self.out.flush()
        });
        self.failure = written.err();
        self.has_failed = self.failure.is_some();
    }
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("failure", &self.failure).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_versioned_and_timed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::create(&path).unwrap();
        let time: Timestamp = "2026-11-22T12:00:00.5Z".parse().unwrap();
        log.event(&Event::Staged { mirror: "eu\n".into(), sequence: 7 }, time);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"headwater\":\"events\",\"version\":1}\n\
             {\"time\":\"2026-11-22T12:00:00.500Z\",\"event\":\"staged\",\"mirror\":\"eu\\n\",\"sequence\":7}\n"
        );
    }

    #[test]
    fn a_full_disk_is_told_once() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut log = EventLog::new(Full);
        log.event(&Event::Warned { message: "w".into() }, Timestamp::UNIX_EPOCH);
        assert_eq!(log.take_failure().unwrap().kind(), io::ErrorKind::StorageFull);
        log.event(&Event::Warned { message: "w".into() }, Timestamp::UNIX_EPOCH);
        assert!(log.take_failure().is_none());
    }
}
