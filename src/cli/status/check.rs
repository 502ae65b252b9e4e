//! `headwater status --check`: one line and an exit code, as monitoring
//! plug-ins give them (<https://www.monitoring-plugins.org/doc/guidelines.html>).

use std::time::Duration;

use headwater::watch::{Level, Limits, Standing, State, severity};

use super::super::expiry;
use super::super::failure::{Exit, Failure};
use super::super::output::{counted, duration, escape, print};
use super::super::watcher::Look;
use super::table::summary;

/// Mirrors that are named before the rest is only counted: the line goes into a text message.
const MAX_NAMED: usize = 3;

/// Looks, prints the line, and ends as it says. What keeps it from looking is no crisis but unknown.
pub(super) fn run(limits: Limits, look: impl FnOnce() -> Result<Look, Failure>) -> Result<Exit, Failure> {
    let (level, text) = match look() {
        Ok(look) => (severity(&look.standings, limits), line(&look.standings, limits, look.now)),
        Err(failure) => (Level::Unknown, failure.text()),
    };
    // A line may have one `|`, before the figures.
    print(&format!("HEADWATER {} - {}\n", word(level), escape(&text)))?;
    Ok(exit(level))
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "OK",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
        Level::Unknown => "UNKNOWN",
    }
}

/// The numbers are those of monitoring plug-ins; the names are what they mean elsewhere.
const fn exit(level: Level) -> Exit {
    match level {
        Level::Ok => Exit::Success,
        Level::Warning => Exit::Failed,
        Level::Critical => Exit::Usage,
        Level::Unknown => Exit::Partial,
    }
}

fn line(standings: &[Standing], limits: Limits, now: u64) -> String {
    let mut text = summary(standings);
    let bad: Vec<&Standing> = standings.iter().filter(|standing| standing.severity(limits) > Level::Ok).collect();
    for standing in bad.iter().take(MAX_NAMED) {
        text.push_str(&format!(", {} {}", standing.mirror, why(standing, now)));
    }
    if bad.len() > MAX_NAMED {
        text.push_str(&format!(" and {} more", bad.len() - MAX_NAMED));
    }
    format!("{} | {}", text.replace('|', "/"), figures(standings, limits))
}

fn why(standing: &Standing, now: u64) -> String {
    let defects = defects(standing, now);
    match standing.lag {
        Some(lag) if standing.behind > 0 => {
            format!("{} by {}", standing.state.name(), duration(Duration::from_secs(lag.max(1))))
        }
        _ if standing.is_stale() => "is stale for visitors".to_owned(),
        _ if standing.state.is_well() && !defects.is_empty() => format!("has {}", defects.join(", ")),
        _ => standing.state.name().to_owned(),
    }
}

/// What is wrong with a mirror, whatever it serves.
fn defects(standing: &Standing, now: u64) -> Vec<String> {
    let faults = standing.verified.map(|verified| verified.faults).filter(|faults| *faults > 0);
    let faults = faults.map(|faults| counted(faults, "fault", "faults"));
    let hook = standing.hook_failure.as_ref().map(|_| "a failed post_activate command".to_owned());
    let expiring = standing.expiring.iter().map(|expiry| {
        let (what, when) = (expiry::name(expiry.what), expiry::when(*expiry, now));
        format!("a {what} that {when}")
    });
    faults.into_iter().chain(hook).chain(expiring).collect()
}

/// The figures, in the form that plug-ins have for them.
fn figures(standings: &[Standing], limits: Limits) -> String {
    let counted = |is: fn(&Standing) -> bool| standings.iter().filter(|standing| is(standing)).count();
    let lag = standings.iter().filter(|standing| standing.state != State::Frozen).filter_map(|standing| standing.lag);
    format!(
        "lag={}s;{};{};0 mirrors={};;;0 current={};;;0 behind={};;;0 unknown={};;;0",
        lag.max().unwrap_or(0),
        limits.warn.as_secs(),
        limits.crit.as_secs(),
        standings.len(),
        counted(|standing| standing.state == State::Current),
        counted(|standing| standing.behind > 0 && standing.state != State::Frozen),
        counted(|standing| !standing.is_known()),
    )
}
