//! `--events FILE`: every event of the library, one JSON object per line.
//!
//! The first line contains the format and the version. Each further line contains a `time` (RFC
//! 3339, UTC, milliseconds), the name of the `event` and the fields of the event. A new version may
//! add events and fields; readers must ignore unknown events and fields.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use headwater::fsx::{self, IoError};
use headwater::monitor::Event;
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

/// The version of the format. It increases if a field or an event changes its meaning or is
/// removed.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct LogHeader {
    headwater: &'static str,
    version: u32,
}

#[derive(Serialize)]
struct EventLine<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// Writes events as they happen. Logging stops after a failed write, because a full disk must not
/// stop a push.
pub(crate) struct EventLog {
    out: Box<dyn Write + Send>,
    failure: Option<io::Error>,
    has_failed: bool,
}

impl EventLog {
    /// Creates a log in the file at `path`. Truncates an existing file.
    pub(crate) fn create(path: &Path) -> Result<Self, IoError> {
        open(path).map(Self::new)
    }

    /// Creates a log that writes to `out`.
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        let mut log = Self { out: Box::new(out), failure: None, has_failed: false };
        log.line(&LogHeader { headwater: "events", version: VERSION });
        log
    }

    /// Writes `event`, which happened at `time`.
    pub(crate) fn event(&mut self, event: &Event, time: Timestamp) {
        self.line(&EventLine { time: format!("{time:.3}"), event });
    }

    /// Takes the error, if a write has failed.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Writes each line in one call, so that a reader of the file sees only complete lines.
    fn line(&mut self, line: &impl Serialize) {
        if self.has_failed {
            return;
        }
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut json| {
            json.push(b'\n');
            self.out.write_all(&json)?;
            self.out.flush()
        });
        // Kept for a single warning at the end. Otherwise each event would report the error again.
        self.failure = written.err();
        self.has_failed = self.failure.is_some();
    }
}

/// Opens the file or device at `path` and truncates it. Rejects links, which could point to a file
/// that the user did not name, and FIFOs, which would block the push until a reader opens them.
fn open(path: &Path) -> Result<File, IoError> {
    let context = |error: io::Error| IoError::new("create", path, error);
    // /dev/stderr and the pipes of a shell's >(…) are links to open descriptors of this process.
    let is_ours = is_descriptor(path);
    let follow = if is_ours { OFlags::empty() } else { OFlags::NOFOLLOW };
    // NONBLOCK: opening a FIFO would otherwise wait for a reader. NOCTTY: opening a terminal must
    // not make it the controlling terminal of this process.
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC
        | follow;
    // The user's umask decides the mode, as for every file that a user names.
    let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666));
    let file = File::from(opened.map_err(|error| context(error.into()))?);
    let kind = fsx::fstat(&file, path)?.file_type();
    if kind.is_file() {
        file.set_len(0).map_err(context)?;
    } else if !is_ours && !kind.is_char_device() {
        return Err(context(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this is neither a file nor a device",
        )));
    }
    // A write to a full pipe should block.
    rustix::fs::fcntl_setfl(&file, OFlags::empty()).map_err(|error| context(error.into()))?;
    Ok(file)
}

/// Returns whether the path is an open descriptor of this process.
fn is_descriptor(path: &Path) -> bool {
    let is_number = |name: &OsStr| {
        name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_listed =
        [Path::new("/dev/fd"), Path::new("/proc/self/fd")].map(Some).contains(&path.parent())
            && path.file_name().is_some_and(is_number);
    is_listed || [Path::new("/dev/stdout"), Path::new("/dev/stderr")].contains(&path)
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
    fn lines_have_a_version_and_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::create(&path).unwrap();
        let time: Timestamp = "2026-11-22T12:00:00.5Z".parse().unwrap();
        log.event(&Event::Staged { mirror: "eu\n".into(), sequence: 7 }, time);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"headwater\":\"events\",\"version\":1}\n\
             {\"time\":\"2026-11-22T12:00:00.500Z\",\"event\":\"staged\",\
             \"mirror\":\"eu\\n\",\"sequence\":7}\n"
        );
    }

    #[test]
    fn only_regular_files_and_open_descriptors_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("other"), "other").unwrap();
        std::os::unix::fs::symlink(path("other"), path("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for name in ["link", "fifo", "."] {
            assert!(EventLog::create(&path(name)).is_err(), "{name}");
        }
        assert_eq!(std::fs::read_to_string(path("other")).unwrap(), "other");
        // As a shell's >(…) has it.
        let (mut reader, writer) = io::pipe().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
        drop(EventLog::create(Path::new(&format!("/dev/fd/{fd}"))).unwrap());
        drop(writer);
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(text.contains("events"), "{text}");
        assert!(
            is_descriptor(Path::new("/dev/stderr")) && !is_descriptor(Path::new("/dev/fd/../x"))
        );
    }

    #[test]
    fn full_disk_is_reported_once() {
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
