//! The status for people: a summary and a table.

use std::time::Duration;

use headwater::watch::{LastVerify, Public, Standing, State};

use super::super::output::{Align, Table, age, bytes, count, counted, duration, moment};
use super::super::terminal;

/// The summary and the table, the worst first.
pub(super) fn describe(standings: &[Standing], now: u64) -> String {
    let mut table = Table::new([
        ("mirror", Align::Left),
        ("state", Align::Left),
        ("release", Align::Right),
        ("published", Align::Left),
        ("behind", Align::Right),
        ("lag", Align::Right),
        ("switched", Align::Left),
        ("verified", Align::Left),
        ("size", Align::Right),
        ("free", Align::Right),
        ("answers in", Align::Right),
        ("", Align::Left),
    ]);
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for standing in standings {
        let is_behind = standing.behind > 0;
        table.row([
            standing.mirror.clone(),
            standing.state.name().to_owned(),
            optional(standing.sequence.map(|sequence| sequence.to_string())),
            optional(standing.created.map(|created| age(created, now))),
            optional(is_behind.then(|| count(standing.behind))),
            optional(standing.lag.filter(|_| is_behind).map(|lag| duration(Duration::from_secs(lag.max(1))))),
            optional(standing.switched.map(|switched| age(switched, now))),
            optional(standing.verified.map(|verified| verification(verified, now))),
            optional(standing.bytes.map(bytes)),
            optional(standing.free_bytes.map(bytes)),
            optional(standing.round_trip_ms.map(|ms| format!("{} ms", count(ms)))),
            remark(standing),
        ]);
    }
    format!("{}\n{}", summary(standings), table.render())
}

/// How many are current, and how many are frozen beside them.
pub(super) fn summary(standings: &[Standing]) -> String {
    let of = |state| standings.iter().filter(|standing| standing.state == state).count() as u64;
    let frozen = match of(State::Frozen) {
        0 => String::new(),
        frozen => format!(", {} frozen", count(frozen)),
    };
    let all = counted(standings.len() as u64, "mirror", "mirrors");
    format!("{} of {all} current{frozen}", count(of(State::Current)))
}

fn verification(verified: LastVerify, now: u64) -> String {
    let depth = if verified.quick { ", quick" } else { "" };
    match verified.faults {
        0 => format!("{}{depth}", age(verified.time, now)),
        faults => format!("{}{depth}: {}", age(verified.time, now), counted(faults, "fault", "faults")),
    }
}

/// What else there is to say.
fn remark(standing: &Standing) -> String {
    let staged = standing.staged.map(|staged| format!("{staged} is staged"));
    let unfinished = standing.incoming_bytes.filter(|size| *size > 0);
    let unfinished = unfinished.map(|size| format!("{} of unfinished pushes", bytes(size)));
    let overdue = standing.overdue.map(|seconds| {
        let time = duration(Duration::from_secs(seconds));
        format!("serves retired files {time} too long: run `headwater prune`")
    });
    let rest = standing.error.clone().or_else(|| standing.public.as_ref().map(visitors));
    staged.into_iter().chain(unfinished).chain(overdue).chain(rest).collect::<Vec<_>>().join("; ")
}

/// What visitors get, in a few words.
fn visitors(public: &Public) -> String {
    match public.stale.first() {
        None => format!("visitors get it: {} fetched", counted(public.checked, "file", "files")),
        Some(stale) => {
            let number = public.stale.len() as u64;
            format!(
                "visitors get {} of {} otherwise: {}: {}",
                count(number),
                count(public.checked),
                stale.path,
                stale.why
            )
        }
    }
}

/// The text in place of the one before it: on a terminal from its top, elsewhere below a line with the time.
pub(super) fn afresh(text: &str, now: u64) -> String {
    let begin = if terminal::is_stdout_terminal() { "\x1b[H\x1b[J" } else { "" };
    format!("{begin}{}\n{text}\n", moment(now))
}
