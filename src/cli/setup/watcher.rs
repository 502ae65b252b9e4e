//! Polls the mirrors, for the commands that report their state.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater::config::{Config, MirrorConfig};
use headwater::fleet_status::{self, MirrorStatus, Poll, StatusKind};
use headwater::push::Fleet;
use headwater::threads;
use headwater::tree_path::Site;
use headwater::web::Web;

use crate::cli::args::operands::MirrorChoice;
use crate::cli::args::{ConfigArgs, OutputArgs, RemoteArgs, operands};
use crate::cli::output::failure::Failure;
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::context;
use crate::cli::setup::remote::{MirrorFactory, check_there};

/// Maximum time to fetch one file through a public URL.
const PATIENCE: Duration = Duration::from_secs(20);

/// The result of one poll of the fleet.
pub(crate) struct FleetLook {
    /// The polls of the mirrors, in the order of the mirrors.
    pub(crate) seen: Vec<Poll>,
    /// The states of the mirrors, worst first.
    pub(crate) mirror_statuses: Vec<MirrorStatus>,
    /// The time of the poll, in seconds since 1970.
    pub(crate) now: u64,
}

fn factory(
    remote: &RemoteArgs,
    choices: &[MirrorChoice],
    config: &Config,
) -> Result<Fleet, Failure> {
    MirrorFactory::new(remote, None, config).fleet(choices, remote.site.as_ref())
}

/// The mirrors to poll, and their configuration.
pub(crate) struct Watcher {
    pub(crate) config: Config,
    pub(crate) fleet: Fleet,
    pub(crate) progress: Progress,
    choices: Vec<MirrorChoice>,
    remote: RemoteArgs,
}

impl Watcher {
    /// Creates a watcher without opening connections.
    pub(crate) fn new(
        mirrors: &[String],
        remote: &RemoteArgs,
        config: &ConfigArgs,
        output: &OutputArgs,
    ) -> Result<Self, Failure> {
        let config = load_config(config)?;
        let choices = operands::of_mirrors(mirrors, &config)?;
        check_there(&choices, &config)?;
        let fleet = factory(remote, &choices, &config)?;
        // Quiet, because the result lists every mirror and its failure.
        let progress = Progress::of_answer(&OutputArgs { quiet: true, ..output.clone() })?;
        Ok(Self { config, fleet, progress, choices, remote: remote.clone() })
    }

    /// Starts the deadlines anew.
    pub(crate) fn begin_anew(&mut self) -> Result<(), Failure> {
        self.fleet = factory(&self.remote, &self.choices, &self.config)?;
        Ok(())
    }

    /// Polls all mirrors and evaluates their state.
    pub(crate) fn look(&self) -> FleetLook {
        let mut seen = fleet_status::poll(&self.fleet, &self.progress);
        let stores = context::known_stores(None, &self.config);
        for one in &mut seen {
            let found = one.state.as_ref().ok().map(|state| state.store);
            if let Some(Err(error)) =
                found.map(|found| stores.check(&one.mirror, &one.location, found))
            {
                // A different store than before does not show the state of this mirror: its volume
                // may not be mounted.
                one.state = Err(error);
            }
        }
        look(seen, &self.config)
    }

    /// Adds the disk space of the releases of every mirror that responded.
    pub(crate) fn look_at_disk(&self, look: &mut FleetLook) {
        let (mirrors, seen) = (self.fleet.mirrors(), &look.seen);
        let measure = |mirror_status: &mut MirrorStatus| {
            let is_it = |one: &Poll| {
                one.location == mirror_status.location && one.mirror == mirror_status.mirror
            };
            let index = seen.iter().position(is_it)?;
            let state = seen[index].state.as_ref().ok()?;
            match fleet_status::usage(&*mirrors[index], state) {
                Ok(usage) => mirror_status.usage = Some(usage),
                Err(error) => {
                    mirror_status.error = Some(format!("its disk space is not known: {error}"));
                }
            }
            Some(())
        };
        threads::each(&mut look.mirror_statuses, measure);
    }

    /// Adds what visitors get from every mirror that has a public URL and a known release.
    pub(crate) fn look_at_public(&self, look: &mut FleetLook) {
        let web = Web::new(PATIENCE);
        let (mirrors, seen) = (self.fleet.mirrors(), &look.seen);
        let visit = |mirror_status: &mut MirrorStatus| {
            let index = seen.iter().position(|one| {
                one.location == mirror_status.location && one.mirror == mirror_status.mirror
            })?;
            let url = self.config.mirror(&mirror_status.mirror)?.public_url.as_ref()?.as_str();
            let release = seen[index].state.as_ref().ok()?.current_release()?;
            mirror_status.public = Some(fleet_status::look(&web, url, &*mirrors[index], release));
            Some(())
        };
        threads::each(&mut look.mirror_statuses, visit);
    }
}

/// Evaluates polls of the mirrors.
pub(crate) fn look(seen: Vec<Poll>, config: &Config) -> FleetLook {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_frozen = |name: &str| {
        config.all_mirrors().any(|mirror| mirror.name.as_str() == name && mirror.is_frozen(now))
    };
    let mirror_statuses = fleet_status::evaluate(&seen, is_frozen, now);
    FleetLook { seen, mirror_statuses, now }
}

impl FleetLook {
    /// The sites of the mirrors, each once.
    pub(crate) fn sites(&self) -> BTreeSet<&Site> {
        self.mirror_statuses
            .iter()
            .filter_map(|mirror_status| mirror_status.site.as_ref())
            .collect()
    }

    /// The sites as text. If no mirror has a site, the site of the configuration.
    pub(crate) fn title(&self, config: &Config) -> String {
        let mut sites = self.sites();
        if sites.is_empty() {
            sites.extend(&config.site);
        }
        sites.into_iter().map(Site::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The configured mirrors that serve the newest release. Leaves out mirrors whose visitors get
    /// stale files, if that was checked.
    pub(crate) fn proven<'c>(&self, config: &'c Config) -> Vec<&'c MirrorConfig> {
        let is_proven = |mirror_status: &&MirrorStatus| {
            // Only mirrors that are proven current, because a load balancer or a client is sent to
            // them.
            mirror_status.state == StatusKind::Current && !mirror_status.is_stale()
        };
        self.mirror_statuses
            .iter()
            .filter(is_proven)
            .filter_map(|mirror_status| config.mirror(&mirror_status.mirror))
            .collect()
    }
}
