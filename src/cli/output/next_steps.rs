//! The hints below the result of a push that did not succeed on all mirrors.

use headwater::push::{MirrorReport, Outcome, Report};

use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::{escape, pluralize};
use crate::cli::output::hints;
use crate::cli::output::hints::FailureSide;
use crate::cli::output::push_report::release_name;

/// The instruction to run `command` again.
fn retry_text(command: &str) -> String {
    if command == "push" {
        "push again".to_owned()
    } else {
        format!("run `headwater {command}` again")
    }
}

/// The hint for updating the failed mirrors if others have the release. A second rollback would go
/// back one more release, and an activated release is no longer staged, so `rollback` and
/// `activate` are not repeated.
fn update_failed_hint(report: &Report, command: &str) -> Option<String> {
    if !matches!(command, "rollback" | "activate") {
        return Some(format!(
            "{} to update the mirrors that failed; the others have the release",
            retry_text(command)
        ));
    }
    let from = report.mirrors.iter().find(|mirror| mirror.outcome.is_current())?;
    let failed =
        report.mirrors.iter().filter(|mirror| matches!(mirror.outcome, Outcome::Failed { .. }));
    let failed: String = failed.map(|mirror| format!(" {}", escape(&mirror.mirror))).collect();
    Some(format!(
        "run `headwater push --from {}{failed}` to update the mirrors that failed; the others have \
         the release",
        escape(&from.mirror)
    ))
}

/// The hint for finishing a push with too few ready mirrors. The ready mirrors keep the release
/// staged.
fn activate_staged_hint(report: &Report) -> Option<String> {
    let ready = report
        .mirrors
        .iter()
        .filter(|one| one.outcome == Outcome::Staged || one.outcome.is_current())
        .count();
    let staged = report.mirrors.iter().filter(|mirror| mirror.outcome == Outcome::Staged).count();
    let total = report.mirrors.iter().filter(|mirror| mirror.outcome != Outcome::Frozen).count();
    let name = release_name(report).filter(|_| staged > 0 && report.unmet.is_some())?;
    Some(format!(
        "run `headwater activate {name} --require {ready}` to serve the release on the {ready} of \
         {total} mirrors that are ready, or fix the failures and push again"
    ))
}

/// The hint for mirrors that serve a newer release than the one that was copied.
fn newer_release_hint(report: &Report) -> Option<String> {
    let mut mirrors = report.mirrors.iter().filter_map(|one| match &one.outcome {
        Outcome::Newer { serves } => Some(format!("{} serves release {serves}", one.mirror)),
        _ => None,
    });
    let first = mirrors.next()?;
    let more = match mirrors.count() {
        0 => String::new(),
        more => format!(" (and {} more)", pluralize(more as u64, "mirror", "mirrors")),
    };
    Some(format!(
        "{first}{more}, which is newer than release {} and was left unchanged; \
         push a tree or run `headwater promote` to make a release that is newer than both, \
         with --new-history if the histories differ",
        report.sequence?
    ))
}

/// The hint for a release that another push replaced while it was staged.
fn displaced_hint(report: &Report) -> Option<String> {
    let by = report.mirrors.iter().find_map(|one| match &one.outcome {
        Outcome::Displaced { by } => Some(by),
        _ => None,
    })?;
    Some(format!(
        "run `headwater activate {by}` to serve the release that another push staged in place of \
         this one, or push again; the mirrors still serve the old release"
    ))
}

/// The hint for mirrors that switched and were reverted.
fn reverted_hint(report: &Report) -> Option<String> {
    report.reverted.as_ref()?;
    let went_back =
        report.mirrors.iter().filter(|mirror| mirror.outcome == Outcome::Reverted).count() as u64;
    let sequence = report.sequence?;
    Some(match went_back {
        0 => format!(
            "run `headwater status` to see which mirrors serve release {sequence}, and roll those \
             back with `headwater rollback`"
        ),
        number => format!(
            "fix the failure and run the same push again; {} served release {sequence} for a while",
            pluralize(number, "mirror", "mirrors")
        ),
    })
}

/// The hint if too few mirrors were ready and none has the release staged: the highest `--require`
/// that would be met.
fn lower_require_hint(report: &Report, command: &str) -> String {
    let is_filled = report.mirrors.iter().any(|mirror| mirror.before.is_some());
    // A joining mirror does not count towards `--require`.
    let counts = |mirror: &&MirrorReport| {
        mirror.outcome != Outcome::Frozen && !(is_filled && mirror.before.is_none())
    };
    let is_usable = |mirror: &&MirrorReport| !matches!(mirror.outcome, Outcome::Failed { .. });
    let again = retry_text(command);
    match report.mirrors.iter().filter(counts).filter(is_usable).count() {
        0 => format!("fix the failures and {again}; nothing was activated"),
        usable => format!(
            "fix the failures and {again}, or use `--require {usable}`; nothing was activated"
        ),
    }
}

/// The hints for the failures of mirrors.
pub(crate) fn failure_hints(report: &Report) -> impl Iterator<Item = &'static str> {
    report.mirrors.iter().filter_map(|mirror| match &mirror.outcome {
        Outcome::Failed { failure, .. } => {
            hints::kind_hint(*failure, FailureSide::from_location(&mirror.location))
        }
        _ => None,
    })
}

fn has_failures(report: &Report) -> bool {
    report.mirrors.iter().any(|mirror| matches!(mirror.outcome, Outcome::Failed { .. }))
}

/// Prints hints for the failures of `command` on stderr.
pub(crate) fn print_next_steps(report: &Report, exit: Exit, command: &str) -> Result<(), Failure> {
    let next = activate_staged_hint(report);
    let went_back = reverted_hint(report);
    let require = lower_require_hint(report, command);
    let newer = newer_release_hint(report);
    let up = update_failed_hint(report, command);
    let displaced = displaced_hint(report);
    // The failure itself was printed when it happened, even with --quiet.
    let mut hints: Vec<&str> = failure_hints(report).collect();
    hints.extend(displaced.as_deref());
    match exit {
        // Checked before the exit code: if mirrors were reverted, there is nothing to bring up.
        _ if went_back.is_some() => hints.extend(went_back.as_deref()),
        // Another push would end the same way while a mirror serves something newer.
        Exit::Partial if !has_failures(report) && newer.is_some() => {
            hints.extend(newer.as_deref());
        }
        Exit::Partial => hints.extend(up.as_deref()),
        Exit::NoMirror if next.is_some() => hints.extend(next.as_deref()),
        Exit::NoMirror if report.unmet.is_some() => {
            hints.push(&require);
        }
        Exit::Superseded if newer.is_some() => hints.extend(newer.as_deref()),
        Exit::Superseded => hints.push("no action is needed; a newer push has won"),
        _ => {}
    }
    print_hints(hints)
}

/// Writes hints to stderr. If consecutive hints are equal, writes only the first.
pub(crate) fn print_hints(mut hints: Vec<&str>) -> Result<(), Failure> {
    hints.dedup();
    let text: String = hints.iter().map(|hint| format!("hint: {hint}\n")).collect();
    eprint_raw(&text).map_err(|error| Failure::new(Exit::Failed, error))
}
