//! What to do after a push that did not end well everywhere: the hints below its result.

use headwater::mirror::ErrorKind;
use headwater::push::{MirrorReport, Outcome, Report};

use super::failure::{Exit, Failure, eprint_raw};
use super::hints;
use super::output::{counted, escape};
use super::push::name;

/// How the work of `command` is called in a sentence that says that none was done.
pub(crate) fn nothing_done(command: &str) -> &'static str {
    match command {
        "rollback" => "nothing was rolled back",
        "activate" => "nothing was activated",
        "heal" => "no mirror was brought up",
        _ => "nothing was pushed",
    }
}

/// How `command` is done once more.
fn again(command: &str) -> String {
    if command == "push" { "push again".to_owned() } else { format!("run `headwater {command}` again") }
}

/// What brings up those that failed, where others have the release. A rollback is not repeated for that: it would go
/// back once more. What is active is not staged any longer, so `activate` is not repeated either.
fn bring_up(report: &Report, command: &str) -> Option<String> {
    if !matches!(command, "rollback" | "activate") {
        return Some(format!("the others have the release: {} to bring up those that failed", again(command)));
    }
    let from = report.mirrors.iter().find(|mirror| mirror.outcome.is_current())?;
    let failed = report.mirrors.iter().filter(|mirror| matches!(mirror.outcome, Outcome::Failed { .. }));
    let failed: String = failed.map(|mirror| format!(" {}", escape(&mirror.mirror))).collect();
    Some(format!(
        "the others have the release: `headwater push --from {}{failed}` brings it to those that failed",
        escape(&from.mirror)
    ))
}

/// What finishes a push of which too few mirrors were ready: those that are stay so.
fn next_step(report: &Report) -> Option<String> {
    let ready = report.mirrors.iter().filter(|one| one.outcome == Outcome::Staged || one.outcome.is_current()).count();
    let staged = report.mirrors.iter().filter(|mirror| mirror.outcome == Outcome::Staged).count();
    let total = report.mirrors.iter().filter(|mirror| mirror.outcome != Outcome::Frozen).count();
    let name = name(report).filter(|_| staged > 0 && report.unmet.is_some())?;
    Some(format!(
        "{ready} of {total} staged and kept: `headwater activate {name} --require {ready}` finishes in a second; \
         or fix what failed and push again"
    ))
}

/// Which mirrors serve something newer than what was brought.
fn newer(report: &Report) -> Option<String> {
    let mut mirrors = report.mirrors.iter().filter_map(|one| match &one.outcome {
        Outcome::Newer { serves } => Some(format!("{} serves release {serves}", one.mirror)),
        _ => None,
    });
    let first = mirrors.next()?;
    let more = match mirrors.count() {
        0 => String::new(),
        more => format!(" (and {} more)", counted(more as u64, "mirror", "mirrors")),
    };
    Some(format!(
        "{first}{more}, which is newer than release {}: nothing was changed there; \
         a push or `headwater promote` makes a release above both, with --new-history if their histories differ",
        report.sequence?
    ))
}

/// What to do where another push staged a release in the place of this one.
fn displaced(report: &Report) -> Option<String> {
    let by = report.mirrors.iter().find_map(|one| match &one.outcome {
        Outcome::Displaced { by } => Some(by),
        _ => None,
    })?;
    Some(format!(
        "another push staged release {by} in place of this one, and nothing new is served: \
         `headwater activate {by}` serves it; or push again"
    ))
}

/// What to do after mirrors switched and went back to the content they had.
fn after_going_back(report: &Report) -> Option<String> {
    report.reverted.as_ref()?;
    let went_back = report.mirrors.iter().filter(|mirror| mirror.outcome == Outcome::Reverted).count() as u64;
    let sequence = report.sequence?;
    Some(match went_back {
        0 => format!(
            "see which mirrors serve release {sequence} with `headwater status`, and use `headwater rollback` there"
        ),
        number => format!(
            "{} served release {sequence} for a while; find out why, then run the same push again",
            counted(number, "mirror", "mirrors")
        ),
    })
}

/// What to do where too few mirrors were ready and none is staged: names the requirement that would be met.
fn lower_require(report: &Report, command: &str) -> String {
    let is_filled = report.mirrors.iter().any(|mirror| mirror.before.is_some());
    // A mirror that is joining counts for no requirement.
    let counts = |mirror: &&MirrorReport| mirror.outcome != Outcome::Frozen && !(is_filled && mirror.before.is_none());
    let is_usable = |mirror: &&MirrorReport| !matches!(mirror.outcome, Outcome::Failed { .. });
    let again = again(command);
    match report.mirrors.iter().filter(counts).filter(is_usable).count() {
        0 => format!("nothing was activated: fix what failed and {again}"),
        usable => format!("nothing was activated: fix what failed and {again}, or go on with `--require {usable}`"),
    }
}

/// The kinds of the failures of mirrors.
pub(crate) fn failures(report: &Report) -> impl Iterator<Item = ErrorKind> {
    report.mirrors.iter().filter_map(|mirror| match &mirror.outcome {
        Outcome::Failed { failure, .. } => Some(*failure),
        _ => None,
    })
}

/// Says on stderr what to do about what failed in `command`.
pub(crate) fn explain(report: &Report, exit: Exit, command: &str) -> Result<(), Failure> {
    let next = next_step(report);
    let went_back = after_going_back(report);
    let require = lower_require(report, command);
    let newer = newer(report);
    let up = bring_up(report, command);
    let displaced = displaced(report);
    // The failure itself was shown when it happened, also with --quiet.
    let mut hints: Vec<&str> = failures(report).filter_map(hints::of_mirror).collect();
    hints.extend(displaced.as_deref());
    match exit {
        _ if went_back.is_some() => hints.extend(went_back.as_deref()),
        Exit::Partial if failures(report).next().is_none() && newer.is_some() => hints.extend(newer.as_deref()),
        Exit::Partial => hints.extend(up.as_deref()),
        Exit::Nothing if next.is_some() => hints.extend(next.as_deref()),
        Exit::Nothing if report.unmet.is_some() => {
            hints.push(&require);
        }
        Exit::Superseded if newer.is_some() => hints.extend(newer.as_deref()),
        Exit::Superseded => hints.push("a newer push has won; nothing is to be done"),
        _ => {}
    }
    print_hints(hints)
}

/// Writes hints to stderr, of equal ones that follow each other only the first.
pub(crate) fn print_hints(mut hints: Vec<&str>) -> Result<(), Failure> {
    hints.dedup();
    let text: String = hints.iter().map(|hint| format!("hint: {hint}\n")).collect();
    eprint_raw(&text).map_err(|error| Failure::new(Exit::Failed, error))
}
