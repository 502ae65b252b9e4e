#![doc = include_str!("PROTOCOL.md")]
//!
//! ---
//!
//! This module contains the messages and limits that both ends share. It uses no socket, file or
//! clock, and contains neither a client nor a server.

mod clean_up;
mod error;
mod part;
mod signatures;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hash::{BundleKey, ManifestId, ObjectId, PackId, StoreId};
use crate::release::ReleaseName;
pub use crate::store::{Fault, HistoryEvent, Pruned, Verified};
use crate::tree_path::Site;

pub use clean_up::{CleanUpResult, HookRun, HookState};
pub use error::{ErrorDetail, ProtocolError, READ_ONLY_MESSAGE};
pub use part::{HeldObjects, ObjectPart};
pub use signatures::{MAX_SIGNED_BYTES, MAX_SIGNED_OBJECTS, SignatureRequest, read_signature};

/// The protocol version of this headwater.
pub const VERSION: u32 = 1;
/// The header that carries a request's protocol version.
pub const VERSION_HEADER: &str = "headwater-protocol";
/// The first bytes of the banner of `headwater receive`.
// The version is text before the JSON, so that a client can recognise the banner of another version
// without reading its JSON.
pub const BANNER: &str = "headwater receive 1 ";
/// Maximum size of a stage's head, in bytes. The head contains a release record.
// A record is at most 1 MiB long. In a JSON string, each of its quotes takes two bytes.
pub const MAX_HEAD_BYTES: u32 = 4 * 1024 * 1024;
/// Maximum size of a manifest change, in bytes: enough for about ten million entries.
pub const MAX_CHANGE_BYTES: u64 = 1024 * 1024 * 1024;
/// Maximum body size, in bytes, of a request that carries no packs or file content.
// Receivers read bodies of this size without reserving memory for them.
pub const MAX_MESSAGE_BYTES: u64 = 64 * 1024;
/// Maximum number of objects in one `v1/holds` request.
// A request takes 1 MiB, and the response 8 KiB of hexadecimal digits.
pub const MAX_HOLDS_OBJECTS: usize = 32 * 1024;
/// Maximum number of parts in one `v1/objects` request.
pub const MAX_OBJECT_PARTS: usize = 8 * 1024;
/// Maximum total size of the packs in one body, including their headers, in bytes.
// Two packs of the largest size.
pub const MAX_PACKS_BYTES: u64 = 64 * 1024 * 1024;

/// The resource that a request names, below the base path of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The state of the mirror.
    State,
    /// The public status of the mirror.
    Status,
    /// The history of the mirror.
    History,
    /// A manifest.
    Manifest(ManifestId),
    /// An object.
    Object(ObjectId),
    /// The record of a release.
    Release(ReleaseName),
    /// A pack of an open stage.
    Pack(BundleKey, PackId),
    /// Several packs of an open stage.
    Packs(BundleKey),
    /// An action.
    Action(Action),
}

/// An operation that is requested with `POST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a release complete without serving it.
    Stage,
    /// Make the staged release current.
    Activate,
    /// Drop the staged release.
    Abandon,
    /// Clean up after an activation.
    CleanUp,
    /// Drop all content that no release needs.
    Prune,
    /// Search for damage.
    Verify,
    /// Repair damage.
    Repair,
    /// Report which objects the mirror has.
    Holds,
    /// Send parts of objects.
    Objects,
    /// Send block signatures of objects.
    Signatures,
}

impl Action {
    const ALL: [Self; 10] = [
        Self::Stage,
        Self::Activate,
        Self::Abandon,
        Self::CleanUp,
        Self::Prune,
        Self::Verify,
        Self::Repair,
        Self::Holds,
        Self::Objects,
        Self::Signatures,
    ];

    /// The name of the action in a path.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Activate => "activate",
            Self::Abandon => "abandon",
            Self::CleanUp => "settle",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::Repair => "repair",
            Self::Holds => "holds",
            Self::Objects => "objects",
            Self::Signatures => "signatures",
        }
    }

    /// Maximum body size, in bytes, of a request for the action. A stage has its own limits.
    #[must_use]
    pub const fn max_body_bytes(self) -> u64 {
        match self {
            Self::Holds => 32 * MAX_HOLDS_OBJECTS as u64,
            Self::Objects => (ObjectPart::BYTES * MAX_OBJECT_PARTS) as u64,
            Self::Signatures => SignatureRequest::MAX_BYTES as u64,
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
    /// Parses a path relative to the base path of a site. Returns `None` unless the path is the
    /// canonical spelling of a resource.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let rest = match path.strip_prefix("v1/") {
            Some(rest) => rest,
            None => return (path == "status.json").then_some(Self::Status),
        };
        // At most four parts, one more than any resource has, so that a longer path matches none.
        let parts: Vec<&str> = rest.splitn(4, '/').collect();
        match parts[..] {
            ["state"] => Some(Self::State),
            ["history"] => Some(Self::History),
            // Ids and names have only one spelling, and nothing is decoded: no second path leads to
            // a resource, and no path leads outside.
            ["manifests", id] => Some(Self::Manifest(ManifestId::parse_hex(id.as_bytes())?)),
            ["objects", id] => Some(Self::Object(ObjectId::parse_hex(id.as_bytes())?)),
            ["releases", name] => Some(Self::Release(name.parse().ok()?)),
            ["packs", key] => Some(Self::Packs(BundleKey::parse_hex(key.as_bytes())?)),
            ["packs", key, id] => Some(Self::Pack(
                BundleKey::parse_hex(key.as_bytes())?,
                PackId::parse_hex(id.as_bytes())?,
            )),
            [name] => {
                Action::ALL.into_iter().find(|action| action.name() == name).map(Self::Action)
            }
            _ => None,
        }
    }
}

/// The JSON object of every response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseMessage<T> {
    /// The request succeeded.
    #[serde(rename = "ok")]
    Ok(T),
    /// The request failed.
    #[serde(rename = "error")]
    Error(ProtocolError),
}

/// The result of a successful request that returns nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
// The braces make it a JSON object, not `null`, so that a field can be added later.
pub struct Done {}

/// The state of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of headwater on the receiver.
    #[serde(default)]
    pub headwater: String,
    /// The id of the store; `None` if no store has been created yet.
    #[serde(default)]
    pub store: Option<StoreId>,
    /// The site. A receiver that is configured for one site reports it even before a store exists.
    #[serde(default)]
    pub site: Option<Site>,
    /// The release that `current` points to.
    #[serde(default)]
    pub current: Option<ReleaseName>,
    /// The canonical records of the releases that are or were served, in ascending order.
    #[serde(default)]
    // Strings, not objects: the id of a release is the hash of exactly these bytes.
    pub releases: Vec<String>,
    /// The canonical record of the release that is staged but not current.
    #[serde(default)]
    pub staged: Option<String>,
    /// The highest sequence of any release that the mirror has had.
    #[serde(default)]
    pub highest_sequence: u64,
    /// The receiver's clock, in seconds since 1970.
    #[serde(default)]
    pub time: Option<u64>,
    /// Free bytes on the mirror's file system.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// The keys of bundles that interrupted pushes have left unfinished here; `None` if unknown.
    #[serde(default)]
    pub unfinished: Option<Vec<BundleKey>>,
    /// The largest release that the receiver accepts, in bytes; `None` if there is no such quota.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// The largest release that the receiver accepts, in entries; `None` if there is no such quota.
    #[serde(default)]
    pub quota_entries: Option<u64>,
    /// Bytes of content that unfinished pushes have left behind.
    #[serde(default)]
    pub incoming_bytes: u64,
    /// When the next retired entry in the current release expires, in seconds since 1970 by the
    /// receiver's clock.
    #[serde(default)]
    pub next_expiry: Option<u64>,
    /// Retired entries whose `until` is at or before this time are no longer served.
    #[serde(default)]
    pub expired_through: u64,
    /// Whether the client may push. `true` if the receiver does not say: a push that is not allowed
    /// then fails.
    #[serde(default = "yes")]
    pub may_push: bool,
    /// Why the receiver cannot write to the mirror; `None` if it found no reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritable: Option<ProtocolError>,
    /// When the client's token expires, in seconds since 1970. `None` if it does not expire, or if
    /// no token is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires: Option<u64>,
}

const fn yes() -> bool {
    true
}

/// The public status of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The site.
    pub site: Site,
    /// The sequence of the current release.
    pub sequence: Option<u64>,
    /// The name of the current release.
    pub release: Option<ReleaseName>,
    /// When the current release was created, in seconds since 1970.
    pub published: Option<u64>,
    /// When the current release became current on this mirror, in seconds since 1970.
    pub activated: Option<u64>,
}

/// The history of a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The events in the order in which they were recorded.
    #[serde(default)]
    pub events: Vec<HistoryEvent>,
}

/// The head of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageHead {
    /// The canonical record of the release.
    // A string, because the receiver stores these bytes and computes the id from them.
    pub release: String,
    /// The key of the bundle.
    pub key: BundleKey,
    /// The manifest that the change is based on; `None` for the empty manifest.
    #[serde(default)]
    pub base: Option<ManifestId>,
    /// Length of the manifest change in bytes; 0 to use the open stage's change.
    pub change_bytes: u64,
    /// Whether this body contains packs.
    #[serde(default)]
    pub has_packs: bool,
    /// Whether this body completes the content. Ignored if the body contains packs, because their
    /// end marker says so.
    pub is_whole: bool,
}

/// The header of each pack in a body with several packs, or the end marker for the packs in a
/// stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackHead {
    /// A pack follows.
    Pack {
        /// The id of the pack.
        id: PackId,
        /// The length of the pack in bytes, at least 1.
        bytes: u32,
    },
    /// No more packs follow in this body.
    End {
        /// Whether all packs have been sent, counting the packs that the receiver already had.
        is_whole: bool,
    },
}

impl PackHead {
    /// Length of a header in bytes.
    pub const BYTES: usize = 32 + 4;

    /// Encodes the id and the length, big endian. A length of 0 is the end marker. Its id is 32
    /// bytes of 1 if all packs have been sent, and 32 bytes of 0 if more follow in another request.
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

    /// Parses a header; `None` if it is neither a pack nor a valid end marker.
    #[must_use]
    pub fn parse(head: &[u8; Self::BYTES]) -> Option<Self> {
        let (id, bytes) = head.split_first_chunk::<32>()?;
        let bytes = u32::from_be_bytes(bytes.try_into().ok()?);
        match (bytes, id) {
            (1.., id) => Some(Self::Pack { id: PackId::from_bytes(*id), bytes }),
            // All 32 bytes are compared: any other id with length 0 is refused.
            (0, [0, ..]) if *id == [0; 32] => Some(Self::End { is_whole: false }),
            (0, [1, ..]) if *id == [1; 32] => Some(Self::End { is_whole: true }),
            (0, _) => None,
        }
    }
}

/// The result of [`Action::Stage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageResult {
    /// The release is complete and durable on the mirror.
    Staged {
        /// Number of objects that were sent as a whole because they were damaged or missing.
        resent: u64,
    },
    /// More packs are needed; the receiver already has these packs.
    Held(Vec<PackId>),
    /// These base objects are damaged or missing on the mirror.
    #[serde(rename = "lacking")]
    Missing(Vec<ObjectId>),
}

/// The message of [`Action::Activate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activate {
    /// The staged release.
    pub release: ReleaseName,
    /// The release that must be current now; otherwise the activation is refused. `None` if no
    /// release may be current.
    #[serde(default)]
    pub expected: Option<ReleaseName>,
}

/// The result of [`Action::Activate`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// The id of the store, which may have been created for this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
}

/// The message of [`Action::Abandon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandon {
    /// The staged release.
    pub release: ReleaseName,
}

/// The message of [`Action::CleanUp`] and [`Action::Prune`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepReleases {
    /// The number of releases to keep. The configuration of the receiver overrides it.
    pub keep: usize,
}

/// The message of [`Action::Verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Compare only sizes and times; do not read content.
    #[serde(default)]
    pub quick: bool,
}

/// The message of [`Action::Repair`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Whether the origin has nothing more to send. The receiver then drops the data that it cannot
    /// repair.
    #[serde(default)]
    pub is_last: bool,
}

/// The result of [`Action::Repair`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepairResult {
    /// Faults found before the repair.
    pub found: Vec<Fault>,
    /// Number of objects that were restored from uploads.
    pub objects: u64,
    /// Number of served entries, records and manifests that were restored.
    #[serde(rename = "mended")]
    pub repaired_files: u64,
    /// Faults that remain.
    #[serde(rename = "left")]
    pub remaining: Vec<Fault>,
    /// The content that the receiver needs, and whose upload it accepts.
    #[serde(rename = "wants")]
    pub needed: NeededContent,
}

/// The content that a receiver needs for a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NeededContent {
    /// Objects.
    pub objects: Vec<ObjectId>,
    /// Manifests.
    pub manifests: Vec<ManifestId>,
    /// Records of releases.
    pub releases: Vec<ReleaseName>,
}

/// The line that `headwater receive` writes before it starts HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banner {
    /// The version of headwater on the receiver.
    pub headwater: String,
    /// The protocol versions that the receiver supports.
    pub protocols: Vec<u32>,
    /// The sites, each with its directory and base path.
    pub sites: Vec<BannerSite>,
}

/// A site in a banner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BannerSite {
    /// The mirror's directory.
    pub directory: PathBuf,
    /// The site; `None` if no store exists yet and no name is configured.
    #[serde(default)]
    pub site: Option<Site>,
    /// The base path: `/` or `/<name>/`.
    pub base: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_head_round_trips_and_other_bytes_are_refused() {
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
    fn unknown_error_detail_is_accepted() {
        let read = |text: &str| serde_json::from_str::<ProtocolError>(text).unwrap().detail;
        assert_eq!(
            read(r#"{"kind":"no_space","message":"x","detail":"quota"}"#),
            Some(ErrorDetail::Quota)
        );
        assert_eq!(
            read(r#"{"kind":"no_space","message":"x","detail":"of_tomorrow"}"#),
            Some(ErrorDetail::Other)
        );
        assert_eq!(read(r#"{"kind":"no_space","message":"x"}"#), None);
    }
}
