//! `headwater verify`.

use std::sync::Arc;

use headwater::mirror::{Depth, Mirror, Verified};

use crate::cli::args::VerifyArgs;
use crate::cli::commands::maintenance::{
    MaintenanceTask, fault_lines, open_mirrors, run_each, with_mirror_hint,
};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{escape, format_bytes, pluralize};
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;

struct VerifyTask {
    depth: Depth,
}

impl MaintenanceTask for VerifyTask {
    type Output = Verified;
    const NAME: &'static str = "verify";
    const FAULT_HINT: Option<&'static str> = Some(
        "run `headwater repair MIRROR --from TREE|MIRROR` to replace damaged content with that of \
         the source",
    );

    fn run(&self, mirror: &Arc<dyn Mirror>, progress: &Progress) -> Result<Verified, Failure> {
        with_mirror_hint(mirror, mirror.verify(self.depth, progress))
    }

    fn describe(&self, mirror: &str, verified: &Verified) -> String {
        let looked = match self.depth {
            Depth::Quick => String::new(),
            Depth::Full => {
                format!(
                    " {}, {} read;",
                    pluralize(verified.objects, "object", "objects"),
                    format_bytes(verified.bytes)
                )
            }
        };
        let found = match verified.faults.len() as u64 {
            0 => "no faults".to_owned(),
            number => pluralize(number, "fault", "faults"),
        };
        let entries = pluralize(verified.entries, "slot entry", "slot entries");
        format!(
            "{}:{looked} {entries} checked: {found}\n{}",
            escape(mirror),
            fault_lines(&verified.faults)
        )
    }

    fn is_healthy(&self, verified: &Verified) -> bool {
        verified.faults.is_empty()
    }
}

pub(crate) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.config)?;
    let factory = MirrorFactory::new(&args.remote, None, &config);
    let mirrors =
        open_mirrors(&args.mirrors.mirrors, &factory, &config, args.remote.site.as_ref())?;
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    run_each(&VerifyTask { depth }, &mirrors, &args.output)
}
