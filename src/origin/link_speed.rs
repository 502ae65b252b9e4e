//! The measured speeds of the links to mirrors, and the compression level that suits them.
//!
//! A push uses a single level, which it chooses before its first block from the measurements of
//! earlier pushes. This way, a resumed push makes the same packs again. For a new link, only the
//! time of the first response is known, but distant mirrors rarely have fast links.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::pack::Level;

/// Transfers smaller than this are not measured: they end before the connection reaches full speed.
const MIN_MEASURED_BYTES: u64 = 4 << 20;

/// A mirror with at least this round-trip time, in milliseconds, is distant.
const DISTANT_RTT_MILLIS: u64 = 20;

/// The measurements of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LinkSpeed {
    /// Transfer rate in bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    /// Round-trip time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "millis")]
    rtt_millis: Option<u64>,
}

impl LinkSpeed {
    /// The level for the link. Two cores compressing at that level should still saturate the link.
    const fn level(self) -> i32 {
        let is_far = matches!(self.rtt_millis, Some(DISTANT_RTT_MILLIS..));
        match self.rate {
            Some(..1_000_000) => 9,
            Some(..4_000_000) => 7,
            Some(..16_000_000) | None if is_far => 7,
            _ => 3,
        }
    }
}

/// The measurements of the links, indexed by mirror location.
#[derive(Debug, Default)]
pub(crate) struct SpeedTable {
    known: BTreeMap<String, LinkSpeed>,
    measured: Mutex<BTreeMap<String, u64>>,
    transfers: Mutex<ActiveTransfers>,
    has_new_rtt: bool,
}

/// The number of mirrors that are receiving content. They share the origin's bandwidth, so a low
/// rate to each of many mirrors does not mean that their links are slow.
#[derive(Debug, Default)]
struct ActiveTransfers {
    count: u32,
    /// The time spent by all transfers together until `since`.
    total_time: Duration,
    since: Option<Instant>,
}

impl ActiveTransfers {
    /// Updates and returns the time spent by all transfers together until `now`.
    fn advance(&mut self, now: Instant) -> Duration {
        let passed =
            self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.total_time += passed * self.count;
        self.since = Some(now);
        self.total_time
    }
}

/// Measures a transfer to a mirror.
#[derive(Debug)]
pub(crate) struct TransferTimer<'l> {
    speeds: &'l SpeedTable,
    began: Instant,
    total_time_at_start: Duration,
}

impl TransferTimer<'_> {
    /// How long the transfer would have taken if the mirror had had the origin to itself.
    fn time_alone(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.began);
        let spent =
            self.speeds.lock_transfers().advance(now).saturating_sub(self.total_time_at_start);
        // While `n` transfers run, `spent` grows `n` times as fast as the clock.
        if spent > passed { passed.mul_f64(passed.div_duration_f64(spent)) } else { passed }
    }

    /// Records that the mirror received `bytes` bytes.
    pub(crate) fn record(&self, location: &str, bytes: u64) {
        self.speeds.record_rate(location, bytes, self.time_alone(Instant::now()));
    }
}

impl Drop for TransferTimer<'_> {
    fn drop(&mut self) {
        let mut transfers = self.speeds.lock_transfers();
        // Before the count changes, because the time until now was shared with this transfer.
        transfers.advance(Instant::now());
        transfers.count -= 1;
    }
}

impl SpeedTable {
    /// Reads the measurements of earlier pushes, as written by [`SpeedTable::to_bytes`]. Returns an
    /// empty table if they cannot be read.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self { known: serde_json::from_slice(bytes).unwrap_or_default(), ..Self::default() }
    }

    /// The measurements as bytes; `None` if this push measured nothing new.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let measured = self.measured.lock();
        if measured.is_empty() && !self.has_new_rtt {
            return None;
        }
        let mut all = self.known.clone();
        for (location, rate) in &*measured {
            all.entry(location.clone()).or_default().rate = Some(*rate);
        }
        Some(serde_json::to_vec(&all).expect("texts and numbers are JSON"))
    }

    /// Records a round-trip time, if none is known for the mirror. The first measurement is kept,
    /// so that the level does not change and the packs of an interrupted push can still be used.
    pub(crate) fn record_rtt(&mut self, location: &str, round_trip: Duration) {
        let speed = self.known.entry(location.to_owned()).or_default();
        if speed.rtt_millis.is_none() {
            speed.rtt_millis = Some(u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX));
            self.has_new_rtt = true;
        }
    }

    fn lock_transfers(&self) -> MutexGuard<'_, ActiveTransfers> {
        self.transfers.lock()
    }

    /// Starts to measure a transfer to a mirror.
    pub(crate) fn begin(&self) -> TransferTimer<'_> {
        self.begin_at(Instant::now())
    }

    fn begin_at(&self, began: Instant) -> TransferTimer<'_> {
        let mut transfers = self.lock_transfers();
        let spent = transfers.advance(began);
        transfers.count += 1;
        TransferTimer { speeds: self, began, total_time_at_start: spent }
    }

    /// Records that a mirror received `bytes` bytes in `passed`.
    fn record_rate(&self, location: &str, bytes: u64, passed: Duration) {
        if bytes >= MIN_MEASURED_BYTES {
            // At least 1, because the rate is divided by it.
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = bytes.saturating_mul(1000) / millis;
            self.measured.lock().insert(location.to_owned(), rate);
        }
    }

    /// The level for mirrors at these locations: the level of the slowest link.
    pub(crate) fn level<'l>(&self, locations: impl Iterator<Item = &'l str>) -> Level {
        let speed_of = |location| self.known.get(location).copied().unwrap_or_default();
        Level::Zstd(
            locations
                .map(|location| speed_of(location).level())
                .max()
                .unwrap_or(LinkSpeed::default().level()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_links_get_a_higher_level_next_time() {
        let speeds = SpeedTable::parse(b"not json");
        let both = || ["https://a/", "https://b/"].into_iter();
        assert_eq!(speeds.level(both()), Level::Zstd(3));
        speeds.record_rate("https://a/", 8 << 20, Duration::from_secs(4));
        speeds.record_rate("https://b/", 1 << 20, Duration::from_secs(90));
        assert_eq!(speeds.level(both()), Level::Zstd(3), "one level holds for a push");
        let next = SpeedTable::parse(&speeds.to_bytes().unwrap());
        assert_eq!(next.level(both()), Level::Zstd(7));
        assert_eq!(next.to_bytes(), None);
        next.record_rate("https://b/", 8 << 20, Duration::from_secs(60));
        let last = SpeedTable::parse(&next.to_bytes().unwrap());
        assert_eq!(last.level(both()), Level::Zstd(9));
        assert_eq!(last.level(["https://a/"].into_iter()), Level::Zstd(7));
    }

    #[test]
    fn distant_mirror_counts_as_slow_until_measured_fast() {
        let mut speeds = SpeedTable::default();
        let level = |speeds: &SpeedTable| speeds.level(["https://a/"].into_iter());
        speeds.record_rtt("https://a/", Duration::from_millis(19));
        assert_eq!(level(&speeds), Level::Zstd(3));
        let mut speeds = SpeedTable::default();
        speeds.record_rtt("https://a/", Duration::from_millis(20));
        assert_eq!(level(&speeds), Level::Zstd(7));
        speeds.record_rtt("https://a/", Duration::from_millis(1));
        assert_eq!(level(&speeds), Level::Zstd(7), "what was learned first holds");
        speeds.record_rate("https://a/", 12 << 20, Duration::from_secs(1));
        let mut speeds = SpeedTable::parse(&speeds.to_bytes().unwrap());
        assert_eq!(level(&speeds), Level::Zstd(7));
        speeds.record_rtt("https://a/", Duration::from_millis(20));
        assert_eq!(speeds.to_bytes(), None, "that is no news");
        speeds.record_rate("https://a/", 30 << 20, Duration::from_secs(1));
        assert_eq!(level(&SpeedTable::parse(&speeds.to_bytes().unwrap())), Level::Zstd(3));
    }

    #[test]
    fn shared_transfer_time_is_divided_by_active_transfers() {
        let speeds = SpeedTable::default();
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let slow = speeds.begin_at(began);
        let quick: Vec<_> = (0..7).map(|_| speeds.begin_at(began)).collect();
        assert_eq!(quick[0].time_alone(after(8)), Duration::from_secs(1));
        speeds.lock_transfers().count = 1;
        // In 50 seconds 106 were spent by all: 64 in the first 8, 42 by it alone.
        let alone = slow.time_alone(after(50)).as_secs_f64();
        assert!((23.0..24.0).contains(&alone), "{alone}");
        speeds.lock_transfers().count = 8;
    }
}
