//! Every touch of the disk.
//!
//! Errors carry what was tried and on which path. [`Dir`] works relative to
//! an open directory and never follows a link in its last step, so nobody who
//! swaps links can lead us elsewhere. Whatever changes the disk is counted
//! here, and a debug build can be told to die, fail or cheat at one of these
//! steps (see [`fault`]): that is how the tests prove what a crash leaves.
//!
//! Refuses to know what the files mean.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

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

/// Faults that tests inject into debug builds. Release builds have none of it.
pub mod fault {
    #[cfg(debug_assertions)]
    use std::sync::Mutex;
    #[cfg(debug_assertions)]
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Path, Result};

    /// What to do, and when.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Fault {
        /// End the process with SIGKILL before the n-th change of the disk (counted from 1).
        KillAt(u64),
        /// Let the n-th change of the disk fail with this `errno`.
        ErrnoAt(u64, i32),
        /// Let every operation of this name fail with this `errno`.
        ErrnoOn(String, i32),
        /// Do nothing where a directory should be synced: a sabotage that a power cut must show.
        SkipDirectorySync,
        /// Do nothing where data should be synced: a sabotage that a power cut must show.
        SkipDataSync,
        /// Replace a link by removing it first: a sabotage that a kill must show.
        UnlinkBeforeRename,
        /// Print the number of changes to the named file when the process asks for it.
        Count,
    }

    #[cfg(debug_assertions)]
    static STEPS: AtomicU64 = AtomicU64::new(0);
    #[cfg(debug_assertions)]
    static FAULTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());

    /// Reads a fault from its text: `kill@N`, `errno=E@N`, `errno=E@OP`,
    /// `skip-directory-sync`, `skip-data-sync`, `unlink-before-rename`, `count`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Fault> {
        match text.split_once('@') {
            Some(("kill", step)) => step.parse().ok().map(Fault::KillAt),
            Some((errno, at)) => {
                let errno = errno.strip_prefix("errno=")?.parse().ok()?;
                Some(match at.parse() {
                    Ok(step) => Fault::ErrnoAt(step, errno),
                    Err(_) => Fault::ErrnoOn(at.to_owned(), errno),
                })
            }
            None => match text {
                "skip-directory-sync" => Some(Fault::SkipDirectorySync),
                "skip-data-sync" => Some(Fault::SkipDataSync),
                "unlink-before-rename" => Some(Fault::UnlinkBeforeRename),
                "count" => Some(Fault::Count),
                _ => None,
            },
        }
    }

    /// Arms `fault` for this process, beside those that are armed already. Answers whether this build can.
    #[cfg_attr(not(debug_assertions), expect(clippy::needless_pass_by_value, reason = "one signature for both builds"))]
    pub fn arm(fault: Fault) -> bool {
        #[cfg(debug_assertions)]
        {
            FAULTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(fault);
            true
        }
        #[cfg(not(debug_assertions))]
        {
            drop(fault);
            false
        }
    }

    /// How many changes of the disk there were so far; 0 in a release build.
    #[must_use]
    pub fn steps() -> u64 {
        #[cfg(debug_assertions)]
        return STEPS.load(Ordering::SeqCst);
        #[cfg(not(debug_assertions))]
        0
    }

    #[cfg(debug_assertions)]
    pub(super) fn is_armed(wanted: &Fault) -> bool {
        FAULTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(wanted)
    }

    #[cfg(not(debug_assertions))]
    pub(super) const fn is_armed(_: &Fault) -> bool {
        false
    }

    #[cfg(debug_assertions)]
    pub(super) fn step(op: &'static str, path: impl FnOnce() -> std::path::PathBuf) -> Result<()> {
        let step = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
        for fault in &*FAULTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            let errno = match fault {
                Fault::KillAt(at) if *at == step => {
                    // A signal cannot be caught or delayed: this is what `kill -9` and an OOM kill do.
                    let killed =
                        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                    unreachable!("survived SIGKILL: {killed:?}");
                }
                Fault::ErrnoAt(at, errno) if *at == step => *errno,
                Fault::ErrnoOn(name, errno) if name == op => *errno,
                _ => continue,
            };
            return Err(super::IoError::new(op, path(), std::io::Error::from_raw_os_error(errno)));
        }
        Ok(())
    }

    #[cfg(not(debug_assertions))]
    #[expect(clippy::unnecessary_wraps, reason = "one signature for both builds")]
    pub(super) fn step(_: &'static str, _: impl FnOnce() -> std::path::PathBuf) -> Result<()> {
        Ok(())
    }

    /// Marks a change of the disk that a library makes for us.
    ///
    /// # Errors
    /// The injected one.
    pub fn mark(op: &'static str, path: &Path) -> Result<()> {
        step(op, || path.to_owned())
    }
}

use fault::{Fault, step};

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, whole seconds since 1970 (below: before).
    pub mtime: i64,
    /// Permission bits.
    pub mode: u32,
    /// Number of names.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, fifo or socket.
    Other,
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// Permissions of a new file: exactly these, whatever the umask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    /// 0444: content that is never written again.
    Content,
    /// 0555: content that may be executed.
    Executable,
    /// 0644: a record of ours that others may read.
    Record,
}

impl FileMode {
    /// Content that may or may not be executed.
    #[must_use]
    pub const fn content(exec: bool) -> Self {
        if exec { Self::Executable } else { Self::Content }
    }

    /// The permission bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Content => 0o444,
            Self::Executable => 0o555,
            Self::Record => 0o644,
        }
    }
}

/// Permissions of a directory of ours: others may read.
const DIRECTORY_MODE: u32 = 0o755;

/// An open directory; names are relative to it and links are not followed.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens the directory at `path`; links on the way are followed.
    ///
    /// # Errors
    /// When there is none, or it may not be read.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).context("open directory", || path.to_owned())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a name in it, for messages.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the directory `name` in it; a link is refused.
    ///
    /// # Errors
    /// When there is none, it is no directory, or it may not be read.
    pub fn open_dir(&self, name: &str) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.fd, name, flags, Mode::empty()).context("open directory", || self.join(name))?;
        Ok(Self { fd, path: self.join(name) })
    }

    /// Opens the directory `name` in it, if there is one.
    ///
    /// # Errors
    /// As [`Dir::open_dir`], but for a missing one.
    pub fn find_dir(&self, name: &str) -> Result<Option<Self>> {
        found(self.open_dir(name))
    }

    /// Creates the directory `name` with mode 0755 and opens it.
    ///
    /// # Errors
    /// When the name is taken or the directory cannot be created.
    pub fn create_dir(&self, name: &str) -> Result<Self> {
        step("create directory", || self.join(name))?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(DIRECTORY_MODE))
            .context("create directory", || self.join(name))?;
        let dir = self.open_dir(name)?;
        // The umask may have taken bits that a web server of another user needs.
        rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(DIRECTORY_MODE)).context("set mode of", || dir.path.clone())?;
        Ok(dir)
    }

    /// Opens the directory `name`, created if it was missing.
    ///
    /// # Errors
    /// As [`Dir::open_dir`] and [`Dir::create_dir`].
    pub fn ensure_dir(&self, name: &str) -> Result<Self> {
        match self.find_dir(name)? {
            Some(dir) => Ok(dir),
            None => match self.create_dir(name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_dir(name),
                other => other,
            },
        }
    }

    /// Creates the file `name`, for writing and reading; the name must be free.
    ///
    /// # Errors
    /// When the name is taken or the file cannot be created.
    pub fn create_file(&self, name: &str) -> Result<File> {
        step("create", || self.join(name))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))
            .context("create", || self.join(name))?;
        Ok(File::from(fd))
    }

    /// Writes the whole file `name`, which must be new; not synced.
    /// `mtime` is in seconds since 1970; without it the time is now.
    ///
    /// # Errors
    /// When the name is taken, or writing fails (a partial file may remain).
    pub fn write_new(&self, name: &str, bytes: &[u8], mode: FileMode, mtime: Option<u64>) -> Result<()> {
        let mut file = self.create_file(name)?;
        step("write", || self.join(name))?;
        file.write_all(bytes).context("write", || self.join(name))?;
        seal(&file, mode, mtime, || self.join(name))
    }

    /// Opens the file `name` for reading; a link is refused.
    ///
    /// # Errors
    /// When there is none or it may not be read.
    pub fn open_file(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).context("open", || self.join(name))?;
        Ok(File::from(fd))
    }

    /// Opens the file at the relative `path` below this directory for
    /// reading; a link anywhere on the way is refused, and so is a way out.
    ///
    /// # Errors
    /// When there is none or it may not be read.
    pub fn open_file_below(&self, path: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(File::from(fd)),
            // Kernels before 5.6, and sandboxes that do not know the call: step by step.
            Err(Errno::NOSYS | Errno::PERM) => match path.split_once('/') {
                Some((directory, rest)) => self.open_dir(directory)?.open_file_below(rest),
                None => self.open_file(path),
            },
            Err(error) => Err(IoError::new("open", self.join(path), error)),
        }
    }

    /// Opens the file `name`, created if missing, for locking and appending.
    ///
    /// # Errors
    /// When it is a link, or may not be written.
    pub fn open_or_create_file(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o644))
            .context("open", || self.join(name))?;
        Ok(File::from(fd))
    }

    /// Opens the existing file `name` for writing at offsets.
    ///
    /// # Errors
    /// When there is none, it is a link, or may not be written.
    pub fn open_file_for_write(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).context("open", || self.join(name))?;
        Ok(File::from(fd))
    }

    /// Reads the whole file `name`, which is refused when over `limit` bytes.
    ///
    /// # Errors
    /// When there is none, it is too large or cannot be read.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        use io::Read as _;
        let file = self.open_file(name)?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).context("read", || self.join(name))?;
        if bytes.len() as u64 > limit {
            let too_large = io::Error::new(io::ErrorKind::InvalidData, format!("larger than {limit} bytes"));
            return Err(IoError::new("read", self.join(name), too_large));
        }
        Ok(bytes)
    }

    /// What `name` is, links not followed; nothing if it is free.
    ///
    /// # Errors
    /// When the directory may not be searched.
    pub fn stat(&self, name: &str) -> Result<Option<Meta>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Meta {
                kind: FileType::from_raw_mode(stat.st_mode).into(),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                mtime: stat.st_mtime,
                mode: stat.st_mode & 0o7777,
                links: stat.st_nlink,
                inode: stat.st_ino,
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(IoError::new("examine", self.join(name), error)),
        }
    }

    /// The names in it, in no order, with their kinds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entries(&self) -> Result<Vec<(OsString, FileKind)>> {
        let mut names = Vec::new();
        let dir = rustix::fs::Dir::read_from(&self.fd).context("read directory", || self.path.clone())?;
        for entry in dir {
            let entry = entry.context("read directory", || self.path.clone())?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(FileKind::Other, |stat| FileType::from_raw_mode(stat.st_mode).into()),
                known => known.into(),
            };
            names.push((OsStr::from_bytes(name).to_owned(), kind));
        }
        Ok(names)
    }

    /// Gives the file `name` a second name in `to`.
    ///
    /// # Errors
    /// When that name is taken, the file has too many names, or linking is not permitted.
    pub fn link(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        step("link", || to.join(to_name))?;
        rustix::fs::linkat(&self.fd, name, &to.fd, to_name, AtFlags::empty()).context("link", || to.join(to_name))
    }

    /// Renames `name` to `to_name` in `to`, replacing a file of that name at once.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn rename(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        if fault::is_armed(&Fault::UnlinkBeforeRename) && to.stat(to_name)?.is_some() {
            to.unlink(to_name)?;
        }
        step("rename", || to.join(to_name))?;
        rustix::fs::renameat(&self.fd, name, &to.fd, to_name).context("rename to", || to.join(to_name))
    }

    /// Creates the symbolic link `name` with this target.
    ///
    /// # Errors
    /// When the name is taken or links are not supported.
    pub fn symlink(&self, target: &str, name: &str) -> Result<()> {
        step("create link", || self.join(name))?;
        rustix::fs::symlinkat(target, &self.fd, name).context("create link", || self.join(name))
    }

    /// The target of the symbolic link `name`; nothing if there is none.
    ///
    /// # Errors
    /// When it is not a link (`InvalidInput`) or cannot be read.
    pub fn read_link(&self, name: &str) -> Result<Option<OsString>> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).context("read link", || self.join(name));
        Ok(found(target)?.map(|target| OsStr::from_bytes(target.as_bytes()).to_owned()))
    }

    /// Removes the file or link `name`.
    ///
    /// # Errors
    /// When there is none or it may not be removed.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        step("remove", || self.join(name))?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).context("remove", || self.join(name))
    }

    /// Removes the file or link `name`, if there is one.
    ///
    /// # Errors
    /// When it may not be removed.
    pub fn unlink_if_any(&self, name: &str) -> Result<bool> {
        Ok(found(self.unlink(name))?.is_some())
    }

    /// Removes the empty directory `name`; answers whether it was empty (or missing).
    ///
    /// # Errors
    /// When it is no directory or may not be removed.
    pub fn remove_dir_if_empty(&self, name: &str) -> Result<bool> {
        step("remove directory", || self.join(name))?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(IoError::new("remove directory", self.join(name), error)),
        }
    }

    /// Removes `name` and, if it is a directory, everything in it; links are
    /// removed, not followed. A missing one is no error.
    ///
    /// # Errors
    /// When something in it may not be removed.
    pub fn remove_all(&self, name: &str) -> Result<()> {
        match self.stat(name)?.map(|meta| meta.kind) {
            None => return Ok(()),
            Some(FileKind::Directory) => {}
            Some(_) => return self.unlink(name),
        }
        let dir = self.open_dir(name)?;
        for (child, kind) in dir.entries()? {
            match (kind, child.to_str()) {
                (FileKind::Directory, Some(child)) => dir.remove_all(child)?,
                (FileKind::Directory, None) => {
                    fs::remove_dir_all(dir.join(&child)).context("remove directory", || dir.join(&child))?;
                }
                _ => dir.unlink(&child)?,
            }
        }
        self.remove_dir_if_empty(name).map(|_| ())
    }

    /// Makes the names in this directory durable.
    ///
    /// # Errors
    /// A failed sync is final: what it covered may be lost.
    pub fn sync(&self) -> Result<()> {
        step("sync", || self.path.clone())?;
        if fault::is_armed(&Fault::SkipDirectorySync) {
            return Ok(());
        }
        rustix::fs::fsync(&self.fd).context("sync", || self.path.clone())
    }

    /// Makes all that was written to this file system durable.
    ///
    /// # Errors
    /// A failed sync is final: the system reports it once and then forgets.
    pub fn sync_file_system(&self) -> Result<()> {
        step("sync file system", || self.path.clone())?;
        if fault::is_armed(&Fault::SkipDataSync) {
            return Ok(());
        }
        rustix::fs::syncfs(&self.fd).context("sync file system", || self.path.clone())
    }

    /// Free space and kind of the file system it is on.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn file_system(&self) -> Result<FileSystem> {
        let stat = rustix::fs::fstatvfs(&self.fd).context("examine the file system of", || self.path.clone())?;
        let kind = rustix::fs::fstatfs(&self.fd).context("examine the file system of", || self.path.clone())?;
        Ok(FileSystem {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            // Some file systems (btrfs) make inodes as needed and report none at all.
            free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
            block_bytes: stat.f_frsize.max(512),
            magic: u64::try_from(kind.f_type).unwrap_or(0),
        })
    }

    /// The user id that owns the directory.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn owner(&self) -> Result<u32> {
        Ok(rustix::fs::fstat(&self.fd).context("examine", || self.path.clone())?.st_uid)
    }

    /// A second handle to the same directory.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.as_fd().try_clone_to_owned().context("open directory", || self.path.clone())?;
        Ok(Self { fd, path: self.path.clone() })
    }
}

/// Free space and kind of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes that we may still use.
    pub free_bytes: u64,
    /// Files that we may still create, where there is such a limit.
    pub free_inodes: Option<u64>,
    /// The unit in which space is given out, in bytes.
    pub block_bytes: u64,
    /// The number by which the system names the kind (`statfs.f_type`).
    pub magic: u64,
}

impl FileSystem {
    /// The name of a kind that is on another machine or in another process,
    /// where locks, links and syncs do not hold what we need of them.
    #[must_use]
    pub const fn remote_name(&self) -> Option<&'static str> {
        // linux/magic.h and the kernel sources of each.
        match self.magic {
            0x6969 => Some("NFS"),
            0x517b => Some("SMB"),
            0xff53_4d42 => Some("CIFS"),
            0xfe53_4d42 => Some("SMB2"),
            0x6573_5546 => Some("FUSE"),
            0x0102_1997 => Some("9P"),
            0x00c3_6400 => Some("Ceph"),
            0x5346_414f => Some("AFS"),
            0x7461_636f => Some("OCFS2"),
            0x0116_1970 => Some("GFS2"),
            0x0bd0_0bd0 => Some("Lustre"),
            _ => None,
        }
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

/// Gives a written file its final times and mode.
///
/// # Errors
/// When the system refuses.
pub fn seal(file: &File, mode: FileMode, mtime: Option<u64>, path: impl Fn() -> PathBuf) -> Result<()> {
    if let Some(seconds) = mtime {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        step("set time of", &path)?;
        file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time)).context("set time of", &path)?;
    }
    step("set mode of", &path)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode.bits())).context("set mode of", &path)
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
        seal(&file, FileMode::Record, None, || path.to_owned())?;
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
    // flock has no time limit, and a signal to break it would need unsafe code.
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(fs::TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(IoError::new("lock", path, error)),
        }
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of anything, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
}

impl Stamp {
    /// The stamp in `meta`.
    #[must_use]
    pub fn of(meta: &fs::Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size: meta.size(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
        }
    }
}
