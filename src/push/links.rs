//! How quick the ways to the mirrors are, and how hard to compress for them.
//!
//! One level holds for a push, chosen before its first block from what earlier
//! pushes measured, so that a push that broke off finds its packs again. Of a
//! way that is new it is known how long the first answer took: what is far
//! away is seldom quick.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::pack::Level;

/// Less says little about a way: it is over before the connection is at its speed.
const LEAST_BYTES: u64 = 4 << 20;

/// A mirror whose answers take so long is far away.
const FAR_MILLIS: u64 = 20;

/// What is known of a way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Way {
    /// Bytes a second that went over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    /// How long a message and its answer took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    millis: Option<u64>,
}

impl Way {
    /// The level for it: what two cores compress should still fill it.
    const fn level(self) -> i32 {
        let is_far = matches!(self.millis, Some(FAR_MILLIS..));
        match self.rate {
            Some(..1_000_000) => 9,
            Some(..4_000_000) => 7,
            Some(..16_000_000) | None if is_far => 7,
            _ => 3,
        }
    }
}

/// The ways to mirrors, by their locations.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: BTreeMap<String, Way>,
    measured: Mutex<BTreeMap<String, u64>>,
    crowd: Mutex<Crowd>,
    has_news: bool,
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
        if measured.is_empty() && !self.has_news {
            return None;
        }
        let mut all = self.known.clone();
        for (location, rate) in &*measured {
            all.entry(location.clone()).or_default().rate = Some(*rate);
        }
        Some(serde_json::to_vec(&all).expect("texts and numbers are JSON"))
    }

    /// Learns how long a message to a mirror and its answer took. What was learned first holds: what
    /// was made ahead for that level is still of use, and so are the packs of a push that broke off.
    pub(super) fn met(&mut self, location: &str, round_trip: Duration) {
        let way = self.known.entry(location.to_owned()).or_default();
        if way.millis.is_none() {
            way.millis = Some(u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX));
            self.has_news = true;
        }
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

    /// The level for mirrors at these locations: that of the slowest.
    pub(super) fn level<'l>(&self, locations: impl Iterator<Item = &'l str>) -> Level {
        let way = |location| self.known.get(location).copied().unwrap_or_default();
        Level::Zstd(locations.map(|location| way(location).level()).max().unwrap_or(Way::default().level()))
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
        assert_eq!(next.level(both()), Level::Zstd(7));
        assert_eq!(next.to_bytes(), None);
        next.note("https://b/", 8 << 20, Duration::from_secs(60));
        let last = Links::parse(&next.to_bytes().unwrap());
        assert_eq!(last.level(both()), Level::Zstd(9));
        assert_eq!(last.level(["https://a/"].into_iter()), Level::Zstd(7));
    }

    #[test]
    fn what_is_far_away_is_taken_for_slow_until_it_turns_out_to_be_quick() {
        let mut links = Links::default();
        let level = |links: &Links| links.level(["https://a/"].into_iter());
        links.met("https://a/", Duration::from_millis(19));
        assert_eq!(level(&links), Level::Zstd(3));
        let mut links = Links::default();
        links.met("https://a/", Duration::from_millis(20));
        assert_eq!(level(&links), Level::Zstd(7));
        links.met("https://a/", Duration::from_millis(1));
        assert_eq!(level(&links), Level::Zstd(7), "what was learned first holds");
        links.note("https://a/", 12 << 20, Duration::from_secs(1));
        let mut links = Links::parse(&links.to_bytes().unwrap());
        assert_eq!(level(&links), Level::Zstd(7));
        links.met("https://a/", Duration::from_millis(20));
        assert_eq!(links.to_bytes(), None, "that is no news");
        links.note("https://a/", 30 << 20, Duration::from_secs(1));
        assert_eq!(level(&Links::parse(&links.to_bytes().unwrap())), Level::Zstd(3));
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
