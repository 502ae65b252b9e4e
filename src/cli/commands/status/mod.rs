//! `headwater status`: the state of each mirror, once or repeatedly, for
//! people, programs and monitoring.

mod check;
mod last_seen;
mod page;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use headwater::cancel::sleep_unless_cancelled;
use headwater::config::parse_duration;
use headwater::fleet_status::{self, MirrorStatus, StatusLimits};
use headwater::fsx;
use headwater::monitor::Monitor as _;
use serde::Serialize;

use crate::cli::args::{ConfigArgs, MirrorsArgs, OUTPUT, OutputArgs, RemoteArgs};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::next_steps::print_hints;
use crate::cli::output::print::{print, print_json};
use crate::cli::output::{hints, metrics};
use crate::cli::setup::fleet_poller::{FleetPoll, FleetPoller};

/// Default pause between polls, for `--watch`.
const PAUSE: &str = "5s";

/// The arguments of `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    mirrors: MirrorsArgs,
    /// Repeat until Ctrl-C, waiting PAUSE between polls
    #[arg(
        long,
        value_name = "PAUSE",
        value_parser = parse_duration,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = PAUSE,
        conflicts_with = "check",
        help_heading = OUTPUT
    )]
    watch: Option<Duration>,
    /// Print one line and return the code of a monitoring plug-in: 0 OK, 1 WARNING, 2 CRITICAL, 3
    /// UNKNOWN
    ///
    /// --warn and --crit limit the lag. A mirror that cannot be reached, has diverged, has faults
    /// or has a failed post_activate command causes a WARNING, and so does a token or certificate
    /// that expires within 14 days. If no mirror can be reached, the result is UNKNOWN. Frozen
    /// mirrors do not count.
    #[arg(long, conflicts_with = "json", help_heading = OUTPUT)]
    check: bool,
    /// With --check: return WARNING if a mirror lags by more than this
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "1h",
        help_heading = OUTPUT
    )]
    warn: Duration,
    /// With --check: return CRITICAL if a mirror lags by more than this
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "24h",
        help_heading = OUTPUT
    )]
    crit: Duration,
    /// Also check what visitors get: fetch recently changed files through the `public_url` of each
    /// mirror
    #[arg(long, help_heading = OUTPUT)]
    public: bool,
    /// Show the disk space that each mirror uses; this reads the manifests of all kept releases
    /// from each mirror
    #[arg(long, help_heading = OUTPUT)]
    disk: bool,
    /// Show all columns, even if the table is wider than the terminal
    #[arg(long, help_heading = OUTPUT)]
    wide: bool,
    /// Write one web page to FILE, with the status, the last two weeks and the changes in each
    /// release
    ///
    /// If a mirror does not respond, the page shows what it last served, as recorded in this user's
    /// cache.
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    html: Option<PathBuf>,
    /// Include push URLs and error texts in the page, for people who run the mirrors
    #[arg(long, requires = "html", help_heading = OUTPUT)]
    internal: bool,
    /// Write the status as gauges to FILE, for Prometheus's textfile collector
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

pub(crate) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    // Handled before anything can fail, because every failure must become a plug-in line.
    if args.check {
        return check::run(StatusLimits { warn: args.warn, crit: args.crit }, || {
            Ok(poll_fleet(&open_poller(args)?, args))
        });
    }
    let mut poller = open_poller(args)?;
    let exit = loop {
        let fleet_poll = poll_fleet(&poller, args);
        // The signal ended the polls, so they failed, but their mirrors may be fine: show nothing.
        if poller.progress.is_cancelled() {
            return Err(Failure::new(
                Exit::Interrupted,
                "interrupted before all mirrors responded",
            ));
        }
        let exit = print_status(&fleet_poll, args)?;
        // With `--watch` the hints would be repeated below each table.
        if args.watch.is_none() {
            let failures = fleet_poll.polls.iter().filter_map(|poll| poll.state.as_ref().err());
            print_hints(failures.filter_map(hints::read_error_hint).collect())?;
        }
        write_files(&poller, &fleet_poll, args)?;
        let Some(time) = args.watch else { break exit };
        if !sleep_unless_cancelled(time, &poller.progress) {
            break exit;
        }
        // A deadline counts from a mirror's creation, so each round needs new mirrors.
        poller.recreate_fleet()?;
    };
    poller.progress.finish();
    Ok(exit)
}

fn open_poller(args: &StatusArgs) -> Result<FleetPoller, Failure> {
    FleetPoller::new(&args.mirrors.mirrors, &args.remote, &args.config, &args.output)
}

fn poll_fleet(poller: &FleetPoller, args: &StatusArgs) -> FleetPoll {
    let mut fleet_poll = poller.poll();
    if args.public {
        poller.add_public_checks(&mut fleet_poll);
    }
    if args.disk {
        poller.add_disk_usage(&mut fleet_poll);
    }
    // Only the page shows what unresponsive mirrors last served, so only runs that make a page
    // write the file.
    let noted = args.html.as_ref().map(|_| fleet_poll.now);
    last_seen::fill_last_seen(&mut fleet_poll.mirror_statuses, &poller.config, noted);
    fleet_poll
}

/// Prints one poll and returns its exit code.
fn print_status(fleet_poll: &FleetPoll, args: &StatusArgs) -> Result<Exit, Failure> {
    let is_well = fleet_poll.mirror_statuses.iter().all(MirrorStatus::is_healthy);
    if args.output.json {
        print_json(&StatusOutput {
            headwater: "status",
            version: 1,
            mirrors: &fleet_poll.mirror_statuses,
        })?;
    } else if !(args.output.quiet && is_well) {
        let text = table::describe(
            &fleet_poll.mirror_statuses,
            fleet_poll.now,
            table::width_limit(args.wide),
        );
        print(&if args.watch.is_some() { table::redrawn(&text, fleet_poll.now) } else { text })?;
    }
    Ok(if is_well { Exit::Success } else { Exit::Failed })
}

/// Writes the files that `--html` and `--metrics` name.
fn write_files(
    poller: &FleetPoller,
    fleet_poll: &FleetPoll,
    args: &StatusArgs,
) -> Result<(), Failure> {
    if let Some(path) = &args.metrics {
        let site = fleet_poll.title(&poller.config);
        let inputs = metrics::MetricsInputs {
            site: &site,
            mirror_statuses: &fleet_poll.mirror_statuses,
            push: None,
            now: fleet_poll.now,
        };
        metrics::write(path, &inputs).map_err(|error| write_failure("--metrics", error))?;
    }
    if let Some(path) = &args.html {
        let html = build_page(poller, fleet_poll, args.internal).render();
        let written = fsx::replace_file(path, |out| out.write_all(html.as_bytes()));
        written.map_err(|error| write_failure("--html", error))?;
    }
    Ok(())
}

fn build_page<'a>(
    poller: &'a FleetPoller,
    fleet_poll: &'a FleetPoll,
    is_internal: bool,
) -> page::StatusPage<'a> {
    let mut releases = Vec::new();
    for site in fleet_poll.sites() {
        let known = fleet_status::releases(&fleet_poll.polls, site);
        let before = std::iter::once(None).chain(known.iter().map(|release| Some(*release)));
        // The release before the oldest kept release is gone, so the changes in the oldest kept
        // release are unknown.
        let diff = |old: Option<&_>, new| {
            fleet_status::changes(&poller.fleet, &fleet_poll.polls, Some(old?), new)
        };
        releases.extend(
            known.iter().zip(before).map(|(release, before)| (*release, diff(before, release))),
        );
    }
    releases.reverse();
    page::StatusPage {
        title: fleet_poll.title(&poller.config),
        config: &poller.config,
        is_internal,
        mirror_statuses: &fleet_poll.mirror_statuses,
        polls: &fleet_poll.polls,
        releases,
        // The soak times of the waves are planned, so they do not count as delay.
        tolerance: fleet_status::LATE_TOLERANCE_SECONDS
            + poller.config.waves.iter().map(|wave| wave.soak.as_secs()).sum::<u64>(),
        now: fleet_poll.now,
    }
}

fn write_failure(flag: &str, error: fsx::IoError) -> Failure {
    Failure::new(Exit::Failed, error)
        .with_hint(format!("name a file in a writable directory with {flag}"))
}
