//! Runs `verify`, `repair` or `prune` on each mirror, and shows the results.

use std::sync::Arc;

use headwater::config::Config;
use headwater::mirror::{Fault, Mirror, MirrorError};
use headwater::tree_path::Site;
use serde::Serialize;

use crate::cli::args::{OutputArgs, operands};
use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::list_lines;
use crate::cli::output::hints;
use crate::cli::output::print::{print, print_json};
use crate::cli::output::progress::Progress;
use crate::cli::setup::mirror_factory::{MirrorFactory, check_directories_exist};

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

/// A task that runs on single mirrors, and how its results are shown.
pub(crate) trait MaintenanceTask {
    type Output: Serialize;
    /// The name of the command.
    const NAME: &'static str;
    /// The hint for a mirror with faults. A mirror on which the task fails gets a different hint.
    const FAULT_HINT: Option<&'static str> = None;

    fn run(&self, mirror: &Arc<dyn Mirror>, progress: &Progress) -> Result<Self::Output, Failure>;

    /// The result as text for people.
    fn describe(&self, mirror: &str, result: &Self::Output) -> String;

    /// Whether the result shows no faults on the mirror.
    fn is_healthy(&self, result: &Self::Output) -> bool;
}

/// Runs a task for each mirror, prints the results and returns the worst exit code.
pub(crate) fn run_each<T: MaintenanceTask>(
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
                let is_well = task.is_healthy(&result);
                let is_shown = !output.quiet || !is_well;
                if is_shown && !output.json {
                    print(&task.describe(&mirror, &result))?;
                }
                if !is_well {
                    exit = Exit::Failed;
                }
                answer.mirrors.push(MirrorResult { mirror, result: Some(result), error: None });
            }
            Err(failure) => {
                failure.print();
                // The exit code for a single mirror gives the reason, for example 7 or 9. Several
                // mirrors can fail for different reasons.
                exit = if is_single { failure.exit() } else { Exit::Failed };
                answer.mirrors.push(MirrorResult {
                    mirror,
                    result: None,
                    error: Some(failure.error_text()),
                });
            }
        }
    }
    if output.json {
        print_json(&answer)?;
    }
    let results = answer.mirrors.iter().filter_map(|one| one.result.as_ref());
    let is_advised = results.into_iter().any(|result| !task.is_healthy(result));
    if let Some(advice) = T::FAULT_HINT.filter(|_| is_advised) {
        let written = eprint_raw(&format!("hint: {advice}\n"));
        written.map_err(|error| Failure::new(Exit::Failed, error))?;
    }
    Ok(exit)
}

/// The mirrors with these names or locations; all configured mirrors if none are named.
pub(crate) fn open_mirrors(
    names: &[String],
    factory: &MirrorFactory,
    config: &Config,
    site: Option<&Site>,
) -> Result<Vec<Arc<dyn Mirror>>, Failure> {
    let choices = operands::resolve_mirrors(names, config)?;
    // A mistyped argument is a usage error in every command, not missing content.
    check_directories_exist(&choices, config)?;
    Ok(factory.fleet(&choices, site)?.mirrors().to_vec())
}

pub(crate) fn with_mirror_hint<T>(
    mirror: &Arc<dyn Mirror>,
    result: Result<T, MirrorError>,
) -> Result<T, Failure> {
    result.map_err(|error| hints::mirror_failure(mirror.name(), &error))
}

pub(crate) fn fault_lines(faults: &[Fault]) -> String {
    list_lines("  ", faults.iter().map(ToString::to_string))
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}
