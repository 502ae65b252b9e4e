//! Why a store did not do what was asked.

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

/// Why a store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The mirror's place is a file or something else.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// The place.
        path: PathBuf,
    },
    /// The directory that should hold the mirror does not exist.
    #[error("{} does not exist, so no mirror can be created in it", path.display())]
    NoParent {
        /// The missing directory.
        path: PathBuf,
    },
    /// There are files that are not ours.
    #[error("{} has files in it and is no mirror; it was not touched", path.display())]
    NotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// There is no store where one was expected.
    #[error("{} is no mirror: it has no .headwater/format", path.display())]
    NotAStore {
        /// The place.
        path: PathBuf,
    },
    /// A directory that only its owner may write to: files that others wrote would be theirs.
    #[error(
        "{} belongs to {}, and this runs as {}", path.display(),
        users::describe_user(*owner), users::describe_user(*caller)
    )]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// The id of the user who owns it.
        owner: u32,
        /// The id of the user that this process runs as.
        caller: u32,
    },
    /// A file system on which locks, links and syncs do not hold.
    #[error("{} is on {kind}, where a switch is not atomic and a sync not final", path.display())]
    FileSystem {
        /// The place.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// A place inside of another mirror.
    #[error("{} is inside of the mirror {}", path.display(), outer.display())]
    InsideMirror {
        /// The place.
        path: PathBuf,
        /// The mirror around it.
        outer: PathBuf,
    },
    /// A file system without what slots are made of.
    #[error("the file system of {} has no {what}", path.display())]
    NoLinks {
        /// The place.
        path: PathBuf,
        /// Hard or symbolic links.
        what: &'static str,
    },
    /// Written by a newer headwater.
    #[error("{} has store format {found}, newer than this headwater knows (1)", path.display())]
    NewerFormat {
        /// The place.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A format file that cannot be read.
    #[error("{} is damaged: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The mirror of another site.
    #[error("{} holds site {found:?}, not {wanted:?}", path.display(), found = found.as_str(), wanted = wanted.as_str())]
    OtherSite {
        /// The place.
        path: PathBuf,
        /// What it holds.
        found: Site,
        /// What was asked for.
        wanted: Site,
    },
    /// Somebody else is at work and did not end in time.
    #[error("{} is locked by another headwater", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// `current` is not what we make it.
    #[error("{} {what}", path.display())]
    BadCurrent {
        /// The link.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Too little room.
    #[error(
        "{} has {} free, and {} are needed", path.display(),
        ByteSize::b(*free).display().si(), ByteSize::b(*needed).display().si()
    )]
    NoSpace {
        /// The place.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Too few inodes.
    #[error("{} has {free} inodes free, and {needed} are needed", path.display())]
    NoInodes {
        /// The place.
        path: PathBuf,
        /// Inodes needed.
        needed: u64,
        /// Inodes free.
        free: u64,
    },
    /// A manifest that is damaged, or an error while reading it.
    #[error("manifest {}", path.display())]
    Manifest {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// Old objects that new content builds on are damaged or missing. They no longer count as present.
    #[error("{} damaged or missing here, and new content builds on it", several(objects))]
    DamagedBases {
        /// The objects.
        objects: Vec<ObjectId>,
    },
    /// A release record that is damaged.
    #[error("release record {}", path.display())]
    Release {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: ReleaseError,
    },
    /// Another release became current since the mirror was asked.
    #[error("the mirror's current release is {}, not the expected {}", name(*found), name(*expected))]
    Conflict {
        /// What was expected.
        expected: Option<ReleaseName>,
        /// What is current.
        found: Option<ReleaseName>,
    },
    /// A release that is not newer than the current one.
    #[error("release {offered} is not newer than the current {current}")]
    NotNewer {
        /// What was offered.
        offered: ReleaseName,
        /// What is current.
        current: ReleaseName,
    },
    /// A release of another history than the current one.
    #[error("release {offered} is of history {}, and the mirror serves release {current} of history {}", history.short(), found.short())]
    OtherHistory {
        /// What was offered.
        offered: ReleaseName,
        /// Its history.
        history: HistoryId,
        /// What is current.
        current: ReleaseName,
        /// The history of the current release.
        found: HistoryId,
    },
    /// A release that is not, or no longer, staged.
    #[error("release {release} is not staged here")]
    NotStaged {
        /// The release.
        release: ReleaseName,
    },
    /// A pack that is malformed.
    #[error("a pack is malformed")]
    Pack(#[from] PackError),
    /// What arrived does not make what was announced.
    #[error("what was sent is not what was announced: {what}")]
    Mismatch {
        /// What does not hold.
        what: String,
    },
    /// Missing objects could not be fetched again.
    #[error("{} missing or damaged here and could not be fetched", several(missing))]
    Fetch {
        /// The objects.
        missing: Vec<ObjectId>,
        /// Why the first of them could not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object whose bytes are not what its id says.
    #[error("object {object} is damaged or missing here")]
    DamagedObject {
        /// The object.
        object: ObjectId,
    },
    /// A slot that is not what its manifest says.
    #[error("{} was changed by somebody else", path.display())]
    Tampered {
        /// Where that shows.
        path: PathBuf,
    },
    /// The user asked to stop.
    #[error("stopped")]
    Cancelled,
    /// There is no memory for what a manifest change announces.
    #[error("there is no memory for what the manifest change announces")]
    NoMemory,
}

fn name(release: Option<ReleaseName>) -> String {
    release.map_or_else(|| "none".to_owned(), |release| release.to_string())
}

fn several(objects: &[ObjectId]) -> String {
    match objects {
        [] => "no object is".to_owned(),
        [object] => format!("object {object} is"),
        [object, more @ ..] => format!("object {object} and {} more are", more.len()),
    }
}

/// `None` instead of the error that something is missing or damaged.
///
/// # Errors
/// Every other one: where it cannot be told, nothing may be taken for damaged.
pub(super) fn unless_damaged<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error of reading says that something is missing, of another kind, or not what it should be. What the
/// system does not let us read may be whole: it has no descriptors, we have no right, the disk does not answer.
pub(super) fn is_damage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    const MISSING_OR_OTHER_KIND: [Errno; 5] = [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::NXIO];
    // An error without a number is not the system's: what was read cannot be decoded.
    Errno::from_io_error(error).is_none_or(|errno| MISSING_OR_OTHER_KIND.contains(&errno))
}

/// What arrived is not what was announced.
pub(super) fn mismatch(what: impl Into<String>) -> StoreError {
    StoreError::Mismatch { what: what.into() }
}

impl StoreError {
    /// Whether it says that something here is missing or is not what it should be; not so where that cannot be told.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io(error) => is_damage(&error.source),
            Self::Manifest { source: ManifestError::Io(error), .. } => is_damage(error),
            Self::Manifest { .. } | Self::Release { .. } | Self::DamagedObject { .. } | Self::Tampered { .. } => true,
            _ => false,
        }
    }

    /// Whether the disk refused something it had to do: what was written is
    /// then in doubt and must not be built upon.
    #[must_use]
    pub fn is_disk_failure(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() != std::io::ErrorKind::NotFound,
            Self::Manifest { source: ManifestError::Io(_), .. } => true,
            _ => false,
        }
    }

    /// What kind of failure it is.
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
            Self::NoSpace { .. } | Self::NoInodes { .. } => ErrorKind::NoSpace,
            Self::Io(error) => kind_of_io(error.kind()),
            Self::Conflict { .. } | Self::NotNewer { .. } | Self::NotStaged { .. } => ErrorKind::Conflict,
            Self::OtherHistory { .. } => ErrorKind::OtherHistory,
            Self::Manifest { .. } if !self.is_damage() => ErrorKind::Other,
            Self::Manifest { .. } | Self::DamagedBases { .. } => ErrorKind::DamagedBase,
            _ => ErrorKind::Other,
        }
    }
}

const fn kind_of_io(kind: std::io::ErrorKind) -> ErrorKind {
    match kind {
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        std::io::ErrorKind::FileTooLarge => ErrorKind::FileTooLarge,
        _ => ErrorKind::Other,
    }
}
