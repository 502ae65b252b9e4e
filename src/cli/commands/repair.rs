//! `headwater repair`.

use std::sync::Arc;

use headwater::mirror::{Mirror, Repaired};
use headwater::push::{self, Source};

use crate::cli::args::{RepairArgs, operands};
use crate::cli::commands::maintenance::{MaintenanceTask, fault_lines, open_mirrors, run_each};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{escape, format_count, pluralize};
use crate::cli::output::hints;
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;
use crate::cli::setup::tree_or_mirror::{self, TreeOrMirror};

struct RepairTask {
    source: Source,
}

impl MaintenanceTask for RepairTask {
    type Output = Repaired;
    const NAME: &'static str = "repair";
    const FAULT_HINT: Option<&'static str> = Some(
        "try another mirror as the source, or push the tree to make a new release; this source \
         lacks the rest",
    );

    fn run(&self, mirror: &Arc<dyn Mirror>, progress: &Progress) -> Result<Repaired, Failure> {
        push::repair(&self.source, mirror, progress).map_err(hints::push_failure)
    }

    fn describe(&self, mirror: &str, repaired: &Repaired) -> String {
        if repaired.found.is_empty() {
            return format!("{}: no faults\n", escape(mirror));
        }
        let found = pluralize(repaired.found.len() as u64, "fault", "faults");
        let left = match repaired.remaining.len() as u64 {
            0 => "none left".to_owned(),
            number => format!("{} left", format_count(number)),
        };
        let objects = pluralize(repaired.objects, "object", "objects");
        format!(
            "{}: {found} found, {objects} fetched again, {left}\n{}",
            escape(mirror),
            fault_lines(&repaired.remaining)
        )
    }

    fn is_healthy(&self, repaired: &Repaired) -> bool {
        repaired.remaining.is_empty()
    }
}

pub(crate) fn run(args: &RepairArgs) -> Result<Exit, Failure> {
    args.dry_run
        .refuse("repair", "run `headwater verify` to list the faults without changing anything")?;
    let config = load_config(&args.config)?;
    let factory = MirrorFactory::new(&args.remote, args.wait.wait, &config);
    let mirrors = open_mirrors(&args.mirrors, &factory, &config, args.remote.site.as_ref())?;
    let operand =
        operands::resolve_operand(&args.from, &config, |word| std::path::Path::new(word).is_dir())?;
    // Without a site: only content with the right hash is accepted, wherever it comes from.
    let source = match tree_or_mirror::resolve(&operand, &factory, None, &config)? {
        TreeOrMirror::Mirror(mirror) => Source::CurrentRelease(mirror),
        TreeOrMirror::Tree { roots, scan } => Source::Trees { roots, scan },
    };
    run_each(&RepairTask { source }, &mirrors, &args.output)
}
