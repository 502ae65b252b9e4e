//! `headwater push`, and the function that runs every command that publishes.

use headwater::monitor::Monitor as _;
use headwater::push::{self, Report};
use serde::Serialize;

use crate::cli::args::{GuardArgs, OutputArgs, PushArgs};
use crate::cli::commands::plan;
use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::escape;
use crate::cli::output::print::{print, print_json};
use crate::cli::output::progress::Progress;
use crate::cli::output::push_report::{describe, push_exit};
use crate::cli::output::{expiry, hints, next_steps};
use crate::cli::setup::notifications::{NotificationResult, Notifications, wait_for_start};
use crate::cli::setup::prepared_push::{PreparedPush, prepare_push};

pub(crate) fn run(args: &PushArgs) -> Result<Exit, Failure> {
    args.rsync_flags.explain().map_err(|error| Failure::new(Exit::Failed, error))?;
    if args.rsync_flags.dry_run {
        return plan::run(args);
    }
    execute("push", &prepare_push(args)?, &args.output, &args.guards)
}

pub(crate) fn execute(
    command: &'static str,
    prepared: &PreparedPush,
    output: &OutputArgs,
    guards: &GuardArgs,
) -> Result<Exit, Failure> {
    let progress = Progress::start(output)?;
    progress.set_mirror_order(prepared.fleet.mirrors().iter().map(|mirror| mirror.name()));
    // Before the notifications, because an interrupted wait leaves nothing to report.
    if !wait_for_start(&prepared.schedule, &progress) {
        return interrupted(command, output);
    }
    let site = prepared.options.site.clone();
    let cache = prepared.options.scratch.directory.as_deref().ok();
    let mut notifications =
        Notifications::new(&prepared.config, &prepared.schedule, site, cache, &progress);
    let fleets = [&prepared.fleet, &prepared.other_mirrors];
    let pushed = push::push(&prepared.source, &prepared.fleet, &prepared.options, &progress);
    let mut report = match pushed {
        Ok(mut report) => {
            // The push does not know frozen mirrors. They go last, to keep the fleet's order.
            report.mirrors.extend(prepared.frozen.iter().cloned());
            report
        }
        Err(error) => {
            let is_accepted =
                guards.superseded_ok && matches!(error, push::PushError::Superseded { .. });
            let failure = hints::push_failure(error);
            let exit = if is_accepted { Exit::Success } else { failure.exit() };
            notifications.send_all(None, exit.code(), Some(&failure.error_text()), fleets);
            notifications.finish(None, exit.code());
            progress.finish();
            // With `--superseded-ok`, this is a success: a newer run has published the content.
            return if is_accepted {
                accept_superseded(command, &failure, output)
            } else {
                Err(failure)
            };
        }
    };
    let exit = push_exit(&report, progress.is_cancelled(), guards.superseded_ok);
    // Before the result is printed, because it includes the results of hooks and purges.
    notifications.send_all(Some(&report), exit.code(), None, fleets);
    progress.end_block();
    if !output.json && !output.quiet {
        let results = notifications.results().iter().map(NotificationResult::line);
        print(&(describe(&report, command) + &results.collect::<String>()))?;
    }
    // The result is printed before the clean-up, which also polls the results of `post_activate`.
    push::clean_up(&mut report, &prepared.fleet, prepared.keep, &progress);
    // The user interrupted the clean-up.
    let exit = if progress.is_cancelled() { Exit::Interrupted } else { exit };
    expiry::warn_of_expiries(&report, &progress);
    // The JSON object is printed after the clean-up, because it includes the results of
    // `post_activate`.
    let notifications = notifications.finish(Some(&report), exit.code());
    if output.json {
        print_json(&PushOutput {
            headwater: command,
            version: 1,
            exit_code: exit.code(),
            report: &report,
            notifications: &notifications,
        })?;
    }
    progress.finish();
    next_steps::print_next_steps(&report, exit, command)?;
    Ok(exit)
}

/// The result of a push that was superseded by a newer one, with `--superseded-ok`.
fn accept_superseded(
    command: &'static str,
    failure: &Failure,
    output: &OutputArgs,
) -> Result<Exit, Failure> {
    // If stderr is closed, the note is lost.
    eprint_raw(&format!("note: {}: no action is needed\n", escape(&failure.error_text()))).ok();
    if output.json {
        print_json(&failure.json_output(command, Exit::Success))?;
    }
    Ok(Exit::Success)
}

/// The result if the user interrupted the push before it started.
fn interrupted(command: &'static str, output: &OutputArgs) -> Result<Exit, Failure> {
    let (exit, words) = (Exit::Interrupted, "interrupted before the start");
    if output.json {
        print_json(&Failure::new(exit, words).json_output(command, exit))?;
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
    notifications: &'a [NotificationResult],
}
