//! `headwater status --html FILE`: the fleet on one page, for people.
//!
//! One file that needs nothing else: no script, no font, no image, and a policy
//! that lets none in. Pure; whatever is not ours passes [`text`].

mod mirrors;
mod releases;

use std::fmt::Write as _;
use std::time::Duration;

use headwater::config::Config;
use headwater::manifest::Diff;
use headwater::release::Release;
use headwater::watch::{Seen, Standing, State};

use super::super::output::{count, counted, duration, escape, moment};

const STYLE: &str = include_str!("style.css");

/// What the page tells.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// The sites of the mirrors.
    pub(super) title: String,
    /// What the file says of the mirrors: regions and public URLs.
    pub(super) config: &'a Config,
    /// Whether push URLs and the texts of errors are shown.
    pub(super) is_internal: bool,
    /// How they stand, worst first.
    pub(super) standings: &'a [Standing],
    /// What they said.
    pub(super) seen: &'a [Seen],
    /// The releases that any of them keeps, newest first, and how each differs from the one before.
    pub(super) releases: Vec<(&'a Release, Option<Diff>)>,
    /// How much later than the first mirror another one may have a release without being late, in seconds.
    pub(super) tolerance: u64,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// `text` as it may stand in HTML, between tags and in quoted values.
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

/// A time in UTC, for people and in its attribute for programs. It is absolute: the page is read later.
fn time(seconds: u64) -> String {
    let exact = moment(seconds);
    let shown = exact.get(..16).filter(|_| exact.ends_with('Z')).map(|minute| minute.replace('T', " "));
    format!("<time datetime=\"{exact}\">{}</time>", shown.as_deref().unwrap_or(&exact))
}

const fn class(state: State) -> &'static str {
    match state {
        State::Current => "good",
        State::Apart | State::Frozen | State::Joining => "calm",
        State::Behind | State::Staging => "late",
        State::Unknown | State::Denied | State::Unreachable | State::Diverged => "bad",
    }
}

impl Page<'_> {
    /// The whole page.
    pub(super) fn render(&self) -> String {
        let mut page = String::with_capacity(64 * 1024);
        let (title, verdict, mood) = (text(&self.title), self.verdict(), self.mood());
        // Writing to a string cannot fail.
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
             <meta name=\"robots\" content=\"noindex\">\n<link rel=\"icon\" href=\"data:,\">\n\
             <title>{title}: {verdict}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n<p class=\"verdict {mood}\">{verdict}</p>\n\
             <p class=\"soft\">As of {} UTC</p>\n{}</header>\n<main>\n",
            time(self.now),
            self.subtitle()
        )
        .ok();
        page.push_str(&self.sums());
        page.push_str(&mirrors::section(self));
        page.push_str(&releases::section(self));
        write!(
            page,
            "</main>\n<footer>\n<p>Made by headwater {}. All times are in UTC.</p>\n</footer>\n</body>\n</html>\n",
            env!("CARGO_PKG_VERSION"),
        )
        .ok();
        page
    }

    fn of(&self, is: impl Fn(State) -> bool) -> u64 {
        self.standings.iter().filter(|standing| is(standing.state)).count() as u64
    }

    fn verdict(&self) -> String {
        let (current, all) = (self.of(|state| state == State::Current), self.standings.len() as u64);
        let set_apart = self.of(|state| matches!(state, State::Apart | State::Frozen));
        match (current, all - set_apart) {
            (_, 0) if self.of(|state| state == State::Apart) > 0 => "No mirror serves a release for all".to_owned(),
            (_, 0) => "Every mirror is frozen".to_owned(),
            (1, 1) => "The mirror is current".to_owned(),
            (current, counted) if current == counted => format!("All {} mirrors are current", count(current)),
            (current, counted) => {
                let are = if current == 1 { "is" } else { "are" };
                format!("{} of {} mirrors {are} current", count(current), count(counted))
            }
        }
    }

    fn mood(&self) -> &'static str {
        let has = |wanted| self.standings.iter().any(|standing| class(standing.state) == wanted);
        ["bad", "late"].into_iter().find(|wanted| has(*wanted)).unwrap_or("good")
    }

    /// What the mirror is called on the page. One without a name is called by its place, which is only for those who
    /// run it.
    fn name(&self, standing: &Standing) -> String {
        let place = self.seen.iter().position(|one| one.mirror == standing.mirror);
        match place {
            Some(place) if !self.is_internal && standing.mirror == standing.location => format!("Mirror {}", place + 1),
            _ => standing.mirror.clone(),
        }
    }

    /// The newest release of the mirror's site, where that is another one with the content that it serves.
    fn same_as(&self, standing: &Standing) -> Option<u64> {
        let of_site = |release: &&Release| standing.site.as_ref() == Some(&release.site);
        let newest = self.releases.iter().map(|(release, _)| *release).find(of_site)?.sequence;
        Some(newest).filter(|newest| standing.state == State::Current && standing.sequence != Some(*newest))
    }

    fn subtitle(&self) -> String {
        let Some((newest, _)) = self.releases.first() else {
            return "<p class=\"soft\">No release is known yet.</p>\n".to_owned();
        };
        let note = newest.note.as_deref().map(|note| format!("<br>{}", text(note))).unwrap_or_default();
        let published = time(newest.created);
        format!("<p class=\"soft\">Release {} was published on {published}.{note}</p>\n", newest.sequence)
    }

    fn sums(&self) -> String {
        let counted_of =
            |is: fn(&Standing) -> bool| self.standings.iter().filter(|standing| is(standing)).count() as u64;
        let lags = self.standings.iter().filter(|standing| standing.state != State::Frozen);
        let lags = lags.filter_map(|one| Some((one.behind > 0, one.lag?)));
        let lag = match lags.max() {
            None => "unknown".to_owned(),
            Some((false, _)) => "none".to_owned(),
            Some((true, lag)) => duration(Duration::from_secs(lag.max(1))),
        };
        let mirrors = match self.of(|state| state == State::Frozen) {
            0 => count(self.standings.len() as u64),
            frozen => format!("{}, {} frozen", count(self.standings.len() as u64), count(frozen)),
        };
        let faults: u64 = self.standings.iter().filter_map(|one| one.verified).map(|verified| verified.faults).sum();
        let never = counted_of(|standing| standing.is_known() && standing.verified.is_none());
        let verified = match (faults, never) {
            (0, 0) => "no faults".to_owned(),
            (0, never) => format!("{} not yet verified", count(never)),
            (faults, _) => counted(faults, "fault", "faults"),
        };
        format!(
            "<dl class=\"sums\">\n{}{}{}{}</dl>\n",
            fact("Mirrors", &mirrors),
            fact("Not answering", &count(counted_of(|standing| !standing.is_known()))),
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
        let standing = Standing { error: Some(evil.into()), ..Standing::silent(evil, evil, State::Unknown) };
        let standings = &[standing];
        let (config, releases) = (&Config::default(), Vec::new());
        let is_internal = true;
        let page =
            Page { title: evil.into(), config, is_internal, standings, seen: &[], releases, tolerance: 0, now: 0 };
        let html = page.render();
        assert_eq!(html.matches("<script").count() + html.matches('\u{1b}').count(), 0);
        assert_eq!(html.matches("</style>").count(), 1);
    }

    #[test]
    fn the_verdict_counts_those_that_are_not_frozen() {
        let of = |states: &[State]| {
            let standings: Vec<_> = states.iter().map(|state| Standing::silent("m", "/m", *state)).collect();
            let (title, standings, releases) = (String::new(), &standings[..], Vec::new());
            let (config, is_internal) = (&Config::default(), false);
            let page = Page { title, config, is_internal, standings, seen: &[], releases, tolerance: 0, now: 0 };
            (page.verdict(), page.mood())
        };
        let words = |verdict: &str, mood| (verdict.to_owned(), mood);
        assert_eq!(of(&[State::Current]), words("The mirror is current", "good"));
        assert_eq!(of(&[State::Current, State::Current, State::Frozen]), words("All 2 mirrors are current", "good"));
        assert_eq!(of(&[State::Behind, State::Current]), words("1 of 2 mirrors is current", "late"));
        assert_eq!(of(&[State::Unreachable, State::Behind]), words("0 of 2 mirrors are current", "bad"));
        assert_eq!(of(&[State::Frozen]), words("Every mirror is frozen", "good"));
    }
}
