//! `headwater status --check`: the line and the exit code of a monitoring
//! plug-in (<https://www.monitoring-plugins.org/doc/guidelines.html>).

use std::time::Duration;

use headwater::fleet_status::{MirrorStatus, Severity, StatusKind, StatusLimits, severity};

use crate::cli::commands::status::table::summary;
use crate::cli::output::expiry;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{escape, format_duration, pluralize};
use crate::cli::output::print::print;
use crate::cli::setup::fleet_poller::FleetPoll;

/// Maximum number of mirrors that are named. Any others are only counted, because the line may be
/// sent as a text message.
const MAX_NAMED: usize = 3;

/// Polls the mirrors, prints the line and returns the exit code. A failure to poll is UNKNOWN, not
/// CRITICAL.
pub(super) fn run(
    limits: StatusLimits,
    poll_fleet: impl FnOnce() -> Result<FleetPoll, Failure>,
) -> Result<Exit, Failure> {
    let (level, text) = match poll_fleet() {
        Ok(fleet_poll) => (
            severity(&fleet_poll.mirror_statuses, limits),
            plugin_line(&fleet_poll.mirror_statuses, limits, fleet_poll.now),
        ),
        // A monitoring system must get one line and one of the four codes, whatever happens.
        Err(failure) => (Severity::Unknown, failure.error_text()),
    };
    // A line may contain only one `|`, before the performance data.
    print(&format!("HEADWATER {} - {}\n", severity_word(level), escape(&text)))?;
    Ok(severity_exit(level))
}

const fn severity_word(level: Severity) -> &'static str {
    match level {
        Severity::Ok => "OK",
        Severity::Warning => "WARNING",
        Severity::Critical => "CRITICAL",
        Severity::Unknown => "UNKNOWN",
    }
}

/// The exit code with the number that monitoring plug-ins use for `level`. The names of the
/// variants mean nothing here.
const fn severity_exit(level: Severity) -> Exit {
    match level {
        Severity::Ok => Exit::Success,
        Severity::Warning => Exit::Failed,
        Severity::Critical => Exit::Usage,
        Severity::Unknown => Exit::Partial,
    }
}

fn plugin_line(mirror_statuses: &[MirrorStatus], limits: StatusLimits, now: u64) -> String {
    let mut text = summary(mirror_statuses);
    let bad: Vec<&MirrorStatus> = mirror_statuses
        .iter()
        .filter(|mirror_status| mirror_status.severity(limits) > Severity::Ok)
        .collect();
    for mirror_status in bad.iter().take(MAX_NAMED) {
        text.push_str(&format!(", {} {}", mirror_status.mirror, problem_text(mirror_status, now)));
    }
    if bad.len() > MAX_NAMED {
        text.push_str(&format!(" and {} more", bad.len() - MAX_NAMED));
    }
    format!("{} | {}", text.replace('|', "/"), performance_data(mirror_statuses, limits))
}

fn problem_text(mirror_status: &MirrorStatus, now: u64) -> String {
    let defects = defects(mirror_status, now);
    match mirror_status.lag {
        Some(lag) if mirror_status.behind > 0 => {
            format!(
                "{} by {}",
                mirror_status.state.name(),
                format_duration(Duration::from_secs(lag.max(1)))
            )
        }
        _ if mirror_status.is_stale() => "is stale for visitors".to_owned(),
        _ if mirror_status.state.is_healthy() && !defects.is_empty() => {
            format!("has {}", defects.join(", "))
        }
        _ => mirror_status.state.name().to_owned(),
    }
}

/// The problems of a mirror that do not depend on its release.
fn defects(mirror_status: &MirrorStatus, now: u64) -> Vec<String> {
    let faults =
        mirror_status.verified.map(|verified| verified.faults).filter(|faults| *faults > 0);
    let faults = faults.map(|faults| pluralize(faults, "fault", "faults"));
    let hook =
        mirror_status.hook_failure.as_ref().map(|_| "a failed post_activate command".to_owned());
    let expiring = mirror_status.expiring.iter().map(|expiry| {
        let (what, when) =
            (expiry::credential_name(expiry.kind), expiry::expiry_text(*expiry, now));
        format!("a {what} that {when}")
    });
    faults.into_iter().chain(hook).chain(expiring).collect()
}

/// The performance data in the format of monitoring plug-ins.
fn performance_data(mirror_statuses: &[MirrorStatus], limits: StatusLimits) -> String {
    let counted = |is: fn(&MirrorStatus) -> bool| {
        mirror_statuses.iter().filter(|mirror_status| is(mirror_status)).count()
    };
    let lag = mirror_statuses
        .iter()
        // A frozen mirror lags on purpose.
        .filter(|mirror_status| mirror_status.state != StatusKind::Frozen)
        .filter_map(|mirror_status| mirror_status.lag);
    format!(
        "lag={}s;{};{};0 mirrors={};;;0 current={};;;0 behind={};;;0 unknown={};;;0",
        lag.max().unwrap_or(0),
        limits.warn.as_secs(),
        limits.crit.as_secs(),
        mirror_statuses.len(),
        counted(|mirror_status| mirror_status.state == StatusKind::Current),
        counted(
            |mirror_status| mirror_status.behind > 0 && mirror_status.state != StatusKind::Frozen
        ),
        counted(|mirror_status| !mirror_status.is_known()),
    )
}
