//! Evaluates the status of each mirror, worst first. Pure: the current time is a parameter.

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet_status::{Poll, PublicCheck, Usage};
use crate::mirror::{ErrorKind, EventKind, Expiries, Expiry, HistoryEvent};
use crate::release::Release;
use crate::text::error_chain;
use crate::tree_path::Site;

/// A receiver runs maintenance once an hour, so a delay shorter than this is normal.
const MAX_OVERDUE_SECONDS: u64 = 3_600;

/// The kinds of status that a mirror can have, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusKind {
    /// It is unknown which release the mirror serves.
    Unknown,
    /// The mirror denies access.
    Denied,
    /// The mirror cannot be reached, or does not respond.
    Unreachable,
    /// The mirror serves a different release with the same sequence as the newest one.
    Diverged,
    /// The mirror serves older content than another mirror.
    Behind,
    /// The mirror serves older content, but has the newest release staged.
    Staging,
    /// The mirror serves nothing yet.
    Joining,
    /// The mirror serves a release that was made for only part of the fleet, and no later release
    /// for all mirrors has replaced it.
    Apart,
    /// The mirror is frozen by the configuration.
    Frozen,
    /// The mirror serves the newest release, or an older one with the same content: to visitors
    /// they are the same.
    Current,
}

impl StatusKind {
    /// All kinds, worst first.
    pub const ALL: [Self; 10] = [
        Self::Unknown,
        Self::Denied,
        Self::Unreachable,
        Self::Diverged,
        Self::Behind,
        Self::Staging,
        Self::Joining,
        Self::Apart,
        Self::Frozen,
        Self::Current,
    ];

    /// The name of the kind, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Diverged => "diverged",
            Self::Behind => "behind",
            Self::Staging => "staging",
            Self::Joining => "joining",
            Self::Apart => "apart",
            Self::Frozen => "frozen",
            Self::Current => "current",
        }
    }

    /// Whether no action is needed.
    #[must_use]
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Current | Self::Apart | Self::Frozen)
    }

    /// Whether it is known which release the mirror serves.
    #[must_use]
    pub const fn is_known(self) -> bool {
        !matches!(self, Self::Unknown | Self::Denied | Self::Unreachable)
    }
}

/// The last verification or repair of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LastVerify {
    /// When it happened, by the mirror's clock, in seconds since 1970.
    pub time: u64,
    /// Whether only sizes and times were compared.
    pub quick: bool,
    /// The number of faults found, or remaining after a repair.
    pub faults: u64,
}

/// A failure of the command that a mirror runs after a switch (`post_activate`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookFailure {
    /// When it happened, by the mirror's clock, in seconds since 1970.
    pub time: u64,
    /// The sequence of the release that the mirror had switched to.
    pub sequence: u64,
    /// What went wrong. The text comes from the mirror, so escape it before you show it.
    pub reason: String,
}

/// The release that a mirror served when it last responded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSeen {
    /// When the mirror responded, in seconds since 1970.
    pub time: u64,
    /// The sequence of the release.
    pub sequence: u64,
    /// When the release was published, in seconds since 1970.
    pub created: u64,
}

/// The status of one mirror. Times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorStatus {
    /// The name of the mirror.
    pub mirror: String,
    /// The location of the mirror.
    pub location: String,
    /// The kind of status.
    pub state: StatusKind,
    /// The site of the mirror.
    pub site: Option<Site>,
    /// The sequence of the release that the mirror serves.
    pub sequence: Option<u64>,
    /// The id of the release that the mirror serves.
    pub release: Option<String>,
    /// When that release was published, in seconds since 1970.
    pub created: Option<u64>,
    /// The number of entries in that release.
    pub entries: Option<u64>,
    /// Size of the files in that release, in bytes.
    pub bytes: Option<u64>,
    /// The sequence of a newer release staged on the mirror.
    pub staged: Option<u64>,
    /// Why the mirror is apart. The text comes from the mirror, so escape it before you show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apart: Option<String>,
    /// How many of the known releases the mirror lacks: the releases after the last one whose
    /// content it serves.
    pub behind: u64,
    /// Seconds since the oldest release that the mirror lacks was published; `None` if unknown.
    pub lag: Option<u64>,
    /// When the mirror last switched, by its own clock.
    pub switched: Option<u64>,
    /// The last verification or repair.
    pub verified: Option<LastVerify>,
    /// The failure of the hook after the last switch; `None` if it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failure: Option<HookFailure>,
    /// Free bytes on the mirror.
    pub free_bytes: Option<u64>,
    /// Bytes of content on the mirror that unfinished pushes have left behind.
    pub incoming_bytes: Option<u64>,
    /// How many seconds past its expiry the mirror still serves a retired file, if more than an
    /// hour: its maintenance is then not running.
    pub overdue: Option<u64>,
    /// The disk space that its releases use, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The release that the mirror served when it last responded, if it cannot be polled now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<LastSeen>,
    /// When the token and the certificate used for the mirror expire.
    #[serde(flatten)]
    pub expiries: Expiries,
    /// The expiries that are due soon, earliest first.
    #[serde(skip)]
    pub expiring: Vec<Expiry>,
    /// The response time, in milliseconds.
    pub round_trip_ms: Option<u64>,
    /// What visitors get, if it was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicCheck>,
    /// Why the status is unknown. The text may come from the mirror, so escape it before you show
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The status of the mirrors at `now`, worst first. `is_frozen` returns whether the mirror with a
/// given name is frozen.
#[must_use]
pub fn evaluate(polls: &[Poll], is_frozen: impl Fn(&str) -> bool, now: u64) -> Vec<MirrorStatus> {
    let mut mirror_statuses: Vec<MirrorStatus> =
        polls.iter().map(|one| one.status(polls, is_frozen(&one.mirror), now)).collect();
    // The derived order of the kinds is worst first. Within a kind, the longest lag comes first.
    mirror_statuses.sort_by_key(|mirror_status| (mirror_status.state, Reverse(mirror_status.lag)));
    mirror_statuses
}

/// The releases of a site that are or were served on any mirror, each once, in ascending order.
#[must_use]
pub fn releases<'s>(polls: &'s [Poll], site: &Site) -> Vec<&'s Release> {
    let states = polls.iter().filter_map(|one| one.state.as_ref().ok());
    let mut known: Vec<&Release> =
        states.flat_map(|state| &state.releases).filter(|release| release.site == *site).collect();
    // By rank, because two mirrors may serve different releases with the same sequence.
    known.sort_by_key(|release| release.rank());
    known.dedup_by_key(|release| release.id());
    known
}

/// The `known` releases that a mirror can lack: releases that were made for all mirrors and that
/// are not newer than what any mirror serves (a reverted release is newer). If no release was made
/// for all mirrors, every release counts.
fn releases_for_all<'s>(
    known: Vec<&'s Release>,
    polls: &'s [Poll],
    site: &Site,
) -> Vec<&'s Release> {
    let is_whole = |release: &&Release| release.partial.is_none() && release.site == *site;
    let current = polls.iter().filter_map(|one| one.state.as_ref().ok()?.current_release());
    let newest = current.filter(is_whole).map(Release::rank).max();
    let is_lacking = |release: &&Release| newest.is_none_or(|newest| release.rank() <= newest);
    let whole: Vec<&Release> = known.iter().copied().filter(is_whole).filter(is_lacking).collect();
    // Otherwise, if pushes only ever went to part of a fleet, there would be nothing to compare
    // with.
    if whole.is_empty() { known } else { whole }
}

impl Poll {
    fn status(&self, all: &[Self], is_frozen: bool, now: u64) -> MirrorStatus {
        let mut mirror_status = MirrorStatus {
            switched: latest(&self.history, switch_time),
            verified: latest(&self.history, verification),
            hook_failure: hook_failure(&self.history),
            ..MirrorStatus::unresponsive(&self.mirror, &self.location, StatusKind::Unknown)
        };
        let state = match &self.state {
            Ok(state) => state,
            Err(error) => {
                mirror_status.state =
                    if is_frozen { StatusKind::Frozen } else { kind_of_error(error.kind()) };
                mirror_status.error = Some(error_chain(error));
                return mirror_status;
            }
        };
        mirror_status.round_trip_ms = u64::try_from(self.round_trip.as_millis()).ok();
        mirror_status.expiries = state.expiries;
        mirror_status.expiring = state.expiries.expiring_soon(now);
        mirror_status.free_bytes = state.free_bytes;
        mirror_status.incoming_bytes = Some(state.incoming_bytes);
        // Uses the clock of this machine, although the mirror uses its own.
        let overdue = state.next_expiry.map(|due| now.saturating_sub(due));
        mirror_status.overdue = overdue.filter(|seconds| *seconds > MAX_OVERDUE_SECONDS);
        mirror_status.site.clone_from(&state.site);
        mirror_status.sequence = state.current.map(|current| current.sequence());
        mirror_status.staged = state.staged.as_ref().map(|staged| staged.sequence);
        let Some(site) = state.site.as_ref().filter(|_| state.current.is_some()) else {
            mirror_status.state = if is_frozen { StatusKind::Frozen } else { StatusKind::Joining };
            return mirror_status;
        };
        let Some(current) = state.current_release() else {
            mirror_status.error = Some("the record of its current release is damaged".into());
            return mirror_status;
        };
        mirror_status.release = Some(current.id().to_string());
        mirror_status.created = Some(current.created);
        (mirror_status.entries, mirror_status.bytes) = (Some(current.entries), Some(current.bytes));
        let known = releases(all, site);
        // The mirror lacks the releases that were published since its content was last the newest.
        // If the mirror reverted to that content, it lacks nothing.
        let known = releases_for_all(known, all, site);
        let same = known.iter().rposition(|release| release.content == current.content);
        let since = same.map_or_else(
            || known.partition_point(|release| release.rank() <= current.rank()),
            |last| last + 1,
        );
        let lacking = &known[since..];
        let is_other = same.is_none_or(|last| last + 1 < known.len());
        let is_newest = known.last().is_none_or(|newest| newest.rank() < current.rank());
        // A release for part of the fleet is apart only until there is a newer one for all.
        let apart = current.partial.as_ref().filter(|_| is_other && is_newest);
        let lacking = if apart.is_some() { &[] } else { lacking };
        mirror_status.apart = apart.map(ToString::to_string);
        mirror_status.behind = lacking.len() as u64;
        mirror_status.lag =
            Some(lacking.first().map_or(0, |oldest| now.saturating_sub(oldest.created)));
        mirror_status.state = match lacking.last() {
            _ if is_frozen => StatusKind::Frozen,
            _ if apart.is_some() => StatusKind::Apart,
            None => StatusKind::Current,
            Some(newest) if newest.sequence == current.sequence => StatusKind::Diverged,
            Some(newest)
                if state.staged.as_ref().is_some_and(|staged| staged.id() == newest.id()) =>
            {
                StatusKind::Staging
            }
            Some(_) => StatusKind::Behind,
        };
        mirror_status
    }
}

const fn kind_of_error(failure: ErrorKind) -> StatusKind {
    match failure {
        failure if failure.is_denial() => StatusKind::Denied,
        // The mirror did not respond, so it is unknown what it serves.
        ErrorKind::Unreachable
        | ErrorKind::Certificate
        | ErrorKind::ClientCertificate
        | ErrorKind::Tls
        | ErrorKind::BadGateway
        | ErrorKind::Timeout
        | ErrorKind::Busy => StatusKind::Unreachable,
        _ => StatusKind::Unknown,
    }
}

/// Returns the result of `pick` for the newest event for which it is not `None`. "Newest" refers to
/// the order of the records, because the clock may have jumped.
fn latest<T>(history: &[HistoryEvent], pick: impl Fn(&HistoryEvent) -> Option<T>) -> Option<T> {
    history.iter().rev().find_map(pick)
}

fn switch_time(event: &HistoryEvent) -> Option<u64> {
    matches!(event.kind, EventKind::Switched { .. }).then_some(event.time)
}

fn verification(event: &HistoryEvent) -> Option<LastVerify> {
    let time = event.time;
    match event.kind {
        EventKind::Verified { quick, faults } => Some(LastVerify { time, quick, faults }),
        EventKind::Repaired { left, .. } => Some(LastVerify { time, quick: false, faults: left }),
        _ => None,
    }
}

/// The failure of the hook after the newest switch. Failures after older switches no longer matter.
fn hook_failure(history: &[HistoryEvent]) -> Option<HookFailure> {
    let is_switch = |event: &HistoryEvent| matches!(event.kind, EventKind::Switched { .. });
    let (switch, later) = history[history.iter().rposition(is_switch)?..].split_first()?;
    let EventKind::Switched { release: current, .. } = switch.kind else { return None };
    latest(later, |event| match &event.kind {
        EventKind::HookFailed { release, reason: why } if *release == current => {
            Some(HookFailure {
                time: event.time,
                sequence: release.sequence(),
                reason: why.clone(),
            })
        }
        _ => None,
    })
}

/// Limits for the lag of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusLimits {
    /// If the lag is longer than this, the status is a warning.
    pub warn: Duration,
    /// If the lag is longer than this, the status is critical.
    pub crit: Duration,
}

/// Severity levels of monitoring plug-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Everything is well, or soon will be.
    Ok,
    /// An operator should look into it.
    Warning,
    /// An operator must act.
    Critical,
    /// No mirror could be polled.
    Unknown,
}

/// The severity of all mirrors together: that of the worst mirror, or unknown if no mirror reported
/// what it serves.
#[must_use]
pub fn severity(mirror_statuses: &[MirrorStatus], limits: StatusLimits) -> Severity {
    let is_reported = |mirror_status: &MirrorStatus| {
        mirror_status.is_known() || mirror_status.state == StatusKind::Frozen
    };
    // In this case nothing is known about the fleet, good or bad.
    if !mirror_statuses.iter().any(is_reported) {
        return Severity::Unknown;
    }
    mirror_statuses
        .iter()
        .map(|mirror_status| mirror_status.severity(limits))
        .max()
        .unwrap_or(Severity::Unknown)
}

impl MirrorStatus {
    /// The status of a mirror that reported nothing.
    #[must_use]
    pub fn unresponsive(mirror: &str, location: &str, state: StatusKind) -> Self {
        Self {
            mirror: mirror.to_owned(),
            location: location.to_owned(),
            state,
            site: None,
            sequence: None,
            release: None,
            created: None,
            entries: None,
            bytes: None,
            staged: None,
            apart: None,
            behind: 0,
            lag: None,
            switched: None,
            verified: None,
            hook_failure: None,
            free_bytes: None,
            incoming_bytes: None,
            overdue: None,
            usage: None,
            last_seen: None,
            expiries: Expiries::default(),
            expiring: Vec::new(),
            round_trip_ms: None,
            public: None,
            error: None,
        }
    }

    /// Whether it is known what the mirror serves. Always true for a frozen mirror, for which it
    /// does not matter.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.state.is_known() && self.error.is_none()
    }

    /// Whether no action is needed.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.state.is_healthy() && !self.is_stale()
    }

    /// Whether visitors get different content than the mirror reports.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.public.as_ref().is_some_and(|public| !public.stale.is_empty())
    }

    /// The severity of this mirror; never unknown.
    #[must_use]
    pub fn severity(&self, limits: StatusLimits) -> Severity {
        let lag = Duration::from_secs(self.lag.unwrap_or(0));
        let has_faults = self.verified.is_some_and(|verified| verified.faults > 0);
        let is_impaired = has_faults
            || self.is_stale()
            || self.hook_failure.is_some()
            || !self.expiring.is_empty();
        match self.state {
            StatusKind::Frozen => Severity::Ok,
            _ if lag > limits.crit => Severity::Critical,
            // If a mirror cannot be reached, its lag is unknown and counts as zero above.
            _ if lag > limits.warn || is_impaired || !self.state.is_known() => Severity::Warning,
            StatusKind::Diverged => Severity::Warning,
            _ => Severity::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::hash::{ContentId, HistoryId, ManifestId};
    use crate::mirror::{MirrorError, MirrorState};
    use crate::protocol::ProtocolError;
    use crate::release::PartialScope;

    const NOW: u64 = 1_000_000;

    fn release(sequence: u64, content: &[u8]) -> Release {
        let site = Site::new("docs").unwrap();
        let (history, manifest) = (HistoryId::from_bytes([7; 16]), ManifestId::of(b"m"));
        let mut release = Release::new(site, history, sequence, manifest, ContentId::of(content));
        release.created = NOW - 10_000 + sequence * 1_000;
        release
    }

    fn for_some(mut release: Release) -> Release {
        release.partial = Some(PartialScope { mirrors: vec!["apart".into()], why: "push".into() });
        release
    }

    #[test]
    fn partial_release_is_apart_until_one_for_all_replaces_it() {
        let (one, two, four) = (release(1, b"1"), for_some(release(2, b"2")), release(4, b"4"));
        let row = |all: &[Poll], mirror: &str| {
            let row =
                evaluate(all, |_| false, NOW).into_iter().find(|row| row.mirror == mirror).unwrap();
            (row.state, row.behind, row.lag, row.apart)
        };
        let all = [serving("a", from_ref(&one)), serving("b", &[one.clone(), two.clone()])];
        assert_eq!(row(&all, "a"), (StatusKind::Current, 0, Some(0), None));
        let why = Some("made for apart only: push".to_owned());
        assert_eq!(row(&all, "b"), (StatusKind::Apart, 0, Some(0), why));
        assert!(evaluate(&all, |_| false, NOW).iter().all(MirrorStatus::is_healthy));
        let all = [serving("a", &[one.clone(), four]), serving("b", &[one.clone(), two.clone()])];
        assert_eq!(row(&all, "b"), (StatusKind::Behind, 1, Some(6_000), None));
        // What a mirror went back to is what the others never left.
        let all =
            [serving("a", from_ref(&one)), serving("b", &[one, two, for_some(release(3, b"1"))])];
        assert_eq!(row(&all, "b"), (StatusKind::Current, 0, Some(0), None));
    }

    fn seen(mirror: &str, state: Result<MirrorState, MirrorError>) -> Poll {
        let (mirror, location) = (mirror.to_owned(), format!("/srv/{mirror}"));
        Poll { mirror, location, state, history: Vec::new(), round_trip: Duration::from_millis(7) }
    }

    fn serving(mirror: &str, releases: &[Release]) -> Poll {
        let state = MirrorState {
            site: Some(Site::new("docs").unwrap()),
            current: releases.last().map(Release::name),
            releases: releases.to_vec(),
            ..MirrorState::default()
        };
        seen(mirror, Ok(state))
    }

    fn refusing(mirror: &str, kind: ErrorKind) -> Poll {
        seen(mirror, Err(MirrorError::Remote { refusal: ProtocolError::new(kind, "no") }))
    }

    fn states(seen: &[Poll]) -> Vec<(String, StatusKind)> {
        evaluate(seen, |name| name.starts_with("cold"), NOW)
            .into_iter()
            .map(|row| (row.mirror, row.state))
            .collect()
    }

    #[test]
    fn every_state_has_its_rank() {
        let (one, two, other) = (release(1, b"1"), release(2, b"2"), release(2, b"x"));
        let newest = std::cmp::max_by_key(two.clone(), other.clone(), Release::rank);
        let oldest = std::cmp::min_by_key(two, other, Release::rank);
        let apart = for_some(release(3, b"3"));
        let mut staging = serving("staging", from_ref(&one));
        staging.state.as_mut().unwrap().staged = Some(newest.clone());
        let all = [
            serving("current", &[one.clone(), newest]),
            serving("cold", from_ref(&one)),
            seen("joining", Ok(MirrorState::default())),
            serving("apart", &[one.clone(), apart]),
            staging,
            serving("behind", &[one]),
            serving("diverged", &[oldest]),
            refusing("unreachable", ErrorKind::Busy),
            refusing("denied", ErrorKind::Forbidden),
            refusing("unknown", ErrorKind::DamagedBase),
        ];
        let mut wanted: Vec<(String, StatusKind)> =
            StatusKind::ALL.map(|state| (state.name().to_owned(), state)).to_vec();
        wanted[8].0 = "cold".to_owned();
        assert_eq!(states(&all), wanted);
    }

    #[test]
    fn lag_counts_from_the_oldest_missing_release() {
        let all: Vec<Release> =
            (1..=4).map(|sequence| release(sequence, &sequence.to_le_bytes())).collect();
        let rows = evaluate(
            &[serving("a", &all[..1]), serving("b", &all), serving("c", &all[1..3])],
            |_| false,
            NOW,
        );
        let polls: Vec<_> =
            rows.iter().map(|row| (row.mirror.as_str(), row.behind, row.lag)).collect();
        assert_eq!(polls, [("a", 3, Some(8_000)), ("c", 1, Some(6_000)), ("b", 0, Some(0))]);
        // A clock that is behind the publication lags by nothing.
        let early = evaluate(&[serving("a", &all[..1]), serving("b", &all)], |_| false, 5);
        assert_eq!((early[0].state, early[0].lag), (StatusKind::Behind, Some(0)));
    }

    #[test]
    fn mirror_with_the_newest_content_is_current() {
        let all = [release(1, b"good"), release(2, b"bad"), release(3, b"good")];
        let rows = |all: &[Release]| {
            let polls = [
                serving("went-back", all),
                serving("was-spared", &all[..1]),
                serving("is-bad", &all[..2]),
            ];
            let rows = evaluate(&polls, |_| false, NOW);
            rows.into_iter()
                .map(|row| (row.mirror, row.state, row.behind, row.lag))
                .collect::<Vec<_>>()
        };
        let row = |mirror: &str, state, behind, lag| (mirror.to_owned(), state, behind, Some(lag));
        let (behind, current) = (StatusKind::Behind, StatusKind::Current);
        assert_eq!(
            rows(&all),
            [
                row("is-bad", behind, 1, 7_000),
                row("went-back", current, 0, 0),
                row("was-spared", current, 0, 0)
            ]
        );
        // What is published after that is what both lack, and not the bad release before.
        let next = [&all[..], &[release(4, b"better")]].concat();
        assert_eq!(
            rows(&next),
            [
                row("is-bad", behind, 2, 7_000),
                row("was-spared", behind, 1, 6_000),
                row("went-back", current, 0, 0)
            ]
        );
        let same = [
            serving("a", &[release(1, b"good"), release(2, b"same")]),
            serving("b", &[release(2, b"same")]),
        ];
        assert!(evaluate(&same, |_| false, NOW).iter().all(|row| row.state == current));
    }

    #[test]
    fn unreachable_frozen_mirror_is_frozen() {
        let rows = evaluate(
            &[refusing("cold", ErrorKind::Busy), serving("b", &[release(1, b"1")])],
            |name| name == "cold",
            NOW,
        );
        assert_eq!(
            (rows[0].state, rows[0].is_known(), rows[0].is_healthy()),
            (StatusKind::Frozen, false, true)
        );
        assert!(rows[0].error.is_some());
    }

    #[test]
    fn newest_event_counts_regardless_of_its_time() {
        let mut mirror = serving("a", &[release(1, b"1")]);
        let note = |time, what| HistoryEvent { time, kind: what };
        let name = release(1, b"1").name();
        mirror.history = vec![
            note(900, EventKind::Verified { quick: false, faults: 3 }),
            note(u64::MAX, EventKind::Switched { release: name, from: None }),
            note(20, EventKind::Switched { release: name, from: None }),
            note(30, EventKind::Repaired { found: 3, left: 1 }),
            note(31, EventKind::Unknown),
        ];
        let row = &evaluate(&[mirror], |_| false, NOW)[0];
        assert_eq!(row.switched, Some(20));
        assert_eq!(row.verified, Some(LastVerify { time: 30, quick: false, faults: 1 }));
    }

    #[test]
    fn only_the_hook_of_the_newest_activation_counts() {
        let (one, two) = (release(1, b"1").name(), release(2, b"2").name());
        let switch = |release| EventKind::Switched { release, from: None };
        let failure =
            |release| EventKind::HookFailed { release, reason: "exit status: 3".to_owned() };
        let failed = |notes: &[EventKind]| {
            let mut mirror = serving("a", &[release(2, b"2")]);
            mirror.history =
                notes.iter().map(|what| HistoryEvent { time: 7, kind: what.clone() }).collect();
            let row = evaluate(&[mirror], |_| false, NOW).remove(0);
            let limits =
                StatusLimits { warn: Duration::from_secs(60), crit: Duration::from_secs(60) };
            let level = if row.hook_failure.is_some() { Severity::Warning } else { Severity::Ok };
            assert_eq!((row.severity(limits), row.is_healthy()), (level, true));
            row.hook_failure.map(|failure| (failure.time, failure.sequence))
        };
        assert_eq!(failed(&[]), None);
        assert_eq!(failed(&[failure(two)]), None, "the switch was cut from the history");
        assert_eq!(failed(&[switch(one), failure(one)]), Some((7, 1)));
        assert_eq!(failed(&[switch(one), failure(one), switch(two)]), None, "a later success");
        assert_eq!(
            failed(&[switch(one), switch(two), failure(one)]),
            None,
            "one that was overtaken"
        );
        assert_eq!(failed(&[switch(one), failure(one), switch(two), failure(two)]), Some((7, 2)));
    }

    #[test]
    fn entry_served_an_hour_past_expiry_is_overdue() {
        for (due, overdue) in [(NOW + 1, None), (NOW - 3_600, None), (NOW - 3_601, Some(3_601))] {
            let mut mirror = serving("a", &[release(1, b"1")]);
            mirror.state.as_mut().unwrap().next_expiry = Some(due);
            assert_eq!(evaluate(&[mirror], |_| false, NOW)[0].overdue, overdue);
        }
    }

    #[test]
    fn credential_that_expires_soon_is_a_warning_unless_frozen() {
        let limits = StatusLimits { warn: Duration::from_secs(60), crit: Duration::from_secs(60) };
        let soon = Expiries { token: Some(NOW + 60), certificate: Some(NOW + 1_000_000_000) };
        for (name, expiries, level) in [
            ("a", Expiries::default(), Severity::Ok),
            ("a", Expiries { token: None, ..soon }, Severity::Ok),
            ("a", soon, Severity::Warning),
            ("cold", soon, Severity::Ok),
        ] {
            let mut mirror = serving(name, &[release(1, b"1")]);
            mirror.state.as_mut().unwrap().expiries = expiries;
            let row = &evaluate(&[mirror], |name| name == "cold", NOW)[0];
            assert_eq!(
                (row.severity(limits), row.is_healthy()),
                (level, true),
                "{name} {expiries:?}"
            );
        }
    }

    #[test]
    fn severity_is_the_worst_of_all_rows() {
        let limits =
            StatusLimits { warn: Duration::from_secs(6_500), crit: Duration::from_secs(7_500) };
        let all: Vec<Release> =
            (1..=4).map(|sequence| release(sequence, &sequence.to_le_bytes())).collect();
        let at = |seen: &[Poll]| severity(&evaluate(seen, |name| name == "cold", NOW), limits);
        assert_eq!(at(&[serving("b", &all)]), Severity::Ok);
        assert_eq!(
            at(&[serving("b", &all), serving("c", &all[2..3])]),
            Severity::Ok,
            "lag below the limit"
        );
        assert_eq!(at(&[serving("b", &all), serving("c", &all[1..2])]), Severity::Warning);
        assert_eq!(at(&[serving("b", &all), serving("c", &all[..1])]), Severity::Critical);
        assert_eq!(at(&[serving("b", &all), serving("cold", &all[..1])]), Severity::Ok);
        assert_eq!(at(&[serving("b", &all), refusing("x", ErrorKind::Busy)]), Severity::Warning);
        assert_eq!(
            at(&[refusing("x", ErrorKind::Busy), refusing("y", ErrorKind::Forbidden)]),
            Severity::Unknown
        );
        assert_eq!(at(&[]), Severity::Unknown);
    }
}
