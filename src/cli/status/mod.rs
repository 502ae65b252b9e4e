//! `headwater status`: how the mirrors stand, once or again and again, for
//! people, programs and monitors.

mod check;
mod last_seen;
mod page;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use headwater::cancel::pause;
use headwater::config::parse_duration;
use headwater::fleet_status::{self, MirrorStatus, StatusLimits};
use headwater::fsx;
use headwater::monitor::Monitor as _;
use serde::Serialize;

use super::args::{ConfigArgs, MirrorsArgs, OUTPUT, OutputArgs, RemoteArgs};
use super::failure::{Exit, Failure};
use super::metrics;
use super::output::{print, print_json};
use super::watcher::{FleetLook, Watcher};

/// Between two looks without another word.
const PAUSE: &str = "5s";

/// The arguments of `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    mirrors: MirrorsArgs,
    /// Look again and again, until Ctrl-C
    #[arg(long, value_name = "PAUSE", value_parser = parse_duration, num_args = 0..=1, require_equals = true,
        default_missing_value = PAUSE, conflicts_with = "check", help_heading = OUTPUT)]
    watch: Option<Duration>,
    /// Print one line and end as monitoring plug-ins do: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    ///
    /// A mirror that cannot be asked, one that diverged, one with faults, one whose post_activate command failed and
    /// one whose token or certificate expires within 14 days are a warning; lag decides by --warn and --crit. Where no mirror can be asked it is unknown. Frozen mirrors do not count.
    #[arg(long, conflicts_with = "json", help_heading = OUTPUT)]
    check: bool,
    /// With --check: warn of a mirror that lags more than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h", help_heading = OUTPUT)]
    warn: Duration,
    /// With --check: critical is a mirror that lags more than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h", help_heading = OUTPUT)]
    crit: Duration,
    /// Look also at what visitors get: fetch the files that changed last through each mirror's `public_url`
    #[arg(long, help_heading = OUTPUT)]
    public: bool,
    /// Show what each mirror takes on disk; reads the manifests of all kept releases from each mirror
    #[arg(long, help_heading = OUTPUT)]
    disk: bool,
    /// Show all columns, also where they do not fit the terminal
    #[arg(long, help_heading = OUTPUT)]
    wide: bool,
    /// Write the same, with the last two weeks and what each release changed, as one web page to FILE
    ///
    /// What each mirror serves is remembered in the cache of this user, for a page that is written while it does not
    /// answer.
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    html: Option<PathBuf>,
    /// Put also the URLs to which is pushed and the texts of errors on the page, for people who run the mirrors
    #[arg(long, requires = "html", help_heading = OUTPUT)]
    internal: bool,
    /// Write the same as gauges to FILE, for the textfile collector of Prometheus
    #[arg(long, value_name = "FILE.prom", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    metrics: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Serialize)]
struct StatusOutput<'a> {
    headwater: &'static str,
    version: u32,
    mirrors: &'a [MirrorStatus],
}

/// Runs `headwater status`.
pub(crate) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    if args.check {
        return check::run(StatusLimits { warn: args.warn, crit: args.crit }, || Ok(look(&open(args)?, args)));
    }
    let mut watcher = open(args)?;
    let exit = loop {
        let look = look(&watcher, args);
        if watcher.progress.is_cancelled() {
            return Err(Failure::new(Exit::Interrupted, "stopped before all mirrors had answered"));
        }
        let exit = show(&look, args)?;
        write(&watcher, &look, args)?;
        let Some(time) = args.watch else { break exit };
        if !pause(time, &watcher.progress) {
            break exit;
        }
        watcher.begin_anew()?;
    };
    watcher.progress.finish();
    Ok(exit)
}

fn open(args: &StatusArgs) -> Result<Watcher, Failure> {
    Watcher::new(&args.mirrors.mirrors, &args.remote, &args.config, &args.output)
}

fn look(watcher: &Watcher, args: &StatusArgs) -> FleetLook {
    let mut look = watcher.look();
    if args.public {
        watcher.look_at_public(&mut look);
    }
    if args.disk {
        watcher.look_at_disk(&mut look);
    }
    let noted = args.html.as_ref().map(|_| look.now);
    last_seen::recall(&mut look.mirror_statuses, &watcher.config, noted);
    look
}

/// Tells of one look, and how the program would end with it.
fn show(look: &FleetLook, args: &StatusArgs) -> Result<Exit, Failure> {
    let is_well = look.mirror_statuses.iter().all(MirrorStatus::is_well);
    if args.output.json {
        print_json(&StatusOutput { headwater: "status", version: 1, mirrors: &look.mirror_statuses })?;
    } else if !(args.output.quiet && is_well) {
        let text = table::describe(&look.mirror_statuses, look.now, table::room(args.wide));
        print(&if args.watch.is_some() { table::afresh(&text, look.now) } else { text })?;
    }
    Ok(if is_well { Exit::Success } else { Exit::Failed })
}

/// Writes the files that were asked for.
fn write(watcher: &Watcher, look: &FleetLook, args: &StatusArgs) -> Result<(), Failure> {
    if let Some(path) = &args.metrics {
        let site = look.title(&watcher.config);
        let told =
            metrics::MetricsInputs { site: &site, mirror_statuses: &look.mirror_statuses, ended: None, now: look.now };
        metrics::write(path, &told).map_err(|error| not_written("--metrics", error))?;
    }
    if let Some(path) = &args.html {
        let html = page(watcher, look, args.internal).render();
        let written = fsx::replace_file(path, |out| out.write_all(html.as_bytes()));
        written.map_err(|error| not_written("--html", error))?;
    }
    Ok(())
}

fn page<'a>(watcher: &'a Watcher, look: &'a FleetLook, is_internal: bool) -> page::StatusPage<'a> {
    let mut releases = Vec::new();
    for site in look.sites() {
        let known = fleet_status::releases(&look.seen, site);
        let before = std::iter::once(None).chain(known.iter().map(|release| Some(*release)));
        // How the oldest that is kept differs from the one before nobody knows any more.
        let diff = |old: Option<&_>, new| fleet_status::changes(&watcher.fleet, &look.seen, Some(old?), new);
        releases.extend(known.iter().zip(before).map(|(release, before)| (*release, diff(before, release))));
    }
    releases.reverse();
    page::StatusPage {
        title: look.title(&watcher.config),
        config: &watcher.config,
        is_internal,
        mirror_statuses: &look.mirror_statuses,
        seen: &look.seen,
        releases,
        // What the waves wait for is planned.
        tolerance: fleet_status::TOLERANCE_SECONDS
            + watcher.config.waves.iter().map(|wave| wave.soak.as_secs()).sum::<u64>(),
        now: look.now,
    }
}

fn not_written(flag: &str, error: fsx::IoError) -> Failure {
    Failure::new(Exit::Failed, error).with_hint(format!("{flag} names a file in a directory that can be written"))
}
