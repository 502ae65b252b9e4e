#![doc = include_str!("PROTOCOL.md")]
//!
//! ---
//!
//! This room has the messages and limits that both ends share. It touches no
//! socket, file or clock, and refuses to know who asks and who answers.

mod error;
mod part;
mod settled;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hash::{BundleKey, ManifestId, ObjectId, PackId, StoreId};
use crate::release::ReleaseName;
pub use crate::store::{Fault, HistoryEvent, Pruned, Verified};
use crate::tree_path::Site;

pub use error::{Detail, ProtocolError, READ_ONLY};
pub use part::{Holds, ObjectPart};
pub use settled::{HookRun, HookState, Settled};

/// The version that this headwater speaks.
pub const VERSION: u32 = 1;
/// The header that names the version of a request.
pub const VERSION_HEADER: &str = "headwater-protocol";
/// Begins the banner of `headwater receive`.
pub const BANNER: &str = "headwater receive 1 ";
/// Largest head of a stage, in bytes: it has a release.
pub const MAX_HEAD_BYTES: u32 = 4 * 1024 * 1024;
/// Largest manifest change, in bytes: that of some ten million entries.
pub const MAX_CHANGE_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest body of a request that has no packs and no content, in bytes.
pub const MAX_MESSAGE_BYTES: u64 = 64 * 1024;
/// Most objects that one question names.
pub const MAX_ASKED: usize = 32 * 1024;
/// Most parts of objects that one request asks for.
pub const MAX_PARTS: usize = 8 * 1024;
/// Several packs in one body have at most so many bytes, with their heads.
pub const MAX_PACKS_BYTES: u64 = 64 * 1024 * 1024;

/// What a request is about, below the base path of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The state of the mirror.
    State,
    /// What anybody may know of the mirror.
    Status,
    /// What happened there.
    History,
    /// A manifest.
    Manifest(ManifestId),
    /// An object.
    Object(ObjectId),
    /// A record of a release.
    Release(ReleaseName),
    /// A pack of an open stage.
    Pack(BundleKey, PackId),
    /// Several packs of an open stage.
    Packs(BundleKey),
    /// Something to do.
    Action(Action),
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a release complete, unseen.
    Stage,
    /// Make it current.
    Activate,
    /// Forget it.
    Abandon,
    /// Tidy up after an activation.
    Settle,
    /// Drop what nothing needs.
    Prune,
    /// Look for faults.
    Verify,
    /// Mend them.
    Repair,
    /// Say which objects are there.
    Holds,
    /// Send parts of objects.
    Objects,
}

impl Action {
    const ALL: [Self; 9] = [
        Self::Stage,
        Self::Activate,
        Self::Abandon,
        Self::Settle,
        Self::Prune,
        Self::Verify,
        Self::Repair,
        Self::Holds,
        Self::Objects,
    ];

    /// Its name in a path.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Activate => "activate",
            Self::Abandon => "abandon",
            Self::Settle => "settle",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::Repair => "repair",
            Self::Holds => "holds",
            Self::Objects => "objects",
        }
    }

    /// The largest body that asks for it, in bytes; a stage has limits of its own.
    #[must_use]
    pub const fn most_bytes(self) -> u64 {
        match self {
            Self::Holds => 32 * MAX_ASKED as u64,
            Self::Objects => (ObjectPart::BYTES * MAX_PARTS) as u64,
            _ => MAX_MESSAGE_BYTES,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("v1/state"),
            Self::Status => f.write_str("status.json"),
            Self::History => f.write_str("v1/history"),
            Self::Manifest(id) => write!(f, "v1/manifests/{id}"),
            Self::Object(id) => write!(f, "v1/objects/{id}"),
            Self::Release(name) => write!(f, "v1/releases/{name}"),
            Self::Pack(key, id) => write!(f, "v1/packs/{key}/{id}"),
            Self::Packs(key) => write!(f, "v1/packs/{key}"),
            Self::Action(action) => write!(f, "v1/{}", action.name()),
        }
    }
}

impl Resource {
    /// Reads a path relative to the base path of a site; nothing but the canonical spelling.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let rest = match path.strip_prefix("v1/") {
            Some(rest) => rest,
            None => return (path == "status.json").then_some(Self::Status),
        };
        let parts: Vec<&str> = rest.splitn(4, '/').collect();
        match parts[..] {
            ["state"] => Some(Self::State),
            ["history"] => Some(Self::History),
            ["manifests", id] => Some(Self::Manifest(ManifestId::parse_hex(id.as_bytes())?)),
            ["objects", id] => Some(Self::Object(ObjectId::parse_hex(id.as_bytes())?)),
            ["releases", name] => Some(Self::Release(name.parse().ok()?)),
            ["packs", key] => Some(Self::Packs(BundleKey::parse_hex(key.as_bytes())?)),
            ["packs", key, id] => {
                Some(Self::Pack(BundleKey::parse_hex(key.as_bytes())?, PackId::parse_hex(id.as_bytes())?))
            }
            [name] => Action::ALL.into_iter().find(|action| action.name() == name).map(Self::Action),
            _ => None,
        }
    }
}

/// What every answer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<T> {
    /// It was done.
    #[serde(rename = "ok")]
    Ok(T),
    /// It was not.
    #[serde(rename = "error")]
    Error(ProtocolError),
}

/// Nothing more to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The state of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of headwater there.
    #[serde(default)]
    pub headwater: String,
    /// The id of its store; nothing where none was made yet.
    #[serde(default)]
    pub store: Option<StoreId>,
    /// Its site, also before a store was made, where the receiver is bound to one.
    #[serde(default)]
    pub site: Option<Site>,
    /// What `current` names.
    #[serde(default)]
    pub current: Option<ReleaseName>,
    /// The canonical records of the releases that are or were served, ascending.
    #[serde(default)]
    pub releases: Vec<String>,
    /// The canonical record of the release that is staged and not current.
    #[serde(default)]
    pub staged: Option<String>,
    /// The highest sequence of anything there.
    #[serde(default)]
    pub highest_sequence: u64,
    /// The clock of the receiver, in seconds since 1970.
    #[serde(default)]
    pub time: Option<u64>,
    /// Bytes free.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// The bundles of which it has something from an interrupted push; nothing: it cannot tell.
    #[serde(default)]
    pub unfinished: Option<Vec<BundleKey>>,
    /// The largest release that the receiver takes, in bytes; `None` if it has no quota.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// The most entries of a release that the receiver takes; `None` if it has no such quota.
    #[serde(default)]
    pub quota_entries: Option<u64>,
    /// Bytes of content of pushes that did not end.
    #[serde(default)]
    pub incoming_bytes: u64,
    /// When the next retired entry of the current release is due, seconds since 1970, by the clock of the receiver.
    #[serde(default)]
    pub next_expiry: Option<u64>,
    /// Retired entries whose `until` is at or before this time are not served any more.
    #[serde(default)]
    pub expired_through: u64,
    /// Whether whoever asked may push; where it is not said, a push finds out.
    #[serde(default = "yes")]
    pub may_push: bool,
    /// When the token of whoever asked ends, seconds since 1970; `None` if it does not, or none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires: Option<u64>,
}

const fn yes() -> bool {
    true
}

/// What anybody may know of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The site.
    pub site: Site,
    /// The sequence of the current release.
    pub sequence: Option<u64>,
    /// The name of the current release.
    pub release: Option<ReleaseName>,
    /// When it was made, seconds since 1970.
    pub published: Option<u64>,
    /// When it became current here, seconds since 1970.
    pub activated: Option<u64>,
}

/// What happened in the store of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In the order in which it was noted.
    #[serde(default)]
    pub events: Vec<HistoryEvent>,
}

/// The head of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageHead {
    /// The canonical record of the release.
    pub release: String,
    /// Names the bundle.
    pub key: BundleKey,
    /// The manifest that the change is against; nothing: the empty one.
    #[serde(default)]
    pub base: Option<ManifestId>,
    /// Length of the manifest change; 0 for that of the stage that is open.
    pub change_bytes: u64,
    /// Whether packs are in this body.
    #[serde(default)]
    pub has_packs: bool,
    /// Whether everything is there after this body; where it has packs, what ends them tells.
    pub is_whole: bool,
}

/// What stands before each of several packs in a body, or ends those of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackHead {
    /// A pack comes.
    Pack {
        /// Its id.
        id: PackId,
        /// Its length, at least 1.
        bytes: u32,
    },
    /// No more come in this body.
    End {
        /// Whether those that came, with those that were there, are all.
        is_whole: bool,
    },
}

impl PackHead {
    /// Its length in bytes.
    pub const BYTES: usize = 32 + 4;

    /// An id and a length, big endian. Length 0 is the end, and the id is then 32 times one byte: 1 for
    /// the end of all, 0 for that of a part.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let (id, bytes) = match self {
            Self::Pack { id, bytes } => (*id.as_bytes(), bytes),
            Self::End { is_whole } => ([u8::from(is_whole); 32], 0),
        };
        let mut head = [0; Self::BYTES];
        head[..32].copy_from_slice(&id);
        head[32..].copy_from_slice(&bytes.to_be_bytes());
        head
    }

    /// Reads one; nothing if it is neither.
    #[must_use]
    pub fn parse(head: &[u8; Self::BYTES]) -> Option<Self> {
        let (id, bytes) = head.split_first_chunk::<32>()?;
        let bytes = u32::from_be_bytes(bytes.try_into().ok()?);
        match (bytes, id) {
            (1.., id) => Some(Self::Pack { id: PackId::from_bytes(*id), bytes }),
            (0, [0, ..]) if *id == [0; 32] => Some(Self::End { is_whole: false }),
            (0, [1, ..]) if *id == [1; 32] => Some(Self::End { is_whole: true }),
            (0, _) => None,
        }
    }
}

/// The answer to a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Staging {
    /// The release is complete and durable there.
    Staged {
        /// Objects that were sent whole because they were damaged or missing.
        resent: u64,
    },
    /// Packs are awaited; these are there already.
    Held(Vec<PackId>),
    /// These objects of the base are damaged or missing there.
    Lacking(Vec<ObjectId>),
}

/// Which release to make current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activate {
    /// The staged release.
    pub release: ReleaseName,
    /// What must be current now.
    #[serde(default)]
    pub expected: Option<ReleaseName>,
}

/// The answer to an activation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// The id of the store, which may have been made for this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
}

/// Which release to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandon {
    /// The staged release.
    pub release: ReleaseName,
}

/// How many releases to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Releases; a receiver's own configuration overrides it.
    pub keep: usize,
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Sizes and times only.
    #[serde(default)]
    pub quick: bool,
}

/// What can be mended, with what was sent for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Whether nothing more comes: then what cannot be mended is let go.
    #[serde(default)]
    pub is_last: bool,
}

/// What was mended, and what more would help.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repairing {
    /// Faults that were found before.
    pub found: Vec<Fault>,
    /// Objects that were put right from what was sent.
    pub objects: u64,
    /// Served entries, records and manifests that were put right.
    pub mended: u64,
    /// Faults that are still there.
    pub left: Vec<Fault>,
    /// What is taken now if it is put.
    pub wants: Wants,
}

/// What a receiver would like to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wants {
    /// Objects.
    pub objects: Vec<ObjectId>,
    /// Manifests.
    pub manifests: Vec<ManifestId>,
    /// Records of releases.
    pub releases: Vec<ReleaseName>,
}

/// What `headwater receive` says before it speaks HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banner {
    /// The version of headwater there.
    pub headwater: String,
    /// The protocol versions it speaks.
    pub protocols: Vec<u32>,
    /// The sites, each with its directory and base path.
    pub sites: Vec<BannerSite>,
}

/// A site behind a banner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BannerSite {
    /// The directory of the mirror.
    pub directory: PathBuf,
    /// The site; nothing where no store was made yet and none is configured.
    #[serde(default)]
    pub site: Option<Site>,
    /// Where it is served: `/` or `/<name>/`.
    pub base: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_packs_reads_as_it_was_written_and_else_not() {
        let pack = PackHead::Pack { id: PackId::of(b"a"), bytes: 300 };
        for head in [pack, PackHead::End { is_whole: true }, PackHead::End { is_whole: false }] {
            assert_eq!(PackHead::parse(&head.to_bytes()), Some(head));
        }
        let mut head = PackHead::End { is_whole: true }.to_bytes();
        for at in 0..32 {
            head[at] ^= 1;
            assert_eq!(PackHead::parse(&head), None);
            head[at] ^= 1;
        }
    }

    #[test]
    fn a_detail_that_nobody_knows_is_no_fault() {
        let read = |text: &str| serde_json::from_str::<ProtocolError>(text).unwrap().detail;
        assert_eq!(read(r#"{"kind":"no_space","message":"x","detail":"quota"}"#), Some(Detail::Quota));
        assert_eq!(read(r#"{"kind":"no_space","message":"x","detail":"of_tomorrow"}"#), Some(Detail::Other));
        assert_eq!(read(r#"{"kind":"no_space","message":"x"}"#), None);
    }
}
