//! The result of a push for CI: the summary, the outputs and the annotations of
//! GitHub Actions, and the dotenv report of GitLab.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use headwater::fsx;
use headwater::push::{Outcome, Report};

use crate::cli::output::failure::eprint_raw;
use crate::cli::output::format::{escape, format_bytes};

/// Maximum number of annotations for a run: GitHub shows no more per step.
const MAX_ANNOTATIONS: usize = 10;
/// Maximum number of mirrors in a summary; failed mirrors come first.
const MAX_ROWS: usize = 200;

/// How a push ended.
pub(crate) struct CiResult<'a> {
    /// The site.
    pub(crate) site: &'a str,
    /// The report, if there is one.
    pub(crate) report: Option<&'a Report>,
    /// The exit code.
    pub(crate) code: u8,
    /// The error, on one line.
    pub(crate) error: &'a str,
}

/// Writes the files that the environment or `--dotenv` names.
pub(crate) fn write(
    result: &CiResult<'_>,
    dotenv: Option<&Path>,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let write_failure =
        |path: &Path, error: std::io::Error| format!("cannot write {}: {error}", path.display());
    if let Some(path) = dotenv {
        // Replaced, not appended to, because the file belongs to this run alone.
        let written = fsx::replace_file(path, |out| {
            out.write_all(variables(result, "HEADWATER_", true).as_bytes())
        });
        written.map_err(|error| write_failure(path, error.source))?;
    }
    // Gitea and Forgejo set this variable too.
    if lookup("GITHUB_ACTIONS").as_deref() != Some("true") {
        return Ok(());
    }
    // GitHub reads annotations from both streams; stdout is reserved for the result.
    eprint_raw(&annotations(result)).ok();
    for (variable, text) in
        [("GITHUB_STEP_SUMMARY", summary(result)), ("GITHUB_OUTPUT", variables(result, "", false))]
    {
        if let Some(path) = lookup(variable).filter(|path| !path.is_empty()) {
            let path = Path::new(&path);
            // Append, because other steps write to the same file.
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|error| write_failure(path, error))?;
        }
    }
    Ok(())
}

fn failures(report: &Report) -> impl Iterator<Item = (&str, &str)> {
    report.mirrors.iter().filter_map(|mirror| match &mirror.outcome {
        Outcome::Failed { error, .. } => Some((mirror.mirror.as_str(), error.as_str())),
        _ => None,
    })
}

/// The facts, one `NAME=VALUE` per line. No value contains a line break.
fn variables(result: &CiResult<'_>, prefix: &str, is_upper: bool) -> String {
    let report = result.report;
    let all = report.map(|report| report.mirrors.as_slice()).unwrap_or_default();
    let current = all.iter().filter(|mirror| mirror.outcome.is_current()).count();
    let outcome = match (result.code, report) {
        (0, Some(report)) if report.is_new => "published",
        (0, _) => "unchanged",
        (3, _) => "partial",
        _ => "failed",
    };
    let facts = [
        ("site", result.site.to_owned()),
        ("outcome", outcome.to_owned()),
        ("exit_code", result.code.to_string()),
        (
            "sequence",
            report
                .and_then(|report| report.sequence)
                .map(|number| number.to_string())
                .unwrap_or_default(),
        ),
        (
            "release",
            report.and_then(|report| report.release).map(|id| id.to_string()).unwrap_or_default(),
        ),
        ("mirrors", all.len().to_string()),
        ("mirrors_current", current.to_string()),
    ];
    let name = |name: &str| if is_upper { name.to_uppercase() } else { name.to_owned() };
    // Escaped, because a line break in a value would begin another variable.
    facts.iter().map(|(key, value)| format!("{prefix}{}={}\n", name(key), escape(value))).collect()
}

/// One error annotation per failure, at most ten.
fn annotations(result: &CiResult<'_>) -> String {
    if result.code == 0 {
        return String::new();
    }
    // https://docs.github.com/actions/reference/workflow-commands-for-github-actions `%` comes
    // first, because the other replacements add one.
    let data =
        |text: &str| escape(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    // Inside a property, these characters would end a name or a value.
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let annotation =
        |title: &str, text: &str| format!("::error title={}::{}\n", property(title), data(text));
    let all: Vec<(&str, &str)> =
        result.report.map(|report| failures(report).collect()).unwrap_or_default();
    if all.is_empty() {
        // No mirror failed, so the push failed as a whole.
        return annotation("headwater", result.error);
    }
    let is_over = all.len() > MAX_ANNOTATIONS;
    // The last place is for the number of remaining failures.
    let shown = if is_over { MAX_ANNOTATIONS - 1 } else { all.len() };
    let mut text: String =
        all[..shown].iter().map(|(mirror, error)| annotation(mirror, error)).collect();
    if is_over {
        text.push_str(&annotation(
            "headwater",
            &format!("{} more mirrors failed", all.len() - shown),
        ));
    }
    text
}

/// The step summary, in Markdown.
fn summary(result: &CiResult<'_>) -> String {
    let mut text = format!("### headwater: {}\n\n", escape_markdown(&headline(result)));
    let Some(report) = result.report else { return text };
    if let Some(unmet) = &report.unmet {
        // Writing to a string cannot fail.
        writeln!(text, "{}\n", escape_markdown(unmet)).ok();
    }
    if report.is_new {
        let parts = crate::cli::output::push_report::change_counts_text(&report.changes);
        writeln!(
            text,
            "{}\n",
            if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") }
        )
        .ok();
    }
    text.push_str("| mirror | release | sent | outcome |\n|---|---|---:|---|\n");
    let mut rows: Vec<_> = report.mirrors.iter().collect();
    // `false` sorts first: readers look for the mirrors that did not succeed.
    rows.sort_by_key(|mirror| mirror.outcome.is_current());
    for mirror in rows.iter().take(MAX_ROWS) {
        let release = mirror.now.map_or_else(|| "-".to_owned(), |now| now.to_string());
        let outcome = match &mirror.outcome {
            // The page with the summary does not include stderr.
            Outcome::Failed { error, .. } => format!("failed: {error}"),
            other => crate::cli::output::push_report::outcome_text(other),
        };
        let sent = format_bytes(mirror.traffic.sent_bytes);
        writeln!(
            text,
            "| {} | {release} | {sent} | {} |",
            escape_markdown(&mirror.mirror),
            escape_markdown(&outcome)
        )
        .ok();
    }
    if rows.len() > MAX_ROWS {
        writeln!(text, "\nand {} more mirrors", rows.len() - MAX_ROWS).ok();
    }
    text.push('\n');
    text
}

fn headline(result: &CiResult<'_>) -> String {
    match (result.report, result.code) {
        (Some(report), 0) if report.is_new => {
            format!(
                "release {} of {} is on every mirror",
                report.sequence.unwrap_or_default(),
                result.site
            )
        }
        (Some(_), 0) => format!("nothing new for {}", result.site),
        (_, 3) => format!("{} is on only some mirrors", result.site),
        (_, code) => format!("the push of {} ended with {code}: {}", result.site, result.error),
    }
}

/// Escapes `text` for use in a line of Markdown or in a table cell.
fn escape_markdown(text: &str) -> String {
    // Also `@` and `#`, because GitHub turns them into mentions and links.
    let mut safe = String::with_capacity(text.len() + 8);
    for c in escape(text).chars() {
        if matches!(
            c,
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '&' | '#' | '~' | '!' | '@'
        ) {
            safe.push('\\');
        }
        safe.push(c);
    }
    safe
}

#[cfg(test)]
mod tests {
    use headwater::mirror::{ErrorKind, Expiries};
    use headwater::push::{ChangeCounts, MirrorReport, Traffic};
    use headwater::tree_path::Site;

    use super::*;

    fn report(failed: usize) -> Report {
        let one = |number: usize, outcome| MirrorReport {
            mirror: format!("m{number}"),
            location: "/m".into(),
            outcome,
            before: Some(1),
            now: Some(2),
            new_bytes: 0,
            traffic: Traffic::default(),
            expiries: Expiries::default(),
            hook: None,
            needs_clean_up: false,
        };
        let error = "100% <b>|x:\n::set-output::".to_owned();
        let failed = (0..failed).map(|number| {
            one(number, Outcome::Failed { failure: ErrorKind::Other, error: error.clone() })
        });
        Report {
            site: Site::new("docs").unwrap(),
            release: None,
            sequence: Some(2),
            is_new: true,
            changes: ChangeCounts { added: 1_234, ..ChangeCounts::default() },
            new_bytes: 0,
            goal: headwater::push::Goal::Activate,
            unmet: None,
            stopped: None,
            reverted: None,
            spread_ms: None,
            mirrors: failed.chain([one(99, Outcome::Activated)]).collect(),
        }
    }

    #[test]
    fn annotations_are_at_most_ten_single_lines() {
        for (failed, marked) in [(1, 1), (10, 10), (11, 10), (50, 10)] {
            let report = report(failed);
            let end = CiResult { site: "docs", report: Some(&report), code: 3, error: "x" };
            let text = annotations(&end);
            assert_eq!(text.lines().count(), marked);
            assert!(text.lines().all(|line| line.starts_with("::error title=")), "{text}");
            assert!(
                text.starts_with("::error title=m0::100%25 <b>|x:\\u{a}::set-output::"),
                "{text}"
            );
        }
        assert_eq!(annotations(&CiResult { site: "docs", report: None, code: 0, error: "" }), "");
        let none = annotations(&CiResult {
            site: "docs",
            report: None,
            code: 5,
            error: "the tree is empty",
        });
        assert_eq!(none, "::error title=headwater::the tree is empty\n");
    }

    #[test]
    fn foreign_markup_is_escaped_in_the_summary() {
        let report = report(1);
        let text = summary(&CiResult { site: "docs", report: Some(&report), code: 3, error: "x" });
        assert!(text.contains("1,234 added") && text.contains("| m99 | 2 |"), "{text}");
        assert!(text.contains("failed: 100% \\<b\\>\\|x:\\\\u{a}::set-output::"), "{text}");
    }

    #[test]
    fn each_variable_is_one_line() {
        let report = report(0);
        let end = CiResult { site: "docs", report: Some(&report), code: 0, error: "" };
        let text = variables(&end, "HEADWATER_", true);
        assert!(
            text.contains("HEADWATER_OUTCOME=published\n")
                && text.contains("HEADWATER_SEQUENCE=2\n"),
            "{text}"
        );
        assert!(
            variables(&CiResult { code: 4, report: None, ..end }, "", false)
                .contains("outcome=failed\nexit_code=4\n")
        );
    }
}
