//! How quick the ways to the mirrors are, and how hard to compress for them.
//!
//! One level holds for a push, chosen before its first block from what earlier
//! pushes measured, so that a push that broke off finds its packs again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pack::Level;

/// Less says little about a way: it is over before the connection is at its speed.
const LEAST_BYTES: u64 = 4 << 20;

/// Bytes a second that mirrors, by their locations, took.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: BTreeMap<String, u64>,
    measured: Mutex<BTreeMap<String, u64>>,
    crowd: Mutex<Crowd>,
}

/// How many mirrors are sent to at once. What they share is the origin: that each of many
/// gets little of it does not make their ways slow.
#[derive(Debug, Default)]
struct Crowd {
    present: u32,
    /// Time that was spent by all of them together, until `since`.
    spent: Duration,
    since: Option<Instant>,
}

impl Crowd {
    /// The time that was spent by all until `now`.
    fn spend(&mut self, now: Instant) -> Duration {
        let passed = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.spent += passed * self.present;
        self.since = Some(now);
        self.spent
    }
}

/// The way of a mirror that is being sent to.
#[derive(Debug)]
pub(super) struct Passage<'l> {
    links: &'l Links,
    began: Instant,
    spent: Duration,
}

impl Passage<'_> {
    /// How long it would have taken if the mirror had had the origin for itself.
    fn time_alone(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.began);
        let spent = self.links.crowd().spend(now).saturating_sub(self.spent);
        if spent > passed { passed.mul_f64(passed.div_duration_f64(spent)) } else { passed }
    }

    /// Notes that the mirror took so many bytes.
    pub(super) fn note(&self, location: &str, bytes: u64) {
        self.links.note(location, bytes, self.time_alone(Instant::now()));
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut crowd = self.links.crowd();
        crowd.spend(Instant::now());
        crowd.present -= 1;
    }
}

impl Links {
    /// What earlier pushes measured, as [`Links::to_bytes`] wrote it. What cannot be read was not measured.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self { known: serde_json::from_slice(bytes).unwrap_or_default(), ..Self::default() }
    }

    /// What is known now; nothing where this push learned nothing.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.is_empty() {
            return None;
        }
        let all: BTreeMap<_, _> = self.known.iter().chain(measured.iter()).collect();
        Some(serde_json::to_vec(&all).expect("texts and numbers are JSON"))
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to send to a mirror.
    pub(super) fn begin(&self) -> Passage<'_> {
        self.begin_at(Instant::now())
    }

    fn begin_at(&self, began: Instant) -> Passage<'_> {
        let mut crowd = self.crowd();
        let spent = crowd.spend(began);
        crowd.present += 1;
        Passage { links: self, began, spent }
    }

    /// Notes that a mirror took so many bytes in so much time.
    fn note(&self, location: &str, bytes: u64, passed: Duration) {
        if bytes >= LEAST_BYTES {
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = bytes.saturating_mul(1000) / millis;
            self.measured.lock().unwrap_or_else(PoisonError::into_inner).insert(location.to_owned(), rate);
        }
    }

    /// The level for mirrors far away at these locations: that of the slowest.
    pub(super) fn level<'l>(&self, locations: impl Iterator<Item = &'l str>) -> Level {
        let slowest = locations.filter_map(|location| self.known.get(location)).min();
        // What two cores compress, at a tenth of its size, should still fill the way.
        Level::Zstd(match slowest {
            Some(..1_000_000) => 9,
            Some(..4_000_000) => 6,
            _ => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_ways_get_a_higher_level_the_next_time() {
        let links = Links::parse(b"not json");
        let both = || ["https://a/", "https://b/"].into_iter();
        assert_eq!(links.level(both()), Level::Zstd(3));
        links.note("https://a/", 8 << 20, Duration::from_secs(4));
        links.note("https://b/", 1 << 20, Duration::from_secs(90));
        assert_eq!(links.level(both()), Level::Zstd(3), "one level holds for a push");
        let next = Links::parse(&links.to_bytes().unwrap());
        assert_eq!(next.level(both()), Level::Zstd(6));
        assert_eq!(next.to_bytes(), None);
        next.note("https://b/", 8 << 20, Duration::from_secs(60));
        let last = Links::parse(&next.to_bytes().unwrap());
        assert_eq!(last.level(both()), Level::Zstd(9));
        assert_eq!(last.level(["https://a/"].into_iter()), Level::Zstd(6));
    }

    #[test]
    fn one_of_many_is_not_slow_and_one_that_is_left_alone_is() {
        let links = Links::default();
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let slow = links.begin_at(began);
        let quick: Vec<_> = (0..7).map(|_| links.begin_at(began)).collect();
        assert_eq!(quick[0].time_alone(after(8)), Duration::from_secs(1));
        links.crowd().present = 1;
        // In 50 seconds 106 were spent by all: 64 in the first 8, 42 by it alone.
        let alone = slow.time_alone(after(50)).as_secs_f64();
        assert!((23.0..24.0).contains(&alone), "{alone}");
        links.crowd().present = 8;
    }
}
