//! The mirrors on the page: the state and the last days of each mirror.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater::fleet_status::{
    DAY_SECONDS, Day, DayKind, LastVerify, MirrorStatus, PublishedRelease, StatusKind, days,
    published_releases,
};
use headwater::mirror::{EventKind, HistoryEvent};
use maud::{Markup, html};

use crate::cli::commands::status::page::{StatusPage, css_class, fact, time};
use crate::cli::output::format::{
    escape, format_bytes, format_count, format_duration, format_time, pluralize,
};

/// How many days a mirror's strip shows.
const STRIP_DAYS: u64 = 14;
/// Maximum number of failures that are shown for a mirror, newest first.
const MAX_FAILURES: usize = 3;

/// The section with all mirrors, worst first.
pub(super) fn section(page: &StatusPage<'_>) -> Markup {
    let published = published_releases(page.polls);
    html! {
        h2 { "Mirrors" }
        p.key {
            span.good { "up to date all day" }
            span.late { "a release came late" }
            span.bad { "failures, faults or no response" }
            span { "not known" }
        }
        ul {
            @for mirror_status in page.mirror_statuses {
                (card(page, mirror_status, &published))
            }
        }
    }
}

fn card(
    page: &StatusPage<'_>,
    mirror_status: &MirrorStatus,
    published: &BTreeMap<u64, PublishedRelease>,
) -> Markup {
    let one = page.polls.iter().find(|one| one.mirror == mirror_status.mirror);
    let history = one.map_or(&[][..], |one| &one.history);
    let mut days = days(history, published, page.tolerance, page.now, STRIP_DAYS);
    if let Some(today) = days
        .last_mut()
        .filter(|_| !mirror_status.is_known() && mirror_status.state != StatusKind::Frozen)
    {
        // The history is stored on the mirror, so it cannot show that the mirror is not responding
        // today.
        today.kind = DayKind::Faulty;
    }
    html! {
        li.mirror {
            div.top {
                h3.name { (escape(&page.name(mirror_status))) }
                span.place { (location_line(page, mirror_status)) }
                span.state.(css_class(mirror_status.state)) { (mirror_status.state.name()) }
            }
            @match &mirror_status.error {
                Some(error) if page.is_internal => { p.error { (escape(error)) } }
                Some(_) => { p.error { (state_text(mirror_status.state)) } }
                None => {}
            }
            @if let Some(last) = mirror_status.last_seen {
                p.soft {
                    "At " (time(last.time)) " the mirror served release " (last.sequence)
                    ", published on " (time(last.created)) "."
                }
            }
            @if mirror_status.is_known() { (facts(page, mirror_status)) }
            (day_strip(&days, mirror_status.is_known()))
            (failures(page, history))
        }
    }
}

/// The region and the public URL of a mirror, and on an internal page also the push URL.
fn location_line(page: &StatusPage<'_>, mirror_status: &MirrorStatus) -> Markup {
    let config =
        page.config.all_mirrors().find(|mirror| mirror.name.as_str() == mirror_status.mirror);
    let region = config.and_then(|mirror| mirror.region.as_ref());
    let url = config.and_then(|mirror| mirror.public_url.as_ref()).map(|url| escape(url.as_str()));
    // Visitors do not need a push URL, and it would give an attacker a target.
    let push = Some(escape(&mirror_status.location))
        .filter(|_| page.is_internal && mirror_status.location != mirror_status.mirror);
    let answer = mirror_status.round_trip_ms.filter(|_| page.is_internal);
    let parts = [
        region.map(|region| html! { (escape(region.as_str())) }),
        url.map(|url| html! { a href=(url) rel="noreferrer" { (url) } }),
        push.map(|push| html! { (push) }),
        answer.map(|ms| html! { "responds in " (format_count(ms)) " ms" }),
    ];
    html! {
        @for (number, part) in parts.into_iter().flatten().enumerate() {
            @if number > 0 { ", " }
            (part)
        }
    }
}

/// The public text for a mirror whose state is unknown.
const fn state_text(state: StatusKind) -> &'static str {
    match state {
        StatusKind::Unreachable => "The mirror does not respond.",
        StatusKind::Denied => "The mirror denied access.",
        StatusKind::Frozen => "The mirror is frozen and does not respond.",
        _ => "The state of the mirror is not known.",
    }
}

fn facts(page: &StatusPage<'_>, mirror_status: &MirrorStatus) -> Markup {
    let release = mirror_status.sequence.map(|sequence| {
        html! {
            (sequence)
            @if let Some(newest) = page.same_as(mirror_status) { ", same as " (newest) }
        }
    });
    let lag = mirror_status.lag.filter(|_| mirror_status.behind > 0).map(|lag| {
        let behind = pluralize(mirror_status.behind, "release", "releases");
        format!("{}, {behind}", format_duration(Duration::from_secs(lag.max(1))))
    });
    let switched = mirror_status.switched.map_or_else(|| html! { "not known" }, time);
    let verified = mirror_status.verified.map_or_else(|| html! { "not yet" }, verification);
    let visitors = mirror_status.public.as_ref().map(|public| match public.stale.first() {
        None => html! { "get this release" },
        Some(stale) => {
            html! { "get different content for " (escape(&stale.path)) ": " (escape(&stale.why)) }
        }
    });
    html! {
        dl.facts {
            (fact("Release", release))
            (fact("Published", mirror_status.created.map(time)))
            (fact("Lag", lag))
            (fact("Switched", Some(switched)))
            (fact("Verified", Some(verified)))
            (fact("Content", mirror_status.bytes.map(format_bytes)))
            (fact("On disk", mirror_status.usage.as_ref().map(|usage| format_bytes(usage.bytes))))
            (fact("Free", mirror_status.free_bytes.map(format_bytes)))
            (fact("Visitors", visitors))
        }
    }
}

fn verification(verified: LastVerify) -> Markup {
    html! {
        (time(verified.time))
        @if verified.quick { ", quick" }
        @if verified.faults > 0 { ": " (pluralize(verified.faults, "fault", "faults")) }
    }
}

/// The days as bars, with text for screen readers.
fn day_strip(days: &[Day], is_responding: bool) -> Markup {
    let bars = (0..days.len()).rev().zip(days).map(|(left, day)| {
        let (class, words) = match day.kind {
            DayKind::Faulty if left == 0 && !is_responding => ("bad", "no response".to_owned()),
            DayKind::Unknown => ("none", "not known".to_owned()),
            DayKind::UpToDate => ("good", "up to date".to_owned()),
            DayKind::Late => {
                ("late", format!("late by {}", format_duration(Duration::from_secs(day.lag))))
            }
            DayKind::Faulty => ("bad", "failures or faults".to_owned()),
        };
        let switches = match day.switches {
            0 => String::new(),
            switches => format!(", {}", pluralize(switches, "switch", "switches")),
        };
        (class, format!("{}: {words}{switches}", date(day.start)))
    });
    html! {
        ul.strip aria-label="The last 14 days" {
            @for (class, words) in bars {
                li class=(class) title=(words) { span.sr { (words) } }
            }
        }
        div.ends aria-hidden="true" {
            span { @if let Some(first) = days.first() { (date(first.start)) } }
            span { "today" }
        }
    }
}

fn date(seconds: u64) -> String {
    format_time(seconds).split('T').next().unwrap_or_default().to_owned()
}

/// The failures on the mirror during the days of the strip; an internal page also shows the
/// reasons.
fn failures(page: &StatusPage<'_>, history: &[HistoryEvent]) -> Markup {
    let since = page.now.saturating_sub(STRIP_DAYS * DAY_SECONDS);
    let recent = history.iter().rev().filter(|event| event.time >= since);
    let failed = recent.filter_map(|event| match &event.kind {
        EventKind::Failed { release, reason: why } => Some(("Release", event.time, release, why)),
        EventKind::HookFailed { release, reason: why } => {
            Some(("The command after release", event.time, release, why))
        }
        _ => None,
    });
    html! {
        @for (what, at, release, why) in failed.take(MAX_FAILURES) {
            p.error {
                (what) " " (release.sequence()) " failed on " (time(at))
                @if page.is_internal { ": " (escape(why)) } @else { "." }
            }
        }
    }
}
