//! The state of a mirror.

use std::time::Duration;

use crate::hash::StoreId;
use crate::mirror::Expiries;
use crate::mirror::transport_error::TransportError;
use crate::protocol;
use crate::release::{MAX_SEQUENCE, Release, ReleaseName};
use crate::tree_path::Site;

/// The state of a mirror, as the mirror reports it.
#[derive(Debug, Clone, Default)]
pub struct MirrorState {
    /// The id of the mirror's store; `None` if the store does not exist yet.
    pub store: Option<StoreId>,
    /// The site of the mirror's store; `None` if the store does not exist yet.
    pub site: Option<Site>,
    /// The only site that a store may be created for here; `None` if any site is allowed.
    pub only_site: Option<Site>,
    /// The release that `current` points to, even if its record cannot be read.
    pub current: Option<ReleaseName>,
    /// The readable records of the releases that are or were served, in ascending order.
    pub releases: Vec<Release>,
    /// The staged release that is not current, if there is one.
    pub staged: Option<Release>,
    /// The highest sequence that the mirror has seen; a new release must have a higher sequence.
    pub highest_sequence: u64,
    /// Free bytes on the mirror's file system, if known.
    pub free_bytes: Option<u64>,
    /// Bytes of content on the mirror from unfinished pushes.
    pub incoming_bytes: u64,
    /// When the next retired entry in the current release expires, by the mirror's clock.
    pub next_expiry: Option<u64>,
    /// Retired entries whose `until` is at or before this time are no longer served.
    pub expired_through: u64,
    /// The approximate round-trip time of a remote mirror.
    pub round_trip: Option<Duration>,
    /// When the credentials of the connection expire.
    pub expiries: Expiries,
    /// The mirror's receiver; `None` for a directory on this machine.
    pub receiver: Option<ReceiverInfo>,
}

/// A receiver, and the permission that it gives the client, as the receiver reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverInfo {
    /// The version of headwater on the receiver. The text comes from a peer: escape it before you
    /// show it.
    pub version: String,
    /// Whether the client may push.
    pub may_push: bool,
    /// The receiver's clock, in seconds since 1970, if it reports the time.
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

impl TryFrom<protocol::State> for MirrorState {
    type Error = TransportError;

    /// Converts the state that a receiver reported. A record that cannot be parsed is left out,
    /// like a damaged record in a local store.
    fn try_from(state: protocol::State) -> Result<Self, TransportError> {
        let record = |text: &str| Release::parse(text.as_bytes()).ok();
        let mut releases: Vec<Release> =
            state.releases.iter().filter_map(|text| record(text)).collect();
        // A peer may send the releases in any order and with duplicates.
        releases.sort_by_cached_key(Release::name);
        releases.dedup_by_key(|release| release.name());
        let staged = state.staged.as_deref().and_then(record);
        let of_releases = releases.iter().chain(&staged).map(|release| release.sequence);
        let named = state.current.map(|current| current.sequence());
        let highest_sequence = of_releases.chain(named).fold(state.highest_sequence, u64::max);
        if highest_sequence > MAX_SEQUENCE {
            let what = format!("the highest sequence {highest_sequence} is not below 2^53");
            return Err(TransportError::Foreign { status: 200, what });
        }
        let receiver =
            ReceiverInfo { version: state.headwater, may_push: state.may_push, time: state.time };
        Ok(Self {
            store: state.store,
            // A receiver may be bound to a site before it has a store; the mirror then has no site
            // yet.
            site: state.site.clone().filter(|_| state.store.is_some()),
            only_site: state.site.filter(|_| state.store.is_none()),
            current: state.current,
            releases,
            staged,
            highest_sequence,
            free_bytes: state.free_bytes,
            incoming_bytes: state.incoming_bytes,
            next_expiry: state.next_expiry,
            expired_through: state.expired_through,
            receiver: Some(receiver),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_beyond_the_maximum_is_refused() {
        let state =
            |highest_sequence| protocol::State { highest_sequence, ..protocol::State::default() };
        assert_eq!(
            MirrorState::try_from(state(MAX_SEQUENCE)).unwrap().highest_sequence,
            MAX_SEQUENCE
        );
        for sequence in [MAX_SEQUENCE + 1, u64::MAX] {
            assert!(MirrorState::try_from(state(sequence)).is_err());
        }
    }
}
