//! The errors of a store.

use std::path::PathBuf;

use bytesize::ByteSize;

use crate::error_kind::ErrorKind;
use crate::fsx::IoError;
use crate::hash::{HistoryId, ObjectId};
use crate::manifest::ManifestError;
use crate::pack::PackError;
use crate::release::{ReleaseError, ReleaseName};
use crate::tree_path::Site;
use crate::users;

/// Why an operation on a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An error of the file system.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The path of the mirror is a file or something else that is not a directory.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// The path of the mirror.
        path: PathBuf,
    },
    /// The parent directory of a new mirror does not exist.
    #[error("{} does not exist, so no mirror can be created in it", path.display())]
    NoParent {
        /// The missing parent directory.
        path: PathBuf,
    },
    /// The directory contains files that do not belong to a store.
    #[error("{} is not empty and is not a mirror", path.display())]
    NotEmpty {
        /// The path of the mirror.
        path: PathBuf,
    },
    /// The directory is not a store although one was expected.
    #[error("{} is not a mirror: it has no .headwater/format", path.display())]
    NotAStore {
        /// The path of the mirror.
        path: PathBuf,
    },
    /// A directory of the store is missing.
    #[error("the directory {} is missing", path.display())]
    MissingDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is owned by a different user. If several users wrote files to it, none of them
    /// could change all of the files.
    #[error(
        "{} belongs to {}, but headwater runs as {}", path.display(),
        users::describe_user(*owner), users::describe_user(*caller)
    )]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// The id of the user who owns it.
        owner: u32,
        /// The id of the user as whom this process runs.
        caller: u32,
    },
    /// The file system does not guarantee locks, atomic renames and durable syncs.
    #[error("{} is on {kind}, which has neither atomic switches nor durable syncs; use a local \
             disk", path.display())]
    FileSystem {
        /// The path of the mirror.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// The path lies inside another mirror.
    #[error("{} is inside the mirror {}", path.display(), outer.display())]
    InsideMirror {
        /// The path.
        path: PathBuf,
        /// The mirror that contains it.
        outer: PathBuf,
    },
    /// The file system lacks hard links or symbolic links, which slots need.
    #[error("the file system of {} has no {what}", path.display())]
    NoLinks {
        /// The path of the mirror.
        path: PathBuf,
        /// The kind of link that is missing.
        what: &'static str,
    },
    /// The store was written by a newer headwater.
    #[error("{} has store format {found}, but this headwater supports only format 1",
             path.display())]
    NewerFormat {
        /// The path of the format file.
        path: PathBuf,
        /// The version that the file declares.
        found: u64,
    },
    /// The format file, or a directory of the store, is damaged.
    #[error("{} is damaged: {what}", path.display())]
    Format {
        /// The damaged file or directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The store holds a different site.
    #[error(
        "{} holds site {found:?}, not {wanted:?}",
        path.display(), found = found.as_str(), wanted = wanted.as_str()
    )]
    OtherSite {
        /// The path of the mirror.
        path: PathBuf,
        /// The site that the store holds.
        found: Site,
        /// The requested site.
        wanted: Site,
    },
    /// Another process held the lock for the whole waiting time.
    #[error("{} is locked by another headwater process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// `current` is not a link that headwater made.
    #[error("{} {what}", path.display())]
    BadCurrent {
        /// The path of `current`.
        path: PathBuf,
        /// What `current` is instead.
        what: String,
    },
    /// The file system has too few free bytes.
    #[error(
        "{} has {} free, but {} are needed", path.display(),
        ByteSize::b(*free).display().si(), ByteSize::b(*needed).display().si()
    )]
    NoSpace {
        /// The path of the mirror.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The file system has too few free inodes.
    #[error("{} has {free} inodes free, but {needed} are needed", path.display())]
    NoInodes {
        /// The path of the mirror.
        path: PathBuf,
        /// Inodes needed.
        needed: u64,
        /// Inodes free.
        free: u64,
    },
    /// A manifest is damaged or cannot be read.
    #[error("cannot use manifest {}", path.display())]
    Manifest {
        /// The manifest's file.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// Base objects that new content is compressed against are damaged or missing. They no longer
    /// count as present.
    #[error("{} damaged or missing here, so new content cannot be decoded", objects_are(objects))]
    DamagedBases {
        /// The damaged or missing objects.
        objects: Vec<ObjectId>,
    },
    /// New content was compressed against other bytes than these objects have. They are intact
    /// here, so the origin was wrong about them.
    #[error("a block does not decode, although {} intact here", objects_are(objects))]
    BaseMismatch {
        /// The objects that the block is based on.
        objects: Vec<ObjectId>,
    },
    /// A release record is damaged.
    #[error("cannot use release record {}", path.display())]
    Release {
        /// The record's file.
        path: PathBuf,
        /// What is wrong.
        source: ReleaseError,
    },
    /// Another release became current after the caller had read which one was current.
    #[error(
        "the mirror's current release is {}, not the expected {}",
        release_or_none(*found),
        release_or_none(*expected)
    )]
    Conflict {
        /// The release that the caller expected to be current.
        expected: Option<ReleaseName>,
        /// The release that is current.
        found: Option<ReleaseName>,
    },
    /// The offered release is not newer than the current one.
    #[error("release {offered} is not newer than the current {current}")]
    NotNewer {
        /// The offered release.
        offered: ReleaseName,
        /// The current release.
        current: ReleaseName,
    },
    /// The offered release belongs to a different history than the current one.
    #[error("release {offered} belongs to history {}, but the mirror serves release {current} of \
             history {}", history.short(), found.short())]
    OtherHistory {
        /// The offered release.
        offered: ReleaseName,
        /// The history of the offered release.
        history: HistoryId,
        /// The current release.
        current: ReleaseName,
        /// The history of the current release.
        found: HistoryId,
    },
    /// The release is not staged, or is no longer staged.
    #[error("release {release} is not staged here")]
    NotStaged {
        /// The release.
        release: ReleaseName,
    },
    /// A pack is malformed.
    #[error("a pack is malformed")]
    Pack(#[from] PackError),
    /// The received content does not match what the push announced.
    #[error("the received content does not match the announced content: {what}")]
    Mismatch {
        /// What does not match.
        what: String,
    },
    /// Missing objects could not be fetched.
    #[error("{} missing or damaged here and could not be fetched", objects_are(missing))]
    Fetch {
        /// The objects that are still missing.
        missing: Vec<ObjectId>,
        /// Why fetching the first of them failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes of an object do not match its id, or the object is missing.
    #[error("object {object} is damaged or missing here")]
    DamagedObject {
        /// The object.
        object: ObjectId,
    },
    /// A slot does not match its manifest: another program changed it.
    #[error("{} was changed by another program", path.display())]
    Tampered {
        /// The path where the difference was found.
        path: PathBuf,
    },
    /// The operation was cancelled.
    #[error("stopped")]
    Cancelled,
    /// Too little memory is free for what the manifest change announces.
    #[error("not enough free memory to apply the announced manifest change")]
    NoMemory,
}

fn release_or_none(release: Option<ReleaseName>) -> String {
    release.map_or_else(|| "none".to_owned(), |release| release.to_string())
}

fn objects_are(objects: &[ObjectId]) -> String {
    match objects {
        [] => "no object is".to_owned(),
        [object] => format!("object {object} is"),
        [object, more @ ..] => format!("object {object} and {} more are", more.len()),
    }
}

/// Returns `None` for an error that means damage: something is missing or has the wrong content.
///
/// # Errors
/// Returns every other error. A failed read does not prove damage, so it must not count as damage.
pub(super) fn unless_damaged<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a read error means that the file is missing, is of a different kind, or has the wrong
/// content. Errors such as `EMFILE`, `EACCES` or `EIO` do not: the file behind them may be intact.
pub(super) fn is_damage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    const MISSING_OR_OTHER_KIND: [Errno; 5] =
        [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::NXIO];
    // An error without an errno comes from decoding, not from the system: the bytes are wrong.
    Errno::from_io_error(error).is_none_or(|errno| MISSING_OR_OTHER_KIND.contains(&errno))
}

pub(super) fn mismatch(what: impl Into<String>) -> StoreError {
    StoreError::Mismatch { what: what.into() }
}

impl StoreError {
    /// Whether the error proves that something in the store is missing or wrong. Returns `false` if
    /// the error leaves that open.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io(error) => is_damage(&error.source),
            Self::Manifest { source: ManifestError::Io(error), .. } => is_damage(error),
            Self::Manifest { .. }
            | Self::Release { .. }
            | Self::DamagedObject { .. }
            | Self::Tampered { .. } => true,
            _ => false,
        }
    }

    /// Whether the disk failed. In that case it is unknown whether the data was written, and
    /// nothing may build on it.
    #[must_use]
    pub fn is_disk_failure(&self) -> bool {
        match self {
            // A missing file is damage of the store; the disk itself works.
            Self::Io(error) => error.kind() != std::io::ErrorKind::NotFound,
            Self::Manifest { source: ManifestError::Io(_), .. } => true,
            _ => false,
        }
    }

    /// The kind of the error, for code that reacts to the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::OtherOwner { .. } => ErrorKind::OtherOwner,
            Self::OtherSite { .. } => ErrorKind::OtherSite,
            Self::NotEmpty { .. } => ErrorKind::NotEmpty,
            Self::NotDirectory { .. }
            | Self::NoParent { .. }
            | Self::InsideMirror { .. }
            | Self::FileSystem { .. }
            | Self::NoLinks { .. }
            | Self::NotAStore { .. } => ErrorKind::UnsuitableLocation,
            Self::NewerFormat { .. } => ErrorKind::NewerFormat,
            Self::MissingDirectory { .. } => ErrorKind::DamagedStore,
            Self::NoSpace { .. } | Self::NoInodes { .. } => ErrorKind::NoSpace,
            Self::Io(error) => ErrorKind::of_io(error.kind()),
            Self::Conflict { .. } | Self::NotNewer { .. } | Self::NotStaged { .. } => {
                ErrorKind::Conflict
            }
            Self::OtherHistory { .. } => ErrorKind::OtherHistory,
            // Only proven damage is `DamagedBase`, because the origin then sends all content
            // without a base.
            Self::Manifest { .. } if !self.is_damage() => ErrorKind::Other,
            Self::Manifest { .. } | Self::DamagedBases { .. } | Self::BaseMismatch { .. } => {
                ErrorKind::DamagedBase
            }
            _ => ErrorKind::Other,
        }
    }
}
