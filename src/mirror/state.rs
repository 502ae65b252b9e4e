//! What a mirror says of itself when it is asked for its state.

use std::time::Duration;

use crate::hash::StoreId;
use crate::mirror::Expiries;
use crate::release::{Release, ReleaseName};
use crate::tree_path::Site;

/// What a mirror tells of itself.
#[derive(Debug, Clone, Default)]
pub struct MirrorState {
    /// The id of its store; nothing where none was made yet.
    pub store: Option<StoreId>,
    /// The site it holds; nothing where no store was made yet.
    pub site: Option<Site>,
    /// The only site that a store made here may have; `None` if it may have any.
    pub only_site: Option<Site>,
    /// What `current` names, whether or not its record can be read.
    pub current: Option<ReleaseName>,
    /// The records of the releases that are or were served, ascending, those that can be read.
    pub releases: Vec<Release>,
    /// The release that is staged and not current, if there is one.
    pub staged: Option<Release>,
    /// The highest sequence of anything there: a new release must be above it.
    pub highest_sequence: u64,
    /// Bytes free where it is, if it can tell.
    pub free_bytes: Option<u64>,
    /// Bytes of content there of pushes that did not end.
    pub incoming_bytes: u64,
    /// When the next retired entry of the current release is due, by the clock of the mirror.
    pub next_expiry: Option<u64>,
    /// Retired entries whose `until` is at or before this time are not served there any more.
    pub expired_through: u64,
    /// About how long a message to it and its answer take, where there is a network between.
    pub round_trip: Option<Duration>,
    /// When what it was reached with ends.
    pub expiries: Expiries,
    /// What its receiver says of itself; `None` of a directory on this machine.
    pub receiver: Option<ReceiverInfo>,
}

/// What a receiver says of itself and of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverInfo {
    /// The version of headwater there. Of a peer: to be escaped before it is shown.
    pub version: String,
    /// Whether who asked may push.
    pub may_push: bool,
    /// Its clock, in seconds since 1970, if it says so.
    pub time: Option<u64>,
}

impl MirrorState {
    /// The record of the current release, if it can be read.
    #[must_use]
    pub fn current_release(&self) -> Option<&Release> {
        let current = self.current?;
        self.releases.iter().rev().find(|release| release.name() == current)
    }
}
