#![doc = include_str!("FORMAT.md")]
//!
//! ---
//!
//! This module keeps the releases of a mirror on a disk: plain objects, manifests, release records
//! and the slots that a web server reads. It guarantees that `current` is one complete release at
//! every instant. It does not know who pushes, over which transport, or what a fleet is. The crate
//! `bytesize` formats the sizes in its errors.

mod activation;
mod content;
mod error;
mod expiry;
mod history;
mod layout;
mod maintenance;
mod open;
mod reserve;
mod staged_link;
mod staging;
#[cfg(test)]
pub(crate) mod testing;

use error::{is_damage, mismatch, unless_damaged};

pub use content::manifests::ManifestStream;
pub use content::permissions::{ContentMode, DirectoryMode, ModeError, Permissions};
pub use content::signatures::SignatureStream;
pub use error::StoreError;
pub use history::{EventKind, HistoryEvent};
pub use maintenance::prune::Pruned;
pub use maintenance::repair::{FetchRecords, Repaired};
pub use maintenance::verify::{Depth, Fault, FaultKind, Verified};
pub use open::{Presence, Store};
pub use staging::fetch::{Fetch, FetchError, FetchObject};
pub use staging::quarantine::Quarantine;
pub use staging::space::{Quota, needed_bytes};
pub use staging::stored_change::StoredChange;
pub use staging::transaction::{OfferedRelease, StagingTransaction};
