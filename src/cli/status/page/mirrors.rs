//! The mirrors on the page: how each stands, and its last days.

use std::fmt::Write as _;
use std::time::Duration;

use headwater::mirror::{Happening, What};
use headwater::watch::{DAY_SECONDS, Day, DayKind, LastVerify, Standing, days, published};

use super::super::super::output::{bytes, count, counted, duration, moment};
use super::{Page, class, text, time};

/// Days in the strip of a mirror.
const DAYS: u64 = 14;
/// Failures that are shown of a mirror, the newest.
const MAX_FAILURES: usize = 3;

/// The section with all mirrors, worst first.
pub(super) fn section(page: &Page<'_>) -> String {
    let published = published(page.seen);
    let mut html = String::from("<h2>Mirrors</h2>\n");
    html.push_str(
        "<p class=\"key\"><span class=\"good\">up to date all day</span><span class=\"late\">a release came late</span>\
         <span class=\"bad\">failures or faults</span><span>nothing known</span></p>\n<ul>\n",
    );
    for standing in page.standings {
        let one = page.seen.iter().find(|one| one.mirror == standing.mirror);
        let history = one.map_or(&[][..], |one| &one.history);
        let strip = strip(&days(history, &published, page.tolerance, page.now, DAYS));
        html.push_str(&card(page, standing, history, &strip));
    }
    html.push_str("</ul>\n");
    html
}

fn card(page: &Page<'_>, standing: &Standing, history: &[Happening], strip: &str) -> String {
    let (name, place) = (text(&standing.mirror), text(&standing.location));
    let place = if name == place { String::new() } else { place };
    let place = match standing.round_trip_ms {
        Some(ms) if place.is_empty() => format!("answers in {} ms", count(ms)),
        Some(ms) => format!("{place}, answers in {} ms", count(ms)),
        None => place,
    };
    let place = format!("<span class=\"place\">{place}</span>");
    let mut html = format!(
        "<li class=\"mirror\">\n<div class=\"top\"><h3 class=\"name\">{name}</h3>{place}\
         <span class=\"state {}\">{}</span></div>\n",
        class(standing.state),
        standing.state.name(),
    );
    if let Some(error) = &standing.error {
        // Writing to a string cannot fail.
        writeln!(html, "<p class=\"error\">{}</p>", text(error)).ok();
    }
    if standing.is_known() {
        html.push_str(&facts(page, standing));
    }
    html.push_str(strip);
    html.push_str(&failures(history, page.now));
    html.push_str("</li>\n");
    html
}

fn facts(page: &Page<'_>, standing: &Standing) -> String {
    let now = page.now;
    let mut html = String::from("<dl class=\"facts\">\n");
    let mut add = |term: &str, description: Option<String>| {
        html.extend(description.map(|description| format!("<div><dt>{term}</dt><dd>{description}</dd></div>\n")));
    };
    let same = page.same_as(standing).map(|newest| format!(", same as {newest}")).unwrap_or_default();
    add("Release", standing.sequence.map(|sequence| format!("{sequence}{same}")));
    add("Published", standing.created.map(|created| time(created, now)));
    add(
        "Lag",
        standing.lag.filter(|_| standing.behind > 0).map(|lag| {
            let behind = counted(standing.behind, "release", "releases");
            format!("{}, {behind}", duration(Duration::from_secs(lag.max(1))))
        }),
    );
    let or = |text: Option<String>, without: &str| Some(text.unwrap_or_else(|| without.to_owned()));
    add("Switched", or(standing.switched.map(|switched| time(switched, now)), "not known"));
    add("Verified", or(standing.verified.map(|verified| verification(verified, now)), "not known"));
    add("Content", standing.bytes.map(bytes));
    add("Free", standing.free_bytes.map(bytes));
    add(
        "Visitors",
        standing.public.as_ref().map(|public| match public.stale.first() {
            None => "get this release".to_owned(),
            Some(stale) => format!("get {} otherwise: {}", text(&stale.path), text(&stale.why)),
        }),
    );
    html.push_str("</dl>\n");
    html
}

fn verification(verified: LastVerify, now: u64) -> String {
    let depth = if verified.quick { ", quick" } else { "" };
    let faults = match verified.faults {
        0 => String::new(),
        faults => format!(": {}", counted(faults, "fault", "faults")),
    };
    format!("{}{depth}{faults}", time(verified.time, now))
}

/// The days as bars, and in words for those who do not see them.
fn strip(days: &[Day]) -> String {
    let mut html = String::from("<ul class=\"strip\" aria-label=\"The last 14 days\">");
    for day in days {
        let (class, words) = match day.kind {
            DayKind::Unknown => ("none", "nothing known".to_owned()),
            DayKind::Fresh => ("good", "up to date".to_owned()),
            DayKind::Late => ("late", format!("late by {}", duration(Duration::from_secs(day.lag)))),
            DayKind::Trouble => ("bad", "failures or faults".to_owned()),
        };
        let switches = match day.switches {
            0 => String::new(),
            switches => format!(", {}", counted(switches, "switch", "switches")),
        };
        let words = format!("{}: {words}{switches}", date(day.start));
        write!(html, "<li class=\"{class}\" title=\"{words}\"><span class=\"sr\">{words}</span></li>").ok();
    }
    html.push_str("</ul>\n");
    let ends = days.first().map(|first| date(first.start)).unwrap_or_default();
    writeln!(html, "<div class=\"ends\" aria-hidden=\"true\"><span>{ends}</span><span>today</span></div>").ok();
    html
}

fn date(seconds: u64) -> String {
    moment(seconds).split('T').next().unwrap_or_default().to_owned()
}

/// What went wrong on the mirror itself during the days of the strip.
fn failures(history: &[Happening], now: u64) -> String {
    let since = now.saturating_sub(DAYS * DAY_SECONDS);
    let failed = |happening: &Happening| match &happening.what {
        What::Failed { release, why } if happening.time >= since => {
            let when = time(happening.time, now);
            Some(format!("<p class=\"error\">Release {} failed {when}: {}</p>\n", release.sequence(), text(why)))
        }
        What::HookFailed { release, why } if happening.time >= since => {
            let (when, sequence) = (time(happening.time, now), release.sequence());
            Some(format!("<p class=\"error\">After release {sequence} became current {when}: {}</p>\n", text(why)))
        }
        _ => None,
    };
    history.iter().rev().filter_map(failed).take(MAX_FAILURES).collect()
}
