//! `headwater activate`.

use clap::Args;
use headwater::push::Source;

use crate::cli::args::rsync_flags::DryRunArgs;
use crate::cli::args::{ConfigArgs, MirrorsArgs, OutputArgs, ReleaseArgs, ScheduleArgs, WorkArgs};
use crate::cli::commands::push::execute;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::prepared_push::{TreelessInputs, prepare_treeless_push};

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
    schedule: ScheduleArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
}

pub(crate) fn run(args: &ActivateArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse(
        "activate",
        "run `headwater releases` to see which release is staged on each mirror",
    )?;
    let inputs = TreelessInputs {
        mirrors: &args.mirrors.mirrors,
        // The release already exists, with its note and its run number.
        release: &ReleaseArgs::default(),
        work: &args.work,
        schedule: &args.schedule,
        config: load_config(&args.config)?,
    };
    let (prepared, guards) = prepare_treeless_push(inputs, Source::Staged(args.release.clone()))?;
    execute("activate", &prepared, &args.output, &guards)
}
