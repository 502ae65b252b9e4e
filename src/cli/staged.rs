//! `headwater activate`, `headwater abandon` and `headwater heal`: commands without a tree.

use std::time::Duration;

use clap::{Args, ValueHint};
use headwater::monitor::Monitor as _;
use headwater::push::{self, Abandoned, Require, Source};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::args::{
    ConfigArgs, MirrorsArgs, OutputArgs, ReleaseArgs, RemoteArgs, WaitArgs, WorkArgs,
};
use super::failure::{Exit, Failure};
use super::habits::DryRunArgs;
use super::notifications::ScheduleArgs;
use super::output::{Align, Table, print, print_json};
use super::progress::Progress;
use super::push::{TreelessInputs, execute, without_tree};
use super::remote::MirrorFactory;
use super::{hints, load_config, operands};

/// How often a wait checks the clock, which may jump, and whether the user interrupted it.
const TICK: Duration = Duration::from_millis(100);

/// The arguments of `activate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ActivateArgs {
    /// The staged release: its name as `push --stage-only` printed it, or its sequence
    #[arg(value_name = "RELEASE")]
    release: String,
    #[command(flatten)]
    mirrors: MirrorsArgs,
    /// Wait until this time, for example 2026-12-24T18:00:00Z; without an offset it is local time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    around: ScheduleArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
}

/// The arguments of `abandon`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AbandonArgs {
    /// The staged release: its name as `push --stage-only` printed it, or its sequence
    #[arg(value_name = "RELEASE")]
    release: String,
    #[command(flatten)]
    mirrors: MirrorsArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
}

/// The arguments of `heal`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HealArgs {
    /// Mirrors: names from the configuration, or locations [default: all configured ones]
    #[arg(value_name = "MIRROR", value_hint = ValueHint::AnyPath)]
    mirrors: Vec<String>,
    /// Update the other mirrors to the release that this mirror serves [default: the newest
    /// release, unless only one mirror has it and this machine did not publish it]
    #[arg(long, value_name = "MIRROR", value_hint = ValueHint::AnyPath)]
    from: Option<String>,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    around: ScheduleArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let local =
        || text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(TimeZone::system()));
    let time = text.parse().or_else(|_| local().map(|time| time.timestamp()));
    time.map_err(|_: jiff::Error| {
        "write a time such as 2026-12-24T18:00:00Z, or 2026-12-24T18:00 for local time".to_owned()
    })
}

/// Runs `headwater activate`.
pub(crate) fn activate(args: &ActivateArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse("activate", "`headwater releases` shows what is staged on each mirror")?;
    let inputs = TreelessInputs {
        mirrors: &args.mirrors.mirrors,
        release: &ReleaseArgs::default(),
        work: &args.work,
        around: &args.around,
        config: load_config(&args.config)?,
    };
    let (job, guards) = without_tree(inputs, Source::Staged(args.release.clone()))?;
    if let Some(at) = args.at {
        wait_until(at, args, &job)?;
    }
    execute("activate", &job, &args.output, &guards)
}

/// Checks that the release is staged, and waits until the time of `--at`.
fn wait_until(
    at: Timestamp,
    args: &ActivateArgs,
    job: &super::push::PreparedPush,
) -> Result<(), Failure> {
    let progress = Progress::start(&args.output)?;
    push::check_staged(&args.release, &job.fleet, &progress).map_err(hints::of_push)?;
    while Timestamp::now() < at {
        if progress.is_cancelled() {
            progress.finish();
            return Err(Failure::new(
                Exit::Interrupted,
                "interrupted before the time of --at; the release stays staged",
            ));
        }
        std::thread::sleep(TICK);
    }
    progress.finish();
    Ok(())
}

/// Runs `headwater heal`.
pub(crate) fn heal(args: &HealArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse("heal", "`headwater status` shows which mirrors are behind")?;
    // This run updates the mirrors that it can reach; a later run updates the others.
    let require = Some(args.work.require.unwrap_or(Require::ANY));
    let work = WorkArgs { require, ..args.work.clone() };
    let config = load_config(&args.config)?;
    let source = match &args.from {
        Some(from) => {
            let from = operands::of_mirrors(std::slice::from_ref(from), &config)?;
            Source::Store(MirrorFactory::for_content(&work, &config).mirror(&from[0], None)?)
        }
        None => Source::Newest,
    };
    let inputs = TreelessInputs {
        mirrors: &args.mirrors,
        release: &ReleaseArgs::default(),
        work: &work,
        around: &args.around,
        config,
    };
    let (job, guards) = without_tree(inputs, source)?;
    execute("heal", &job, &args.output, &guards)
}

#[derive(Serialize)]
struct AbandonOutput<'a> {
    headwater: &'static str,
    version: u32,
    exit_code: u8,
    release: &'a str,
    mirrors: Vec<AbandonRow<'a>>,
}

#[derive(Serialize)]
struct AbandonRow<'a> {
    mirror: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Runs `headwater abandon`.
pub(crate) fn abandon(args: &AbandonArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse("abandon", "`headwater releases` shows what is staged on each mirror")?;
    let config = load_config(&args.config)?;
    let choices = operands::of_mirrors(&args.mirrors.mirrors, &config)?;
    let factory = MirrorFactory::new(&args.remote, args.wait.wait, &config);
    let fleet = factory.fleet(&choices, args.remote.site.as_ref())?;
    let progress = Progress::start(&args.output)?;
    let abandoned = push::abandon(&args.release, &fleet, &progress);
    progress.finish();
    let abandoned = abandoned.map_err(hints::of_push)?;
    let rows: Vec<AbandonRow<'_>> =
        abandoned.iter().map(|(mirror, what)| row(mirror, what)).collect();
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    let exit = match failed {
        0 => Exit::Success,
        failed if failed == rows.len() => Exit::Nothing,
        _ => Exit::Partial,
    };
    if args.output.json {
        let (headwater, version) = ("abandon", 1);
        print_json(&AbandonOutput {
            headwater,
            version,
            exit_code: exit.code(),
            release: &args.release,
            mirrors: rows,
        })?;
    } else if !args.output.quiet {
        let mut table = Table::new([("mirror", Align::Left), ("outcome", Align::Left)]);
        for row in rows {
            table.row([row.mirror.to_owned(), row.outcome.replace('_', " ")]);
        }
        print(&table.render())?;
    }
    Ok(exit)
}

fn row<'a>(mirror: &'a str, what: &'a Abandoned) -> AbandonRow<'a> {
    let (outcome, error) = match what {
        Abandoned::Gone => ("abandoned", None),
        Abandoned::NotThere => ("not_staged", None),
        Abandoned::Failed { error } => ("failed", Some(error.as_str())),
    };
    AbandonRow { mirror, outcome, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_an_offset_or_are_local() {
        assert_eq!(parse_time("2026-12-24T18:00:00Z").unwrap().as_second(), 1_798_135_200);
        assert_eq!(parse_time("2026-12-24T19:00:00+01:00").unwrap().as_second(), 1_798_135_200);
        assert!(parse_time("2026-12-24T18:00").is_ok() && parse_time("2026-12-24").is_ok());
        for bad in ["", "soon", "18:00", "2026-13-01T00:00"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
