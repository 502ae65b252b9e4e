//! The mirrors on the page: the state of each mirror, and its last days.

use std::fmt::Write as _;
use std::time::Duration;

use headwater::fleet_status::{
    DAY_SECONDS, Day, DayKind, LastVerify, MirrorStatus, StatusKind, days, published,
};
use headwater::mirror::{EventKind, HistoryEvent};

use super::super::super::output::{bytes, count, counted, duration, moment};
use super::{StatusPage, class, text, time};

/// Days in the strip of a mirror.
const DAYS: u64 = 14;
/// Most failures of a mirror that are shown, newest first.
const MAX_FAILURES: usize = 3;

/// The section with all mirrors, worst first.
pub(super) fn section(page: &StatusPage<'_>) -> String {
    let published = published(page.seen);
    let mut html = String::from("<h2>Mirrors</h2>\n");
    html.push_str(
        "<p class=\"key\"><span class=\"good\">up to date all day</span><span class=\"late\">a \
         release came late</span><span class=\"bad\">failures, faults or no \
         response</span><span>not known</span></p>\n<ul>\n",
    );
    for mirror_status in page.mirror_statuses {
        let one = page.seen.iter().find(|one| one.mirror == mirror_status.mirror);
        let history = one.map_or(&[][..], |one| &one.history);
        let mut days = days(history, &published, page.tolerance, page.now, DAYS);
        if let Some(today) = days
            .last_mut()
            .filter(|_| !mirror_status.is_known() && mirror_status.state != StatusKind::Frozen)
        {
            today.kind = DayKind::Trouble;
        }
        let strip = strip(&days, mirror_status.is_known());
        html.push_str(&card(page, mirror_status, history, &strip));
    }
    html.push_str("</ul>\n");
    html
}

fn card(
    page: &StatusPage<'_>,
    mirror_status: &MirrorStatus,
    history: &[HistoryEvent],
    strip: &str,
) -> String {
    let (name, place) = (text(&page.name(mirror_status)), place(page, mirror_status));
    let mut html = format!(
        "<li class=\"mirror\">\n<div class=\"top\"><h3 class=\"name\">{name}</h3><span \
         class=\"place\">{place}</span><span class=\"state {}\">{}</span></div>\n",
        class(mirror_status.state),
        mirror_status.state.name(),
    );
    // Writing to a string cannot fail.
    match &mirror_status.error {
        Some(error) if page.is_internal => {
            writeln!(html, "<p class=\"error\">{}</p>", text(error)).ok()
        }
        Some(_) => writeln!(html, "<p class=\"error\">{}</p>", problem(mirror_status.state)).ok(),
        None => None,
    };
    if let Some(last) = mirror_status.last_seen {
        let (sequence, at, created) = (last.sequence, time(last.time), time(last.created));
        writeln!(
            html,
            "<p class=\"soft\">At {at} the mirror served release {sequence}, published \
                        on {created}.</p>"
        )
        .ok();
    }
    if mirror_status.is_known() {
        html.push_str(&facts(page, mirror_status));
    }
    html.push_str(strip);
    html.push_str(&failures(page, history));
    html.push_str("</li>\n");
    html
}

/// The region and the public URL of a mirror; on an internal page also the push URL.
fn place(page: &StatusPage<'_>, mirror_status: &MirrorStatus) -> String {
    let config =
        page.config.all_mirrors().find(|mirror| mirror.name.as_str() == mirror_status.mirror);
    let region =
        config.and_then(|mirror| mirror.region.as_ref()).map(|region| text(region.as_str()));
    let url = config.and_then(|mirror| mirror.public_url.as_ref()).map(|url| text(url.as_str()));
    let link = url.map(|url| format!("<a href=\"{url}\" rel=\"noreferrer\">{url}</a>"));
    let push = Some(text(&mirror_status.location))
        .filter(|_| page.is_internal && mirror_status.location != mirror_status.mirror);
    let answer = mirror_status
        .round_trip_ms
        .filter(|_| page.is_internal)
        .map(|ms| format!("responds in {} ms", count(ms)));
    [region, link, push, answer].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The public text about a mirror whose state is not known.
const fn problem(state: StatusKind) -> &'static str {
    match state {
        StatusKind::Unreachable => "The mirror does not respond.",
        StatusKind::Denied => "The mirror denied access.",
        StatusKind::Frozen => "The mirror is frozen and does not respond.",
        _ => "The state of the mirror is not known.",
    }
}

fn facts(page: &StatusPage<'_>, mirror_status: &MirrorStatus) -> String {
    let mut html = String::from("<dl class=\"facts\">\n");
    let mut add = |term: &str, description: Option<String>| {
        html.extend(
            description
                .map(|description| format!("<div><dt>{term}</dt><dd>{description}</dd></div>\n")),
        );
    };
    let same =
        page.same_as(mirror_status).map(|newest| format!(", same as {newest}")).unwrap_or_default();
    add("Release", mirror_status.sequence.map(|sequence| format!("{sequence}{same}")));
    add("Published", mirror_status.created.map(time));
    add(
        "Lag",
        mirror_status.lag.filter(|_| mirror_status.behind > 0).map(|lag| {
            let behind = counted(mirror_status.behind, "release", "releases");
            format!("{}, {behind}", duration(Duration::from_secs(lag.max(1))))
        }),
    );
    let or = |text: Option<String>, without: &str| Some(text.unwrap_or_else(|| without.to_owned()));
    add("Switched", or(mirror_status.switched.map(time), "not known"));
    add("Verified", or(mirror_status.verified.map(verification), "not yet"));
    add("Content", mirror_status.bytes.map(bytes));
    add("On disk", mirror_status.usage.as_ref().map(|usage| bytes(usage.bytes)));
    add("Free", mirror_status.free_bytes.map(bytes));
    add(
        "Visitors",
        mirror_status.public.as_ref().map(|public| match public.stale.first() {
            None => "get this release".to_owned(),
            Some(stale) => {
                format!("get other content for {}: {}", text(&stale.path), text(&stale.why))
            }
        }),
    );
    html.push_str("</dl>\n");
    html
}

fn verification(verified: LastVerify) -> String {
    let depth = if verified.quick { ", quick" } else { "" };
    let faults = match verified.faults {
        0 => String::new(),
        faults => format!(": {}", counted(faults, "fault", "faults")),
    };
    format!("{}{depth}{faults}", time(verified.time))
}

/// The days as bars, with a text for screen readers.
fn strip(days: &[Day], answers: bool) -> String {
    let mut html = String::from("<ul class=\"strip\" aria-label=\"The last 14 days\">");
    for (left, day) in (0..days.len()).rev().zip(days) {
        let (class, words) = match day.kind {
            DayKind::Trouble if left == 0 && !answers => ("bad", "no response".to_owned()),
            DayKind::Unknown => ("none", "not known".to_owned()),
            DayKind::Fresh => ("good", "up to date".to_owned()),
            DayKind::Late => {
                ("late", format!("late by {}", duration(Duration::from_secs(day.lag))))
            }
            DayKind::Trouble => ("bad", "failures or faults".to_owned()),
        };
        let switches = match day.switches {
            0 => String::new(),
            switches => format!(", {}", counted(switches, "switch", "switches")),
        };
        let words = format!("{}: {words}{switches}", date(day.start));
        write!(
            html,
            "<li class=\"{class}\" title=\"{words}\"><span class=\"sr\">{words}</span></li>"
        )
        .ok();
    }
    html.push_str("</ul>\n");
    let ends = days.first().map(|first| date(first.start)).unwrap_or_default();
    writeln!(
        html,
        "<div class=\"ends\" aria-hidden=\"true\"><span>{ends}</span><span>today</span></div>"
    )
    .ok();
    html
}

fn date(seconds: u64) -> String {
    moment(seconds).split('T').next().unwrap_or_default().to_owned()
}

/// The failures on the mirror during the days of the strip; an internal page also shows the
/// reasons.
fn failures(page: &StatusPage<'_>, history: &[HistoryEvent]) -> String {
    let since = page.now.saturating_sub(DAYS * DAY_SECONDS);
    let why =
        |why: &str| if page.is_internal { format!(": {}", text(why)) } else { ".".to_owned() };
    let failed = |happening: &HistoryEvent| {
        let when = time(happening.time);
        let words = match &happening.what {
            EventKind::Failed { release, why: what } => {
                format!("Release {} failed on {when}{}", release.sequence(), why(what))
            }
            EventKind::HookFailed { release, why: what } => {
                format!(
                    "The command after release {} failed on {when}{}",
                    release.sequence(),
                    why(what)
                )
            }
            _ => return None,
        };
        (happening.time >= since).then(|| format!("<p class=\"error\">{words}</p>\n"))
    };
    history.iter().rev().filter_map(failed).take(MAX_FAILURES).collect()
}
