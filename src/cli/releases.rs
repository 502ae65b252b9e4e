//! `headwater releases`: what mirrors keep.

use headwater::push::{Member, error_chain};
use headwater::release::Release;
use serde::Serialize;

use super::args::{OutputArgs, ReleasesArgs};
use super::context;
use super::failure::{Exit, Failure};
use super::output::{Align, Table, bytes, count, moment, print, print_json};
use super::progress::Progress;
use super::remote::Reach;
use super::{load_config, places};

#[derive(Serialize)]
struct Answer<'a> {
    headwater: &'static str,
    version: u32,
    mirrors: &'a [Kept<'a>],
}

fn members(args: &ReleasesArgs) -> Result<Vec<Member>, Failure> {
    let config = load_config(&args.config)?;
    let choices = places::of_mirrors(&args.mirrors.mirrors, &config)?;
    let reach = Reach::new(&args.remote, None, context::DEFAULT_WAIT, context::jobs(None));
    let fleet = reach.fleet(&choices, args.remote.site.as_ref())?;
    let progress = Progress::of_answer(&OutputArgs { quiet: true, ..args.output.clone() })?;
    let members = fleet.states(&progress);
    progress.finish();
    Ok(members)
}

#[derive(Serialize)]
struct Kept<'a> {
    mirror: &'a str,
    location: &'a str,
    current: Option<u64>,
    releases: &'a [Release],
    #[serde(skip_serializing_if = "Option::is_none")]
    staged: Option<&'a Release>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs `headwater releases`.
pub(crate) fn run(args: &ReleasesArgs) -> Result<Exit, Failure> {
    let members = members(args)?;
    let kept: Vec<Kept<'_>> = members.iter().map(kept).collect();
    if args.output.json {
        print_json(&Answer { headwater: "releases", version: 1, mirrors: &kept })?;
    } else {
        let text: String = kept.iter().map(describe_kept).collect();
        print(&text)?;
    }
    Ok(if kept.iter().any(|kept| kept.error.is_some()) { Exit::Failed } else { Exit::Success })
}

fn kept(member: &Member) -> Kept<'_> {
    let state = member.state.as_ref();
    Kept {
        mirror: member.mirror.name(),
        location: member.mirror.location(),
        current: state.ok().and_then(|state| state.current).map(|current| current.sequence()),
        releases: state.map_or(&[], |state| &state.releases),
        staged: state.ok().and_then(|state| state.staged.as_ref()),
        error: state.err().map(|error| error_chain(error)),
    }
}

fn describe_kept(kept: &Kept<'_>) -> String {
    let heading = super::output::escape(kept.mirror).into_owned();
    if let Some(error) = &kept.error {
        return format!("{heading}: {}\n", super::output::escape(error));
    }
    let mut table = Table::new([
        ("release", Align::Right),
        ("published", Align::Left),
        ("entries", Align::Right),
        ("retired", Align::Right),
        ("size", Align::Right),
        ("change", Align::Right),
        ("orders", Align::Left),
        ("note", Align::Left),
    ]);
    let mut before: Option<&Release> = None;
    let mut rows = Vec::new();
    for release in kept.releases.iter().chain(kept.staged) {
        let mark = match () {
            () if kept.current == Some(release.sequence) => "* ",
            () if kept.staged.is_some_and(|staged| staged.id() == release.id()) => "staged ",
            () => "",
        };
        rows.push(release_row(release, before, mark));
        before = Some(release);
    }
    rows.into_iter().rev().for_each(|row| table.row(row));
    format!("{heading}\n{}", table.render())
}

fn release_row(release: &Release, before: Option<&Release>, mark: &str) -> [String; 8] {
    let change = before.map_or_else(String::new, |before| {
        let live = |release: &Release| release.entries.saturating_sub(release.retired);
        let (now, then) = (live(release), live(before));
        if now >= then { format!("+{}", count(now - then)) } else { format!("-{}", count(then - now)) }
    });
    let orders: Vec<String> = release.orders.iter().map(|(stream, number)| format!("{stream}:{number}")).collect();
    let note = match (release.rolled_back_to, &release.note) {
        (Some(to), Some(note)) => format!("back to {to}; {note}"),
        (Some(to), None) => format!("back to {to}"),
        (None, note) => note.clone().unwrap_or_default(),
    };
    [
        format!("{mark}{}", release.sequence),
        moment(release.created),
        count(release.entries),
        count(release.retired),
        bytes(release.bytes),
        change,
        orders.join(" "),
        note,
    ]
}
