//! `headwater heal`.

use clap::{Args, ValueHint};
use headwater::push::{Require, Source};

use crate::cli::args::rsync_flags::DryRunArgs;
use crate::cli::args::{ConfigArgs, OutputArgs, ReleaseArgs, ScheduleArgs, WorkArgs, operands};
use crate::cli::commands::push::execute;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;
use crate::cli::setup::prepared_push::{TreelessInputs, prepare_treeless_push};

/// The arguments of `heal`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HealArgs {
    /// Mirrors: names from the configuration, or locations [default: all configured mirrors]
    #[arg(value_name = "MIRROR", value_hint = ValueHint::AnyPath)]
    mirrors: Vec<String>,
    /// Update the other mirrors to the release that this mirror serves [default: the newest
    /// release, unless only one mirror has it and this machine did not publish it]
    #[arg(long, value_name = "MIRROR", value_hint = ValueHint::AnyPath)]
    from: Option<String>,
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

pub(crate) fn run(args: &HealArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse("heal", "run `headwater status` to see which mirrors are behind")?;
    // This run updates the mirrors that it can reach; a later run updates the others.
    let require = Some(args.work.require.unwrap_or(Require::ANY));
    let work = WorkArgs { require, ..args.work.clone() };
    let config = load_config(&args.config)?;
    let source = match &args.from {
        Some(from) => {
            let from = operands::resolve_mirrors(std::slice::from_ref(from), &config)?;
            Source::CurrentRelease(
                MirrorFactory::for_content(&work, &config).mirror(&from[0], None)?,
            )
        }
        None => Source::Newest,
    };
    let inputs = TreelessInputs {
        mirrors: &args.mirrors,
        release: &ReleaseArgs::default(),
        work: &work,
        schedule: &args.schedule,
        config,
    };
    let (prepared, guards) = prepare_treeless_push(inputs, source)?;
    execute("heal", &prepared, &args.output, &guards)
}
