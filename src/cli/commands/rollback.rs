//! `headwater rollback`: publishes the content of a kept release as a new release.

use std::io::{self, IsTerminal as _};

use headwater::monitor::{Event, Monitor};
use headwater::push::{self, DecidedBy, Require, RollbackPlan, Source};
use headwater::release::Release;

use crate::cli::args::{RollbackArgs, WorkArgs};
use crate::cli::commands::push::execute;
use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::{escape, format_time, pluralize};
use crate::cli::output::push_report::error_kind_text;
use crate::cli::output::{hints, terminal};
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::operator;
use crate::cli::setup::prepared_push::{PreparedPush, TreelessInputs, prepare_treeless_push};

pub(crate) fn run(args: &RollbackArgs) -> Result<Exit, Failure> {
    let instead = "run `headwater releases` to list the releases to go back to, and `headwater \
                   diff MIRROR MIRROR:SEQ` to see the paths";
    args.dry_run.refuse("rollback", instead)?;
    // A rollback may be urgent, so an unreachable mirror must not delay the others.
    let work =
        WorkArgs { require: Some(args.work.require.unwrap_or(Require::ANY)), ..args.work.clone() };
    let inputs = TreelessInputs {
        mirrors: &args.mirrors,
        release: &args.release,
        work: &work,
        schedule: &args.schedule,
        config: load_config(&args.config)?,
    };
    let source = |to: Option<u64>| Source::Rollback { to, by: DecidedBy::Person(operator::name()) };
    let (mut prepared, guards) = prepare_treeless_push(inputs, source(args.to))?;
    if args.mirrors.is_empty() && args.config.only.is_empty() {
        // The release that the user confirmed, even if another release has become current since.
        prepared.source = source(confirm(args, &mut prepared)?.or(args.to));
    }
    execute("rollback", &prepared, &args.output, &guards)
}

/// For a rollback of all configured mirrors, shows the release and asks for confirmation on a
/// terminal. Returns the release's sequence. Returns `None` if no mirror can be reached; the
/// rollback itself then reports that. Does not retry unreachable mirrors.
fn confirm(args: &RollbackArgs, prepared: &mut PreparedPush) -> Result<Option<u64>, Failure> {
    let plan = push::plan_rollback(&prepared.fleet, args.to, &prepared.options, &PlanMonitor)
        .map_err(hints::push_failure)?;
    // Includes the failures from the poll, so that the rollback does not wait for an unreachable
    // mirror again.
    prepared.fleet = plan.fleet.clone();
    let Some(to) = &plan.to else { return Ok(None) };
    let failed = |error: io::Error| Failure::new(Exit::Failed, error);
    // Also printed with `--yes`, so that a job's log shows which release was left. Written to
    // stderr, because stdout is reserved for the result.
    eprint_raw(&describe(&plan, to)).map_err(failed)?;
    if args.yes {
        return Ok(Some(to.sequence));
    }
    let mirrors = pluralize(plan.mirrors.len() as u64, "mirror", "mirrors");
    // Without a terminal, nobody can read and answer the question.
    if !io::stdin().is_terminal() || !terminal::is_stderr_terminal() {
        let error = format!("a rollback of all configured mirrors ({mirrors}) must be confirmed");
        return Err(Failure::new(Exit::Usage, error).with_hint("add --yes, or name the mirrors"));
    }
    eprint_raw(&format!("Roll back {mirrors} to the content of release {}? [y/N] ", to.sequence))
        .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(Some(to.sequence)),
        // The same as Ctrl-C at the prompt. Any answer except yes means no.
        _ => Err(Failure::new(Exit::Interrupted, "not confirmed; nothing was changed")),
    }
}

/// Prints warnings and the mirrors that the command waits for. The plan shows failures.
struct PlanMonitor;

impl Monitor for PlanMonitor {
    fn event(&self, event: Event) {
        let line = match event {
            Event::AnswerOverdue { mirror } => format!("waiting for {}\n", escape(&mirror)),
            Event::Warned { message } => format!("warning: {}\n", escape(&message)),
            _ => return,
        };
        // If stderr is closed, the line is lost.
        eprint_raw(&line).ok();
    }
}

fn describe(plan: &RollbackPlan, to: &Release) -> String {
    let note = to.note.as_ref().map(|note| format!(": {}", escape(note))).unwrap_or_default();
    let mut text =
        format!("release {}, published {}{note}\n", to.sequence, format_time(to.created));
    for (mirror, serves) in &plan.mirrors {
        let words = match serves {
            Ok(Some(sequence)) => {
                format!("release {sequence} -> content of release {}", to.sequence)
            }
            Ok(None) => format!("nothing -> content of release {}", to.sequence),
            Err(failure) => format!("not available ({})", error_kind_text(*failure)),
        };
        text.push_str(&format!("  {}: {words}\n", escape(mirror)));
    }
    text
}
