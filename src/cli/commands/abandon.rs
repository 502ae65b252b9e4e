//! `headwater abandon`.

use clap::Args;
use headwater::push::{self, Abandoned};
use serde::Serialize;

use crate::cli::args::rsync_flags::DryRunArgs;
use crate::cli::args::{ConfigArgs, MirrorsArgs, OutputArgs, RemoteArgs, WaitArgs, operands};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{Align, Table};
use crate::cli::output::hints;
use crate::cli::output::print::{print, print_json};
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;

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

pub(crate) fn run(args: &AbandonArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse(
        "abandon",
        "run `headwater releases` to see which release is staged on each mirror",
    )?;
    let config = load_config(&args.config)?;
    let choices = operands::resolve_mirrors(&args.mirrors.mirrors, &config)?;
    let factory = MirrorFactory::new(&args.remote, args.wait.wait, &config);
    let fleet = factory.fleet(&choices, args.remote.site.as_ref())?;
    let progress = Progress::start(&args.output)?;
    let abandoned = push::abandon(&args.release, &fleet, &progress);
    progress.finish();
    let abandoned = abandoned.map_err(hints::push_failure)?;
    let rows: Vec<AbandonRow<'_>> =
        abandoned.iter().map(|(mirror, what)| row(mirror, what)).collect();
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    // The same exit codes as for a push: every mirror failed, or only some of them did.
    let exit = match failed {
        0 => Exit::Success,
        failed if failed == rows.len() => Exit::NoMirror,
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
            table.add_row([row.mirror.to_owned(), row.outcome.replace('_', " ")]);
        }
        print(&table.render())?;
    }
    Ok(exit)
}

fn row<'a>(mirror: &'a str, what: &'a Abandoned) -> AbandonRow<'a> {
    let (outcome, error) = match what {
        Abandoned::Dropped => ("abandoned", None),
        Abandoned::NotStaged => ("not_staged", None),
        Abandoned::Failed { error } => ("failed", Some(error.as_str())),
    };
    AbandonRow { mirror, outcome, error }
}
