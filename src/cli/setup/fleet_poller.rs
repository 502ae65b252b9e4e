//! Polls the mirrors, for the commands that report their state.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater::config::{Config, MirrorConfig};
use headwater::fleet_status::{self, MirrorStatus, Poll, StatusKind};
use headwater::push::Fleet;
use headwater::threads;
use headwater::tree_path::Site;
use headwater::web::HttpClient;

use crate::cli::args::operands::MirrorChoice;
use crate::cli::args::{ConfigArgs, OutputArgs, RemoteArgs, operands};
use crate::cli::output::failure::Failure;
use crate::cli::output::progress::Progress;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::{MirrorFactory, check_directories_exist};
use crate::cli::setup::options;

/// Maximum time to fetch one file through a public URL.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// The result of one poll of the fleet.
pub(crate) struct FleetPoll {
    /// The poll results, in the order of the mirrors.
    pub(crate) polls: Vec<Poll>,
    /// The states of the mirrors, worst first.
    pub(crate) mirror_statuses: Vec<MirrorStatus>,
    /// The time of the poll, in seconds since 1970.
    pub(crate) now: u64,
}

fn create_fleet(
    remote: &RemoteArgs,
    choices: &[MirrorChoice],
    config: &Config,
) -> Result<Fleet, Failure> {
    MirrorFactory::new(remote, None, config).fleet(choices, remote.site.as_ref())
}

/// The mirrors to poll, and their configuration.
pub(crate) struct FleetPoller {
    pub(crate) config: Config,
    pub(crate) fleet: Fleet,
    pub(crate) progress: Progress,
    choices: Vec<MirrorChoice>,
    remote: RemoteArgs,
}

impl FleetPoller {
    /// Creates a poller without opening connections.
    pub(crate) fn new(
        mirrors: &[String],
        remote: &RemoteArgs,
        config: &ConfigArgs,
        output: &OutputArgs,
    ) -> Result<Self, Failure> {
        let config = load_config(config)?;
        let choices = operands::resolve_mirrors(mirrors, &config)?;
        check_directories_exist(&choices, &config)?;
        let fleet = create_fleet(remote, &choices, &config)?;
        // Quiet, because the result lists every mirror and its failure.
        let progress =
            Progress::without_mirror_failures(&OutputArgs { quiet: true, ..output.clone() })?;
        Ok(Self { config, fleet, progress, choices, remote: remote.clone() })
    }

    /// Creates the mirrors again, so that their deadlines restart.
    pub(crate) fn recreate_fleet(&mut self) -> Result<(), Failure> {
        self.fleet = create_fleet(&self.remote, &self.choices, &self.config)?;
        Ok(())
    }

    /// Polls all mirrors and evaluates their state.
    pub(crate) fn poll(&self) -> FleetPoll {
        let mut polls = fleet_status::poll(&self.fleet, &self.progress);
        let stores = options::known_stores(None, &self.config);
        for one in &mut polls {
            let found = one.state.as_ref().ok().map(|state| state.store);
            if let Some(Err(error)) =
                found.map(|found| stores.check(&one.mirror, &one.location, found))
            {
                // A store that is not the expected one says nothing about this mirror, whose volume
                // may not be mounted.
                one.state = Err(error);
            }
        }
        evaluate_polls(polls, &self.config)
    }

    /// Adds the disk space that the releases use on every mirror that responded.
    pub(crate) fn add_disk_usage(&self, fleet_poll: &mut FleetPoll) {
        let (mirrors, polls) = (self.fleet.mirrors(), &fleet_poll.polls);
        let measure = |mirror_status: &mut MirrorStatus| {
            let is_it = |one: &Poll| {
                one.location == mirror_status.location && one.mirror == mirror_status.mirror
            };
            let index = polls.iter().position(is_it)?;
            let state = polls[index].state.as_ref().ok()?;
            match fleet_status::usage(&*mirrors[index], state) {
                Ok(usage) => mirror_status.usage = Some(usage),
                Err(error) => {
                    mirror_status.error = Some(format!("its disk space is not known: {error}"));
                }
            }
            Some(())
        };
        threads::each(&mut fleet_poll.mirror_statuses, measure);
    }

    /// Adds what visitors get from every mirror that has a public URL and a known release.
    pub(crate) fn add_public_checks(&self, fleet_poll: &mut FleetPoll) {
        let web = HttpClient::new(FETCH_TIMEOUT);
        let (mirrors, polls) = (self.fleet.mirrors(), &fleet_poll.polls);
        let visit = |mirror_status: &mut MirrorStatus| {
            let index = polls.iter().position(|one| {
                one.location == mirror_status.location && one.mirror == mirror_status.mirror
            })?;
            let url = self.config.mirror(&mirror_status.mirror)?.public_url.as_ref()?.as_str();
            let release = polls[index].state.as_ref().ok()?.current_release()?;
            mirror_status.public =
                Some(fleet_status::check_public(&web, url, &*mirrors[index], release));
            Some(())
        };
        threads::each(&mut fleet_poll.mirror_statuses, visit);
    }
}

/// Evaluates poll results.
pub(crate) fn evaluate_polls(polls: Vec<Poll>, config: &Config) -> FleetPoll {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_frozen = |name: &str| {
        config.all_mirrors().any(|mirror| mirror.name.as_str() == name && mirror.is_frozen(now))
    };
    let mirror_statuses = fleet_status::evaluate(&polls, is_frozen, now);
    FleetPoll { polls, mirror_statuses, now }
}

impl FleetPoll {
    /// The sites of the mirrors, each once.
    pub(crate) fn sites(&self) -> BTreeSet<&Site> {
        self.mirror_statuses
            .iter()
            .filter_map(|mirror_status| mirror_status.site.as_ref())
            .collect()
    }

    /// The sites as text. If no mirror has a site, the site from the configuration.
    pub(crate) fn title(&self, config: &Config) -> String {
        let mut sites = self.sites();
        if sites.is_empty() {
            sites.extend(&config.site);
        }
        sites.into_iter().map(Site::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The configured mirrors that serve the newest release. Leaves out mirrors whose visitors get
    /// stale files, if that was checked.
    pub(crate) fn proven_current<'c>(&self, config: &'c Config) -> Vec<&'c MirrorConfig> {
        let is_proven = |mirror_status: &&MirrorStatus| {
            // Only mirrors that are proven current, because load balancers and clients are sent to
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
