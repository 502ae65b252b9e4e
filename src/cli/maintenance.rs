//! `headwater verify`, `headwater repair` and `headwater prune`.

use std::sync::Arc;

use headwater::mirror::{Depth, Fault, Mirror, MirrorError, Pruned, Repaired, Verified};
use headwater::push::{self, Source};
use serde::Serialize;

use super::args::{
    ConfigArgs, MirrorsArgs, OutputArgs, PruneArgs, RemoteArgs, RepairArgs, VerifyArgs,
};
use super::context::{self, TreeOrMirror};
use super::failure::{Exit, Failure, eprint_raw};
use super::output::{bytes, count, counted, escape, listed, print, print_json};
use super::progress::Progress;
use super::remote::{MirrorFactory, check_there};
use super::{hints, load_config, operands};

#[derive(Serialize)]
struct MaintenanceOutput<T> {
    headwater: &'static str,
    version: u32,
    mirrors: Vec<MirrorResult<T>>,
}

#[derive(Serialize)]
struct MirrorResult<T> {
    mirror: String,
    #[serde(flatten)]
    result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Work on single mirrors, and how its result is shown.
trait MaintenanceTask {
    type Output: Serialize;
    /// The name of the command.
    const NAME: &'static str;
    /// The hint for faults on a mirror; a mirror that fails has its own hint.
    const ADVICE: Option<&'static str> = None;

    fn run(&self, mirror: &Arc<dyn Mirror>, progress: &Progress) -> Result<Self::Output, Failure>;

    /// The text for people.
    fn describe(&self, mirror: &str, result: &Self::Output) -> String;

    /// Whether the mirror has no faults.
    fn is_well(&self, result: &Self::Output) -> bool;
}

/// Runs a task for each mirror, prints the results and returns the worst exit code.
fn run_each<T: MaintenanceTask>(
    task: &T,
    mirrors: &[Arc<dyn Mirror>],
    output: &OutputArgs,
) -> Result<Exit, Failure> {
    let progress = Progress::start(output)?;
    let run = |mirror: &Arc<dyn Mirror>| (mirror.name().to_owned(), task.run(mirror, &progress));
    let results: Vec<(String, Result<T::Output, Failure>)> = mirrors.iter().map(run).collect();
    progress.finish();
    let mut exit = Exit::Success;
    let mut answer = MaintenanceOutput { headwater: T::NAME, version: 1, mirrors: Vec::new() };
    let is_single = mirrors.len() == 1;
    for (mirror, result) in results {
        match result {
            Ok(result) => {
                let is_well = task.is_well(&result);
                let is_told = !output.quiet || !is_well;
                if is_told && !output.json {
                    print(&task.describe(&mirror, &result))?;
                }
                if !is_well {
                    exit = Exit::Failed;
                }
                answer.mirrors.push(MirrorResult { mirror, result: Some(result), error: None });
            }
            Err(failure) => {
                failure.print();
                exit = if is_single { failure.exit() } else { Exit::Failed };
                answer.mirrors.push(MirrorResult {
                    mirror,
                    result: None,
                    error: Some(failure.text()),
                });
            }
        }
    }
    if output.json {
        print_json(&answer)?;
    }
    let results = answer.mirrors.iter().filter_map(|one| one.result.as_ref());
    let is_advised = results.into_iter().any(|result| !task.is_well(result));
    if let Some(advice) = T::ADVICE.filter(|_| is_advised) {
        let written = eprint_raw(&format!("hint: {advice}\n"));
        written.map_err(|error| Failure::new(Exit::Failed, error))?;
    }
    Ok(exit)
}

fn mirrors(
    args: &MirrorsArgs,
    config: &ConfigArgs,
    remote: &RemoteArgs,
    wait: Option<std::time::Duration>,
) -> Result<Vec<Arc<dyn Mirror>>, Failure> {
    let config = load_config(config)?;
    let choices = operands::of_mirrors(&args.mirrors, &config)?;
    check_there(&choices, &config)?;
    let factory = MirrorFactory::new(remote, wait, &config);
    Ok(factory.fleet(&choices, remote.site.as_ref())?.mirrors().to_vec())
}

fn in_mirror<T>(mirror: &Arc<dyn Mirror>, result: Result<T, MirrorError>) -> Result<T, Failure> {
    result.map_err(|error| hints::on_mirror(mirror.name(), &error))
}

fn faults(faults: &[Fault]) -> String {
    listed("  ", faults.iter().map(ToString::to_string))
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

struct VerifyTask {
    depth: Depth,
}

impl MaintenanceTask for VerifyTask {
    type Output = Verified;
    const NAME: &'static str = "verify";
    const ADVICE: Option<&'static str> =
        Some("run `headwater repair MIRROR --from TREE|MIRROR` to repair what the source has");

    fn run(&self, mirror: &Arc<dyn Mirror>, progress: &Progress) -> Result<Verified, Failure> {
        in_mirror(mirror, mirror.verify(self.depth, progress))
    }

    fn describe(&self, mirror: &str, verified: &Verified) -> String {
        let looked = match self.depth {
            Depth::Quick => String::new(),
            Depth::Full => {
                format!(
                    " {}, {} read;",
                    counted(verified.objects, "object", "objects"),
                    bytes(verified.bytes)
                )
            }
        };
        let found = match verified.faults.len() as u64 {
            0 => "no faults".to_owned(),
            number => counted(number, "fault", "faults"),
        };
        let entries = counted(verified.entries, "slot entry", "slot entries");
        format!(
            "{}:{looked} {entries} checked: {found}\n{}",
            escape(mirror),
            faults(&verified.faults)
        )
    }

    fn is_well(&self, verified: &Verified) -> bool {
        verified.faults.is_empty()
    }
}

/// Runs `headwater verify`.
pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let mirrors = mirrors(&args.mirrors, &args.config, &args.remote, None)?;
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    run_each(&VerifyTask { depth }, &mirrors, &args.output)
}

struct RepairTask {
    source: Source,
}

impl MaintenanceTask for RepairTask {
    type Output = Repaired;
    const NAME: &'static str = "repair";
    const ADVICE: Option<&'static str> = Some(
        "try another mirror as the source, or push the tree to make a new release; this source \
         lacks the rest",
    );

    fn run(&self, mirror: &Arc<dyn Mirror>, progress: &Progress) -> Result<Repaired, Failure> {
        push::repair(&self.source, mirror, progress).map_err(hints::of_push)
    }

    fn describe(&self, mirror: &str, repaired: &Repaired) -> String {
        if repaired.found.is_empty() {
            return format!("{}: no faults\n", escape(mirror));
        }
        let found = counted(repaired.found.len() as u64, "fault", "faults");
        let left = match repaired.left.len() as u64 {
            0 => "none left".to_owned(),
            number => format!("{} left", count(number)),
        };
        let objects = counted(repaired.objects, "object", "objects");
        format!(
            "{}: {found} found, {objects} fetched again, {left}\n{}",
            escape(mirror),
            faults(&repaired.left)
        )
    }

    fn is_well(&self, repaired: &Repaired) -> bool {
        repaired.left.is_empty()
    }
}

/// Runs `headwater repair`.
pub(crate) fn repair(args: &RepairArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse("repair", "`headwater verify` names the faults and changes nothing")?;
    let config = load_config(&args.config)?;
    let choices = operands::of_mirrors(&args.mirrors, &config)?;
    check_there(&choices, &config)?;
    let factory = MirrorFactory::new(&args.remote, args.wait.wait, &config);
    let mirrors = factory.fleet(&choices, args.remote.site.as_ref())?.mirrors().to_vec();
    let operand =
        operands::of_operand(&args.from, &config, |word| std::path::Path::new(word).is_dir())?;
    let source = match context::place(&operand, &factory, None)? {
        TreeOrMirror::Mirror(mirror) => Source::Store(mirror),
        TreeOrMirror::Tree(roots) => Source::Trees {
            roots,
            scan: context::scan_options(&[], &config, context::jobs(None, &config), None),
        },
    };
    run_each(&RepairTask { source }, &mirrors, &args.output)
}

struct PruneTask {
    /// The number of releases that are kept.
    keep: usize,
}

impl MaintenanceTask for PruneTask {
    type Output = Pruned;
    const NAME: &'static str = "prune";

    fn run(&self, mirror: &Arc<dyn Mirror>, _: &Progress) -> Result<Pruned, Failure> {
        in_mirror(mirror, mirror.prune(self.keep))
    }

    fn describe(&self, mirror: &str, pruned: &Pruned) -> String {
        let releases = counted(pruned.releases, "release", "releases");
        let objects = counted(pruned.objects, "object", "objects");
        let quarantines = match pruned.quarantines {
            0 => String::new(),
            number => {
                let pushes = counted(number, "unfinished push", "unfinished pushes");
                format!(", {pushes} of {} dropped", bytes(pruned.incoming_bytes))
            }
        };
        let expired = match pruned.expired {
            0 => String::new(),
            number => format!(
                "; {} no longer served",
                counted(number, "retired file is", "retired files are")
            ),
        };
        let dropped = bytes(pruned.bytes);
        format!(
            "{}: {releases} and {objects} of {dropped} dropped{quarantines}{expired}\n",
            escape(mirror)
        )
    }

    fn is_well(&self, _: &Pruned) -> bool {
        true
    }
}

/// Runs `headwater prune`.
pub(crate) fn prune(args: &PruneArgs) -> Result<Exit, Failure> {
    args.dry_run.refuse(
        "prune",
        "`headwater releases` shows how much space each number of kept releases would free",
    )?;
    let config = load_config(&args.config)?;
    let mirrors = mirrors(&args.mirrors, &args.config, &args.remote, args.wait.wait)?;
    let keep = usize::try_from(args.keep.unwrap_or(config.keep).get()).unwrap_or(usize::MAX);
    run_each(&PruneTask { keep }, &mirrors, &args.output)
}
