//! Metadata of files and file systems.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::FileType;

/// Metadata of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The kind of the file.
    pub kind: FileKind,
    /// Length of the file in bytes.
    pub size: u64,
    /// Modification time in whole seconds since 1970; negative before that.
    pub mtime: i64,
    /// Permission bits.
    pub mode: u32,
    /// The group id.
    pub group: u32,
    /// Number of hard links.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
}

/// The kind of a file.
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

/// Mode and group of a new file or directory. They apply regardless of the umask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode {
    /// The permission bits.
    pub bits: u32,
    /// The group id; `None` for the group that the system assigns.
    pub group: Option<u32>,
}

impl FileMode {
    /// 0644: for records that other users may read.
    pub const RECORD: Self = Self { bits: 0o644, group: None };
    /// 0755: for directories that other users may enter.
    pub const DIRECTORY: Self = Self { bits: 0o755, group: None };

    /// Whether a file has this mode and group.
    #[must_use]
    pub fn matches(self, meta: &Meta) -> bool {
        meta.mode == self.bits && self.group.is_none_or(|group| group == meta.group)
    }
}

/// Free space and kind of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes that this user can still allocate.
    pub free_bytes: u64,
    /// Inodes that this user can still create; `None` if there is no limit.
    pub free_inodes: Option<u64>,
    /// Allocation unit in bytes.
    pub block_bytes: u64,
    /// The kind as a number (`statfs.f_type`).
    pub magic: u64,
}

impl FileSystem {
    /// The name of a network or user-space file system, on which locks, links and syncs are not
    /// reliable enough; `None` for other kinds.
    #[must_use]
    pub const fn remote_name(&self) -> Option<&'static str> {
        // The numbers are from linux/magic.h and the kernel sources of each file system.
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

/// A stamp: metadata that changes when a file's content changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Length of the file in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change to content or metadata, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
}

/// The facts that a scan needs to know about a file, from one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// The kind of the file.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// The stamp of the file.
    pub stamp: FileStat,
}

impl From<&fs::Metadata> for FileInfo {
    fn from(meta: &fs::Metadata) -> Self {
        Self {
            kind: FileType::from_raw_mode(meta.mode()).into(),
            mode: meta.mode() & 0o7777,
            stamp: FileStat::of(meta),
        }
    }
}

impl From<&rustix::fs::Stat> for FileInfo {
    fn from(stat: &rustix::fs::Stat) -> Self {
        let stamp = FileStat {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            ctime_ns: nanoseconds(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            inode: stat.st_ino,
            device: stat.st_dev,
        };
        Self {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            mode: stat.st_mode & 0o7777,
            stamp,
        }
    }
}

const fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    // A 64-bit count of nanoseconds lasts until the year 2262. Later times saturate, so they are
    // equal in stamps, but sizes and inodes still differ.
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl FileStat {
    /// The stamp in `meta`.
    #[must_use]
    pub fn of(meta: &fs::Metadata) -> Self {
        Self {
            size: meta.size(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            device: meta.dev(),
        }
    }
}
