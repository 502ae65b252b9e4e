//! `headwater plan`.

use std::time::Duration;

use headwater::config::Label;
use headwater::manifest::Change;
use headwater::push::{
    self, BaseCounts, ChangeCounts, Churn, Goal, MirrorPlan, OnFailure, PlanReport, Planned,
    Schedule, WavePlan,
};
use serde::Serialize;

use crate::cli::args::{ListArgs, PushArgs};
use crate::cli::commands::diff::describe_paths;
use crate::cli::output::failure::{Exit, ExitInputs, Failure};
use crate::cli::output::format::{
    Align, Table, escape, format_bytes, format_count, format_duration, pluralize,
};
use crate::cli::output::hints::FailureSide;
use crate::cli::output::next_steps::print_hints;
use crate::cli::output::print::{print, print_json};
use crate::cli::output::progress::Progress;
use crate::cli::output::{failure, hints, next_steps, push_report};
use crate::cli::setup::prepared_push;
use crate::cli::setup::prepared_push::PreparedPush;

/// Maximum number of mirrors or probes that are named for each wave. Any others are only counted.
const MAX_NAMED: usize = 8;

pub(crate) fn run(args: &PushArgs) -> Result<Exit, Failure> {
    print_plan(&prepared_push::prepare_push(args)?, args)
}

/// Prints what `prepared`, which was made from `args`, would do.
pub(crate) fn print_plan(prepared: &PreparedPush, args: &PushArgs) -> Result<Exit, Failure> {
    let progress = Progress::start(&args.output)?;
    progress.set_mirror_order(prepared.fleet.mirrors().iter().map(|mirror| mirror.name()));
    let planned = push::plan(&prepared.source, &prepared.fleet, &prepared.options, &progress);
    progress.finish();
    match planned.map_err(hints::push_failure)? {
        Planned::Push(plan) => {
            if args.output.json {
                print_json(&PlanOutput::new(&plan, prepared))?;
            } else {
                print(&describe(&plan, prepared, args.list))?;
            }
            let hint = |mirror: &push::MirrorPlan| {
                hints::kind_hint(mirror.failure?, FailureSide::from_location(&mirror.location))
            };
            // Failures are printed on stderr, and the table contains only their kinds, so each
            // message is printed once.
            print_hints(plan.mirrors.iter().filter_map(hint).collect())?;
            let exit = plan_exit(&plan, args.guards.superseded_ok);
            if let Some(unmet) = &plan.unmet {
                // Printed here, because the plan must be the only object on stdout.
                refused_failure(exit, unmet).print();
            }
            Ok(exit)
        }
        Planned::Refused(report) => {
            print_hints(next_steps::failure_hints(&report).collect())?;
            let unmet = report.unmet.as_deref().unwrap_or_default();
            Err(refused_failure(push_report::push_exit(&report, false, false), unmet))
        }
    }
}

fn refused_failure(exit: Exit, unmet: &str) -> Failure {
    let error = format!("the push would be refused: {unmet}");
    Failure::new(exit, error).with_hint("fix the mirrors named above, or lower --require")
}

/// The exit code that the push would return if nothing else failed. If too few mirrors accept the
/// release, the push tries none of them, and only mirrors that failed or are current count.
fn plan_exit(plan: &PlanReport, is_superseded_ok: bool) -> Exit {
    let is_met = plan.unmet.is_none();
    let outcome = |mirror: &push::MirrorPlan| match mirror.failure {
        Some(failure) => Some(push_report::outcome_of_failure(failure)),
        None if is_met && mirror.is_newer => Some(failure::MirrorOutcome::Superseded),
        None if mirror.is_current => Some(failure::MirrorOutcome::AlreadyCurrent),
        None => is_met.then_some(failure::MirrorOutcome::Activated),
    };
    let outcomes: Vec<_> = plan.mirrors.iter().filter_map(outcome).collect();
    Exit::from_inputs(&ExitInputs {
        outcomes: &outcomes,
        is_superseded_ok,
        ..ExitInputs::default()
    })
}

#[derive(Serialize)]
struct PlanOutput<'a> {
    headwater: &'static str,
    version: u32,
    sequence: u64,
    is_new: bool,
    schedule: &'a Schedule,
    mirrors: Vec<PlanRow<'a>>,
    changes: &'a [Change],
    same: u64,
    churn: &'a [Churn],
    #[serde(skip_serializing_if = "Option::is_none")]
    first_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unmet: Option<&'a str>,
}

/// A mirror in the plan, whether or not it would change.
#[derive(Serialize)]
#[serde(untagged)]
enum PlanRow<'a> {
    Planned {
        #[serde(flatten)]
        plan: &'a MirrorPlan,
        group: Option<&'a str>,
        is_frozen: bool,
    },
    Frozen {
        mirror: &'a str,
        location: &'a str,
        group: Option<&'a str>,
        is_frozen: bool,
    },
}

fn group<'a>(prepared: &'a PreparedPush, mirror: &str) -> Option<&'a str> {
    prepared.config.mirror(mirror)?.group.as_ref().map(Label::as_str)
}

fn rows<'a>(plan: &'a PlanReport, prepared: &'a PreparedPush) -> Vec<PlanRow<'a>> {
    let planned = plan.mirrors.iter().map(|plan| PlanRow::Planned {
        plan,
        group: group(prepared, &plan.mirror),
        is_frozen: false,
    });
    let frozen = prepared.frozen.iter().map(|one| PlanRow::Frozen {
        mirror: &one.mirror,
        location: &one.location,
        group: group(prepared, &one.mirror),
        is_frozen: true,
    });
    planned.chain(frozen).collect()
}

impl<'a> PlanOutput<'a> {
    fn new(plan: &'a PlanReport, prepared: &'a PreparedPush) -> Self {
        Self {
            headwater: "plan",
            version: 1,
            sequence: plan.sequence,
            is_new: plan.is_new,
            schedule: &plan.schedule,
            mirrors: rows(plan, prepared),
            changes: &plan.diff.changes,
            same: plan.diff.same,
            churn: &plan.churn,
            first_until: plan.change_counts.first_until,
            last_until: plan.change_counts.last_until,
            unmet: plan.unmet.as_deref(),
        }
    }
}

fn describe(plan: &PlanReport, prepared: &PreparedPush, list: ListArgs) -> String {
    let mut text = describe_paths(&plan.diff, list);
    for churn in &plan.churn {
        text.push_str(&describe_churn(churn));
    }
    let sequence = plan.sequence;
    if !plan.is_new && plan.mirrors.iter().all(|mirror| mirror.is_current) {
        return format!("nothing to do: release {sequence} has this content everywhere\n");
    }
    if plan.is_new {
        text.push_str(&format!(
            "release {sequence} would be made: {}\n",
            push_report::change_summary(&plan.change_counts)
        ));
    } else {
        let summary = push_report::change_summary(&ChangeCounts::from(&plan.diff));
        let made = "has this content and would be copied to the mirrors that lack it";
        text.push_str(&format!("{summary}\nrelease {sequence} {made}\n"));
    }
    text.push_str(&push_report::retirement_line(&plan.change_counts));
    let mut table = Table::new([
        ("mirror", Align::Left),
        // The column exists only if there are groups.
        (
            if prepared.config.mirrors.iter().any(|one| one.group.is_some()) {
                "group"
            } else {
                ""
            },
            Align::Left,
        ),
        ("serves", Align::Right),
        ("objects", Align::Right),
        ("content", Align::Right),
        ("to send", Align::Right),
        ("", Align::Left),
    ]);
    for mirror in &plan.mirrors {
        // The release of a failed mirror is not known.
        let nothing = if mirror.failure.is_some() { "-" } else { "none" };
        table.add_row([
            mirror.mirror.clone(),
            group(prepared, &mirror.mirror).unwrap_or_default().to_owned(),
            mirror.serves.map_or_else(|| nothing.to_owned(), |sequence| sequence.to_string()),
            format_count(mirror.objects),
            format_bytes(mirror.content_bytes),
            format_bytes(mirror.send_bytes),
            mirror_note(mirror),
        ]);
    }
    for one in &prepared.frozen {
        let (name, group) = (one.mirror.as_str(), group(prepared, &one.mirror).unwrap_or_default());
        table.add_row([name, group, "", "", "", "", "is frozen: would not change"]);
    }
    text.push_str(&table.render());
    if plan.unmet.is_none() {
        text.push_str(&describe_schedule(&plan.schedule));
    }
    text
}

/// What the push would do with a mirror, or why it would fail.
fn mirror_note(mirror: &push::MirrorPlan) -> String {
    match (mirror.failure, mirror.serves) {
        (Some(failure), _) => push_report::failed_text(failure),
        (None, _) if mirror.is_current => "is current".to_owned(),
        (None, _) if mirror.is_newer => "serves a newer release: would be left alone".to_owned(),
        (None, _) if mirror.is_staged => "is already staged".to_owned(),
        (None, None) if mirror.is_joining => {
            "joins: would be filled, and the push would not wait for it".to_owned()
        }
        (None, None) => "would be filled".to_owned(),
        (None, Some(_)) => describe_bases(mirror),
    }
}

/// Describes the order in which the mirrors would switch, one line per wave.
fn describe_schedule(schedule: &Schedule) -> String {
    let Schedule { required, counted, waves, .. } = schedule;
    let has_probes = waves.iter().any(|wave| !wave.probes.is_empty());
    // If there is only one mirror and no probe, the order is not worth a line.
    if waves.iter().map(|wave| wave.mirrors.len()).sum::<usize>() < 2
        && !has_probes
        && schedule.goal != Goal::Stage
    {
        return String::new();
    }
    let ready = if required == counted {
        format!("all {}", counted_mirrors(*counted))
    } else {
        format!("{required} of {}", counted_mirrors(*counted))
    };
    let mut text = match schedule.goal {
        Goal::Activate => format!("would switch once {ready} are ready:\n"),
        Goal::Stage => format!("would switch at `headwater activate`, once {ready} are ready:\n"),
    };
    let lead = schedule.lead.as_deref();
    for (index, wave) in waves.iter().enumerate() {
        let lead = if index == 0 { lead } else { None };
        text.push_str(&format!(
            "  {}. {}{}\n",
            wave.number,
            wave_members_text(wave, lead, index == 0),
            wave_followup_text(wave, index + 1 == waves.len())
        ));
    }
    match (schedule.on_failure, has_probes) {
        (OnFailure::Revert, true) => {
            text.push_str("a failed probe or a failed switch would revert all mirrors\n");
        }
        (OnFailure::Revert, false) => text.push_str("a failed switch would revert all mirrors\n"),
        (OnFailure::Leave, true) => {
            text.push_str("a failed probe would revert its wave and stop the push\n");
        }
        (OnFailure::Leave, false) => {}
    }
    text
}

fn counted_mirrors(number: usize) -> String {
    pluralize(number as u64, "mirror", "mirrors")
}

/// The mirrors in a wave, in the order in which they would switch.
fn wave_members_text(wave: &WavePlan, lead: Option<&str>, is_first: bool) -> String {
    let rest: Vec<&str> =
        wave.mirrors.iter().map(String::as_str).filter(|name| Some(*name) != lead).collect();
    let shown: Vec<_> = rest.iter().take(MAX_NAMED).map(|name| escape(name)).collect();
    let more = match rest.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {} more", format_count(more as u64)),
    };
    let together = if rest.len() > 1 { " together" } else { "" };
    match lead.map(escape) {
        Some(lead) if rest.is_empty() => lead.into_owned(),
        Some(lead) => format!("{lead}, then {}{more}{together}", shown.join(", ")),
        None if is_first && rest.len() > 1 => {
            format!("one of {}{more}, then the others together", shown.join(", "))
        }
        None => format!("{}{more}{together}", shown.join(", ")),
    }
}

/// What would happen before the next wave.
fn wave_followup_text(wave: &WavePlan, is_last: bool) -> String {
    let soak = match wave.soak_seconds {
        seconds if seconds > 0 && !(is_last && wave.probes.is_empty()) => {
            format!("; soak {}", format_duration(Duration::from_secs(seconds)))
        }
        _ => String::new(),
    };
    let shown: Vec<_> = wave.probes.iter().take(MAX_NAMED).map(|url| escape(url)).collect();
    match wave.probes.len() {
        0 => soak,
        1 => format!("{soak}; probe {}", shown.join(", ")),
        many => {
            let more = if many > shown.len() { ", …" } else { "" };
            format!("{soak}; {many} probes: {}{more}", shown.join(", "))
        }
    }
}

/// How many objects would be sent as deltas, by kind of base.
fn describe_bases(mirror: &MirrorPlan) -> String {
    let BaseCounts { same_path, like_content, like_name, neighbour, signed, none: _ } =
        mirror.bases;
    let kinds = [
        (same_path, "the same path"),
        (like_content, "similar content"),
        (like_name, "a similar name"),
        (neighbour, "a neighbour"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, kind)| format!("{} from {kind}", format_count(*number)))
        .collect();
    let mut words = Vec::new();
    if !kinds.is_empty() {
        words.push(format!("deltas: {}", kinds.join(", ")));
    }
    if let Some(signer) = &mirror.signed_by {
        words.push(format!("builds {} on signatures of {}", format_count(signed), escape(signer)));
    }
    words.join("; ")
}

fn describe_churn(churn: &Churn) -> String {
    format!(
        "{} of {} changed .{} files differ only in one place (a build stamp?): in {}, {:?} became \
         {:?}\n",
        format_count(churn.near_one_spot),
        format_count(churn.changed),
        escape(&churn.extension),
        escape(&churn.example),
        churn.before,
        churn.after
    )
}
