//! Switches wave by wave: which mirrors switch first, how long they soak, and which probes must
//! succeed before the next wave follows.
//!
//! This module defines the order; `activation` switches a single mirror.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cancel::{pause, until_cancelled};
use crate::hash::ObjectId;
use crate::monitor::{Event, Monitor as _};
use crate::push::options::{OnFailure, Options, Probe, Wave};
use crate::push::outcome::Outcome;
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::{PushError, activation};
use crate::threads;
use crate::web::Web;

/// Maximum time of one probe.
const PROBE: Duration = Duration::from_secs(10);

/// The content and size that probes expect, by path.
pub(super) type ExpectedProbes = BTreeMap<String, (ObjectId, u64)>;

/// The result of switching.
#[derive(Debug, Default)]
pub(super) struct WavesResult {
    /// Another push was quicker, but this one is newer.
    pub(super) is_again: bool,
    /// Why not all ready mirrors switched.
    pub(super) stopped: Option<String>,
    /// The mirrors, by index, that must revert to their previous content.
    pub(super) back: Vec<usize>,
    /// The longest time between the first and the last switch of a wave, in milliseconds.
    pub(super) spread_ms: Option<u64>,
}

/// The content of the release that the probes of all waves expect.
///
/// # Errors
/// If a probe requests a path that is not a file of the release: it could never succeed.
pub(super) fn expected(
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
        Some(path) => Err(PushError::NoProbe { path: (*path).to_owned() }),
        None => Ok(expected),
    }
}

/// The mirrors of each wave, by index: those of the policy, then all others.
pub(super) fn members<'o>(
    publication: &Publication,
    options: &'o Options,
) -> Vec<(Vec<usize>, Option<&'o Wave>)> {
    let name = |index: usize| publication.members[index].mirror.name();
    let mut left: Vec<usize> = (0..publication.members.len()).collect();
    let mut waves = Vec::new();
    for wave in &options.policy.waves {
        let (own, others) =
            left.into_iter().partition(|index| wave.mirrors.iter().any(|one| one == name(*index)));
        waves.push((own, Some(wave)));
        left = others;
    }
    waves.push((left, None));
    waves
}

/// Switches the staged mirrors, wave by wave, and records the outcomes.
pub(super) fn switch(
    publication: &Publication,
    expected: &ExpectedProbes,
    outcomes: &mut [Option<Outcome>],
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<WavesResult, PushError> {
    let mut switched = WavesResult::default();
    let mut is_led = false;
    for (number, (members, wave)) in (1..).zip(members(publication, options)) {
        let staged: Vec<usize> =
            members.into_iter().filter(|index| outcomes[*index] == Some(Outcome::Staged)).collect();
        if staged.is_empty() {
            continue;
        }
        if is_led {
            activation::activate_all(publication, &staged, outcomes, options, monitor);
        } else if activation::activate(publication, &staged, outcomes, options, monitor)? {
            return Ok(WavesResult { is_again: true, ..switched });
        }
        let on = |outcome: &Outcome| {
            staged.iter().filter(|index| outcomes[**index].as_ref() == Some(outcome)).count()
        };
        let activated = on(&Outcome::Activated);
        is_led |= activated > 0;
        let all = activated_of(outcomes, 0..outcomes.len());
        switched.spread_ms =
            monitor.spread_ms(all.iter().map(|index| activation::name(publication, *index)));
        if activated < staged.len() && options.policy.on_failure == OnFailure::Revert {
            switched.stopped = Some(format!(
                "{} of {} mirrors did not switch",
                staged.len() - activated,
                staged.len()
            ));
            switched.back = activated_of(outcomes, 0..outcomes.len());
        } else if activated == 0 && wave.is_some() {
            switched.stopped = Some(format!("no mirror of wave {number} switched"));
        } else if let Some(wave) = wave {
            let is_last = !outcomes.contains(&Some(Outcome::Staged));
            if let Err(error) = watch((number, wave), is_last, expected, monitor) {
                switched.stopped = Some(format!("wave {number}: {error}"));
                switched.back = match (error, options.policy.on_failure) {
                    (BadProbe::Cancelled, _) => Vec::new(),
                    (BadProbe::Probe(_), OnFailure::Leave) => activated_of(outcomes, staged),
                    (BadProbe::Probe(_), OnFailure::Revert) => {
                        activated_of(outcomes, 0..outcomes.len())
                    }
                };
            }
        }
        if switched.stopped.is_some() {
            return Ok(switched);
        }
    }
    Ok(switched)
}

fn activated_of(outcomes: &[Option<Outcome>], of: impl IntoIterator<Item = usize>) -> Vec<usize> {
    of.into_iter().filter(|index| outcomes[*index] == Some(Outcome::Activated)).collect()
}

/// Why no further wave switches.
#[derive(Debug, thiserror::Error)]
enum BadProbe {
    #[error("stopped while it was looked at; it has the release")]
    Cancelled,
    #[error("{0}")]
    Probe(String),
}

/// Waits for the soak time of a wave and then runs its probes.
fn watch(
    (number, wave): (u64, &Wave),
    is_last: bool,
    expected: &ExpectedProbes,
    monitor: &PushMonitor<'_>,
) -> Result<(), BadProbe> {
    if is_last && wave.probes.is_empty() {
        return Ok(());
    }
    soak(number, wave.soak, monitor)?;
    let web = Web::new(PROBE);
    let looked = threads::each(&wave.probes, |probe| look(&web, probe, expected, monitor));
    let faults: Vec<String> = looked.into_iter().filter_map(Result::err).collect();
    if monitor.is_cancelled() {
        return Err(BadProbe::Cancelled);
    }
    for message in &faults {
        monitor.event(Event::Warned { message: message.clone() });
    }
    match faults.into_iter().next() {
        Some(fault) => Err(BadProbe::Probe(fault)),
        None => Ok(()),
    }
}

/// Waits in small steps, because the user may cancel the push.
fn soak(wave: u64, time: Duration, monitor: &PushMonitor<'_>) -> Result<(), BadProbe> {
    if !time.is_zero() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        monitor.event(Event::SoakStarted {
            wave,
            seconds: time.as_secs(),
            until: (now + time).as_secs(),
        });
    }
    let has_soaked = pause(time, monitor);
    if !time.is_zero() {
        monitor.event(Event::SoakEnded { wave });
    }
    if has_soaked { Ok(()) } else { Err(BadProbe::Cancelled) }
}

/// Compares what a probe fetches with the release, unless the push is stopped meanwhile.
fn look(
    web: &Web,
    probe: &Probe,
    expected: &ExpectedProbes,
    monitor: &PushMonitor<'_>,
) -> Result<(), String> {
    let Probe { url, path } = probe;
    let (object, size) = expected
        .get(path.as_str())
        .ok_or_else(|| format!("probe {url}: nothing is known of it"))?;
    let web = web.clone();
    let asked = url.clone();
    let size = *size;
    let Some(fetched) = until_cancelled(monitor, move |_| web.fetch(&asked, size)) else {
        return Ok(());
    };
    match fetched {
        Ok(fetched) if fetched.object == *object => Ok(()),
        Ok(_) => Err(format!("probe {url}: visitors get something else than the release has")),
        Err(error) => Err(format!("probe {url}: {error}")),
    }
}
