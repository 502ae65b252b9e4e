//! `headwater status --html FILE`: the fleet on one page, for people.
//!
//! One self-contained file: no script, no font and no image, and a content security
//! policy that allows none. Pure. Text from mirrors and from the user passes [`text`].

mod mirrors;
mod releases;

use std::fmt::Write as _;
use std::time::Duration;

use headwater::config::Config;
use headwater::fleet_status::{MirrorStatus, Poll, StatusKind};
use headwater::manifest::Diff;
use headwater::release::Release;

use super::super::output::{count, counted, duration, escape, moment};

const STYLE: &str = include_str!("style.css");

/// The data of the page.
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
    pub(super) seen: &'a [Poll],
    /// The releases that any mirror keeps, newest first, and the changes of each release.
    pub(super) releases: Vec<(&'a Release, Option<Diff>)>,
    /// The delay after the first mirror within which a release is not late, in seconds.
    pub(super) tolerance: u64,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// Escapes `text` for HTML, between tags and in quoted values.
fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 8);
    for c in escape(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            plain => safe.push(plain),
        }
    }
    safe
}

/// A term and its description.
fn fact(term: &str, description: &str) -> String {
    format!("<div><dt>{}</dt><dd>{}</dd></div>\n", text(term), text(description))
}

/// A time in UTC, as text and as attribute. It is absolute because the page is read later.
fn time(seconds: u64) -> String {
    let exact = moment(seconds);
    let shown =
        exact.get(..16).filter(|_| exact.ends_with('Z')).map(|minute| minute.replace('T', " "));
    format!("<time datetime=\"{exact}\">{}</time>", shown.as_deref().unwrap_or(&exact))
}

const fn class(state: StatusKind) -> &'static str {
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
        let mut page = String::with_capacity(64 * 1024);
        let (title, verdict, mood) = (text(&self.title), self.verdict(), self.mood());
        // Writing to a string cannot fail.
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src \
             'unsafe-inline'; img-src data:\">\n<meta name=\"robots\" content=\"noindex\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}: {verdict}</title>\n<style>\n\
             {STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n\
             <p class=\"verdict {mood}\">{verdict}</p>\n<p class=\"soft\">As of {} UTC</p>\n\
             {}</header>\n<main>\n",
            time(self.now),
            self.subtitle()
        )
        .ok();
        page.push_str(&self.sums());
        page.push_str(&mirrors::section(self));
        page.push_str(&releases::section(self));
        write!(
            page,
            "</main>\n<footer>\n<p>Made by headwater {}. All times are in UTC.</p>\n</footer>\n\
             </body>\n</html>\n",
            env!("CARGO_PKG_VERSION"),
        )
        .ok();
        page
    }

    fn of(&self, is: impl Fn(StatusKind) -> bool) -> u64 {
        self.mirror_statuses.iter().filter(|mirror_status| is(mirror_status.state)).count() as u64
    }

    fn verdict(&self) -> String {
        let (current, all) =
            (self.of(|state| state == StatusKind::Current), self.mirror_statuses.len() as u64);
        let set_apart = self.of(|state| matches!(state, StatusKind::Apart | StatusKind::Frozen));
        match (current, all - set_apart) {
            (_, 0) if self.of(|state| state == StatusKind::Apart) > 0 => {
                "No mirror serves a release for all mirrors".to_owned()
            }
            (_, 0) => "Every mirror is frozen".to_owned(),
            (1, 1) => "The mirror is current".to_owned(),
            (current, counted) if current == counted => {
                format!("All {} mirrors are current", count(current))
            }
            (current, counted) => {
                let are = if current == 1 { "is" } else { "are" };
                format!("{} of {} mirrors {are} current", count(current), count(counted))
            }
        }
    }

    fn mood(&self) -> &'static str {
        let has = |wanted| {
            self.mirror_statuses.iter().any(|mirror_status| class(mirror_status.state) == wanted)
        };
        ["bad", "late"].into_iter().find(|wanted| has(*wanted)).unwrap_or("good")
    }

    /// The name of the mirror on the page. A mirror without a name has its location as its name,
    /// which only an internal page shows.
    fn name(&self, mirror_status: &MirrorStatus) -> String {
        let place = self.seen.iter().position(|one| one.mirror == mirror_status.mirror);
        match place {
            Some(place) if !self.is_internal && mirror_status.mirror == mirror_status.location => {
                format!("Mirror {}", place + 1)
            }
            _ => mirror_status.mirror.clone(),
        }
    }

    /// The newest release of the site, if it is another release with the same content as the
    /// release of the mirror.
    fn same_as(&self, mirror_status: &MirrorStatus) -> Option<u64> {
        let of_site = |release: &&Release| mirror_status.site.as_ref() == Some(&release.site);
        let newest = self.releases.iter().map(|(release, _)| *release).find(of_site)?.sequence;
        Some(newest).filter(|newest| {
            mirror_status.state == StatusKind::Current && mirror_status.sequence != Some(*newest)
        })
    }

    fn subtitle(&self) -> String {
        let Some((newest, _)) = self.releases.first() else {
            return "<p class=\"soft\">No release is known yet.</p>\n".to_owned();
        };
        let note =
            newest.note.as_deref().map(|note| format!("<br>{}", text(note))).unwrap_or_default();
        let published = time(newest.created);
        format!(
            "<p class=\"soft\">Release {} was published on {published}.{note}</p>\n",
            newest.sequence
        )
    }

    fn sums(&self) -> String {
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
            Some((true, lag)) => duration(Duration::from_secs(lag.max(1))),
        };
        let mirrors = match self.of(|state| state == StatusKind::Frozen) {
            0 => count(self.mirror_statuses.len() as u64),
            frozen => {
                format!("{}, {} frozen", count(self.mirror_statuses.len() as u64), count(frozen))
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
            (0, never) => format!("{} not yet verified", count(never)),
            (faults, _) => counted(faults, "fault", "faults"),
        };
        format!(
            "<dl class=\"sums\">\n{}{}{}{}</dl>\n",
            fact("Mirrors", &mirrors),
            fact("Not responding", &count(counted_of(|mirror_status| !mirror_status.is_known()))),
            fact("Longest lag", &lag),
            fact("Verified", &verified),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_becomes_markup() {
        assert_eq!(
            text("<a href='x' id=\"y\">&amp;\u{202e}\u{1b}"),
            "&lt;a href=&#39;x&#39; id=&quot;y&quot;&gt;&amp;amp;\\u{202e}\\u{1b}"
        );
        let evil = "</style><script>alert(1)</script>\u{1b}[2J";
        let mirror_status = MirrorStatus {
            error: Some(evil.into()),
            ..MirrorStatus::silent(evil, evil, StatusKind::Unknown)
        };
        let mirror_statuses = &[mirror_status];
        let (config, releases) = (&Config::default(), Vec::new());
        let is_internal = true;
        let page = StatusPage {
            title: evil.into(),
            config,
            is_internal,
            mirror_statuses,
            seen: &[],
            releases,
            tolerance: 0,
            now: 0,
        };
        let html = page.render();
        assert_eq!(html.matches("<script").count() + html.matches('\u{1b}').count(), 0);
        assert_eq!(html.matches("</style>").count(), 1);
    }

    #[test]
    fn the_verdict_counts_those_that_are_not_frozen() {
        let of = |states: &[StatusKind]| {
            let mirror_statuses: Vec<_> =
                states.iter().map(|state| MirrorStatus::silent("m", "/m", *state)).collect();
            let (title, mirror_statuses, releases) =
                (String::new(), &mirror_statuses[..], Vec::new());
            let (config, is_internal) = (&Config::default(), false);
            let page = StatusPage {
                title,
                config,
                is_internal,
                mirror_statuses,
                seen: &[],
                releases,
                tolerance: 0,
                now: 0,
            };
            (page.verdict(), page.mood())
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
