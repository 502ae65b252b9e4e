//! `headwater activate`, `headwater abandon` and `headwater heal`: commands without a tree.

use clap::{Args, ValueHint};
use headwater::push::{self, Abandoned, Require, Source};
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

/// The arguments of `activate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ActivateArgs {
    /// The staged release: its name as `push --stage-only` printed it, or its sequence
    #[arg(value_name = "RELEASE")]
    release: String,
    #[command(flatten)]
    mirrors: MirrorsArgs,
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
    execute("activate", &job, &args.output, &guards)
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
