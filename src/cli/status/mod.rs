//! `headwater status`: how the mirrors stand, once or again and again, for
//! people, programs and monitors.

mod check;
mod page;
mod table;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueHint};
use headwater::config::{Config, parse_duration};
use headwater::fsx;
use headwater::monitor::Monitor as _;
use headwater::push::Fleet;
use headwater::tree_path::Site;
use headwater::watch::{self, Limits, Seen, Standing};
use serde::Serialize;

use super::args::{ConfigArgs, MirrorsArgs, OUTPUT, OutputArgs, RemoteArgs};
use super::context;
use super::failure::{Exit, Failure};
use super::metrics;
use super::output::{print, print_json};
use super::progress::Progress;
use super::remote::Reach;
use super::{load_config, places};

/// Between two looks without another word.
const PAUSE: &str = "5s";
/// How soon a wish to stop is noticed.
const TICK: Duration = Duration::from_millis(50);

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
    /// A mirror that cannot be asked, one that diverged and one with faults are a warning; lag decides by --warn and
    /// --crit. Where no mirror can be asked it is unknown. Frozen mirrors do not count.
    #[arg(long, conflicts_with = "json", help_heading = OUTPUT)]
    check: bool,
    /// With --check: warn of a mirror that lags more than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h", help_heading = OUTPUT)]
    warn: Duration,
    /// With --check: critical is a mirror that lags more than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h", help_heading = OUTPUT)]
    crit: Duration,
    /// Write the same, with the last two weeks and what each release changed, as one web page to FILE
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    html: Option<PathBuf>,
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
struct Answer<'a> {
    headwater: &'static str,
    version: u32,
    mirrors: &'a [Standing],
}

/// What was seen at one look.
struct Look {
    seen: Vec<Seen>,
    standings: Vec<Standing>,
    now: u64,
}

/// Whom to ask, and what is known of them without asking.
struct Watcher {
    config: Config,
    fleet: Fleet,
    progress: Progress,
}

impl Watcher {
    fn new(args: &StatusArgs) -> Result<Self, Failure> {
        let config = load_config(&args.config)?;
        let choices = places::of_mirrors(&args.mirrors.mirrors, &config)?;
        let reach = Reach::new(&args.remote, None, context::DEFAULT_WAIT, context::jobs(None));
        let fleet = reach.fleet(&choices, None)?;
        // What went wrong stands in the answer.
        let progress = Progress::start(&OutputArgs { quiet: true, ..args.output.clone() })?;
        Ok(Self { config, fleet, progress })
    }

    fn look(&self) -> Look {
        let seen = watch::survey(&self.fleet, &self.progress);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_frozen = |name: &str| self.config.mirror(name).is_some_and(|mirror| mirror.is_frozen(now));
        let standings = watch::judge(&seen, is_frozen, now);
        Look { seen, standings, now }
    }

    /// Writes the files that were asked for.
    fn write(&self, look: &Look, args: &StatusArgs) -> Result<(), Failure> {
        if let Some(path) = &args.metrics {
            let site = look.title();
            let told = metrics::Told { site: &site, standings: &look.standings, ended: None, now: look.now };
            metrics::write(path, &told).map_err(|error| not_written("--metrics", error))?;
        }
        if let Some(path) = &args.html {
            let html = self.page(look).render();
            let written = fsx::replace_file(path, |out| out.write_all(html.as_bytes()));
            written.map_err(|error| not_written("--html", error))?;
        }
        Ok(())
    }

    fn page<'a>(&self, look: &'a Look) -> page::Page<'a> {
        let mut releases = Vec::new();
        for site in look.sites() {
            let known = watch::releases(&look.seen, site);
            let before = std::iter::once(None).chain(known.iter().map(|release| Some(*release)));
            // How the oldest that is kept differs from the one before nobody knows any more.
            let diff = |old: Option<&_>, new| watch::changes(&self.fleet, &look.seen, Some(old?), new);
            releases.extend(known.iter().zip(before).map(|(release, before)| (*release, diff(before, release))));
        }
        releases.reverse();
        page::Page { title: look.title(), standings: &look.standings, seen: &look.seen, releases, now: look.now }
    }
}

impl Look {
    /// The sites of the mirrors, each once.
    fn sites(&self) -> BTreeSet<&Site> {
        self.standings.iter().filter_map(|standing| standing.site.as_ref()).collect()
    }

    fn title(&self) -> String {
        let names: Vec<&str> = self.sites().into_iter().map(Site::as_str).collect();
        names.join(", ")
    }
}

fn not_written(flag: &str, error: fsx::IoError) -> Failure {
    Failure::new(Exit::Failed, error).with_hint(format!("{flag} names a file in a directory that can be written"))
}

/// Runs `headwater status`.
pub(crate) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    if args.check {
        return check::run(Limits { warn: args.warn, crit: args.crit }, || Ok(Watcher::new(args)?.look().standings));
    }
    let watcher = Watcher::new(args)?;
    let exit = loop {
        let look = watcher.look();
        let exit = show(&look, args)?;
        watcher.write(&look, args)?;
        let Some(pause) = args.watch else { break exit };
        if !wait(&watcher.progress, pause) {
            break exit;
        }
    };
    watcher.progress.finish();
    Ok(exit)
}

/// Waits, and answers whether to go on.
fn wait(progress: &Progress, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    while Instant::now() < until && !progress.is_cancelled() {
        std::thread::sleep(TICK.min(pause));
    }
    !progress.is_cancelled()
}

/// Tells of one look, and how the program would end with it.
fn show(look: &Look, args: &StatusArgs) -> Result<Exit, Failure> {
    let is_well = look.standings.iter().all(|standing| standing.state.is_well());
    if args.output.json {
        print_json(&Answer { headwater: "status", version: 1, mirrors: &look.standings })?;
    } else if !(args.output.quiet && is_well) {
        let text = table::describe(&look.standings, look.now);
        print(&if args.watch.is_some() { table::afresh(&text, look.now) } else { text })?;
    }
    Ok(if is_well { Exit::Success } else { Exit::Failed })
}
