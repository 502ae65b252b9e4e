//! `headwater which`: shows what each mirror serves at a path, which release last changed it, and
//! what visitors get there.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use headwater::fleet_status::{self, Poll};
use headwater::hash::ObjectId;
use headwater::manifest::{EntryKind, ManifestReader};
use headwater::mirror::{Mirror, PublicUrl};
use headwater::release::Release;
use headwater::tree_path::TreePath;
use headwater::web::HttpClient;
use serde::Serialize;

use crate::cli::args::{ConfigArgs, OutputArgs, RemoteArgs};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{Align, Table, format_age, format_bytes};
use crate::cli::output::print::{print, print_json};
use crate::cli::setup::fleet_poller::FleetPoller;

/// Maximum time to fetch the file that visitors get.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Lowest size limit for a fetched file, in bytes: visitors may get a longer file than expected.
const MIN_FETCH_LIMIT: u64 = 64 * 1024 * 1024;

/// The arguments of `which`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// The path in the tree, as visitors see it; a directory means its index.html
    #[arg(value_name = "PATH")]
    path: String,
    /// Mirrors: names from the configuration, or locations [default: all configured mirrors]
    #[arg(value_name = "MIRROR")]
    mirrors: Vec<String>,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Serialize)]
struct WhichOutput<'a> {
    headwater: &'static str,
    version: u32,
    path: &'a TreePath,
    mirrors: &'a [ServedEntry],
}

/// What a mirror serves at the path.
#[derive(Debug, Clone, Default, Serialize)]
struct ServedEntry {
    mirror: String,
    location: String,
    /// The release that the mirror serves.
    sequence: Option<u64>,
    /// The object at the path.
    object: Option<ObjectId>,
    /// The target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    size: Option<u64>,
    mtime: Option<u64>,
    /// The release that last changed the file, if it is still known.
    since: Option<u64>,
    /// For a retired file, the time until which the mirror serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    /// What visitors get, if it was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<PublicContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What visitors get.
#[derive(Debug, Clone, Serialize)]
struct PublicContent {
    object: Option<ObjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &WhichArgs) -> Result<Exit, Failure> {
    let path = tree_path(&args.path)?;
    let poller = FleetPoller::new(&args.mirrors, &args.remote, &args.config, &args.output)?;
    // The states of all mirrors come first, because only another mirror may know the release that
    // last changed a file.
    let fleet_poll = poller.poll();
    let web = HttpClient::new(FETCH_TIMEOUT);
    let found = poller.fleet.query_all(|mirror| {
        let seen = fleet_poll
            .polls
            .iter()
            .find(|seen| seen.mirror == mirror.name() && seen.location == mirror.location());
        let mut found = served_entry(&**mirror, seen?, &fleet_poll.polls, &path);
        let url = poller
            .config
            .mirror(mirror.name())
            .and_then(|mirror| mirror.public_url.as_ref())
            .map(PublicUrl::as_str);
        found.public = url
            .filter(|_| found.error.is_none())
            .map(|url| fetch_public(&web, url, &path, found.size));
        Some(found)
    });
    let found: Vec<ServedEntry> = found.into_iter().flatten().collect();
    poller.progress.finish();
    if args.output.json {
        print_json(&WhichOutput { headwater: "which", version: 1, path: &path, mirrors: &found })?;
    } else {
        print(&describe(&found, fleet_poll.now))?;
    }
    Ok(if all_agree(&found) { Exit::Success } else { Exit::Failed })
}

/// Parses a path that may start with `/`; for a directory, the path of its `index.html`.
fn tree_path(text: &str) -> Result<TreePath, Failure> {
    let plain = text.trim_start_matches('/');
    let path = if plain.is_empty() || plain.ends_with('/') {
        format!("{plain}index.html")
    } else {
        plain.to_owned()
    };
    TreePath::new(&path).map_err(|fault| {
        Failure::new(Exit::Usage, format!("{text:?} is not a path in a tree: it {fault}"))
            .with_hint("write a path such as assets/app.js, without a host and without %-escapes")
    })
}

fn served_entry(mirror: &dyn Mirror, seen: &Poll, all: &[Poll], path: &TreePath) -> ServedEntry {
    let mut found = ServedEntry {
        mirror: seen.mirror.clone(),
        location: seen.location.clone(),
        ..ServedEntry::default()
    };
    let state = seen.state.as_ref().map_err(|error| headwater::text::error_chain(error));
    let state = state.and_then(|state| {
        found.sequence = state.current.map(|current| current.sequence());
        state.current_release().ok_or_else(|| match state.current {
            None => "it serves nothing yet".to_owned(),
            Some(_) => "the record of its current release is damaged".to_owned(),
        })
    });
    match state.and_then(|release| find_entry(mirror, release, path).map(|entry| (release, entry)))
    {
        Err(error) => found.error = Some(error),
        Ok((_, None)) => {}
        Ok((_, Some(entry)))
            if entry.has_expired(seen.state.as_ref().map_or(0, |state| state.expired_through)) => {}
        Ok((release, Some(entry))) => {
            found.until = entry.until;
            match entry.kind {
                EntryKind::Symlink(target) => found.target = Some(target.as_str().to_owned()),
                EntryKind::File(file) => {
                    (found.object, found.size, found.mtime) =
                        (Some(file.object), Some(file.size), Some(file.mtime));
                    // The mtime of a file is the time of the release that last changed it.
                    let known = fleet_status::releases(all, &release.site);
                    found.since = known
                        .iter()
                        .find(|known| known.created == file.mtime)
                        .map(|release| release.sequence);
                }
            }
        }
    }
    found
}

fn find_entry(
    mirror: &dyn Mirror,
    release: &Release,
    path: &TreePath,
) -> Result<Option<headwater::manifest::Entry>, String> {
    let bytes =
        mirror.manifest(&release.manifest).map_err(|error| headwater::text::error_chain(&error))?;
    let entries =
        ManifestReader::new(bytes, Some(release.manifest)).map_err(|error| error.to_string())?;
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        // A manifest is sorted by path, so nothing that follows can match.
        if entry.path >= *path {
            return Ok((entry.path == *path).then_some(entry));
        }
    }
    Ok(None)
}

fn fetch_public(web: &HttpClient, url: &str, path: &TreePath, size: Option<u64>) -> PublicContent {
    match fleet_status::fetch(web, url, path.as_str(), size.unwrap_or(0).max(MIN_FETCH_LIMIT)) {
        Ok(fetched) => PublicContent { object: Some(fetched.object), error: None },
        Err(error) => PublicContent { object: None, error: Some(error.to_string()) },
    }
}

/// Returns whether all mirrors have the same content at the path, and all visitors get it.
fn all_agree(found: &[ServedEntry]) -> bool {
    let are_same =
        found.iter().map(|one| (one.object, &one.target)).collect::<BTreeSet<_>>().len() <= 1;
    let is_there =
        |one: &ServedEntry| one.error.is_none() && (one.object.is_some() || one.target.is_some());
    let is_served = |one: &ServedEntry| {
        // At a link, visitors get the content that the link leads to, which the entry does not
        // name.
        one.public.as_ref().is_none_or(|public| one.target.is_some() || public.object == one.object)
    };
    are_same && found.iter().all(|one| is_there(one) && is_served(one))
}

fn describe(found: &[ServedEntry], now: u64) -> String {
    let mut table = Table::new([
        ("mirror", Align::Left),
        ("release", Align::Right),
        ("object", Align::Left),
        ("size", Align::Right),
        ("since", Align::Right),
        ("changed", Align::Left),
        ("visitors get", Align::Left),
        ("", Align::Left),
    ]);
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for one in found {
        let object = match (&one.object, &one.target, &one.error) {
            (Some(object), ..) => short(object),
            (_, Some(target), _) => format!("-> {target}"),
            (.., Some(_)) => "-".to_owned(),
            _ => "nothing".to_owned(),
        };
        let retired = one.until.map(|until| {
            format!(
                "retired, expires {}",
                format_age(until, now)
                    .replace("just now", "now")
                    .replace("ahead of this clock", "from now")
            )
        });
        table.add_row([
            one.mirror.clone(),
            optional(one.sequence.map(|sequence| sequence.to_string())),
            object,
            optional(one.size.map(format_bytes)),
            optional(one.since.map(|since| since.to_string())),
            optional(one.mtime.map(|mtime| format_age(mtime, now))),
            optional(one.public.as_ref().map(|public| public_text(public, one))),
            one.error.clone().or(retired).unwrap_or_default(),
        ]);
    }
    table.render()
}

fn public_text(public: &PublicContent, one: &ServedEntry) -> String {
    match (&public.object, &public.error) {
        (object, None) if *object == one.object => "the same".to_owned(),
        (Some(object), _) => short(object),
        (None, error) => error.clone().unwrap_or_default(),
    }
}

fn short(object: &ObjectId) -> String {
    object.to_string().chars().take(12).collect()
}
