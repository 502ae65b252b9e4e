//! The releases on the page: the changes in each release, and the mirrors that serve it.

use headwater::manifest::{ChangeKind, Diff};
use headwater::push::ChangeCounts;
use headwater::release::Release;
use maud::{Markup, html};

use crate::cli::commands::status::page::{StatusPage, time};
use crate::cli::output::format::{escape, format_bytes, format_count, pluralize};

/// Maximum number of paths that are shown for a release.
const MAX_PATHS: usize = 20;
const CHANGE_WORDS: [(ChangeKind, &str); 5] = [
    (ChangeKind::Added, "added"),
    (ChangeKind::Changed, "changed"),
    (ChangeKind::Renamed, "renamed"),
    (ChangeKind::Retired, "retired"),
    (ChangeKind::Removed, "removed"),
];

/// The section with all releases, newest first.
pub(super) fn section(page: &StatusPage<'_>) -> Markup {
    html! {
        @if !page.releases.is_empty() {
            h2 { "Releases" }
            ul {
                @for (release, diff) in &page.releases { (card(page, release, diff.as_ref())) }
            }
        }
    }
}

fn card(page: &StatusPage<'_>, release: &Release, diff: Option<&Diff>) -> Markup {
    let id = release.id().to_string();
    let served = page
        .mirror_statuses
        .iter()
        .filter(|mirror_status| mirror_status.release.as_deref() == Some(&id))
        .count() as u64;
    html! {
        li.release {
            div.top {
                h3.name { (release.sequence) }
                span.place { (time(release.created)) }
                @if served > 0 {
                    span.state.good { "on " (pluralize(served, "mirror", "mirrors")) }
                } @else if is_rolled_back(page, release) {
                    span.state.late { "rolled back" }
                }
            }
            p.soft {
                (pluralize(release.entries, "file", "files")) ", " (format_bytes(release.bytes))
                @if let Some(diff) = diff { "; " (change_summary(diff)) }
            }
            @if let Some(to) = release.rolled_back_to {
                p.note { "Back to the content of release " (to) "." }
            }
            @if let Some(note) = &release.note { p.note { (escape(note)) } }
            @if let Some(diff) = diff { (paths(diff)) }
        }
    }
}

/// Whether a person or a push rolled the release back.
fn is_rolled_back(page: &StatusPage<'_>, release: &Release) -> bool {
    let later = page.releases.iter().map(|(later, _)| *later);
    // A revert by a push rejects no content, so it is recognized only as the very next release.
    let is_next = |later: &Release| later.sequence == release.sequence + 1;
    later.take_while(|later| later.id() != release.id()).any(|later| {
        later.rejection(release.content).is_some()
            || is_next(later) && later.rolled_back_to.is_some()
    })
}

fn change_summary(diff: &Diff) -> String {
    let words = crate::cli::output::push_report::change_counts_text(&ChangeCounts::from(diff));
    if words.is_empty() { "the same content as before".to_owned() } else { words.join(", ") }
}

fn paths(diff: &Diff) -> Markup {
    let rest = diff.changes.len().saturating_sub(MAX_PATHS);
    let word =
        |kind| CHANGE_WORDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, word)| word);
    html! {
        @if !diff.changes.is_empty() {
            details {
                summary { "What changed" }
                ul.paths {
                    @for change in diff.changes.iter().take(MAX_PATHS) {
                        li { b { (word(change.kind)) } " " (escape(change.path.as_str())) }
                    }
                    @if rest > 0 { li { "and " (format_count(rest as u64)) " more" } }
                }
            }
        }
    }
}
