//! `headwater status --html FILE`: shows the fleet on one page, for people.
//!
//! The page is one self-contained file: it has no scripts, fonts or images, and its content
//! security policy allows none. Pure. Text from mirrors and from the user passes through
//! [`escape`], which makes control characters visible; the crate `maud` escapes all text for HTML.

mod mirrors;
mod releases;

use std::time::Duration;

use headwater::config::Config;
use headwater::fleet_status::{MirrorStatus, Poll, StatusKind};
use headwater::manifest::Diff;
use headwater::release::Release;
use maud::{Markup, PreEscaped, Render, html};

use crate::cli::output::format::{escape, format_count, format_duration, format_time, pluralize};

const STYLE: &str = include_str!("style.css");
/// The page's content security policy.
// The styles are in the page, and the icon is a `data:` URL.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The data for the page.
#[derive(Debug)]
pub(super) struct StatusPage<'a> {
    /// The sites of the mirrors.
    pub(super) title: String,
    /// The configuration, for the regions and public URLs of mirrors.
    pub(super) config: &'a Config,
    /// Whether the page shows push URLs and error texts.
    pub(super) is_internal: bool,
    /// The states of the mirrors, worst first.
    pub(super) mirror_statuses: &'a [MirrorStatus],
    /// The poll results of the mirrors.
    pub(super) polls: &'a [Poll],
    /// The releases that any mirror keeps, newest first, and the changes in each release.
    pub(super) releases: Vec<(&'a Release, Option<Diff>)>,
    /// How many seconds after the first mirror another mirror may switch without counting as late.
    pub(super) tolerance: u64,
    /// The current time, in seconds since 1970.
    pub(super) now: u64,
}

/// A term and its description. Empty if there is no description.
fn fact(term: &str, description: Option<impl Render>) -> Markup {
    html! {
        @if let Some(description) = description {
            div { dt { (term) } dd { (description) } }
        }
    }
}

/// A time in UTC, as text and as an attribute. The time is absolute because the page may be read
/// later.
fn time(seconds: u64) -> Markup {
    let exact = format_time(seconds);
    let minute =
        exact.get(..16).filter(|_| exact.ends_with('Z')).map(|minute| minute.replace('T', " "));
    html! { time datetime=(exact) { (minute.as_deref().unwrap_or(&exact)) } }
}

const fn css_class(state: StatusKind) -> &'static str {
    match state {
        StatusKind::Current => "good",
        StatusKind::Apart | StatusKind::Frozen | StatusKind::Joining => "calm",
        StatusKind::Behind | StatusKind::Staging => "late",
        StatusKind::Unknown
        | StatusKind::Denied
        | StatusKind::Unreachable
        | StatusKind::Diverged => "bad",
    }
}

impl StatusPage<'_> {
    /// The whole page.
    pub(super) fn render(&self) -> String {
        let (title, verdict) = (escape(&self.title), self.verdict());
        let page = html! {
            (PreEscaped("<!doctype html>\n"))
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="content-security-policy" content=(CONTENT_SECURITY_POLICY);
                    meta name="robots" content="noindex";
                    // An empty icon, because otherwise a browser would ask the server for
                    // /favicon.ico.
                    link rel="icon" href="data:,";
                    title { (title) ": " (verdict) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { (title) }
                        p.verdict.(self.verdict_class()) { (verdict) }
                        p.soft { "As of " (time(self.now)) " UTC" }
                        (self.subtitle())
                    }
                    main {
                        (self.totals())
                        (mirrors::section(self))
                        (releases::section(self))
                    }
                    footer {
                        p {
                            "Made by headwater " (env!("CARGO_PKG_VERSION"))
                            ". All times are in UTC."
                        }
                    }
                }
            }
            (PreEscaped("\n"))
        };
        page.into_string()
    }

    fn count_states(&self, is: impl Fn(StatusKind) -> bool) -> u64 {
        self.mirror_statuses.iter().filter(|mirror_status| is(mirror_status.state)).count() as u64
    }

    fn verdict(&self) -> String {
        let (current, all) = (
            self.count_states(|state| state == StatusKind::Current),
            self.mirror_statuses.len() as u64,
        );
        let excluded =
            self.count_states(|state| matches!(state, StatusKind::Apart | StatusKind::Frozen));
        match (current, all - excluded) {
            (_, 0) if self.count_states(|state| state == StatusKind::Apart) > 0 => {
                "No mirror serves a release for all mirrors".to_owned()
            }
            (_, 0) => "Every mirror is frozen".to_owned(),
            (1, 1) => "The mirror is current".to_owned(),
            (current, counted) if current == counted => {
                format!("All {} mirrors are current", format_count(current))
            }
            (current, counted) => {
                let are = if current == 1 { "is" } else { "are" };
                format!(
                    "{} of {} mirrors {are} current",
                    format_count(current),
                    format_count(counted)
                )
            }
        }
    }

    fn verdict_class(&self) -> &'static str {
        let has = |wanted| {
            self.mirror_statuses
                .iter()
                .any(|mirror_status| css_class(mirror_status.state) == wanted)
        };
        ["bad", "late"].into_iter().find(|wanted| has(*wanted)).unwrap_or("good")
    }

    /// The name of the mirror on the page. Without a configured name, the name is the location,
    /// which only an internal page shows.
    fn name(&self, mirror_status: &MirrorStatus) -> String {
        // Numbered in the order of the mirrors, which stays the same from page to page.
        let index = self.polls.iter().position(|one| one.mirror == mirror_status.mirror);
        match index {
            Some(place) if !self.is_internal && mirror_status.mirror == mirror_status.location => {
                format!("Mirror {}", place + 1)
            }
            _ => mirror_status.mirror.clone(),
        }
    }

    /// The sequence of the site's newest release, if that is not the mirror's release but has the
    /// same content.
    fn same_as(&self, mirror_status: &MirrorStatus) -> Option<u64> {
        let of_site = |release: &&Release| mirror_status.site.as_ref() == Some(&release.site);
        let newest = self.releases.iter().map(|(release, _)| *release).find(of_site)?.sequence;
        Some(newest).filter(|newest| {
            mirror_status.state == StatusKind::Current && mirror_status.sequence != Some(*newest)
        })
    }

    fn subtitle(&self) -> Markup {
        let Some((newest, _)) = self.releases.first() else {
            return html! { p.soft { "No release is known yet." } };
        };
        html! {
            p.soft {
                "Release " (newest.sequence) " was published on " (time(newest.created)) "."
                @if let Some(note) = &newest.note { br; (escape(note)) }
            }
        }
    }

    fn totals(&self) -> Markup {
        let counted_of = |is: fn(&MirrorStatus) -> bool| {
            self.mirror_statuses.iter().filter(|mirror_status| is(mirror_status)).count() as u64
        };
        let lags = self
            .mirror_statuses
            .iter()
            .filter(|mirror_status| mirror_status.state != StatusKind::Frozen);
        let lags = lags.filter_map(|one| Some((one.behind > 0, one.lag?)));
        let lag = match lags.max() {
            None => "unknown".to_owned(),
            Some((false, _)) => "none".to_owned(),
            Some((true, lag)) => format_duration(Duration::from_secs(lag.max(1))),
        };
        let mirrors = match self.count_states(|state| state == StatusKind::Frozen) {
            0 => format_count(self.mirror_statuses.len() as u64),
            frozen => {
                format!(
                    "{}, {} frozen",
                    format_count(self.mirror_statuses.len() as u64),
                    format_count(frozen)
                )
            }
        };
        let faults: u64 = self
            .mirror_statuses
            .iter()
            .filter_map(|one| one.verified)
            .map(|verified| verified.faults)
            .sum();
        let never = counted_of(|mirror_status| {
            mirror_status.is_known() && mirror_status.verified.is_none()
        });
        let verified = match (faults, never) {
            (0, 0) => "no faults".to_owned(),
            (0, never) => format!("{} not yet verified", format_count(never)),
            (faults, _) => pluralize(faults, "fault", "faults"),
        };
        let silent = counted_of(|mirror_status| !mirror_status.is_known());
        html! {
            dl.sums {
                (fact("Mirrors", Some(mirrors)))
                (fact("Not responding", Some(format_count(silent))))
                (fact("Longest lag", Some(lag)))
                (fact("Verified", Some(verified)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_in_the_page() {
        let text = escape("<a href='x' id=\"y\">&amp;\u{202e}\u{1b}");
        assert_eq!(
            html! { b title=(text) { (text) } }.into_string(),
            "<b title=\"&lt;a href='x' id=&quot;y&quot;&gt;&amp;amp;\\u{202e}\\u{1b}\">\
             &lt;a href='x' id=&quot;y&quot;&gt;&amp;amp;\\u{202e}\\u{1b}</b>"
        );
        let evil = "</style><script>alert(1)</script>\u{1b}[2J";
        let mirror_status = MirrorStatus {
            error: Some(evil.into()),
            ..MirrorStatus::unresponsive(evil, evil, StatusKind::Unknown)
        };
        let mirror_statuses = &[mirror_status];
        let (config, releases) = (&Config::default(), Vec::new());
        let is_internal = true;
        let page = StatusPage {
            title: evil.into(),
            config,
            is_internal,
            mirror_statuses,
            polls: &[],
            releases,
            tolerance: 0,
            now: 0,
        };
        let html = page.render();
        assert_eq!(html.matches("<script").count() + html.matches('\u{1b}').count(), 0);
        assert_eq!(html.matches("</style>").count(), 1);
    }

    #[test]
    fn verdict_ignores_frozen_mirrors() {
        let of = |states: &[StatusKind]| {
            let mirror_statuses: Vec<_> =
                states.iter().map(|state| MirrorStatus::unresponsive("m", "/m", *state)).collect();
            let (title, mirror_statuses, releases) =
                (String::new(), &mirror_statuses[..], Vec::new());
            let (config, is_internal) = (&Config::default(), false);
            let page = StatusPage {
                title,
                config,
                is_internal,
                mirror_statuses,
                polls: &[],
                releases,
                tolerance: 0,
                now: 0,
            };
            (page.verdict(), page.verdict_class())
        };
        let words = |verdict: &str, mood| (verdict.to_owned(), mood);
        assert_eq!(of(&[StatusKind::Current]), words("The mirror is current", "good"));
        assert_eq!(
            of(&[StatusKind::Current, StatusKind::Current, StatusKind::Frozen]),
            words("All 2 mirrors are current", "good")
        );
        assert_eq!(
            of(&[StatusKind::Behind, StatusKind::Current]),
            words("1 of 2 mirrors is current", "late")
        );
        assert_eq!(
            of(&[StatusKind::Unreachable, StatusKind::Behind]),
            words("0 of 2 mirrors are current", "bad")
        );
        assert_eq!(of(&[StatusKind::Frozen]), words("Every mirror is frozen", "good"));
    }
}
