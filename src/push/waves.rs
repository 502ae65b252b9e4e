//! Switches wave by wave: which mirrors switch first, how long they soak, and which probes must
//! succeed before the next wave starts.
//!
//! The policy defines the waves. [`Rollout::activate`] switches the mirrors in one wave.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cancel::{run_until_cancelled, sleep_unless_cancelled};
use crate::hash::ObjectId;
use crate::monitor::{Event, Monitor as _};
use crate::push::PushError;
use crate::push::context::PushContext;
use crate::push::options::{OnFailure, Options, Probe, Wave};
use crate::push::outcome::Outcome;
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::rollout::Rollout;
use crate::threads;
use crate::web::HttpClient;

/// Maximum duration of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The content and size that probes expect, by path.
pub(super) type ExpectedProbes = BTreeMap<String, (ObjectId, u64)>;

/// The result of switching.
#[derive(Debug, Default)]
pub(super) struct WavesResult {
    /// Another push got there first, but this one is newer.
    pub(super) must_retry: bool,
    /// Why not all ready mirrors switched.
    pub(super) stopped: Option<String>,
    /// The mirrors, by index, that must revert to their previous content.
    pub(super) to_revert: Vec<usize>,
    /// The longest time between the first and the last switch of any wave, in milliseconds.
    pub(super) spread_ms: Option<u64>,
}

/// The content that the probes of all waves expect, taken from the release.
///
/// # Errors
/// If a probe requests a path that is not a file in the release, because it could never succeed.
pub(super) fn expected_probes(
    publication: &Publication,
    options: &Options,
) -> Result<ExpectedProbes, PushError> {
    let mut wanted: Vec<&str> = options
        .policy
        .waves
        .iter()
        .flat_map(|wave| &wave.probes)
        .map(|probe| probe.path.as_str())
        .collect();
    let mut expected = ExpectedProbes::new();
    if wanted.is_empty() {
        return Ok(expected);
    }
    for entry in publication.new_entries().map_err(PushError::NewManifest)? {
        let entry = entry.map_err(PushError::NewManifest)?;
        if let Some(file) =
            entry.file().filter(|_| entry.is_live() && wanted.contains(&entry.path.as_str()))
        {
            expected.insert(entry.path.to_string(), (file.object, file.size));
        }
    }
    wanted.retain(|path| !expected.contains_key(*path));
    match wanted.first() {
        Some(path) => Err(PushError::ProbePathMissing { path: (*path).to_owned() }),
        None => Ok(expected),
    }
}

impl Rollout<'_> {
    /// Switches the staged mirrors, wave by wave, and records the outcomes.
    pub(super) fn switch(&mut self, expected: &ExpectedProbes) -> Result<WavesResult, PushError> {
        let PushContext { options, monitor, .. } = self.context;
        let on_failure = options.policy.on_failure;
        let mut switched = WavesResult::default();
        let mut has_lead = false;
        for (number, (mut staged, wave)) in (1..).zip(self.waves()) {
            staged.retain(|mirror| self.mirrors[mirror.index].is(&Outcome::Staged));
            if staged.is_empty() {
                continue;
            }
            // Once a mirror serves the release, the race is decided, so later waves need no lead.
            if has_lead {
                self.activate_all(&staged);
            } else if self.activate(&staged)? {
                return Ok(WavesResult { must_retry: true, ..switched });
            }
            let of_wave = self.activated(staged.iter().map(|mirror| mirror.index));
            let of_all = self.activated(0..self.mirrors.len());
            has_lead |= !of_wave.is_empty();
            let names = of_all.iter().map(|index| self.mirrors[*index].push.name());
            switched.spread_ms = monitor.spread_ms(names);
            if of_wave.len() < staged.len() && on_failure == OnFailure::Revert {
                let missing = staged.len() - of_wave.len();
                let stopped = format!("{missing} of {} mirrors did not switch", staged.len());
                switched.stopped = Some(stopped);
                switched.to_revert = of_all;
            // A wave in which no mirror switched says nothing about the release.
            } else if of_wave.is_empty() && wave.is_some() {
                switched.stopped = Some(format!("no mirror of wave {number} switched"));
            } else if let Some(wave) = wave {
                let is_last = !self.mirrors.iter().any(|run| run.is(&Outcome::Staged));
                if let Err(error) = soak_and_probe((number, wave), is_last, expected, monitor) {
                    switched.stopped = Some(format!("wave {number}: {error}"));
                    switched.to_revert = match (error, on_failure) {
                        // A request to stop is not evidence against the release.
                        (WaveStop::Cancelled, _) => Vec::new(),
                        (WaveStop::ProbeFailed(_), OnFailure::Leave) => of_wave,
                        (WaveStop::ProbeFailed(_), OnFailure::Revert) => of_all,
                    };
                }
            }
            if switched.stopped.is_some() {
                return Ok(switched);
            }
        }
        Ok(switched)
    }

    /// The `members` that switched to the release.
    fn activated(&self, members: impl Iterator<Item = usize>) -> Vec<usize> {
        members.filter(|index| self.mirrors[*index].is(&Outcome::Activated)).collect()
    }
}

/// Why no further wave switches.
#[derive(Debug, thiserror::Error)]
enum WaveStop {
    #[error("stopped during the soak or the probe; the wave serves the release")]
    Cancelled,
    #[error("{0}")]
    ProbeFailed(String),
}

/// Waits for a wave's soak time and then runs its probes.
fn soak_and_probe(
    (number, wave): (u64, &Wave),
    is_last: bool,
    expected: &ExpectedProbes,
    monitor: &PushMonitor<'_>,
) -> Result<(), WaveStop> {
    // With no further wave and nothing to check, there is nothing to wait for.
    if is_last && wave.probes.is_empty() {
        return Ok(());
    }
    soak(number, wave.soak, monitor)?;
    let web = HttpClient::new(PROBE_TIMEOUT);
    let results = threads::each(&wave.probes, |probe| run_probe(&web, probe, expected, monitor));
    let faults: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if monitor.is_cancelled() {
        return Err(WaveStop::Cancelled);
    }
    for message in &faults {
        monitor.event(Event::Warned { message: message.clone() });
    }
    match faults.into_iter().next() {
        Some(fault) => Err(WaveStop::ProbeFailed(fault)),
        None => Ok(()),
    }
}

/// Waits in small steps, because the user may cancel the push.
fn soak(wave: u64, time: Duration, monitor: &PushMonitor<'_>) -> Result<(), WaveStop> {
    if !time.is_zero() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        monitor.event(Event::SoakStarted {
            wave,
            seconds: time.as_secs(),
            until: (now + time).as_secs(),
        });
    }
    let has_soaked = sleep_unless_cancelled(time, monitor);
    if !time.is_zero() {
        monitor.event(Event::SoakEnded { wave });
    }
    if has_soaked { Ok(()) } else { Err(WaveStop::Cancelled) }
}

/// Fetches the URL of a probe and compares the content with the release. Stops if the push is
/// cancelled.
fn run_probe(
    web: &HttpClient,
    probe: &Probe,
    expected: &ExpectedProbes,
    monitor: &PushMonitor<'_>,
) -> Result<(), String> {
    let Probe { url, path } = probe;
    let (object, size) = expected
        .get(path.as_str())
        .ok_or_else(|| format!("probe {url}: the release does not have its path"))?;
    let web = web.clone();
    let asked = url.clone();
    let size = *size;
    // The caller reports a request to stop, once for all probes.
    let Some(fetched) = run_until_cancelled(monitor, move |_| web.fetch(&asked, size)) else {
        return Ok(());
    };
    match fetched {
        Ok(fetched) if fetched.object == *object => Ok(()),
        Ok(_) => Err(format!("probe {url}: visitors get content that differs from the release")),
        Err(error) => Err(format!("probe {url}: {error}")),
    }
}
