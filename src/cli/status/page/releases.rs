//! The releases on the page: the changes of each release, and the mirrors that serve it.

use std::fmt::Write as _;

use headwater::manifest::{ChangeKind, Diff};
use headwater::push::ChangeCounts;
use headwater::release::Release;

use super::super::super::output::{bytes, count, counted};
use super::{StatusPage, text, time};

/// Most paths of a release that are shown.
const MAX_PATHS: usize = 20;
const KINDS: [(ChangeKind, &str); 5] = [
    (ChangeKind::Added, "added"),
    (ChangeKind::Changed, "changed"),
    (ChangeKind::Renamed, "renamed"),
    (ChangeKind::Retired, "retired"),
    (ChangeKind::Removed, "removed"),
];

/// The section with all releases, newest first.
pub(super) fn section(page: &StatusPage<'_>) -> String {
    if page.releases.is_empty() {
        return String::new();
    }
    let cards: String =
        page.releases.iter().map(|(release, diff)| card(page, release, diff.as_ref())).collect();
    format!("<h2>Releases</h2>\n<ul>\n{cards}</ul>\n")
}

fn card(page: &StatusPage<'_>, release: &Release, diff: Option<&Diff>) -> String {
    let id = release.id().to_string();
    let served = page
        .mirror_statuses
        .iter()
        .filter(|mirror_status| mirror_status.release.as_deref() == Some(&id))
        .count() as u64;
    let state = match served {
        0 if is_taken_back(page, release) => {
            "<span class=\"state late\">rolled back</span>".to_owned()
        }
        0 => String::new(),
        served => {
            format!("<span class=\"state good\">on {}</span>", counted(served, "mirror", "mirrors"))
        }
    };
    let mut html = format!(
        "<li class=\"release\">\n<div class=\"top\"><h3 class=\"name\">{}</h3><span \
         class=\"place\">{}</span>{state}</div>\n",
        release.sequence,
        time(release.created),
    );
    let size = format!("{}, {}", counted(release.entries, "file", "files"), bytes(release.bytes));
    // Writing to a string cannot fail.
    writeln!(html, "<p class=\"soft\">{size}{}</p>", diff.map(sums).unwrap_or_default()).ok();
    if let Some(to) = release.rolled_back_to {
        writeln!(html, "<p class=\"note\">Back to the content of release {to}.</p>").ok();
    }
    if let Some(note) = &release.note {
        writeln!(html, "<p class=\"note\">{}</p>", text(note)).ok();
    }
    html.push_str(&diff.map(paths).unwrap_or_default());
    html.push_str("</li>\n");
    html
}

/// Whether the mirrors went back from it, because a person or a push rolled it back.
fn is_taken_back(page: &StatusPage<'_>, release: &Release) -> bool {
    let later = page.releases.iter().map(|(later, _)| *later);
    let is_next = |later: &Release| later.sequence == release.sequence + 1;
    later.take_while(|later| later.id() != release.id()).any(|later| {
        later.rejection(release.content).is_some()
            || is_next(later) && later.rolled_back_to.is_some()
    })
}

fn sums(diff: &Diff) -> String {
    let words = super::super::super::push::changes(&ChangeCounts::from(diff));
    if words.is_empty() {
        "; the same content as before".to_owned()
    } else {
        format!("; {}", words.join(", "))
    }
}

fn paths(diff: &Diff) -> String {
    if diff.changes.is_empty() {
        return String::new();
    }
    let mut html = String::from("<details><summary>What changed</summary>\n<ul class=\"paths\">\n");
    for change in diff.changes.iter().take(MAX_PATHS) {
        let word = KINDS.iter().find(|(kind, _)| *kind == change.kind).map_or("", |(_, word)| word);
        writeln!(html, "<li><b>{word}</b> {}</li>", text(change.path.as_str())).ok();
    }
    let rest = diff.changes.len().saturating_sub(MAX_PATHS);
    if rest > 0 {
        writeln!(html, "<li>and {} more</li>", count(rest as u64)).ok();
    }
    html.push_str("</ul></details>\n");
    html
}
