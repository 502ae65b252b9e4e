//! `headwater promote`.

use headwater::push::Source;

use crate::cli::args::rsync_flags::RsyncFlagArgs;
use crate::cli::args::{PromoteArgs, PushArgs, SourceArgs};
use crate::cli::commands::plan;
use crate::cli::commands::push::execute;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::prepared_push::prepare_push_from;

pub(crate) fn run(args: &PromoteArgs) -> Result<Exit, Failure> {
    // A promotion is a push of content that a mirror has, with the same guard rails and the same
    // plan.
    let push = PushArgs {
        source: SourceArgs {
            operands: args.mirrors.clone(),
            from: Some(args.from.clone()),
            exclude: Vec::new(),
        },
        release: args.release.clone(),
        stage_only: args.stage_only,
        guards: args.guards.clone(),
        work: args.work.clone(),
        schedule: args.schedule.clone(),
        config: args.config.clone(),
        list: args.list,
        rsync_flags: RsyncFlagArgs::default(),
        output: args.output.clone(),
    };
    let prepared = prepare_push_from(&push, Source::Promote)?;
    if args.dry_run {
        return plan::print_plan(&prepared, &push);
    }
    execute("promote", &prepared, &args.output, &args.guards)
}
