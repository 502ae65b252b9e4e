//! `headwater status` and `headwater releases`: what mirrors serve and keep.

use std::cmp::Reverse;
use std::time::{SystemTime, UNIX_EPOCH};

use headwater::push::{Fleet, Member, error_chain};
use headwater::release::Release;
use serde::Serialize;

use super::args::StatusArgs;
use super::context;
use super::failure::{Exit, Failure};
use super::output::{Align, Table, age, bytes, count, counted, duration, moment, print, print_json};
use super::progress::Progress;
use super::remote::Reach;
use super::{load_config, places};

/// How a mirror stands, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    /// It cannot be asked, or what it serves cannot be told.
    Unknown,
    /// It serves another release than the newest of the same sequence.
    Diverged,
    /// It serves an older release than another mirror.
    Behind,
    /// It serves nothing yet.
    Empty,
    /// It serves the newest release.
    Current,
}

#[derive(Debug, Serialize)]
struct Row {
    mirror: String,
    location: String,
    state: Standing,
    site: Option<String>,
    sequence: Option<u64>,
    release: Option<String>,
    created: Option<u64>,
    entries: Option<u64>,
    bytes: Option<u64>,
    /// Releases it lacks.
    behind: u64,
    /// Seconds since the oldest release that it lacks was published.
    lag: u64,
    free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Answer<R> {
    headwater: &'static str,
    version: u32,
    mirrors: R,
}

fn members(args: &StatusArgs) -> Result<Vec<Member>, Failure> {
    let config = load_config(&args.config)?;
    let choices = places::of_mirrors(&args.mirrors.mirrors, &config)?;
    let reach = Reach::new(&args.remote, None, context::DEFAULT_WAIT, context::jobs(None));
    let fleet: Fleet = reach.fleet(&choices, None)?;
    let progress = Progress::start(&super::args::OutputArgs { quiet: true, ..args.output.clone() })?;
    let members = fleet.states(&progress);
    progress.finish();
    Ok(members)
}

/// Runs `headwater status`.
pub(crate) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let members = members(args)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut rows: Vec<Row> = members.iter().map(|member| row(member, &members, now)).collect();
    rows.sort_by_key(|row| (row.state, Reverse(row.lag)));
    if args.output.json {
        print_json(&Answer { headwater: "status", version: 1, mirrors: &rows })?;
    } else {
        print(&describe(&rows, now))?;
    }
    let is_well = rows.iter().all(|row| row.state == Standing::Current);
    Ok(if is_well { Exit::Success } else { Exit::Failed })
}

/// The releases of the same site that are known anywhere, each once, ascending.
fn known<'m>(members: &'m [Member], site: &headwater::tree_path::Site) -> Vec<&'m Release> {
    let states = members.iter().filter_map(|member| member.state.as_ref().ok());
    let mut known: Vec<&Release> =
        states.flat_map(|state| &state.releases).filter(|release| release.site == *site).collect();
    known.sort_by_key(|release| release.rank());
    known.dedup_by_key(|release| release.id());
    known
}

fn row(member: &Member, members: &[Member], now: u64) -> Row {
    let mut row = Row {
        mirror: member.mirror.name().to_owned(),
        location: member.mirror.location().to_owned(),
        state: Standing::Unknown,
        site: None,
        sequence: None,
        release: None,
        created: None,
        entries: None,
        bytes: None,
        behind: 0,
        lag: 0,
        free_bytes: None,
        error: None,
    };
    let state = match &member.state {
        Ok(state) => state,
        Err(error) => {
            row.error = Some(error_chain(error));
            return row;
        }
    };
    row.free_bytes = state.free_bytes;
    row.site = state.site.as_ref().map(ToString::to_string);
    row.sequence = state.current.map(|current| current.sequence());
    let Some(site) = state.site.as_ref().filter(|_| state.current.is_some()) else {
        row.state = Standing::Empty;
        return row;
    };
    let Some(current) = state.current_release() else {
        row.error = Some("the record of its current release is damaged".into());
        return row;
    };
    row.release = Some(current.id().to_string());
    (row.created, row.entries, row.bytes) = (Some(current.created), Some(current.entries), Some(current.bytes));
    let all = known(members, site);
    let lacking: Vec<_> = all.iter().filter(|release| release.rank() > current.rank()).collect();
    row.behind = lacking.len() as u64;
    row.lag = lacking.first().map_or(0, |oldest| now.saturating_sub(oldest.created));
    row.state = match lacking.last() {
        None => Standing::Current,
        Some(newest) if newest.sequence == current.sequence => Standing::Diverged,
        Some(_) => Standing::Behind,
    };
    row
}

fn describe(rows: &[Row], now: u64) -> String {
    let mut table = Table::new([
        ("mirror", Align::Left),
        ("state", Align::Left),
        ("release", Align::Right),
        ("published", Align::Left),
        ("behind", Align::Right),
        ("lag", Align::Right),
        ("entries", Align::Right),
        ("size", Align::Right),
        ("free", Align::Right),
        ("", Align::Left),
    ]);
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let state = match row.state {
            Standing::Unknown => "unknown",
            Standing::Diverged => "diverged",
            Standing::Behind => "behind",
            Standing::Empty => "empty",
            Standing::Current => "current",
        };
        table.row([
            row.mirror.clone(),
            state.to_owned(),
            optional(row.sequence.map(|sequence| sequence.to_string())),
            optional(row.created.map(|created| age(created, now))),
            if row.behind > 0 { count(row.behind) } else { "-".into() },
            if row.behind > 0 { duration(std::time::Duration::from_secs(row.lag)) } else { "-".into() },
            optional(row.entries.map(count)),
            optional(row.bytes.map(bytes)),
            optional(row.free_bytes.map(bytes)),
            row.error.clone().unwrap_or_default(),
        ]);
    }
    let well = rows.iter().filter(|row| row.state == Standing::Current).count() as u64;
    format!("{} of {} current\n{}", count(well), counted(rows.len() as u64, "mirror", "mirrors"), table.render())
}

#[derive(Serialize)]
struct Kept<'a> {
    mirror: &'a str,
    location: &'a str,
    current: Option<u64>,
    releases: &'a [Release],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs `headwater releases`.
pub(crate) fn releases(args: &StatusArgs) -> Result<Exit, Failure> {
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
    for release in kept.releases {
        rows.push(release_row(release, before, kept.current));
        before = Some(release);
    }
    rows.into_iter().rev().for_each(|row| table.row(row));
    format!("{heading}\n{}", table.render())
}

fn release_row(release: &Release, before: Option<&Release>, current: Option<u64>) -> [String; 8] {
    let mark = if current == Some(release.sequence) { "* " } else { "" };
    let change = before.map_or_else(String::new, |before| {
        let (now, then) = (release.entries - release.retired, before.entries - before.retired);
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
