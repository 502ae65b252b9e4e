//! All access to the disk.
//!
//! Errors contain the operation and the path. [`Dir`] works relative to an open directory and never
//! follows a link in the last component, so replacing files with links cannot redirect an
//! operation. Every change on disk is counted here. Tests can make a debug build die, fail or skip
//! a sync at any of these steps (see [`fault`]), to check the state after a crash.
//!
//! This module does not know what the files mean.

mod dir;
pub mod fault;
mod meta;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use dir::Dir;
pub use meta::{FileInfo, FileKind, FileMode, FileStat, FileSystem, Meta};

use fault::step;

/// The current time on this machine, in seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    // A clock before 1970 counts as 1970, because the formats have no negative times.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    now.saturating_add(fault::clock_ahead())
}

/// A failed operation of the operating system.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct IoError {
    /// The operation: `open`, `create`, `link`, …
    pub op: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The error reported by the system.
    pub source: io::Error,
}

impl IoError {
    /// The error from `op` on `path`, caused by `source`.
    pub fn new(op: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { op, path: path.into(), source: source.into() }
    }

    /// The kind of the cause.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The `errno` of the cause; `None` if the cause is not a system error.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

/// The result of an operation on the disk.
pub type Result<T> = std::result::Result<T, IoError>;

/// Adds the operation and the path to an error.
pub trait Context<T> {
    /// Adds the operation and the path.
    ///
    /// # Errors
    /// The original error, with the operation and the path added.
    fn context(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|error| IoError::new(op, path(), error))
    }
}

/// Returns `None` in place of a `NotFound` error.
///
/// # Errors
/// Every other error.
pub fn none_if_missing<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the final times, group and mode of a written file. Does not sync it.
///
/// # Errors
/// Fails if the system refuses one of these changes.
pub fn set_metadata(
    file: &File,
    mode: FileMode,
    mtime: Option<u64>,
    path: impl Fn() -> PathBuf,
) -> Result<()> {
    if let Some(seconds) = mtime {
        step("set time of", &path)?;
        set_time(file, seconds).context("set time of", &path)?;
    }
    step("set mode of", &path)?;
    set_mode(file, mode, path)
}

/// Sets the access and modification times of a file, in seconds since 1970.
fn set_time(file: &File, seconds: u64) -> io::Result<()> {
    /// Every file system can store times up to 2038; some silently truncate later times.
    const SAFE_SECONDS: u64 = i32::MAX as u64;
    let unfit = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the file system cannot store {seconds} s after 1970"),
        )
    };
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(unfit)?;
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time))?;
    // ext4 truncates later times without an error. `verify` would then report a fault that no
    // repair can fix, so the time is read back.
    if seconds > SAFE_SECONDS && file.metadata()?.modified()? != time {
        Err(unfit())
    } else {
        Ok(())
    }
}

/// Sets the group and mode of an open file, whatever the umask was at its creation.
fn set_mode(file: impl AsFd, mode: FileMode, path: impl Fn() -> PathBuf) -> Result<()> {
    // The group comes first: if the mode came first, the group of this process could read the file
    // for a moment.
    if let Some(group) = mode.group {
        let group = rustix::fs::Gid::from_raw(group);
        rustix::fs::fchown(&file, None, Some(group)).context("set group of", &path)?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.bits)).context("set mode of", &path)
}

/// Writes `bytes` at `offset` in an open file.
///
/// # Errors
/// Fails if not all bytes could be written.
pub fn write_at(file: &File, bytes: &[u8], offset: u64, path: impl Fn() -> PathBuf) -> Result<()> {
    step("write", &path)?;
    // Positional, because several threads write to parts of the same file and would share its file
    // position.
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset).context("write", &path)
}

/// Opens the file at `path` for reading. Refuses a link in the last component and does not block on
/// a fifo.
///
/// # Errors
/// Fails if the file does not exist or cannot be read.
pub fn open_read(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(
        rustix::fs::open(path, flags, Mode::empty()).context("open", || path.to_owned())?,
    ))
}

/// The metadata of `path`, without following links.
///
/// # Errors
/// Fails if the path does not exist or cannot be examined.
pub fn lstat(path: &Path) -> Result<fs::Metadata> {
    fs::symlink_metadata(path).context("examine", || path.to_owned())
}

/// The metadata of an open file.
///
/// # Errors
/// Fails if the system does not report the metadata.
pub fn fstat(file: &File, path: &Path) -> Result<fs::Metadata> {
    file.metadata().context("examine", || path.to_owned())
}

/// Reads the first `limit` bytes of the file at `path` as text.
///
/// # Errors
/// Fails if the file does not exist, cannot be read or is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    use io::Read as _;
    let mut text = String::new();
    // Links are followed, unlike in `open_read`: the path comes from the user or from the cache,
    // never from a peer.
    let file = File::open(path).context("open", || path.to_owned())?;
    file.take(limit).read_to_string(&mut text).context("read", || path.to_owned())?;
    Ok(text)
}

/// Appends `bytes` to the existing file at `path` and syncs it. If that fails, restores the file's
/// old length. Owner and mode do not change.
///
/// # Errors
/// Fails if the file does not exist or cannot be written.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    step("write", || path.to_owned())?;
    let open = fs::OpenOptions::new().append(true).open(path);
    let mut file = open.context("open", || path.to_owned())?;
    let length = fstat(&file, path)?.len();
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to report.
        file.set_len(length).ok();
    }
    written.context("write", || path.to_owned())
}

/// Checks that the effective user of this process may create and remove names in the directory at
/// `path`.
///
/// # Errors
/// Fails if the user may not do so.
pub fn check_writable(path: &Path) -> Result<()> {
    use rustix::fs::{Access, AtFlags, CWD};
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)
        .context("write to", || path.to_owned())
}

/// Resolves links and dots in the path. Trailing components that do not exist yet are kept.
///
/// # Errors
/// Fails if a directory in the path cannot be searched.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(resolved) => Ok(resolved),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => {
                    let parent =
                        if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    Ok(resolve(parent)?.join(name))
                }
                _ => Err(IoError::new("find", path, error)),
            }
        }
        Err(error) => Err(IoError::new("find", path, error)),
    }
}

/// Creates the directory `path` and its missing parents.
///
/// # Errors
/// Fails if a directory cannot be created.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fault::mark_change("create directory", path)?;
    fs::create_dir_all(path).context("create directory", || path.to_owned())
}

/// Atomically replaces the file at `path` with a file of mode 0644 that contains what `write`
/// writes. Readers see either the whole old file or the whole new file. Does not sync.
///
/// # Errors
/// Fails if `write` fails, or if the file cannot be created or renamed. In either case the old file
/// is unchanged.
pub fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
    else {
        return Err(IoError::new("write", path, io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let dir = Dir::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    // The process id keeps two processes from writing to the same temporary file. A killed process
    // may have left a file with the same id, so such a file is removed first.
    let temporary = format!(".{name}.{}.tmp", std::process::id());
    dir.unlink_if_any(&temporary)?;
    let file = dir.create_file(&temporary)?;
    let written = (|| {
        let mut out = io::BufWriter::with_capacity(128 * 1024, &file);
        write(&mut out).and_then(|()| out.flush()).context("write", || path.to_owned())?;
        set_metadata(&file, FileMode::RECORD, None, || path.to_owned())?;
        dir.rename(&temporary, &dir, name)
    })();
    if written.is_err() {
        // Report the first error. The next call replaces a leftover file.
        dir.unlink_if_any(&temporary).ok();
    }
    written
}

/// Takes the exclusive lock on `file`, waiting up to `wait`. Returns whether the lock was taken.
/// Closing the file releases the lock; so does the death of the process.
///
/// # Errors
/// Fails if the file system does not support locks.
pub fn lock(file: &File, wait: Duration, path: &Path) -> Result<bool> {
    poll_lock(|| file.try_lock(), wait, &|| false, path)
}

/// Like [`lock`], but `is_cancelled` also ends the wait.
///
/// # Errors
/// Fails if the file system does not support locks.
pub fn lock_cancellable(
    file: &File,
    wait: Duration,
    is_cancelled: &dyn Fn() -> bool,
    path: &Path,
) -> Result<bool> {
    poll_lock(|| file.try_lock(), wait, is_cancelled, path)
}

/// Like [`lock_cancellable`], but takes the shared lock. Any number of processes may hold it as
/// long as none holds the exclusive lock.
///
/// # Errors
/// Fails if the file system does not support locks.
pub fn lock_shared_cancellable(
    file: &File,
    wait: Duration,
    is_cancelled: &dyn Fn() -> bool,
    path: &Path,
) -> Result<bool> {
    poll_lock(|| file.try_lock_shared(), wait, is_cancelled, path)
}

fn poll_lock(
    try_lock: impl Fn() -> std::result::Result<(), fs::TryLockError>,
    wait: Duration,
    is_cancelled: &dyn Fn() -> bool,
    path: &Path,
) -> Result<bool> {
    // Polled, because flock has no timeout, and interrupting it with a signal would need unsafe
    // code.
    const POLL_INTERVAL: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + wait;
    loop {
        match try_lock() {
            Ok(()) => return Ok(true),
            // The lock is tried before the time is checked, so a wait of zero still makes one
            // attempt.
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= deadline || is_cancelled() => {
                return Ok(false);
            }
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(POLL_INTERVAL),
            Err(fs::TryLockError::Error(error)) => return Err(IoError::new("lock", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_time_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let path = || PathBuf::from("content");
        for seconds in
            [0, 1 << 31, 1 << 40, (1 << 53) - 1, 1 << 53, i64::MAX as u64, 1 << 63, u64::MAX]
        {
            match set_metadata(&file, FileMode::RECORD, Some(seconds), path) {
                Ok(()) => {
                    let kept = file.metadata().unwrap().modified().unwrap();
                    assert_eq!(
                        kept.duration_since(UNIX_EPOCH).unwrap(),
                        Duration::from_secs(seconds)
                    );
                }
                Err(error) => {
                    assert!(seconds > 1 << 31 && error.op == "set time of", "{seconds}: {error}");
                }
            }
        }
    }
}
