//! `headwater doctor`: checks the connection to each mirror without changing anything.

use std::path::Path;

use clap::Args;
use headwater::mirror::{Expiries, Mirror, MirrorError, MirrorState};
use headwater::push::KnownStores;
use headwater::store::Store;
use headwater::text::error_chain;
use headwater::{fsx, threads};
use serde::Serialize;

use crate::cli::args::operands::MirrorChoice;
use crate::cli::args::{ConfigArgs, MirrorsArgs, OutputArgs, RemoteArgs, operands};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{escape, format_bytes};
use crate::cli::output::print::{print, print_json};
use crate::cli::output::{expiry, hints};
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;
use crate::cli::setup::options;

/// Difference between clocks, in seconds, above which ages and expiry times are wrong.
const MAX_SKEW_SECONDS: u64 = 60;
/// Free space, in bytes, below which a push may not fit.
const LOW_SPACE_BYTES: u64 = 100_000_000;
/// Free space, in bytes, below which not even the manifest and directories of a release fit.
const NO_SPACE_BYTES: u64 = 1_000_000;

/// The arguments of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    mirrors: MirrorsArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Serialize)]
struct DoctorOutput<'a> {
    headwater: &'static str,
    version: u32,
    mirrors: &'a [MirrorDiagnosis],
}

/// The result for one mirror.
#[derive(Debug, Serialize)]
struct MirrorDiagnosis {
    mirror: String,
    location: String,
    is_ok: bool,
    /// Facts about the mirror, each in a few words.
    facts: Vec<String>,
    problems: Vec<Problem>,
    /// Problems that do not prevent a push.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Problem>,
}

/// A reason why a push would fail, or a warning.
#[derive(Debug, Serialize)]
struct Problem {
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Problem {
    fn new(what: impl Into<String>, hint: &str) -> Self {
        Self { what: what.into(), hint: Some(hint.to_owned()) }
    }

    fn of_mirror(error: &MirrorError) -> Self {
        Self { what: error_chain(error), hint: hints::mirror_error_hint(error).map(str::to_owned) }
    }
}

pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.config)?;
    let choices = operands::resolve_mirrors(&args.mirrors.mirrors, &config)?;
    let site = args.remote.site.as_ref().or(config.site.as_ref());
    let factory = MirrorFactory::new(&args.remote, None, &config);
    // The store is checked as a push would check it: a push to an unmounted mirror fails.
    let stores = options::known_stores(None, &config);
    let findings = threads::each(&choices, |choice| {
        diagnose(choice, &stores, || factory.mirror(choice, site))
    });
    let is_ok = findings.iter().all(|finding| finding.is_ok);
    if args.output.json {
        print_json(&DoctorOutput { headwater: "doctor", version: 1, mirrors: &findings })?;
    } else {
        let is_shown = |finding: &&MirrorDiagnosis| {
            !(args.output.quiet && finding.is_ok && finding.warnings.is_empty())
        };
        let shown = findings.iter().filter(is_shown);
        print(&shown.map(MirrorDiagnosis::describe).collect::<String>())?;
    }
    Ok(if is_ok { Exit::Success } else { Exit::Failed })
}

fn diagnose(
    choice: &MirrorChoice,
    stores: &KnownStores,
    open: impl FnOnce() -> Result<std::sync::Arc<dyn Mirror>, Failure>,
) -> MirrorDiagnosis {
    let mut facts = Vec::new();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    match open() {
        Err(failure) => {
            problems.push(Problem {
                what: failure.error_text(),
                hint: failure.hint().map(str::to_owned),
            });
        }
        Ok(mirror) => match mirror.state() {
            Err(error) => problems.push(Problem::of_mirror(&error)),
            Ok(state) => {
                if let Err(error) = stores.check(mirror.name(), mirror.location(), state.store) {
                    problems.push(Problem::of_mirror(&error));
                }
                check_state(&*mirror, &state, &mut facts, &mut problems, &mut warnings);
                check_expiries(state.expiries, &mut facts, &mut warnings);
            }
        },
    }
    let (mirror, location) = (choice.name.clone(), choice.location.clone());
    MirrorDiagnosis { mirror, location, is_ok: problems.is_empty(), facts, problems, warnings }
}

fn check_state(
    mirror: &dyn Mirror,
    state: &MirrorState,
    facts: &mut Vec<String>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    facts.push(match (&state.site, state.current) {
        (Some(site), Some(current)) => {
            format!("serves release {} of site {site}", current.sequence())
        }
        (Some(site), None) => format!("belongs to site {site} and serves nothing yet"),
        (None, _) => "empty: the first push fills it".to_owned(),
    });
    if let Err(error) = mirror.check_owner() {
        problems.push(Problem::of_mirror(&error));
    } else if let Some(path) = mirror.local_path() {
        check_directory(&path, state, facts, problems);
    }
    // Only a receiver reports these facts. For a directory, the checks above take their place.
    if let Some(receiver) = &state.receiver {
        if !receiver.may_push {
            problems.push(Problem::new(
                "the token may only read",
                "create one with `headwater token new --site NAME --allow push`, and add its table \
                 to the receiver's serve.toml",
            ));
        // Over SSH there is no token: every user who can log in may push.
        } else if mirror.location().starts_with("ssh://") {
            facts.push("ssh lets this user push".to_owned());
        } else {
            facts.push("the token may push".to_owned());
        }
        facts.push(format!("receiver runs headwater {}", receiver.version));
        let skew = receiver.time.map(|time| time.abs_diff(fsx::unix_seconds()));
        if let Some(skew) = skew.filter(|skew| *skew > MAX_SKEW_SECONDS) {
            let hint = "set both clocks with NTP: ages, expiry times and certificates depend on \
                        them";
            warnings.push(Problem::new(
                format!("the mirror's clock differs from this machine's clock by {skew} s"),
                hint,
            ));
        }
    }
    // The state of a directory without a store does not include the free bytes, but a push needs
    // space there.
    let free = state.free_bytes.or_else(|| Store::free_bytes_at(&mirror.local_path()?).ok());
    if let Some(free) = free {
        check_space(free, facts, problems, warnings);
    }
    facts.extend(state.round_trip.map(|time| format!("responds in {} ms", time.as_millis())));
}

/// Too little space for large pushes causes only a warning, because a small push still fits. Too
/// little space for any push is a problem.
fn check_space(
    free: u64,
    facts: &mut Vec<String>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let list = match free {
        ..NO_SPACE_BYTES => problems,
        NO_SPACE_BYTES..LOW_SPACE_BYTES => warnings,
        _ => return facts.push(format!("{} free", format_bytes(free))),
    };
    let what = format!("only {} are free", format_bytes(free));
    list.push(Problem::new(
        what,
        "free some space, or run `headwater prune` with a smaller --keep",
    ));
}

/// A token or certificate that expires soon causes only a warning, because a push still succeeds. A
/// later expiry is listed as a fact.
fn check_expiries(expiries: Expiries, facts: &mut Vec<String>, warnings: &mut Vec<Problem>) {
    let now = fsx::unix_seconds();
    let soon = expiries.expiring_soon(now);
    for expiry in expiries.all() {
        let words = expiry::describe(expiry, now);
        if soon.contains(&expiry) {
            warnings.push(Problem::new(words, expiry::hint(expiry.kind)));
        } else {
            facts.push(words);
        }
    }
}

/// Checks whether this user may write to the directory.
fn check_directory(
    path: &Path,
    state: &MirrorState,
    facts: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let is_there = path.is_dir();
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = if is_there { path } else { parent };
    if state.store.is_none() && !is_there {
        facts.push("the directory does not exist yet".to_owned());
    }
    // Asks the system instead of creating a test file, because this command changes nothing.
    match rustix::fs::access(written, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => facts.push("writable".to_owned()),
        Err(error) => problems.push(Problem::new(
            format!("cannot write to {}: {error}", written.display()),
            "create the directory and give it to the user who pushes",
        )),
    }
}

impl MirrorDiagnosis {
    /// Describes the facts on one line or, if there are problems, each problem on its own line.
    /// Then describes each warning on its own line. A hint follows its problem or warning on the
    /// next line.
    fn describe(&self) -> String {
        let name = escape(&self.mirror);
        let line = |word: &str, problem: &Problem| {
            let hint = problem.hint.as_ref().map(|hint| format!("  hint: {}\n", escape(hint)));
            format!("{name}: {word}: {}\n{}", escape(&problem.what), hint.unwrap_or_default())
        };
        let mut text: String =
            self.problems.iter().map(|problem| line("FAILED", problem)).collect();
        if self.is_ok {
            text = format!("{name}: ok: {}\n", escape(&self.facts.join(", ")));
        }
        text.extend(self.warnings.iter().map(|warning| line("warning", warning)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_space_is_a_warning_and_no_space_a_problem() {
        for (free, counts) in
            [(0, [0, 1, 0]), (999_999, [0, 1, 0]), (1_000_000, [0, 0, 1]), (100_000_000, [1, 0, 0])]
        {
            let (mut facts, mut problems, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
            check_space(free, &mut facts, &mut problems, &mut warnings);
            assert_eq!([facts.len(), problems.len(), warnings.len()], counts, "{free}");
            let hints =
                problems.iter().chain(&warnings).map(|problem| problem.hint.as_deref().unwrap());
            assert!(hints.into_iter().all(|hint| hint.starts_with("free some space")));
        }
    }
}
