#![doc = include_str!("FORMAT.md")]
//!
//! ---
//!
//! This room keeps the releases of a mirror on a disk: plain objects, manifests, release records
//! and the slots that a web server reads. It guarantees that `current` is one complete release at
//! every instant. It does not know who pushes, over which transport, or what a fleet is. The crate
//! `bytesize` formats the sizes in its errors.

mod activation;
mod copy;
mod error;
mod expiry;
mod history;
mod layout;
mod manifests;
mod objects;
mod open;
mod permissions;
mod prune;
mod quarantine;
mod releases;
mod repair;
mod reserve;
mod room;
mod slot_builder;
mod slots;
mod staged_link;
mod stored_change;
#[cfg(test)]
pub(crate) mod testing;
mod transaction;
mod verify;
mod write_back;

use error::{is_damage, mismatch, unless_damaged};

pub use error::StoreError;
pub use history::{EventKind, HistoryEvent};
pub use manifests::ManifestStream;
pub use open::{Presence, Store};
pub use permissions::{ContentMode, DirectoryMode, ModeError, Permissions};
pub use prune::Pruned;
pub use quarantine::Quarantine;
pub use repair::{FetchRecords, Repaired};
pub use room::{Quota, needed_bytes};
pub use stored_change::StoredChange;
pub use transaction::{Fetch, FetchError, FetchObject, StagingTransaction};
pub use verify::{Depth, Fault, FaultKind, Verified};
