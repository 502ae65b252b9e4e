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

/// Runs a function for each mirror, prints the results and returns the worst exit code. `advice` is
/// the hint for faults on a mirror; a mirror that fails has its own hint.
fn each<T: Serialize>(
    name: &'static str,
    mirrors: &[Arc<dyn Mirror>],
    output: &OutputArgs,
    work: impl Fn(&Arc<dyn Mirror>, &Progress) -> Result<T, Failure>,
    describe: impl Fn(&str, &T) -> String,
    is_well: impl Fn(&T) -> bool,
    advice: Option<&str>,
) -> Result<Exit, Failure> {
    let progress = Progress::start(output)?;
    let results: Vec<(String, Result<T, Failure>)> =
        mirrors.iter().map(|mirror| (mirror.name().to_owned(), work(mirror, &progress))).collect();
    progress.finish();
    let mut exit = Exit::Success;
    let mut answer = MaintenanceOutput { headwater: name, version: 1, mirrors: Vec::new() };
    let is_single = mirrors.len() == 1;
    for (mirror, result) in results {
        match result {
            Ok(result) => {
                let is_told = !output.quiet || !is_well(&result);
                if is_told && !output.json {
                    print(&describe(&mirror, &result))?;
                }
                if !is_well(&result) {
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
    let is_advised =
        answer.mirrors.iter().filter_map(|one| one.result.as_ref()).any(|result| !is_well(result));
    if let Some(advice) = advice.filter(|_| is_advised) {
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

/// Runs `headwater verify`.
pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let mirrors = mirrors(&args.mirrors, &args.config, &args.remote, None)?;
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    let describe = |mirror: &str, verified: &Verified| {
        let looked = match depth {
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
    };
    let work = |mirror: &Arc<dyn Mirror>, progress: &Progress| {
        in_mirror(mirror, mirror.verify(depth, progress))
    };
    let advice = "run `headwater repair MIRROR --from TREE|MIRROR` to repair what the source has";
    each(
        "verify",
        &mirrors,
        &args.output,
        work,
        describe,
        |verified| verified.faults.is_empty(),
        Some(advice),
    )
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
    let describe = |mirror: &str, repaired: &Repaired| {
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
    };
    let work = |mirror: &Arc<dyn Mirror>, progress: &Progress| {
        push::repair(&source, mirror, progress).map_err(hints::of_push)
    };
    let advice = "try another mirror as the source, or push the tree to make a new release; this \
                  source lacks the rest";
    each(
        "repair",
        &mirrors,
        &args.output,
        work,
        describe,
        |repaired| repaired.left.is_empty(),
        Some(advice),
    )
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
    let describe = |mirror: &str, pruned: &Pruned| {
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
    };
    let work = |mirror: &Arc<dyn Mirror>, _: &Progress| in_mirror(mirror, mirror.prune(keep));
    each("prune", &mirrors, &args.output, work, describe, |_| true, None)
}
