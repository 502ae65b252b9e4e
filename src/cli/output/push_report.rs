//! The result of a push: its exit code, and the text for people.

use headwater::mirror::ErrorKind;
use headwater::push::{ChangeCounts, Goal, MirrorReport, Outcome, Report};

use crate::cli::output::failure;
use crate::cli::output::failure::{Exit, ExitInputs};
use crate::cli::output::format::{
    Align, Table, escape, format_bytes, format_count, format_time, pluralize,
};

/// The exit code of a report.
pub(crate) fn push_exit(report: &Report, is_interrupted: bool, is_superseded_ok: bool) -> Exit {
    let tried = || {
        report
            .mirrors
            .iter()
            .map(|mirror| &mirror.outcome)
            .filter(|outcome| **outcome != Outcome::Frozen)
    };
    let is_staged = report.goal == Goal::Stage && report.unmet.is_none();
    let known = |one: &Outcome| match one {
        // With `--stage-only`, this was the goal.
        Outcome::Staged if is_staged => Some(failure::MirrorOutcome::AlreadyCurrent),
        other => mirror_outcome(other),
    };
    let outcomes: Vec<failure::MirrorOutcome> = tried().filter_map(known).collect();
    let is_done =
        tried().all(|outcome| outcome.is_current() || is_staged && *outcome == Outcome::Staged);
    // A mirror that was skipped because others failed does not count.
    let outcomes = if report.unmet.is_some() && !outcomes.is_empty() {
        outcomes
    } else {
        tried().map(|one| known(one).unwrap_or(failure::MirrorOutcome::Failed)).collect()
    };
    Exit::from_inputs(&ExitInputs {
        // A signal after the last switch had no effect.
        is_interrupted: is_interrupted && !is_done,
        is_superseded_ok,
        outcomes: &outcomes,
        ..ExitInputs::default()
    })
}

fn mirror_outcome(outcome: &Outcome) -> Option<failure::MirrorOutcome> {
    Some(match outcome {
        Outcome::Activated => failure::MirrorOutcome::Activated,
        // A mirror that is apart was left alone on purpose, so it is not a failure of `heal`.
        Outcome::Current | Outcome::Apart => failure::MirrorOutcome::AlreadyCurrent,
        Outcome::Superseded | Outcome::Newer { .. } => failure::MirrorOutcome::Superseded,
        Outcome::Staged | Outcome::Skipped | Outcome::Frozen => return None,
        Outcome::Failed { failure, .. } => outcome_of_failure(*failure),
        // The mirror does not serve the release, and no newer push has won: `--superseded-ok` must
        // not turn this into 0.
        Outcome::Reverted | Outcome::Displaced { .. } => failure::MirrorOutcome::Failed,
    })
}

/// The outcome for a failure of a mirror.
pub(crate) fn outcome_of_failure(failure: ErrorKind) -> failure::MirrorOutcome {
    match failure {
        denial if denial.is_denial() => failure::MirrorOutcome::Denied,
        ErrorKind::Locked => failure::MirrorOutcome::Locked,
        _ => failure::MirrorOutcome::Failed,
    }
}

/// The report for people.
pub(crate) fn describe(report: &Report, command: &str) -> String {
    let nothing = nothing_done_text(command);
    let mut text = match (report.sequence, report.is_new) {
        (None, _) => {
            format!(
                "{nothing}: {}\n",
                report.unmet.as_deref().unwrap_or("no mirror serves a release for all mirrors")
            )
        }
        (Some(sequence), false) if report.unmet.is_some() => {
            format!(
                "release {sequence} was not activated: {}\n",
                report.unmet.as_deref().unwrap_or_default()
            )
        }
        (Some(sequence), false) => {
            let updated =
                report.mirrors.iter().filter(|mirror| mirror.outcome == Outcome::Activated).count()
                    as u64;
            match updated {
                0 if report
                    .mirrors
                    .iter()
                    .any(|one| matches!(one.outcome, Outcome::Newer { .. })) =>
                {
                    format!("release {sequence} was copied to no mirror\n")
                }
                0 => format!("nothing new: release {sequence} has this content\n"),
                _ => format!(
                    "nothing new: release {sequence} was copied to {} unchanged\n",
                    pluralize(updated, "mirror", "mirrors")
                ),
            }
        }
        (Some(sequence), true) => {
            let unmet = report
                .unmet
                .as_deref()
                .map(|unmet| format!("not activated: {unmet}\n"))
                .unwrap_or_default();
            format!("release {sequence}: {}\n{unmet}", change_summary(&report.changes))
                + &retirement_line(&report.changes)
        }
    };
    let mut table = Table::new([
        ("mirror", Align::Left),
        ("release", Align::Left),
        ("sent", Align::Right),
        ("outcome", Align::Left),
    ]);
    for mirror in &report.mirrors {
        table.add_row([
            mirror.mirror.clone(),
            release_change_text(mirror),
            format_bytes(mirror.traffic.sent_bytes),
            outcome_text(&mirror.outcome),
        ]);
    }
    text.push_str(&table.render());
    text.push_str(&savings_line(report));
    text.push_str(&switch_lines(report));
    text
}

/// How many paths changed, by kind of change, and how many did not.
pub(crate) fn change_summary(sums: &ChangeCounts) -> String {
    let same = (sums.same > 0).then(|| format!("{} same", format_count(sums.same)));
    let parts: Vec<String> = change_counts_text(sums).into_iter().chain(same).collect();
    if parts.is_empty() { "empty".to_owned() } else { parts.join(", ") }
}

/// How many paths changed, with one part for each kind of change.
pub(crate) fn change_counts_text(sums: &ChangeCounts) -> Vec<String> {
    let parts = [
        (sums.added, "added"),
        (sums.changed, "changed"),
        (sums.renamed, "renamed"),
        (sums.retired, "retired"),
        (sums.removed, "removed"),
    ];
    parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{} {word}", format_count(*number)))
        .collect()
}

/// The line that says until when retired paths are served; empty if there are none.
pub(crate) fn retirement_line(sums: &ChangeCounts) -> String {
    let (Some(first), Some(last)) = (sums.first_until, sums.last_until) else {
        return String::new();
    };
    let until = if first == last {
        format_time(first)
    } else {
        format!("{} to {}", format_time(first), format_time(last))
    };
    format!(
        "{} retired, served until {until} (--expunge PATH removes a path now)\n",
        format_count(sums.still_served)
    )
}

/// The line that compares the number of bytes sent with the size of the new content, if fewer bytes
/// were sent.
fn savings_line(report: &Report) -> String {
    let sum = |of: fn(&MirrorReport) -> u64| report.mirrors.iter().map(of).sum::<u64>();
    let (sent, new) = (sum(|mirror| mirror.traffic.sent_bytes), sum(|mirror| mirror.new_bytes));
    // Small content may take more bytes than its size. That is not a saving, so it is not reported.
    if sent == 0 || sent >= new {
        return String::new();
    }
    format!("sent {} for {} of new content\n", format_bytes(sent), format_bytes(new))
}

/// The name of the release.
pub(crate) fn release_name(report: &Report) -> Option<String> {
    let id = report.release?.to_string();
    // This is the form of a `ReleaseName`.
    Some(format!("{}-{}", report.sequence?, &id[..16]))
}

/// The lines about the switch, below the table.
fn switch_lines(report: &Report) -> String {
    let mut text = String::new();
    let is_ready = report.mirrors.iter().any(|mirror| mirror.outcome == Outcome::Staged);
    if let (true, Goal::Stage, Some(name)) = (is_ready, report.goal, release_name(report)) {
        // Configured mirrors need not be named again.
        let named = report.mirrors.iter().filter(|mirror| mirror.mirror == mirror.location);
        let locations: String =
            named.map(|mirror| format!(" {}", escape(&mirror.mirror))).collect();
        text.push_str(&format!(
            "staged: `headwater activate {name}{locations}` serves it, `headwater abandon \
             {name}{locations}` drops it\n"
        ));
    }
    if let Some(spread) = report.spread_ms.filter(|_| report.mirrors.len() > 1) {
        text.push_str(&format!("first to last mirror: {spread} ms\n"));
    }
    if let Some(stopped) = &report.stopped {
        text.push_str(&format!("stopped: {}\n", escape(stopped)));
    }
    if let Some(reverted) = &report.reverted {
        if let Some(sequence) = reverted.sequence {
            text.push_str(&format!("reverted: release {sequence} has the previous content\n"));
        }
        if let Some(error) = &reverted.error {
            text.push_str(&format!("not reverted: {}\n", escape(error)));
        }
    }
    text
}

fn release_change_text(mirror: &MirrorReport) -> String {
    let show = |sequence: Option<u64>| {
        sequence.map_or_else(|| "none".to_owned(), |sequence| sequence.to_string())
    };
    let is_known =
        !matches!(mirror.outcome, Outcome::Failed { .. } | Outcome::Skipped | Outcome::Frozen);
    if mirror.now.is_none() && !is_known {
        // It is unknown which release the mirror serves.
        "-".to_owned()
    } else if mirror.before == mirror.now {
        show(mirror.now)
    } else {
        format!("{} -> {}", show(mirror.before), show(mirror.now))
    }
}

/// The kind of a failure, for a table. The message was already printed on stderr when the failure
/// happened.
pub(crate) fn failed_text(failure: ErrorKind) -> String {
    format!("failed ({})", error_kind_text(failure))
}

/// The name of a kind of failure, for people.
pub(crate) fn error_kind_text(failure: ErrorKind) -> String {
    failure.report_name().replace('_', " ")
}

pub(crate) fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Activated => "switched".into(),
        Outcome::Current => "was current".into(),
        Outcome::Staged => "ready, not switched".into(),
        Outcome::Superseded => "superseded by a newer push".into(),
        Outcome::Displaced { by } => format!("not switched: release {by} was staged in its place"),
        Outcome::Newer { serves } => format!("left alone: serves the newer release {serves}"),
        Outcome::Skipped => "not tried".into(),
        Outcome::Reverted => "switched, then reverted".into(),
        Outcome::Apart => "apart: its release is not for all mirrors".into(),
        Outcome::Frozen => "frozen".into(),
        Outcome::Failed { failure, .. } => failed_text(*failure),
    }
}

/// The sentence that says that `command` changed nothing.
fn nothing_done_text(command: &str) -> &'static str {
    match command {
        "rollback" => "nothing was rolled back",
        "activate" => "nothing was activated",
        "heal" => "no mirror was updated",
        _ => "nothing was pushed",
    }
}
