//! `headwater prune`.

use std::sync::Arc;

use headwater::mirror::{Mirror, Pruned};

use crate::cli::args::PruneArgs;
use crate::cli::commands::maintenance::{
    MaintenanceTask, open_mirrors, run_each, with_mirror_hint,
};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{escape, format_bytes, pluralize};
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;

struct PruneTask {
    /// The number of releases to keep.
    keep: usize,
}

impl MaintenanceTask for PruneTask {
    type Output = Pruned;
    const NAME: &'static str = "prune";

    fn run(&self, mirror: &Arc<dyn Mirror>, _: &Progress) -> Result<Pruned, Failure> {
        with_mirror_hint(mirror, mirror.prune(self.keep))
    }

    fn describe(&self, mirror: &str, pruned: &Pruned) -> String {
        let releases = pluralize(pruned.releases, "release", "releases");
        let objects = pluralize(pruned.objects, "object", "objects");
        let quarantines = match pruned.quarantines {
            0 => String::new(),
            number => {
                let pushes = pluralize(number, "unfinished push", "unfinished pushes");
                format!(", {pushes} of {} dropped", format_bytes(pruned.incoming_bytes))
            }
        };
        let expired = match pruned.expired {
            0 => String::new(),
            number => format!(
                "; {} no longer served",
                pluralize(number, "retired file is", "retired files are")
            ),
        };
        let dropped = format_bytes(pruned.bytes);
        format!(
            "{}: {releases} and {objects} of {dropped} dropped{quarantines}{expired}\n",
            escape(mirror)
        )
    }

    fn is_healthy(&self, _: &Pruned) -> bool {
        true
    }
}

pub(crate) fn run(args: &PruneArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse(
        "prune",
        "run `headwater releases` to see how much space each number of kept releases would free",
    )?;
    let config = load_config(&args.config)?;
    let factory = MirrorFactory::new(&args.remote, args.wait.wait, &config);
    let mirrors =
        open_mirrors(&args.mirrors.mirrors, &factory, &config, args.remote.site.as_ref())?;
    let keep = usize::try_from(args.keep.unwrap_or(config.keep).get()).unwrap_or(usize::MAX);
    run_each(&PruneTask { keep }, &mirrors, &args.output)
}
