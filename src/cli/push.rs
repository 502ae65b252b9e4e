//! `headwater push`, `headwater promote`, and the code that they share with commands without a
//! tree.

use std::path::Path;
use std::sync::Arc;

use headwater::config::Config;
use headwater::mirror::{ErrorKind, Mirror};
use headwater::monitor::Monitor as _;
use headwater::push::{
    self, ChangeCounts, Fleet, Goal, MirrorReport, Options, Outcome, Report, Require, Source,
};
use headwater::scan::Root;
use headwater::store::{Presence, Store, StoreError};
use serde::Serialize;

use super::args::{
    GuardArgs, OutputArgs, PromoteArgs, PushArgs, ReleaseArgs, SourceArgs, WorkArgs,
};
use super::context::{self, PushInputs};
use super::failure::{self, Exit, ExitInputs, Failure, eprint_raw};
use super::habits::HabitArgs;
use super::notifications::{NotificationResult, Notifications, ScheduleArgs};
use super::operands::{self, MirrorChoice, PathKind};
use super::output::{Align, Table, bytes, count, counted, escape, moment, print, print_json};
use super::progress::Progress;
use super::remote::MirrorFactory;
use super::settings::{self, ReleaseSettings};
use super::{expiry, fleet, hints, load_config, next_steps, plan};

/// A push, ready to run.
pub(crate) struct PreparedPush {
    pub(crate) source: Source,
    pub(crate) fleet: Fleet,
    pub(crate) options: Options,
    pub(crate) keep: usize,
    /// The reports of frozen mirrors.
    pub(crate) frozen: Vec<MirrorReport>,
    /// Configured mirrors outside of this push, if the metrics need them.
    others: Fleet,
    pub(crate) config: Config,
    around: ScheduleArgs,
}

/// Makes a push from the arguments of `push` and `plan`.
pub(crate) fn job(args: &PushArgs) -> Result<PreparedPush, Failure> {
    if args.source.from.is_some() && args.release.note.is_some() {
        let error = "--note does not work with --from, which copies a release unchanged";
        let hint =
            "use `headwater promote FROM TO --note TEXT` to publish the content as a new release";
        return Err(Failure::new(Exit::Usage, error).with_hint(hint));
    }
    job_from(args, Source::Store)
}

/// What is at `path` on this machine.
fn path_kind(path: &str) -> PathKind {
    let path = Path::new(path);
    match Store::look(path) {
        Ok(Presence::Store(_)) => PathKind::Store,
        _ if !path.is_dir() => PathKind::Nothing,
        Err(StoreError::NotEmpty { .. }) => PathKind::Tree,
        // What cannot be opened is left to the push, which reports the error.
        Ok(Presence::Absent) | Err(_) => PathKind::Empty,
    }
}

/// Makes a push. If the content comes from a mirror, `source` makes the source from it.
fn job_from(
    args: &PushArgs,
    source_of: fn(Arc<dyn Mirror>) -> Source,
) -> Result<PreparedPush, Failure> {
    let config = load_config(&args.config)?;
    let has_from = args.source.from.is_some();
    let mut places = operands::of_push(&args.source.places, has_from, &config, path_kind)?;
    let site = args.work.remote.site.as_ref();
    let settings = ReleaseSettings::merge(&args.release, site, &config, settings::environment);
    let factory = MirrorFactory::for_content(&args.work, &config);
    let from = match &args.source.from {
        Some(from) => {
            let choice: Vec<MirrorChoice> =
                operands::of_mirrors(std::slice::from_ref(from), &config)?;
            Some(factory.mirror(&choice[0], None)?)
        }
        None => None,
    };
    let frozen = fleet::set_frozen_apart(&mut places.mirrors, &config)?;
    check_require(args.work.require.unwrap_or(config.require), places.mirrors.len())?;
    let mirrors = factory.fleet(&places.mirrors, settings.site.as_ref())?;
    let cache = settings::cache_dir(args.work.cache.as_deref(), &config);
    let scratch = |roots: &[Root]| {
        context::scratch(cache.as_deref(), settings.site.as_ref(), roots, &places.mirrors)
    };
    let (source, scratch) = match from {
        Some(from) => (source_of(from), scratch(&[])),
        None => {
            let roots = context::roots(places.tree.as_deref(), &config);
            let scratch = scratch(&roots);
            let jobs = context::jobs(args.work.jobs, &config);
            let scan = context::scan_options(
                &args.source.exclude,
                &config,
                jobs,
                scratch.directory.as_deref().ok(),
            );
            (Source::Trees { roots, scan }, scratch)
        }
    };
    let goal = if args.stage_only { Goal::Stage } else { Goal::Activate };
    let inputs = PushInputs {
        config: &config,
        release: &args.release,
        guards: &args.guards,
        work: &args.work,
        goal,
    };
    let mut options = inputs.options(settings, scratch)?;
    options.partial = fleet::partial(&places.mirrors, &config, "push");
    let (keep, around) = (keep(&config), args.around.clone());
    let others = others(&factory, &mirrors, &config, &around);
    Ok(PreparedPush { source, fleet: mirrors, options, keep, frozen, others, config, around })
}

/// The configured mirrors outside of `fleet`, for the metrics, which must keep their gauges. A
/// mirror whose credentials are missing is left out, because this push does not need them.
fn others(factory: &MirrorFactory, fleet: &Fleet, config: &Config, around: &ScheduleArgs) -> Fleet {
    let is_in = |choice: &MirrorChoice| {
        fleet
            .mirrors()
            .iter()
            .any(|one| one.name() == choice.name || one.location() == choice.location)
    };
    let all =
        config.all_mirrors().filter(|_| around.metrics(config).is_some()).map(MirrorChoice::from);
    Fleet::new(
        all.filter(|choice| !is_in(choice))
            .filter_map(|choice| factory.mirror(&choice, None).ok())
            .collect(),
    )
}

/// Refuses a requirement that no outcome could meet.
fn check_require(require: Require, mirrors: usize) -> Result<(), Failure> {
    match require {
        Require::AtLeast(count) if count > mirrors => {
            let required = counted(count as u64, "mirror is", "mirrors are");
            let there = counted(mirrors as u64, "mirror", "mirrors");
            let error = format!("{required} required, but the push is to {there}");
            let hint = "name more mirrors, or lower --require or `require` in headwater.toml; 80% \
                        means a part of the mirrors";
            Err(Failure::new(Exit::Usage, error).with_hint(hint))
        }
        _ => Ok(()),
    }
}

fn keep(config: &Config) -> usize {
    usize::try_from(config.keep.get()).unwrap_or(usize::MAX)
}

/// Runs `headwater push`.
pub(crate) fn run(args: &PushArgs) -> Result<Exit, Failure> {
    args.habits.explain().map_err(|error| Failure::new(Exit::Failed, error))?;
    if args.habits.dry_run {
        return plan::run(args);
    }
    execute("push", &job(args)?, &args.output, &args.guards)
}

/// Runs `headwater promote`.
pub(crate) fn promote(args: &PromoteArgs) -> Result<Exit, Failure> {
    let push = PushArgs {
        source: SourceArgs {
            places: args.mirrors.clone(),
            from: Some(args.from.clone()),
            exclude: Vec::new(),
        },
        release: args.release.clone(),
        stage_only: args.stage_only,
        guards: args.guards.clone(),
        work: args.work.clone(),
        around: args.around.clone(),
        config: args.config.clone(),
        list: args.list,
        habits: HabitArgs::default(),
        output: args.output.clone(),
    };
    let job = job_from(&push, Source::Promote)?;
    if args.dry_run {
        return plan::show(&job, &push);
    }
    execute("promote", &job, &args.output, &args.guards)
}

/// The parts of a push for a command without a tree.
pub(crate) struct TreelessInputs<'a> {
    pub(crate) mirrors: &'a [String],
    pub(crate) release: &'a ReleaseArgs,
    pub(crate) work: &'a WorkArgs,
    pub(crate) around: &'a ScheduleArgs,
    pub(crate) config: Config,
}

/// A push of content that mirrors have. A person decided it, or it was pushed before, so guard
/// rails and CI run numbers do not apply.
pub(crate) fn without_tree(
    inputs: TreelessInputs<'_>,
    source: Source,
) -> Result<(PreparedPush, GuardArgs), Failure> {
    let TreelessInputs { release, work, config, .. } = inputs;
    let mut choices = operands::of_mirrors(inputs.mirrors, &config)?;
    let frozen = fleet::set_frozen_apart(&mut choices, &config)?;
    let settings =
        ReleaseSettings::merge(release, work.remote.site.as_ref(), &config, settings::environment);
    let factory = MirrorFactory::for_content(work, &config);
    check_require(work.require.unwrap_or(config.require), choices.len())?;
    let mirrors = factory.fleet(&choices, settings.site.as_ref())?;
    let cache = settings::cache_dir(work.cache.as_deref(), &config);
    let scratch = context::scratch(cache.as_deref(), settings.site.as_ref(), &[], &choices);
    let guards = GuardArgs {
        allow_older: true,
        again: true,
        allow_shrink: true,
        allow_secrets: true,
        ..GuardArgs::default()
    };
    let config = Config { must_have: Vec::new(), ..config };
    let mut options =
        PushInputs { config: &config, release, guards: &guards, work, goal: Goal::Activate }
            .options(settings, scratch)?;
    if release.order.is_none() {
        options.order = None;
    }
    if matches!(source, Source::Rollback { .. }) {
        options.partial = fleet::partial(&choices, &config, "rollback");
    }
    let (keep, around) = (keep(&config), inputs.around.clone());
    let others = others(&factory, &mirrors, &config, &around);
    Ok((
        PreparedPush { source, fleet: mirrors, options, keep, frozen, others, config, around },
        guards,
    ))
}

pub(crate) fn execute(
    command: &'static str,
    job: &PreparedPush,
    output: &OutputArgs,
    guards: &GuardArgs,
) -> Result<Exit, Failure> {
    let progress = Progress::start(output)?;
    progress.expect_mirrors(job.fleet.mirrors().iter().map(|mirror| mirror.name()));
    let scratch = &job.options.scratch;
    if !job.around.wait(&progress) {
        return interrupted(command, output);
    }
    let site = job.options.site.clone();
    let cache = scratch.directory.as_deref().ok();
    let mut after = Notifications::new(&job.config, &job.around, site, cache, &progress);
    let pushed = push::push(&job.source, &job.fleet, &job.options, &progress);
    let mut report = match pushed {
        Ok(mut report) => {
            report.mirrors.extend(job.frozen.iter().cloned());
            report
        }
        Err(error) => {
            let is_accepted =
                guards.superseded_ok && matches!(error, push::PushError::Superseded { .. });
            let failure = hints::of_push(error);
            let exit = if is_accepted { Exit::Success } else { failure.exit() };
            let fleets = [&job.fleet, &job.others];
            after.tell(None, exit.code(), Some(&failure.text()), fleets);
            after.end(None, exit.code());
            progress.finish();
            return if is_accepted {
                accept_superseded(command, &failure, output)
            } else {
                Err(failure)
            };
        }
    };
    let exit = exit_of(&report, progress.is_cancelled(), guards.superseded_ok);
    after.tell(Some(&report), exit.code(), None, [&job.fleet, &job.others]);
    progress.end_block();
    if !output.json && !output.quiet {
        print(
            &(describe(&report, command)
                + &after.results().iter().map(NotificationResult::line).collect::<String>()),
        )?;
    }
    // The result is printed before the clean-up, which also polls the results of `post_activate`.
    push::clean_up(&mut report, &job.fleet, job.keep, &progress);
    // The clean-up was interrupted.
    let exit = if progress.is_cancelled() { Exit::Interrupted } else { exit };
    expiry::warn(&report, &progress);
    let told = after.end(Some(&report), exit.code());
    if output.json {
        print_json(&PushOutput {
            headwater: command,
            version: 1,
            exit_code: exit.code(),
            report: &report,
            told: &told,
        })?;
    }
    progress.finish();
    next_steps::explain(&report, exit, command)?;
    Ok(exit)
}

/// The result of a push that a newer one has replaced, with `--superseded-ok`.
fn accept_superseded(
    command: &'static str,
    failure: &Failure,
    output: &OutputArgs,
) -> Result<Exit, Failure> {
    // If stderr is closed, the note is lost.
    eprint_raw(&format!("note: {}: no action is needed\n", escape(&failure.text()))).ok();
    if output.json {
        print_json(&failure.answer(command, Exit::Success))?;
    }
    Ok(Exit::Success)
}

/// The result if the user interrupted the push before its start.
fn interrupted(command: &'static str, output: &OutputArgs) -> Result<Exit, Failure> {
    let (exit, words) = (Exit::Interrupted, "interrupted before the start");
    if output.json {
        print_json(&Failure::new(exit, words).answer(command, exit))?;
    } else if !output.quiet {
        print(&format!("{words}\n"))?;
    }
    Ok(exit)
}

#[derive(Serialize)]
struct PushOutput<'a> {
    headwater: &'static str,
    version: u32,
    exit_code: u8,
    #[serde(flatten)]
    report: &'a Report,
    /// The results of the notifications.
    #[serde(skip_serializing_if = "<[NotificationResult]>::is_empty")]
    told: &'a [NotificationResult],
}

/// The exit code of a report.
pub(crate) fn exit_of(report: &Report, is_interrupted: bool, is_superseded_ok: bool) -> Exit {
    let tried = || {
        report
            .mirrors
            .iter()
            .map(|mirror| &mirror.outcome)
            .filter(|outcome| **outcome != Outcome::Frozen)
    };
    let is_staged = report.goal == Goal::Stage && report.unmet.is_none();
    let known = |one: &Outcome| match one {
        Outcome::Staged if is_staged => Some(failure::MirrorOutcome::AlreadyCurrent),
        other => outcome(other),
    };
    let outcomes: Vec<failure::MirrorOutcome> = tried().filter_map(known).collect();
    let is_done =
        tried().all(|outcome| outcome.is_current() || is_staged && *outcome == Outcome::Staged);
    // A mirror that was not tried because others failed does not count.
    let outcomes = if report.unmet.is_some() && !outcomes.is_empty() {
        outcomes
    } else {
        tried().map(|one| known(one).unwrap_or(failure::MirrorOutcome::Failed)).collect()
    };
    Exit::of(&ExitInputs {
        is_interrupted: is_interrupted && !is_done,
        is_superseded_ok,
        outcomes: &outcomes,
        ..ExitInputs::default()
    })
}

fn outcome(outcome: &Outcome) -> Option<failure::MirrorOutcome> {
    Some(match outcome {
        Outcome::Activated => failure::MirrorOutcome::Activated,
        Outcome::Current | Outcome::Apart => failure::MirrorOutcome::AlreadyCurrent,
        Outcome::Superseded | Outcome::Newer { .. } => failure::MirrorOutcome::Superseded,
        Outcome::Staged | Outcome::Skipped | Outcome::Frozen => return None,
        Outcome::Failed { failure, .. } => outcome_of_failure(*failure),
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
fn describe(report: &Report, command: &str) -> String {
    let nothing = next_steps::nothing_done(command);
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
            let brought =
                report.mirrors.iter().filter(|mirror| mirror.outcome == Outcome::Activated).count()
                    as u64;
            match brought {
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
                    counted(brought, "mirror", "mirrors")
                ),
            }
        }
        (Some(sequence), true) => {
            let unmet = report
                .unmet
                .as_deref()
                .map(|unmet| format!("not activated: {unmet}\n"))
                .unwrap_or_default();
            format!("release {sequence}: {}\n{unmet}", summary(&report.changes))
                + &retirement(&report.changes)
        }
    };
    let mut table = Table::new([
        ("mirror", Align::Left),
        ("release", Align::Left),
        ("sent", Align::Right),
        ("outcome", Align::Left),
    ]);
    for mirror in &report.mirrors {
        table.row([
            mirror.mirror.clone(),
            releases(mirror),
            bytes(mirror.traffic.sent_bytes),
            outcome_text(&mirror.outcome),
        ]);
    }
    text.push_str(&table.render());
    text.push_str(&saving(report));
    text.push_str(&ending(report));
    text
}

/// The numbers of paths by kind of change, and of unchanged paths.
pub(crate) fn summary(sums: &ChangeCounts) -> String {
    let same = (sums.same > 0).then(|| format!("{} same", count(sums.same)));
    let parts: Vec<String> = changes(sums).into_iter().chain(same).collect();
    if parts.is_empty() { "empty".to_owned() } else { parts.join(", ") }
}

/// The numbers of paths by kind of change, one part for each kind.
pub(crate) fn changes(sums: &ChangeCounts) -> Vec<String> {
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
        .map(|(number, word)| format!("{} {word}", count(*number)))
        .collect()
}

/// The line that says until when retired paths are served; empty if there are none.
pub(crate) fn retirement(sums: &ChangeCounts) -> String {
    let (Some(first), Some(last)) = (sums.first_until, sums.last_until) else {
        return String::new();
    };
    let until = if first == last {
        moment(first)
    } else {
        format!("{} to {}", moment(first), moment(last))
    };
    format!(
        "{} retired, served until {until} (--expunge PATH removes a path now)\n",
        count(sums.still_served)
    )
}

/// The line that compares the bytes sent with the new content, if fewer bytes were sent.
fn saving(report: &Report) -> String {
    let sum = |of: fn(&MirrorReport) -> u64| report.mirrors.iter().map(of).sum::<u64>();
    let (sent, new) = (sum(|mirror| mirror.traffic.sent_bytes), sum(|mirror| mirror.new_bytes));
    if sent == 0 || sent >= new {
        return String::new();
    }
    format!("sent {} for {} of new content\n", bytes(sent), bytes(new))
}

/// The name of the release.
pub(crate) fn name(report: &Report) -> Option<String> {
    let id = report.release?.to_string();
    Some(format!("{}-{}", report.sequence?, &id[..16]))
}

/// The lines about the switch, below the table.
fn ending(report: &Report) -> String {
    let mut text = String::new();
    let is_ready = report.mirrors.iter().any(|mirror| mirror.outcome == Outcome::Staged);
    if let (true, Goal::Stage, Some(name)) = (is_ready, report.goal, name(report)) {
        // Configured mirrors need not be named again.
        let named = report.mirrors.iter().filter(|mirror| mirror.mirror == mirror.location);
        let places: String = named.map(|mirror| format!(" {}", escape(&mirror.mirror))).collect();
        text.push_str(&format!(
            "staged: `headwater activate {name}{places}` serves it, `headwater abandon \
             {name}{places}` drops it\n"
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

fn releases(mirror: &MirrorReport) -> String {
    let show = |sequence: Option<u64>| {
        sequence.map_or_else(|| "none".to_owned(), |sequence| sequence.to_string())
    };
    let is_told =
        !matches!(mirror.outcome, Outcome::Failed { .. } | Outcome::Skipped | Outcome::Frozen);
    if mirror.now.is_none() && !is_told {
        // The release that the mirror serves is not known.
        "-".to_owned()
    } else if mirror.before == mirror.now {
        show(mirror.now)
    } else {
        format!("{} -> {}", show(mirror.before), show(mirror.now))
    }
}

/// The kind of a failure, for a table: the message was printed on stderr when it happened.
pub(crate) fn failed(failure: ErrorKind) -> String {
    format!("failed ({})", kind(failure))
}

/// The name of a kind of failure, for people.
pub(crate) fn kind(failure: ErrorKind) -> String {
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
        Outcome::Failed { failure, .. } => failed(*failure),
    }
}
