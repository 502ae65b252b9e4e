//! The status for people: a summary and a table.

use std::time::Duration;

use headwater::fleet_status::{LastVerify, MirrorStatus, PublicCheck, StatusKind};
use unicode_width::UnicodeWidthStr as _;

use crate::cli::output::format::{
    Align, Table, escape, format_age, format_bytes, format_count, format_duration, format_time,
    pluralize,
};
use crate::cli::output::{expiry, terminal};

/// Columns that are left out if the table is too wide.
const OPTIONAL_COLUMNS: [&str; 4] = ["behind", "switched", "verified", "response"];

/// The width of the terminal in characters; `None` if there is no limit, as with a pipe.
pub(super) fn width_limit(is_wide: bool) -> Option<usize> {
    terminal::stdout_columns().filter(|_| !is_wide)
}

/// The summary and the table, worst mirror first. If not all columns fit into `room`, the table
/// contains only the most important columns, and the remarks on mirrors follow it.
pub(super) fn describe(mirror_statuses: &[MirrorStatus], now: u64, room: Option<usize>) -> String {
    let rows: Vec<Vec<String>> =
        mirror_statuses.iter().map(|mirror_status| row(mirror_status, now)).collect();
    let all = table(&rows, |_| true).render();
    let fits = |text: &str| room.is_none_or(|room| text.lines().all(|line| line.width() <= room));
    // Half a column is unreadable, so whole columns are left out.
    if fits(&all) {
        return format!("{}\n{all}", summary(mirror_statuses));
    }
    let some = table(&rows, |heading| !heading.is_empty() && !OPTIONAL_COLUMNS.contains(&heading))
        .render();
    let remarks: String = mirror_statuses
        .iter()
        .filter_map(|mirror_status| remark_line(mirror_status, now))
        .collect();
    format!("{}\n{some}{remarks}", summary(mirror_statuses))
}

const HEADINGS: [(&str, Align); 13] = [
    ("mirror", Align::Left),
    ("state", Align::Left),
    ("release", Align::Right),
    ("published", Align::Left),
    ("behind", Align::Right),
    ("lag", Align::Right),
    ("switched", Align::Left),
    ("verified", Align::Left),
    ("size", Align::Right),
    ("disk", Align::Right),
    ("free", Align::Right),
    ("response", Align::Right),
    ("", Align::Left),
];

/// The table with the columns whose headings are `shown`. Without --disk, leaves out the column
/// `disk`.
fn table(rows: &[Vec<String>], shown: impl Fn(&str) -> bool) -> Table {
    // 9 is the index of `disk` in `HEADINGS`.
    let has_disk = rows.iter().any(|row| row[9] != "-");
    let is_shown = |(column, (heading, _)): &(usize, &(&str, Align))| {
        shown(heading) && (*column != 9 || has_disk)
    };
    let columns: Vec<usize> =
        HEADINGS.iter().enumerate().filter(is_shown).map(|(column, _)| column).collect();
    let mut table = Table::new(columns.iter().map(|column| HEADINGS[*column]));
    rows.iter().for_each(|row| table.add_row(columns.iter().map(|column| &row[*column])));
    table
}

fn row(mirror_status: &MirrorStatus, now: u64) -> Vec<String> {
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let is_behind = mirror_status.behind > 0;
    vec![
        mirror_status.mirror.clone(),
        mirror_status.state.name().to_owned(),
        optional(mirror_status.sequence.map(|sequence| sequence.to_string())),
        optional(mirror_status.created.map(|created| format_age(created, now))),
        optional(is_behind.then(|| format_count(mirror_status.behind))),
        optional(
            mirror_status
                .lag
                .filter(|_| is_behind)
                // At least 1 s: a mirror that lags must not show 0.
                .map(|lag| format_duration(Duration::from_secs(lag.max(1)))),
        ),
        optional(mirror_status.switched.map(|switched| format_age(switched, now))),
        optional(mirror_status.verified.map(|verified| verification(verified, now))),
        optional(mirror_status.bytes.map(format_bytes)),
        optional(mirror_status.usage.as_ref().map(|usage| format_bytes(usage.bytes))),
        optional(mirror_status.free_bytes.map(format_bytes)),
        optional(mirror_status.round_trip_ms.map(|ms| format!("{} ms", format_count(ms)))),
        remark(mirror_status, now),
    ]
}

/// The remark, including faults, as a line below a table that has no room for it.
fn remark_line(mirror_status: &MirrorStatus, now: u64) -> Option<String> {
    let faults = mirror_status.verified.filter(|verified| verified.faults > 0);
    let faults = faults.map(|verified| format!("verified {}", verification(verified, now)));
    let rest = Some(remark(mirror_status, now)).filter(|remark| !remark.is_empty());
    let parts: Vec<String> = faults.into_iter().chain(rest).collect();
    (!parts.is_empty())
        .then(|| format!("{}: {}\n", escape(&mirror_status.mirror), escape(&parts.join("; "))))
}

/// The numbers of mirrors that are current, apart and frozen.
pub(super) fn summary(mirror_statuses: &[MirrorStatus]) -> String {
    let of = |state| {
        mirror_statuses.iter().filter(|mirror_status| mirror_status.state == state).count() as u64
    };
    let beside = |state: StatusKind| match of(state) {
        0 => String::new(),
        number => format!(", {} {}", format_count(number), state.name()),
    };
    let all = pluralize(mirror_statuses.len() as u64, "mirror", "mirrors");
    let (apart, frozen) = (beside(StatusKind::Apart), beside(StatusKind::Frozen));
    format!("{} of {all} current{apart}{frozen}", format_count(of(StatusKind::Current)))
}

fn verification(verified: LastVerify, now: u64) -> String {
    let depth = if verified.quick { ", quick" } else { "" };
    match verified.faults {
        0 => format!("{}{depth}", format_age(verified.time, now)),
        faults => {
            format!(
                "{}{depth}: {}",
                format_age(verified.time, now),
                pluralize(faults, "fault", "faults")
            )
        }
    }
}

/// The remark on a mirror.
fn remark(mirror_status: &MirrorStatus, now: u64) -> String {
    let staged = mirror_status.staged.map(|staged| format!("{staged} is staged"));
    let unfinished = mirror_status.incoming_bytes.filter(|size| *size > 0);
    let unfinished = unfinished.map(|size| format!("{} of unfinished pushes", format_bytes(size)));
    let overdue = mirror_status.overdue.map(|seconds| {
        let time = format_duration(Duration::from_secs(seconds));
        format!("has served retired files for {time} too long: run `headwater prune`")
    });
    let hook = mirror_status.hook_failure.as_ref();
    let hook = hook.map(|failure| {
        format!("post_activate failed after release {}: {}", failure.sequence, failure.reason)
    });
    let expiring = mirror_status.expiring.iter().map(|expiry| expiry::describe(*expiry, now));
    let rest =
        mirror_status.error.clone().or_else(|| mirror_status.public.as_ref().map(visitors_text));
    let last = mirror_status
        .last_seen
        .map(|last| format!("served release {} at {}", last.sequence, format_time(last.time)));
    let apart = mirror_status.apart.clone();
    let parts = staged
        .into_iter()
        .chain(apart)
        .chain(unfinished)
        .chain(overdue)
        .chain(hook)
        .chain(expiring)
        .chain(rest)
        .chain(last);
    parts.collect::<Vec<_>>().join("; ")
}

/// A short description of what visitors get.
fn visitors_text(public: &PublicCheck) -> String {
    match public.stale.first() {
        None => format!(
            "visitors get this release: {} fetched",
            pluralize(public.checked, "file", "files")
        ),
        Some(stale) => {
            let number = public.stale.len() as u64;
            format!(
                "visitors get different content for {} of {} files: {}: {}",
                format_count(number),
                format_count(public.checked),
                stale.path,
                stale.why
            )
        }
    }
}

/// Text that replaces the previous output: on a terminal, it starts at the top of the screen;
/// otherwise it follows a line with the time.
pub(super) fn redrawn(text: &str, now: u64) -> String {
    // The first sequence moves the cursor to the top left, and the second one clears from there to
    // the end of the screen.
    let begin = if terminal::is_stdout_terminal() { "\x1b[H\x1b[J" } else { "" };
    format!("{begin}{}\n{text}\n", format_time(now))
}

#[cfg(test)]
mod tests {
    use headwater::fleet_status::LastSeen;

    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn mirror_status(name: &str, state: StatusKind) -> MirrorStatus {
        let mut mirror_status = MirrorStatus::unresponsive(name, "/srv/www", state);
        (mirror_status.sequence, mirror_status.created) = (Some(1_284), Some(NOW - 3_599));
        (mirror_status.switched, mirror_status.bytes) = (Some(NOW - 3_500), Some(123_456_789));
        (mirror_status.free_bytes, mirror_status.round_trip_ms) = (Some(25_300_000_000), Some(123));
        mirror_status
    }

    #[test]
    fn ordinary_names_fit_80_columns() {
        let mut behind = mirror_status("edge-sin-002", StatusKind::Behind);
        (behind.behind, behind.lag) = (12, Some(86_399));
        behind.verified = Some(LastVerify { time: NOW - 60, quick: true, faults: 2 });
        let all = [
            behind,
            mirror_status("edge-fra-001", StatusKind::Current),
            mirror_status("hub-east", StatusKind::Current),
        ];
        let text = describe(&all, NOW, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("23 h 59 min") && text.contains("1284") && text.contains("25.3 GB"),
            "{text}"
        );
        assert!(text.ends_with("edge-sin-002: verified 1 min ago, quick: 2 faults\n"), "{text}");
        assert!(!text.contains("response"), "{text}");
        for room in [None, Some(160)] {
            assert!(describe(&all, NOW, room).contains("response"));
        }
    }

    #[test]
    fn error_without_space_has_a_separate_line() {
        let mut gone =
            MirrorStatus::unresponsive("edge-fra-001", "https://h/d", StatusKind::Unreachable);
        gone.error = Some(
            "it cannot be reached: connection refused by the machine there, and more words"
                .to_owned(),
        );
        gone.last_seen = Some(LastSeen { time: NOW, sequence: 7, created: NOW });
        let text = describe(&[gone], NOW, Some(80));
        let line = text.lines().last().unwrap();
        assert!(line.starts_with("edge-fra-001: it cannot be reached"), "{text}");
        assert!(line.ends_with("served release 7 at 2001-09-09T01:46:40Z"), "{text}");
    }
}
