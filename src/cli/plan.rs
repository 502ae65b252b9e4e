//! `headwater plan` and `headwater diff`: what differs, path by path.

use headwater::manifest::{Change, ChangeKind, Diff};
use headwater::push::{self, BaseCounts, Churn, DiffSide, MirrorPlan, PlanReport};
use serde::Serialize;

use super::args::{DiffArgs, PushArgs};
use super::context::{self, Place};
use super::failure::{Exit, Failure};
use super::output::{Align, Table, bytes, count, counted, escape, listed, print, print_json};
use super::places;
use super::progress::Progress;
use super::remote::Reach;
use super::{hints, load_config, push as push_command};

/// Runs `headwater plan`.
pub(crate) fn run(args: &PushArgs) -> Result<Exit, Failure> {
    let job = push_command::job(args)?;
    let progress = Progress::start(&args.output)?;
    let planned = push::plan(&job.source, &job.fleet, &job.options, &progress);
    progress.finish();
    match planned.map_err(hints::of_push)? {
        Ok(plan) => {
            if args.output.json {
                print_json(&PlanAnswer::new(&plan))?;
            } else {
                print(&describe(&plan))?;
            }
            let is_reachable = plan.mirrors.iter().all(|mirror| mirror.error.is_none());
            Ok(if is_reachable { Exit::Success } else { Exit::Partial })
        }
        Err(refused) => {
            let unmet = refused.unmet.clone().unwrap_or_default();
            Err(Failure::new(
                push_command::exit_of(&refused, false, false),
                format!("the push would be refused: {unmet}"),
            )
            .with_hint("mend the mirror named above, or lower --require"))
        }
    }
}

#[derive(Serialize)]
struct PlanAnswer<'a> {
    headwater: &'static str,
    version: u32,
    sequence: u64,
    is_new: bool,
    mirrors: &'a [MirrorPlan],
    changes: &'a [Change],
    same: u64,
    churn: &'a [Churn],
}

impl<'a> PlanAnswer<'a> {
    fn new(plan: &'a PlanReport) -> Self {
        Self {
            headwater: "plan",
            version: 1,
            sequence: plan.sequence,
            is_new: plan.is_new,
            mirrors: &plan.mirrors,
            changes: &plan.diff.changes,
            same: plan.diff.same,
            churn: &plan.churn,
        }
    }
}

fn describe(plan: &PlanReport) -> String {
    let mut text = describe_diff(&plan.diff);
    for churn in &plan.churn {
        text.push_str(&describe_churn(churn));
    }
    let sequence = plan.sequence;
    if !plan.is_new && plan.mirrors.iter().all(|mirror| mirror.is_current) {
        return format!("nothing to do: release {sequence} has this content everywhere\n");
    }
    let made =
        if plan.is_new { "would be made" } else { "has this content and would be brought to those that lack it" };
    text.push_str(&format!("release {sequence} {made}\n"));
    let mut table = Table::new([
        ("mirror", Align::Left),
        ("serves", Align::Right),
        ("objects", Align::Right),
        ("content", Align::Right),
        ("to send", Align::Right),
        ("", Align::Left),
    ]);
    for mirror in &plan.mirrors {
        let note = match (&mirror.error, mirror.is_current, mirror.serves) {
            (Some(error), _, _) => error.clone(),
            (None, true, _) => "is current".to_owned(),
            (None, false, None) => "would be filled".to_owned(),
            (None, false, Some(_)) => describe_bases(&mirror.bases),
        };
        table.row([
            mirror.mirror.clone(),
            mirror.serves.map_or_else(|| "none".to_owned(), |sequence| sequence.to_string()),
            count(mirror.objects),
            bytes(mirror.content_bytes),
            bytes(mirror.send_bytes),
            note,
        ]);
    }
    text.push_str(&table.render());
    text
}

/// How many objects would be sent as what differs from an old one, and from which.
fn describe_bases(bases: &BaseCounts) -> String {
    let BaseCounts { same_path, like_content, like_name, neighbour, none: _ } = *bases;
    let kinds = [
        (same_path, "the same path"),
        (like_content, "like content"),
        (like_name, "a like name"),
        (neighbour, "a neighbour"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, kind)| format!("{} on {kind}", count(*number)))
        .collect();
    if kinds.is_empty() { String::new() } else { format!("builds {}", kinds.join(", ")) }
}

fn describe_churn(churn: &Churn) -> String {
    format!(
        "{} of {} changed .{} differ only near one spot: a build stamp? in {}: {:?} became {:?}\n",
        count(churn.near_one_spot),
        count(churn.changed),
        escape(&churn.extension),
        escape(&churn.example),
        churn.before,
        churn.after
    )
}

/// The paths that differ, and how many of each kind.
fn describe_diff(diff: &Diff) -> String {
    let line = |change: &Change| {
        let from = change.from.as_ref().map(|from| format!(" (from {from})")).unwrap_or_default();
        format!("{:8} {}{from}", word(change.kind), change.path)
    };
    let mut text = String::new();
    for line in listed("", diff.changes.iter().map(line)) {
        text.push_str(&line);
        text.push('\n');
    }
    let kinds = [ChangeKind::Added, ChangeKind::Changed, ChangeKind::Renamed, ChangeKind::Retired, ChangeKind::Removed];
    let sums: Vec<String> = kinds
        .iter()
        .map(|kind| (diff.count(*kind) as u64, word(*kind)))
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{} {word}", count(number)))
        .chain([format!("{} the same", counted(diff.same, "path", "paths"))])
        .collect();
    text.push_str(&format!("{}\n", sums.join(", ")));
    text
}

const fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Retired => "retired",
        ChangeKind::Removed => "removed",
    }
}

#[derive(Serialize)]
struct DiffAnswer<'a> {
    headwater: &'static str,
    version: u32,
    changes: &'a [Change],
    same: u64,
}

/// Runs `headwater diff`.
pub(crate) fn diff(args: &DiffArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.config)?;
    let is_directory = |word: &str| std::path::Path::new(word).is_dir();
    let reach = Reach::new(&args.remote, None, context::DEFAULT_WAIT, context::jobs(None));
    let side = |text: &str| -> Result<DiffSide, Failure> {
        let operand = places::of_operand(text, &config, is_directory)?;
        Ok(match context::place(&operand, &reach)? {
            Place::Mirror(mirror) => DiffSide::Release { mirror, sequence: operand.sequence },
            Place::Tree(roots) => {
                DiffSide::Trees { roots, scan: context::scan_options(&[], &config, context::jobs(None), None) }
            }
        })
    };
    let (old, new) = (side(&args.old)?, side(&args.new)?);
    let progress = Progress::start(&args.output)?;
    let diff = push::diff_sides(&old, &new, &progress);
    progress.finish();
    let diff = diff.map_err(hints::of_push)?;
    if args.output.json {
        print_json(&DiffAnswer { headwater: "diff", version: 1, changes: &diff.changes, same: diff.same })?;
    } else {
        print(&describe_diff(&diff))?;
    }
    Ok(Exit::Success)
}
