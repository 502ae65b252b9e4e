//! `headwater releases`: the releases kept on each mirror.

use headwater::fleet_status::{self, Usage};
use headwater::mirror::LinkKind;
use headwater::push::PolledMirror;
use headwater::release::Release;
use headwater::text::error_chain;
use serde::Serialize;

use crate::cli::args::{OutputArgs, ReleasesArgs, operands};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{Align, Table, format_bytes, format_count, format_time};
use crate::cli::output::print::{print, print_json};
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::{MirrorFactory, check_directories_exist};

#[derive(Serialize)]
struct ReleasesOutput<'a> {
    headwater: &'static str,
    version: u32,
    mirrors: &'a [MirrorReleases<'a>],
}

fn poll_mirrors(args: &ReleasesArgs) -> Result<Vec<PolledMirror>, Failure> {
    let config = load_config(&args.config)?;
    let choices = operands::resolve_mirrors(&args.mirrors.mirrors, &config)?;
    check_directories_exist(&choices, &config)?;
    let factory = MirrorFactory::new(&args.remote, None, &config);
    let fleet = factory.fleet(&choices, args.remote.site.as_ref())?;
    // Quiet, because the result lists every mirror and its failure.
    let progress =
        Progress::without_mirror_failures(&OutputArgs { quiet: true, ..args.output.clone() })?;
    let members = fleet.states(&progress);
    progress.finish();
    Ok(members)
}

#[derive(Serialize)]
struct MirrorReleases<'a> {
    mirror: &'a str,
    location: &'a str,
    current: Option<u64>,
    releases: &'a [Release],
    #[serde(skip_serializing_if = "Option::is_none")]
    staged: Option<&'a Release>,
    /// The disk space that the releases use; `None` for a mirror on another machine without
    /// `--disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &ReleasesArgs) -> Result<Exit, Failure> {
    let members = poll_mirrors(args)?;
    let kept: Vec<MirrorReleases<'_>> =
        members.iter().map(|member| mirror_releases(member, args.disk)).collect();
    if args.output.json {
        print_json(&ReleasesOutput { headwater: "releases", version: 1, mirrors: &kept })?;
    } else {
        let text: String = kept.iter().map(describe_mirror).collect();
        print(&text)?;
    }
    Ok(if kept.iter().any(|kept| kept.error.is_some()) { Exit::Failed } else { Exit::Success })
}

fn mirror_releases(member: &PolledMirror, is_disk_requested: bool) -> MirrorReleases<'_> {
    let state = member.state();
    // This reads the manifests of all releases, which must be transferred from another machine.
    let is_measured = is_disk_requested || member.mirror.link_kind() == LinkKind::Local;
    let measured =
        state.filter(|_| is_measured).map(|state| fleet_status::usage(&*member.mirror, state));
    // `verify` reports unreadable manifests; without --disk, no manifest is read.
    let (usage, fault) = match measured {
        Some(Err(error)) => (None, Some(error).filter(|_| is_disk_requested)),
        Some(Ok(usage)) => (Some(usage), None),
        None => (None, None),
    };
    MirrorReleases {
        mirror: member.mirror.name(),
        location: member.mirror.location(),
        current: state.and_then(|state| state.current).map(|current| current.sequence()),
        releases: state.map_or(&[], |state| &state.releases),
        staged: state.and_then(|state| state.staged.as_ref()),
        usage,
        error: member.error().map(|error| error_chain(error)).or(fault),
    }
}

fn describe_mirror(kept: &MirrorReleases<'_>) -> String {
    let heading = crate::cli::output::format::escape(kept.mirror).into_owned();
    if let Some(error) = &kept.error {
        return format!("{heading}: {}\n", crate::cli::output::format::escape(error));
    }
    let mut table = Table::new([
        ("release", Align::Right),
        ("published", Align::Left),
        ("entries", Align::Right),
        ("retired", Align::Right),
        ("size", Align::Right),
        ("prune frees", Align::Right),
        ("change", Align::Right),
        ("orders", Align::Left),
        ("note", Align::Left),
    ]);
    let mut before: Option<&Release> = None;
    let mut rows = Vec::new();
    for release in kept.releases.iter().chain(kept.staged) {
        let mark = if kept.current == Some(release.sequence) {
            "* "
        } else if kept.staged.is_some_and(|staged| staged.id() == release.id()) {
            "staged "
        } else {
            ""
        };
        rows.push(release_row(release, before, mark, kept.usage.as_ref()));
        before = Some(release);
    }
    rows.into_iter().rev().for_each(|row| table.add_row(row));
    let disk = kept.usage.as_ref().filter(|usage| usage.bytes > 0);
    let disk =
        disk.map(|usage| format!(": {} on disk", format_bytes(usage.bytes))).unwrap_or_default();
    let prune = kept
        .usage
        .as_ref()
        .and_then(|usage| usage.prune.iter().rev().find(|freed| freed.bytes > 0));
    let prune = prune.map(|freed| {
        format!(
            "; `headwater prune --keep {}` would free {}",
            freed.keep,
            format_bytes(freed.bytes)
        )
    });
    format!(
        "{heading}{disk}{}\n{}",
        prune.unwrap_or_default(),
        table.without_empty_columns().render()
    )
}

fn release_row(
    release: &Release,
    before: Option<&Release>,
    mark: &str,
    usage: Option<&Usage>,
) -> [String; 9] {
    let change = before.map_or_else(String::new, |before| {
        let live = |release: &Release| release.entries.saturating_sub(release.retired);
        let (now, then) = (live(release), live(before));
        if now >= then {
            format!("+{}", format_count(now - then))
        } else {
            format!("-{}", format_count(then - now))
        }
    });
    let orders: Vec<String> =
        release.orders.iter().map(|(stream, number)| format!("{stream}:{number}")).collect();
    let freed = usage.and_then(|usage| usage.freed_by(release.sequence));
    let note = match (release.rolled_back_to, &release.note) {
        (Some(to), Some(note)) => format!("back to {to}; {}", short_commits(note)),
        (Some(to), None) => format!("back to {to}"),
        (None, note) => note.as_deref().map(short_commits).unwrap_or_default(),
    };
    [
        format!("{mark}{}", release.sequence),
        format_time(release.created),
        format_count(release.entries),
        format_count(release.retired),
        format_bytes(release.bytes),
        freed.map(format_bytes).unwrap_or_default(),
        change,
        orders.join(" "),
        note,
    ]
}

/// Shortens each full commit hash in `note` to 12 digits if it is a word or the end of a path.
fn short_commits(note: &str) -> String {
    const DIGITS: usize = 12;
    let is_hash = |word: &str| {
        // Git's hashes: SHA-1 and SHA-256.
        matches!(word.len(), 40 | 64) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut text = String::with_capacity(note.len());
    for piece in note.split_inclusive([' ', '/', ',', ';', ':', '@', '(', ')']) {
        let word = piece.trim_end_matches([' ', '/', ',', ';', ':', '@', '(', ')']);
        let shown = if is_hash(word) { &word[..DIGITS] } else { word };
        text.push_str(shown);
        text.push_str(&piece[word.len()..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_ids_are_shortened_and_other_text_is_kept() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let url = format!("https://git.example/me/site/commit/{hash}");
        assert_eq!(
            short_commits(&format!("{hash} main {url}")),
            "0123456789ab main https://git.example/me/site/commit/0123456789ab"
        );
        let without_commit = "release 12: fix (#4711), café";
        assert_eq!(short_commits(without_commit), without_commit);
    }
}
