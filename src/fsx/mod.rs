//! Every touch of the disk.
//!
//! Errors carry what was tried and on which path. [`Dir`] works relative to
//! an open directory and never follows a link in its last step, so nobody who
//! swaps links can lead us elsewhere. Whatever changes the disk is counted
//! here, and a debug build can be told to die, fail or cheat at one of these
//! steps (see [`fault`]): that is how the tests prove what a crash leaves.
//!
//! Refuses to know what the files mean.

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
pub use meta::{FileKind, FileLook, FileMode, FileStat, FileSystem, Meta};

use fault::step;

/// The time by the clock of this machine, in seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    now.saturating_add(fault::clock_ahead())
}

/// An operation of the operating system that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct IoError {
    /// What was tried: `open`, `create`, `link`, …
    pub op: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl IoError {
    /// The error `source` of `op` on `path`.
    pub fn new(op: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { op, path: path.into(), source: source.into() }
    }

    /// The kind of the cause.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The number of the cause, as in `errno.h`.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

/// The result of an operation on the disk.
pub type Result<T> = std::result::Result<T, IoError>;

/// Attaches the operation and the path to an error.
pub trait Context<T> {
    /// Names what was tried on what.
    ///
    /// # Errors
    /// The same error, named.
    fn context(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, op: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|error| IoError::new(op, path(), error))
    }
}

/// Nothing instead of the error that something is not there.
///
/// # Errors
/// Every other error.
pub fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a written file its final times, group and mode.
///
/// # Errors
/// When the system refuses.
pub fn seal(file: &File, mode: FileMode, mtime: Option<u64>, path: impl Fn() -> PathBuf) -> Result<()> {
    if let Some(seconds) = mtime {
        step("set time of", &path)?;
        set_time(file, seconds).context("set time of", &path)?;
    }
    step("set mode of", &path)?;
    set_mode(file, mode, path)
}

/// Sets the time of a file, in seconds since 1970.
fn set_time(file: &File, seconds: u64) -> io::Result<()> {
    /// Every file system has times up to 2038; some cut later ones short without a word.
    const SAFE_SECONDS: u64 = i32::MAX as u64;
    let unfit = || io::Error::new(io::ErrorKind::InvalidInput, format!("it cannot be {seconds} s after 1970 here"));
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(unfit)?;
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time))?;
    if seconds > SAFE_SECONDS && file.metadata()?.modified()? != time { Err(unfit()) } else { Ok(()) }
}

/// Gives what is open its group and mode, whatever the umask was when it was created.
fn set_mode(file: impl AsFd, mode: FileMode, path: impl Fn() -> PathBuf) -> Result<()> {
    if let Some(group) = mode.group {
        let group = rustix::fs::Gid::from_raw(group);
        rustix::fs::fchown(&file, None, Some(group)).context("set group of", &path)?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.bits)).context("set mode of", &path)
}

/// Writes `bytes` at `offset` of an open file.
///
/// # Errors
/// When not all could be written.
pub fn write_at(file: &File, bytes: &[u8], offset: u64, path: impl Fn() -> PathBuf) -> Result<()> {
    step("write", &path)?;
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset).context("write", &path)
}

/// Opens the file at `path` for reading; in its last step a link is refused,
/// and a fifo does not block.
///
/// # Errors
/// When there is none or it may not be read.
pub fn open_read(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty()).context("open", || path.to_owned())?))
}

/// What is at `path`, links not followed.
///
/// # Errors
/// When nothing is there or it may not be examined.
pub fn lstat(path: &Path) -> Result<fs::Metadata> {
    fs::symlink_metadata(path).context("examine", || path.to_owned())
}

/// What an open file is.
///
/// # Errors
/// When the system cannot tell.
pub fn fstat(file: &File, path: &Path) -> Result<fs::Metadata> {
    file.metadata().context("examine", || path.to_owned())
}

/// Reads the file at `path` as text, but no more than its first `limit` bytes.
///
/// # Errors
/// When there is none, it cannot be read or is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    use io::Read as _;
    let mut text = String::new();
    let file = File::open(path).context("open", || path.to_owned())?;
    file.take(limit).read_to_string(&mut text).context("read", || path.to_owned())?;
    Ok(text)
}

/// The path without links and dots; what does not exist yet is kept as it
/// stands behind what does.
///
/// # Errors
/// When a directory on the way may not be searched.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(resolved) => Ok(resolved),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                Ok(resolve(parent)?.join(name))
            }
            _ => Err(IoError::new("find", path, error)),
        },
        Err(error) => Err(IoError::new("find", path, error)),
    }
}

/// Creates the directory `path` and its missing parents.
///
/// # Errors
/// When one cannot be created.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fault::mark("create directory", path)?;
    fs::create_dir_all(path).context("create directory", || path.to_owned())
}

/// Replaces the file at `path` at once by what `write` writes, mode 0644.
/// Readers see the old or the new file, whole. Not synced.
///
/// # Errors
/// Those of `write`, or when the file cannot be created or renamed; the old
/// file is then untouched.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut io::BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Err(IoError::new("write", path, io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let dir = Dir::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    let temporary = format!(".{name}.{}.tmp", std::process::id());
    dir.unlink_if_any(&temporary)?;
    let file = dir.create_file(&temporary)?;
    let written = (|| {
        let mut out = io::BufWriter::with_capacity(128 * 1024, &file);
        write(&mut out).and_then(|()| out.flush()).context("write", || path.to_owned())?;
        seal(&file, FileMode::RECORD, None, || path.to_owned())?;
        dir.rename(&temporary, &dir, name)
    })();
    if written.is_err() {
        // The first error is the one to tell; a left-over is replaced next time.
        dir.unlink_if_any(&temporary).ok();
    }
    written
}

/// Takes the exclusive lock on `file`, waiting at most `wait`; answers whether it has it.
/// The lock goes when the file is closed, also by a killed process.
///
/// # Errors
/// When the file system has no locks.
pub fn lock(file: &File, wait: Duration, path: &Path) -> Result<bool> {
    lock_by(|| file.try_lock(), wait, &|| false, path)
}

/// As [`lock`], but `is_cancelled` ends the wait as well.
///
/// # Errors
/// When the file system has no locks.
pub fn lock_unless(file: &File, wait: Duration, is_cancelled: &dyn Fn() -> bool, path: &Path) -> Result<bool> {
    lock_by(|| file.try_lock(), wait, is_cancelled, path)
}

/// As [`lock_unless`], but any number may have the shared lock at once, while nobody has the exclusive one.
///
/// # Errors
/// When the file system has no locks.
pub fn lock_shared_unless(file: &File, wait: Duration, is_cancelled: &dyn Fn() -> bool, path: &Path) -> Result<bool> {
    lock_by(|| file.try_lock_shared(), wait, is_cancelled, path)
}

fn lock_by(
    try_lock: impl Fn() -> std::result::Result<(), fs::TryLockError>,
    wait: Duration,
    is_cancelled: &dyn Fn() -> bool,
    path: &Path,
) -> Result<bool> {
    // flock has no time limit, and a signal to break it would need unsafe code.
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + wait;
    loop {
        match try_lock() {
            Ok(()) => return Ok(true),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= deadline || is_cancelled() => return Ok(false),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(IoError::new("lock", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_is_an_error_and_never_another_time() {
        let file = tempfile::tempfile().unwrap();
        let path = || PathBuf::from("content");
        for seconds in [0, 1 << 31, 1 << 40, (1 << 53) - 1, 1 << 53, i64::MAX as u64, 1 << 63, u64::MAX] {
            match seal(&file, FileMode::RECORD, Some(seconds), path) {
                Ok(()) => {
                    let kept = file.metadata().unwrap().modified().unwrap();
                    assert_eq!(kept.duration_since(UNIX_EPOCH).unwrap(), Duration::from_secs(seconds));
                }
                Err(error) => assert!(seconds > 1 << 31 && error.op == "set time of", "{seconds}: {error}"),
            }
        }
    }
}
