//! `headwater promote`.

use headwater::push::Source;

use crate::cli::args::habits::HabitArgs;
use crate::cli::args::{PromoteArgs, PushArgs, SourceArgs};
use crate::cli::commands::plan;
use crate::cli::commands::push::execute;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::prepared_push::job_from;

pub(crate) fn run(args: &PromoteArgs) -> Result<Exit, Failure> {
    // A promotion is a push whose content a mirror has, with the same guard rails and the same
    // plan.
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
