//! The last days of a mirror, computed from the histories of all mirrors. Pure.

use std::collections::BTreeMap;

use crate::fleet_status::Poll;
use crate::hash::ContentId;
use crate::mirror::{EventKind, HistoryEvent};
use crate::release::Release;

/// Length of a day, in seconds.
pub const DAY_SECONDS: u64 = 86_400;
/// A release is not late if it reaches a mirror at most this many seconds after the first mirror.
pub const LATE_TOLERANCE_SECONDS: u64 = 600;

/// How a day went, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DayKind {
    /// Nothing is known about the day.
    Unknown,
    /// The newest release was served all day.
    UpToDate,
    /// A release was late.
    Late,
    /// A push failed because of the mirror's disk, or damage was found.
    Faulty,
}

/// One day of a mirror, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// When the day began, in seconds since 1970.
    pub start: u64,
    /// How the day went.
    pub kind: DayKind,
    /// How often the mirror switched on this day.
    pub switches: u64,
    /// The longest time for which the mirror lacked a release, in seconds.
    pub lag: u64,
}

/// The known facts about a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedRelease {
    /// When the release was first served on any mirror, in seconds since 1970.
    pub time: u64,
    /// The content of the release, if a mirror still keeps it.
    pub content: Option<ContentId>,
}

/// When each release was first served on any mirror, as far as the histories go back, by sequence.
#[must_use]
pub fn published_releases(polls: &[Poll]) -> BTreeMap<u64, PublishedRelease> {
    let kept =
        polls.iter().filter_map(|one| one.state.as_ref().ok()).flat_map(|state| &state.releases);
    let published_release = |release: &Release| PublishedRelease {
        time: release.created,
        content: Some(release.content),
    };
    let mut first: BTreeMap<u64, PublishedRelease> =
        kept.map(|release| (release.sequence, published_release(release))).collect();
    for (time, sequence) in polls.iter().flat_map(|one| switches(&one.history, u64::MAX)) {
        let known = first.entry(sequence).or_insert(PublishedRelease { time, content: None });
        known.time = time.min(known.time);
    }
    first
}

/// The last `count` days of a mirror with this history, oldest first and today last. A release that
/// arrives within `tolerance` seconds after it was published is not late.
#[must_use]
pub fn days(
    history: &[HistoryEvent],
    published: &BTreeMap<u64, PublishedRelease>,
    tolerance: u64,
    now: u64,
    count: u64,
) -> Vec<Day> {
    let switches = switches(history, now);
    let missing_spans = missing_spans(&switches, published, now);
    let record = MirrorTimeline { history, switches, missing_spans, tolerance, now };
    // Days are in UTC, like all times on the page.
    let today = now - now % DAY_SECONDS;
    let starts = (0..count).rev().map(|ago| today.saturating_sub(ago * DAY_SECONDS));
    starts.map(|start| record.day(start)).collect()
}

/// The known history of a mirror.
struct MirrorTimeline<'a> {
    history: &'a [HistoryEvent],
    /// See [`switches`].
    switches: Vec<(u64, u64)>,
    /// See [`missing_spans`].
    missing_spans: Vec<(u64, u64)>,
    tolerance: u64,
    now: u64,
}

/// The time spans in which the mirror lacked each release. Each span ends when the mirror switched
/// to that release or a later one, or when another release with the content that the mirror served
/// was published.
fn missing_spans(
    switches: &[(u64, u64)],
    published: &BTreeMap<u64, PublishedRelease>,
    now: u64,
) -> Vec<(u64, u64)> {
    let content = |sequence: u64| published.get(&sequence).and_then(|known| known.content);
    let served = |time: u64| {
        switches[..switches.partition_point(|(at, _)| *at <= time)].last().map(|(_, one)| *one)
    };
    let lack = |(sequence, known): (&u64, &PublishedRelease)| {
        let switched = switches.get(switches.partition_point(|(_, served)| served < sequence));
        let went_back = published.range(sequence..).map(|(_, later)| later).find(|later| {
            later.content.is_some()
                && served(later.time).is_some_and(|served| content(served) == later.content)
        });
        let until = switched.map_or(now, |(time, _)| *time);
        (known.time, went_back.map_or(until, |later| until.min(later.time)))
    };
    published.iter().map(lack).collect()
}

/// Times and sequences of the switches, adjusted so that both only increase. If a time is after
/// that of a later switch or after `now`, a clock has jumped, and the time is lowered to that
/// limit. A sequence below an earlier one is raised to it.
fn switches(history: &[HistoryEvent], now: u64) -> Vec<(u64, u64)> {
    let switched = |event: &HistoryEvent| match event.kind {
        EventKind::Switched { release, .. } => Some((event.time, release.sequence())),
        _ => None,
    };
    let mut all: Vec<(u64, u64)> = history.iter().filter_map(switched).collect();
    // Adjusted, not left out: the records are in the right order, even if a clock was wrong.
    all.iter_mut().fold(0, |highest, (_, sequence)| {
        *sequence = highest.max(*sequence);
        *sequence
    });
    all.iter_mut().rev().fold(now, |latest, (time, _)| {
        *time = latest.min(*time);
        *time
    });
    all
}

impl MirrorTimeline<'_> {
    /// The day that begins at `start`.
    fn day(&self, start: u64) -> Day {
        // Today ends now, because the future is unknown.
        let end = (start + DAY_SECONDS).min(self.now + 1);
        let is_within = |time: u64| (start..end).contains(&time);
        let mut day = Day { start, kind: DayKind::Unknown, switches: 0, lag: 0 };
        // It is unknown what the mirror served before the first switch in the history.
        let Some(joined) =
            self.switches.first().map(|(time, _)| *time).filter(|joined| *joined < end)
        else {
            return day;
        };
        day.switches = self.switches.iter().filter(|(time, _)| is_within(*time)).count() as u64;
        for (from, until) in &self.missing_spans {
            // Before the mirror joined, it lacked nothing.
            let from = (*from).max(joined);
            // The mirror lacked this release for part of the day.
            if from < end && *until >= start && *until > from {
                day.lag = day.lag.max((*until).min(end).saturating_sub(from));
            }
        }
        let is_trouble = self.history.iter().filter(|event| is_within(event.time)).any(|event| {
            matches!(
                event.kind,
                EventKind::Failed { .. }
                    | EventKind::Verified { faults: 1.., .. }
                    | EventKind::Repaired { left: 1.., .. }
            )
        });
        day.kind = match day.lag {
            _ if is_trouble => DayKind::Faulty,
            lag if lag > self.tolerance => DayKind::Late,
            _ => DayKind::UpToDate,
        };
        day
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::hash::ReleaseId;
    use crate::release::ReleaseName;

    const NOW: u64 = 20_000 * DAY_SECONDS + 3_600;

    fn switch(time: u64, sequence: u64) -> HistoryEvent {
        let release = ReleaseName::new(sequence, &ReleaseId::of(b"r"));
        HistoryEvent { time, kind: EventKind::Switched { release, from: None } }
    }

    fn kinds(history: &[HistoryEvent], published: &[(u64, u64)]) -> Vec<DayKind> {
        let published_release = |(sequence, time): &(u64, u64)| {
            (*sequence, PublishedRelease { time: *time, content: None })
        };
        let published = published.iter().map(published_release).collect();
        days(history, &published, LATE_TOLERANCE_SECONDS, NOW, 4)
            .iter()
            .map(|day| day.kind)
            .collect()
    }

    #[test]
    fn days_show_late_releases_and_failures() {
        use DayKind::{Faulty, Late, Unknown, UpToDate};
        let at = |days_ago: u64, seconds: u64| NOW - 3_600 - days_ago * DAY_SECONDS + seconds;
        assert_eq!(kinds(&[], &[(1, at(3, 0))]), [Unknown; 4]);
        let joined = switch(at(2, 100), 1);
        assert_eq!(
            kinds(from_ref(&joined), &[(1, at(3, 0))]),
            [Unknown, UpToDate, UpToDate, UpToDate]
        );
        // A release that it still lacks makes each day late since.
        assert_eq!(
            kinds(from_ref(&joined), &[(1, at(3, 0)), (2, at(1, 50))]),
            [Unknown, UpToDate, Late, Late]
        );
        let prompt = switch(at(1, 300), 2);
        assert_eq!(
            kinds(&[joined.clone(), prompt], &[(1, at(3, 0)), (2, at(1, 50))]),
            [Unknown, UpToDate, UpToDate, UpToDate]
        );
        // One that it skipped counts as served with the next.
        let skipped = [(1, at(3, 0)), (2, at(2, 200)), (3, at(1, 0))];
        assert_eq!(
            kinds(&[joined.clone(), switch(at(1, 20), 3)], &skipped),
            [Unknown, Late, Late, UpToDate]
        );
        let faults =
            HistoryEvent { time: at(0, 5), kind: EventKind::Verified { quick: true, faults: 2 } };
        assert_eq!(
            kinds(&[joined, faults], &[(1, at(3, 0))]),
            [Unknown, UpToDate, UpToDate, Faulty]
        );
    }

    #[test]
    fn reverted_release_makes_no_mirror_late() {
        use DayKind::{Late, UpToDate};
        let start = NOW - 3_600 - 3 * DAY_SECONDS;
        let published_release = |time: u64, content: &[u8]| PublishedRelease {
            time,
            content: Some(ContentId::of(content)),
        };
        let (good, bad) =
            (published_release(start, b"good"), published_release(start + DAY_SECONDS, b"bad"));
        let back = published_release(bad.time + 300, b"good");
        let kinds =
            |history: &[HistoryEvent], published: &[(u64, PublishedRelease)], tolerance: u64| {
                let published = published.iter().copied().collect();
                days(history, &published, tolerance, NOW, 4)
                    .iter()
                    .map(|day| day.kind)
                    .collect::<Vec<_>>()
            };
        let spared = [switch(start, 1)];
        assert_eq!(kinds(&spared, &[(1, good), (2, bad), (3, back)], 600), [UpToDate; 4]);
        assert_eq!(kinds(&spared, &[(1, good), (2, bad)], 600), [UpToDate, Late, Late, Late]);
        // One that stays on the bad release is late from the time at which the others went back.
        let stuck = [switch(start, 1), switch(bad.time, 2)];
        assert_eq!(
            kinds(&stuck, &[(1, good), (2, bad), (3, back)], 600),
            [UpToDate, Late, Late, Late]
        );
        // A wave that is looked at for an hour is no delay where that was planned.
        let later = [switch(start, 1), switch(bad.time + 3_600, 2)];
        assert_eq!(
            kinds(&later, &[(1, good), (2, bad)], 600),
            [UpToDate, Late, UpToDate, UpToDate]
        );
        assert_eq!(kinds(&later, &[(1, good), (2, bad)], 600 + 3_600), [UpToDate; 4]);
    }

    #[test]
    fn clock_jump_gives_valid_days() {
        use DayKind::UpToDate;
        let history =
            [switch(u64::MAX, 1), switch(NOW + 500_000, 2), switch(NOW - 3 * DAY_SECONDS, 3)];
        let third = PublishedRelease { time: NOW - 3 * DAY_SECONDS, content: None };
        let published_release =
            days(&history, &BTreeMap::from([(3, third)]), LATE_TOLERANCE_SECONDS, NOW, 4);
        assert_eq!(
            published_release.iter().map(|day| (day.kind, day.switches)).collect::<Vec<_>>(),
            [(UpToDate, 3), (UpToDate, 0), (UpToDate, 0), (UpToDate, 0)]
        );
        assert_eq!(days(&history, &BTreeMap::new(), 0, 0, 4).len(), 4);
    }
}
