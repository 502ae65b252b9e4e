//! Counts the work that the library reports: a command's progress, its rate and the remaining time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use headwater::hash::{BundleKey, PackId};
use headwater::monitor::Event;

use crate::cli::output::format::{escape, format_bytes, format_duration, pluralize};

/// The time window over which a rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Minimum time over which a rate is measured.
const MIN_RATE_TIME: Duration = Duration::from_millis(500);

/// The progress so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct TransferCounts {
    /// Entries that the scan has seen.
    pub(crate) scanned_entries: u64,
    /// Bytes that the scan has read.
    pub(crate) hashed_bytes: u64,
    /// Whether a scan is running.
    pub(crate) is_scanning: bool,
    scan_rate: Rate,
    bundles: BTreeMap<BundleKey, BundleCounts>,
    pack_bytes: BTreeMap<PackId, u64>,
    /// The mirrors, first in the order that the command set, then in the order of their first
    /// events.
    pub(crate) mirrors: Vec<MirrorCounts>,
    /// The wave that is soaking before the next one switches.
    pub(crate) soak: Option<Soak>,
}

/// The progress of the packs of a bundle.
#[derive(Debug, Default, Clone, Copy)]
struct BundleCounts {
    content_bytes: u64,
    done_bytes: u64,
    packed_bytes: u64,
}

/// The progress of a mirror.
#[derive(Debug, Default, Clone)]
pub(crate) struct MirrorCounts {
    /// The name of the mirror.
    pub(crate) name: String,
    /// The mirror's last report as text; `None` while content is being sent.
    pub(crate) status_text: Option<String>,
    /// Whether the mirror is finished.
    pub(crate) is_done: bool,
    bundle: Option<BundleKey>,
    sent_bytes: u64,
    /// How many bytes of each pack in transfer have been sent.
    in_flight_bytes: BTreeMap<PackId, u64>,
    held_bytes: u64,
    rate: Rate,
}

impl MirrorCounts {
    /// Whether any content has been sent to the mirror.
    pub(crate) fn is_sending(&self) -> bool {
        self.transferred_bytes() > 0
    }

    /// Bytes sent to the mirror. The bytes of a pack count once, even if it is sent again.
    fn transferred_bytes(&self) -> u64 {
        self.sent_bytes + self.in_flight_bytes.values().sum::<u64>()
    }

    /// Records sent bytes.
    fn record_transfer(&mut self, now: Instant) {
        self.status_text = None;
        self.rate.record(now, self.transferred_bytes());
    }
}

/// A wave that is soaking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Soak {
    /// The number of the wave.
    pub(crate) wave: u64,
    /// The end of the soak time.
    pub(crate) end: Instant,
    /// The end of the soak time, in seconds since 1970.
    pub(crate) until: u64,
}

/// Bytes per second over the last few seconds.
#[derive(Debug, Default, Clone)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Records the sum at this moment.
    fn record(&mut self, now: Instant, sum: u64) {
        self.0.push_back((now, sum));
        // Keep one sample from before the window, as the starting point for the rate.
        while self.0.get(1).is_some_and(|(then, _)| now.duration_since(*then) >= RATE_WINDOW) {
            self.0.pop_front();
        }
    }

    /// The rate; `None` if it is unknown.
    fn per_second(&self, now: Instant) -> Option<u64> {
        let ((then, before), (_, sum)) = (self.0.front()?, self.0.back()?);
        let time = now.duration_since(*then);
        let rate = u128::from(sum.saturating_sub(*before)) * 1_000 / time.as_millis().max(1);
        u64::try_from(rate).ok().filter(|rate| time >= MIN_RATE_TIME && *rate > 0)
    }
}

impl BundleCounts {
    /// The estimated size of all packs; `None` while unknown.
    fn packed_estimate(&self) -> Option<u64> {
        // Assumes that the remaining content compresses as well as the content packed so far.
        let estimate = u128::from(self.packed_bytes) * u128::from(self.content_bytes);
        let estimate = estimate.checked_div(u128::from(self.done_bytes))?;
        u64::try_from(estimate).ok()
    }
}

/// The progress of the transfer to one or more mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TransferProgress {
    /// Percentage of the total that has been sent.
    pub(crate) percent: Option<u64>,
    /// Bytes that have been sent.
    pub(crate) done: u64,
    /// Bytes in total, if known.
    pub(crate) total: Option<u64>,
    /// Bytes per second.
    pub(crate) rate: Option<u64>,
    /// The remaining time.
    pub(crate) remaining: Option<Duration>,
}

impl TransferCounts {
    /// Sets the order of the mirrors.
    pub(crate) fn set_mirror_order<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        for name in names {
            self.mirror_mut(name);
        }
    }

    fn mirror_mut(&mut self, name: &str) -> &mut MirrorCounts {
        let index = self
            .mirrors
            .iter()
            .position(|mirror| mirror.name == name)
            .unwrap_or(self.mirrors.len());
        if index == self.mirrors.len() {
            self.mirrors.push(MirrorCounts { name: name.to_owned(), ..MirrorCounts::default() });
        }
        &mut self.mirrors[index]
    }

    fn set_status(&mut self, mirror: &str, state: impl Into<String>, is_done: bool) {
        let mirror = self.mirror_mut(mirror);
        (mirror.status_text, mirror.is_done) = (Some(state.into()), is_done);
    }

    /// Adds `event`, which has just happened.
    pub(crate) fn add_event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::ScanStarted { .. } => {
                self.is_scanning = true;
                self.scan_rate.record(now, 0);
            }
            Event::ScanAdvanced { entries, hashed_bytes } => {
                (self.scanned_entries, self.hashed_bytes) = (*entries, *hashed_bytes);
                self.scan_rate.record(now, *hashed_bytes);
            }
            Event::ScanFinished { entries, hashed_bytes, .. } => {
                (self.scanned_entries, self.hashed_bytes) = (*entries, *hashed_bytes);
                self.is_scanning = false;
            }
            Event::BundleStarted { bundle, mirrors, bytes, .. } => {
                self.bundles.insert(
                    *bundle,
                    BundleCounts { content_bytes: *bytes, ..BundleCounts::default() },
                );
                for name in mirrors {
                    let mirror = self.mirror_mut(name);
                    mirror.bundle = Some(*bundle);
                    mirror.rate.record(now, mirror.transferred_bytes());
                }
            }
            Event::BundleAdvanced { bundle, bytes, packed_bytes } => {
                let sums = self.bundles.entry(*bundle).or_default();
                (sums.done_bytes, sums.packed_bytes) = (*bytes, *packed_bytes);
            }
            Event::PackSealed { pack, bytes } => drop(self.pack_bytes.insert(*pack, *bytes)),
            _ => self.add_mirror_event(event, now),
        }
    }

    fn add_mirror_event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::PackAdvanced { mirror, pack, bytes } => {
                let mirror = self.mirror_mut(mirror);
                // Replaced, not added, because the next attempt to send a pack counts from the
                // start.
                mirror.in_flight_bytes.insert(*pack, *bytes);
                mirror.record_transfer(now);
            }
            Event::PackSent { mirror, pack, bytes } => {
                let mirror = self.mirror_mut(mirror);
                mirror.in_flight_bytes.remove(pack);
                mirror.sent_bytes += bytes;
                mirror.record_transfer(now);
            }
            Event::PackHeld { mirror, pack } => {
                let bytes = self.pack_bytes.get(pack).copied().unwrap_or_default();
                let held = self.mirror_mut(mirror);
                held.in_flight_bytes.remove(pack);
                held.held_bytes += bytes;
                self.set_status(mirror, "resumes an interrupted push", false);
            }
            Event::StateLearned { mirror, sequence: None } => {
                self.set_status(mirror, "is empty", false);
            }
            Event::StateLearned { mirror, sequence: Some(sequence) } => {
                self.set_status(mirror, format!("has release {sequence}"), false);
            }
            Event::AnswerOverdue { mirror } => {
                self.set_status(mirror, "waiting for a response", false);
            }
            Event::ObjectsResent { mirror, .. } => {
                self.set_status(mirror, "receives missing objects in full", false);
            }
            Event::Staged { mirror, sequence } => {
                self.set_status(mirror, format!("release {sequence} is ready"), false);
            }
            Event::Activated { mirror, sequence } => {
                self.set_status(mirror, format!("release {sequence} is current"), true);
            }
            Event::AlreadyCurrent { mirror, sequence } => {
                self.set_status(mirror, format!("release {sequence} was already current"), true);
            }
            Event::MirrorFailed { mirror, .. } => self.set_status(mirror, "failed", true),
            Event::SoakStarted { wave, seconds, until } => {
                self.soak = Some(Soak {
                    wave: *wave,
                    end: now + Duration::from_secs(*seconds),
                    until: *until,
                });
            }
            Event::SoakEnded { .. } => self.soak = None,
            _ => {}
        }
    }

    /// The progress on one line.
    pub(crate) fn progress_line(&self, now: Instant) -> String {
        if self.is_scanning {
            return self.scan_line(now);
        }
        let sending: Vec<&MirrorCounts> =
            self.mirrors.iter().filter(|mirror| mirror.is_sending()).collect();
        let mut parts = Vec::new();
        if self.is_packing() || sending.is_empty() {
            parts.push(self.bundle_line());
        }
        let to = match sending[..] {
            [] => return parts.join("; "),
            [mirror] => escape(&mirror.name).into_owned(),
            _ => pluralize(sending.len() as u64, "mirror", "mirrors"),
        };
        parts.push(format!(
            "{to}: {}",
            self.progress_of_mirrors(&sending, now).text_parts().join(", ")
        ));
        parts.join("; ")
    }

    /// Whether packs are being made.
    pub(crate) fn is_packing(&self) -> bool {
        self.bundles.values().any(|bundle| bundle.done_bytes < bundle.content_bytes)
    }

    /// Whether content is being packed. There is no bundle with content if only paths change.
    pub(crate) fn has_bundles(&self) -> bool {
        self.bundles.values().any(|bundle| bundle.content_bytes > 0)
    }

    /// The progress of the scan.
    pub(crate) fn scan_line(&self, now: Instant) -> String {
        let entries = pluralize(self.scanned_entries, "entry", "entries");
        let rate = self.scan_rate.per_second(now).filter(|_| self.is_scanning);
        let rate = rate.map(|rate| format!(", {}/s", format_bytes(rate))).unwrap_or_default();
        format!("scan: {entries}, {} read{rate}", format_bytes(self.hashed_bytes))
    }

    /// The progress of the packs. The total is the size of the largest bundle, because several
    /// bundles may have the same new content.
    pub(crate) fn bundle_line(&self) -> String {
        let sum = |of: fn(&BundleCounts) -> u64| self.bundles.values().map(of).sum::<u64>();
        let (done, all) = (sum(|one| one.done_bytes), sum(|one| one.content_bytes));
        let packed = sum(|one| one.packed_bytes);
        let largest = self.bundles.values().map(|one| one.content_bytes).max().unwrap_or_default();
        let mut line = format!("pack: {} % of {}", percent(done, all), format_bytes(largest));
        if packed < done {
            line.push_str(&format!(", compressed to {} %", percent(packed, done).max(1)));
        }
        line
    }

    /// The progress of the transfer to `mirror`; `None` if nothing has been sent.
    pub(crate) fn transfer_progress(
        &self,
        mirror: &MirrorCounts,
        now: Instant,
    ) -> Option<TransferProgress> {
        mirror.is_sending().then(|| self.progress_of_mirrors(&[mirror], now))
    }

    /// The progress of these mirrors. The total is the amount for each mirror, not the sum over all
    /// mirrors.
    fn progress_of_mirrors(&self, mirrors: &[&MirrorCounts], now: Instant) -> TransferProgress {
        let done = |mirror: &MirrorCounts| mirror.transferred_bytes() + mirror.held_bytes;
        let total = |mirror: &MirrorCounts| {
            let bundle = self.bundles.get(&mirror.bundle?)?;
            // A pack is a little larger than its blocks.
            Some(bundle.packed_estimate()?.max(done(mirror)))
        };
        let left_of = |mirror: &MirrorCounts| {
            let left = total(mirror)?.saturating_sub(done(mirror));
            Some(Duration::from_secs(left / mirror.rate.per_second(now)?))
        };
        let all: u64 = mirrors.iter().map(|mirror| done(mirror)).sum();
        let totals: Option<Vec<u64>> = mirrors.iter().map(|mirror| total(mirror)).collect();
        // Several mirrors may get the same packs, so a sum would mean nothing to a reader.
        let largest_total = totals.as_ref().and_then(|totals| totals.iter().max().copied());
        let hundredths = totals.as_ref().map(|totals| percent(all, totals.iter().sum()));
        let rate: u64 = mirrors.iter().filter_map(|mirror| mirror.rate.per_second(now)).sum();
        TransferProgress {
            percent: hundredths,
            done: match (mirrors, largest_total, hundredths) {
                ([_], ..) | (_, None, _) | (.., None) => all,
                (_, Some(once), Some(hundredths)) => once / 100 * hundredths,
            },
            total: largest_total,
            rate: Some(rate).filter(|rate| *rate > 0),
            // The slowest mirror finishes last.
            remaining: mirrors.iter().filter_map(|mirror| left_of(mirror)).max(),
        }
    }
}

impl TransferProgress {
    /// The counts as text, one part for each number.
    pub(crate) fn text_parts(&self) -> Vec<String> {
        let percent = self.percent.map(|percent| format!("{percent} %"));
        let sum = self.total.filter(|_| self.percent != Some(100));
        let sum = sum.map_or_else(
            || format!("{} sent", format_bytes(self.done)),
            |total| format!("{} of {}", format_bytes(self.done), format_bytes(total)),
        );
        let rate = self.rate.map(|rate| format!("{}/s", format_bytes(rate)));
        let left = self.remaining.filter(|left| *left >= Duration::from_secs(1));
        let left = left.map(|left| format!("{} left", format_duration(left)));
        [percent, Some(sum), rate, left].into_iter().flatten().collect()
    }
}

fn percent(done: u64, all: u64) -> u64 {
    let hundredths = (u128::from(done) * 100).checked_div(u128::from(all)).unwrap_or(100);
    u64::try_from(hundredths.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(bundle: u8, mirrors: &[&str], bytes: u64) -> Event {
        let mirrors = mirrors.iter().map(|&name| name.to_owned()).collect();
        Event::BundleStarted {
            bundle: BundleKey::from_bytes([bundle; 32]),
            mirrors,
            objects: 2,
            bytes,
        }
    }

    fn advanced(bundle: u8, bytes: u64, packed_bytes: u64) -> Event {
        Event::BundleAdvanced { bundle: BundleKey::from_bytes([bundle; 32]), bytes, packed_bytes }
    }

    fn sent(mirror: &str, bytes: u64) -> Event {
        Event::PackSent { mirror: mirror.into(), pack: PackId::of(b""), bytes }
    }

    /// The counts after these events, each of which happens at the given second, and the time of
    /// the last event.
    fn sums(events: &[(u64, Event)]) -> (TransferCounts, Instant) {
        let (mut sums, start) = (TransferCounts::default(), Instant::now());
        events.iter().for_each(|(second, event)| {
            sums.add_event(event, start + Duration::from_secs(*second));
        });
        (sums, start + Duration::from_secs(events.last().map_or(0, |(second, _)| *second)))
    }

    #[test]
    fn scan_has_a_rate() {
        let (sums, now) = sums(&[
            (0, Event::ScanStarted { root: "r".into() }),
            (2, Event::ScanAdvanced { entries: 1_200, hashed_bytes: 5_000_000 }),
        ]);
        assert_eq!(sums.progress_line(now), "scan: 1,200 entries, 5.0 MB read, 2.5 MB/s");
    }

    #[test]
    fn total_counts_bytes_sent_once() {
        let (mut sums, now) = sums(&[
            (0, started(1, &["eu", "us"], 40_000_000)),
            (0, started(2, &["ap"], 30_000_000)),
            (1, advanced(1, 20_000_000, 10_000_000)),
            (1, advanced(2, 15_000_000, 7_500_000)),
        ]);
        assert_eq!(sums.progress_line(now), "pack: 50 % of 40.0 MB, compressed to 50 %");
        sums.add_event(&advanced(1, 40_000_000, 20_000_000), now);
        sums.add_event(&advanced(2, 30_000_000, 15_000_000), now);
        sums.add_event(&sent("eu", 5_000_000), now);
        assert_eq!(sums.progress_line(now), "eu: 25 %, 5.0 MB of 20.0 MB, 5.0 MB/s, 3.0 s left");
        sums.add_event(&sent("us", 15_000_000), now);
        // Each mirror gets 20 MB, and half has been sent on average. The rate is that of both
        // mirrors together, and the slower mirror determines the remaining time.
        assert_eq!(
            sums.progress_line(now),
            "2 mirrors: 50 %, 10.0 MB of 20.0 MB, 20.0 MB/s, 3.0 s left"
        );
    }

    #[test]
    fn pack_progress_counts_a_resent_pack_once() {
        let packs = [PackId::of(b"1"), PackId::of(b"2")];
        let moved = |pack: usize, bytes| Event::PackAdvanced {
            mirror: "eu".into(),
            pack: packs[pack],
            bytes,
        };
        let done = |pack: usize| Event::PackSent {
            mirror: "eu".into(),
            pack: packs[pack],
            bytes: 10_000_000,
        };
        let (mut sums, start) =
            sums(&[(0, started(1, &["eu"], 40_000_000)), (0, advanced(1, 40_000_000, 20_000_000))]);
        let steps = [
            (moved(0, 5_000_000), "25 %"),
            (moved(1, 9_000_000), "70 %"),
            // The connection broke; both packs are sent again, one at a time.
            (moved(0, 1_000_000), "50 %"),
            (done(0), "95 %"),
            (moved(1, 2_000_000), "60 %"),
            (done(1), "100 %"),
        ];
        for (event, percent) in steps {
            sums.add_event(&event, start);
            assert!(
                sums.progress_line(start).starts_with(&format!("eu: {percent}")),
                "{}",
                sums.progress_line(start)
            );
        }
        sums.add_event(&Event::PackHeld { mirror: "eu".into(), pack: packs[1] }, start);
        assert_eq!(sums.mirrors[0].transferred_bytes(), 20_000_000);
    }

    #[test]
    fn rate_covers_the_last_seconds() {
        let mut events = vec![(0, started(1, &["eu"], 1)), (0, advanced(1, 1, 1_000_000))];
        events.extend((1..=10).map(|second| (second, sent("eu", 10_000))));
        events.extend((11..=20).map(|second| (second, sent("eu", 50_000))));
        let (sums, now) = sums(&events);
        assert_eq!(sums.progress_line(now), "eu: 60 %, 600.0 kB of 1.0 MB, 50.0 kB/s, 8.0 s left");
        // Nothing arrives any more: the rate goes down.
        assert!(sums.progress_line(now + Duration::from_secs(20)).contains(" 10.0 kB/s"));
    }

    #[test]
    fn mirrors_keep_their_order() {
        let mut sums = TransferCounts::default();
        sums.set_mirror_order(["c", "a", "b"]);
        for mirror in ["a", "b", "z", "c"] {
            sums.add_event(
                &Event::StateLearned { mirror: mirror.into(), sequence: None },
                Instant::now(),
            );
        }
        let names: Vec<&str> = sums.mirrors.iter().map(|mirror| mirror.name.as_str()).collect();
        assert_eq!(names, ["c", "a", "b", "z"]);
    }
}
