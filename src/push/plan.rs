//! The plan of a push: runs the same code up to the point where something would change.

use serde::Serialize;

use crate::manifest::{Diff, diff};
use crate::mirror::{ErrorKind, PackSource as _};
use crate::monitor::Monitor;
use crate::origin::scratch::entries;
use crate::packing::base_selection::BaseCounts;
use crate::packing::pack_builder::{self, BuildError};
use crate::packing::pack_queue::PackQueue;
use crate::push::bundle::{Bundle, bundles};
use crate::push::cache_fallback::with_cache_or_without;
use crate::push::churn::{Churn, find_churn};
use crate::push::fleet::{self, Fleet};
use crate::push::options::Options;
use crate::push::outcome::{ChangeCounts, Outcome, Report};
use crate::push::prepare::{Prepared, prepare_plan};
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::rollout::{self, at_once, report_failures};
use crate::push::schedule::Schedule;
use crate::push::source::Source;
use crate::push::{PushError, waves};
use crate::threads;

/// What would happen to one mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorPlan {
    /// Its name.
    pub mirror: String,
    /// The location of the mirror.
    pub location: String,
    /// The sequence that the mirror serves.
    pub serves: Option<u64>,
    /// Whether the mirror serves a newer release and would be left alone.
    pub is_newer: bool,
    /// Why nothing would happen to the mirror, if it cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The kind of that error.
    #[serde(skip)]
    pub failure: Option<ErrorKind>,
    /// Whether the mirror already serves the release.
    pub is_current: bool,
    /// Whether the release is staged on the mirror and only needs to be activated.
    pub is_staged: bool,
    /// Whether the mirror has no release yet while others have one: it is filled, but does not
    /// count towards the requirement.
    pub is_joining: bool,
    /// The number of the wave in which the mirror would switch, starting at 1.
    pub wave: Option<usize>,
    /// Objects that would be sent.
    pub objects: u64,
    /// Their size, in bytes.
    pub content_bytes: u64,
    /// Bytes that would be sent: packs and the manifest change.
    pub send_bytes: u64,
    /// The number of objects for each kind of delta base.
    pub bases: BaseCounts,
}

/// What a push would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanReport {
    /// The sequence of the release.
    pub sequence: u64,
    /// Whether the push would create the release.
    pub is_new: bool,
    /// How the release differs from the newest existing one.
    pub sums: ChangeCounts,
    /// The differences by path: of a new release from the newest existing one, otherwise from the
    /// release of the mirror that is furthest behind.
    pub diff: Diff,
    /// What most changes of a kind have in common.
    pub churn: Vec<Churn>,
    /// The times at which the mirrors would switch.
    pub schedule: Schedule,
    /// Why no mirror would switch, if too few would accept the release.
    pub unmet: Option<String>,
    /// One for each mirror.
    pub mirrors: Vec<MirrorPlan>,
}

/// Determines what a push would do, without changing any mirror.
///
/// # Errors
/// As [`crate::push::push`]. The inner error is the report of a push that
/// would be refused because too few mirrors can be reached.
pub fn plan(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Result<PlanReport, Report>, PushError> {
    with_cache_or_without(options, |options| plan_once(source, fleet, options, monitor))
}

fn plan_once(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Result<PlanReport, Report>, PushError> {
    let publication = match prepare_plan(source, fleet, options, monitor)? {
        Prepared::Refused(report) => return Ok(Err(*report)),
        Prepared::Publication(publication) => publication,
    };
    let mut outcomes: Vec<Option<Outcome>> =
        publication.members.iter().map(|member| at_once(&publication, member)).collect();
    let bundles = bundles(&publication, &outcomes, options, monitor)?;
    check_stages(&publication, &bundles, &mut outcomes);
    report_failures(&publication, &outcomes, monitor);
    let mut sizes = Vec::with_capacity(bundles.len());
    for (number, bundle) in (0..).zip(&bundles) {
        sizes.push(
            pack_bytes(&publication, bundle, number, options, monitor)?
                + bundle.change.bytes.len() as u64,
        );
    }
    let diff = compare(&publication, &bundles)?;
    let schedule = Schedule::new(&publication, &outcomes, options);
    if !schedule.waves.is_empty() {
        // A probe that can never succeed is an error, as in a push.
        waves::expected(&publication, options)?;
    }
    Ok(Ok(PlanReport {
        sequence: publication.release.sequence,
        is_new: publication.is_new,
        sums: publication.sums,
        churn: find_churn(&diff, &publication.content_source, monitor),
        diff,
        mirrors: mirrors(&publication, &outcomes, &bundles, &sizes, &schedule),
        schedule,
        unmet: unmet(&publication, &outcomes, options),
    }))
}

/// Marks the mirrors as failed that would refuse the stage.
fn check_stages(publication: &Publication, bundles: &[Bundle], outcomes: &mut [Option<Outcome>]) {
    for bundle in bundles {
        for index in bundle.members() {
            if let Err(error) =
                publication.members[*index].mirror.check_stage(&bundle.request(publication))
            {
                outcomes[*index] = Some(Outcome::failed(&error));
            }
        }
    }
}

/// Why nothing would be activated, if too few mirrors would accept the release.
fn unmet(
    publication: &Publication,
    outcomes: &[Option<Outcome>],
    options: &Options,
) -> Option<String> {
    let counted = || fleet::counted(&publication.members);
    let is_usable = |index: &usize| !matches!(outcomes[*index], Some(Outcome::Failed { .. }));
    let (usable, total) = (counted().filter(is_usable).count(), counted().count());
    (!options.require.is_met(usable, total)).then(|| rollout::unmet(options.require, usable, total))
}

fn compare(publication: &Publication, bundles: &[Bundle]) -> Result<Diff, PushError> {
    let largest = bundles.iter().max_by_key(|bundle| bundle.new_bytes());
    let old = match largest {
        _ if publication.is_new => entries(publication.previous.as_deref()),
        Some(bundle) => bundle.base_entries(),
        None => return Ok(Diff::default()),
    };
    let new = publication.new_entries().map_err(PushError::NewManifest)?;
    diff(old.map_err(PushError::NewManifest)?, new).map_err(PushError::NewManifest)
}

/// Builds the packs and counts them.
fn pack_bytes(
    publication: &Publication,
    bundle: &Bundle,
    number: usize,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<u64, PushError> {
    let queue = PackQueue::new(number, &publication.content_source, &publication.scratch, monitor)?;
    let receiver = queue.subscribe();
    let monitor = PushMonitor::new(monitor);
    std::thread::scope(|scope| {
        let build =
            || pack_builder::run(&bundle.job(publication, false, options), None, &queue, &monitor);
        let line = threads::start(scope, build).map_err(BuildError::from)?;
        let mut cursor = receiver.packs();
        let mut bytes = 0;
        // The builder reports its own errors.
        while let Ok(Some(pack)) = cursor.next() {
            bytes += pack.size();
        }
        line.join().expect("building packs does not panic")?;
        Ok(bytes)
    })
}

fn mirrors(
    publication: &Publication,
    outcomes: &[Option<Outcome>],
    bundles: &[Bundle],
    sizes: &[u64],
    schedule: &Schedule,
) -> Vec<MirrorPlan> {
    let plan =
        |(index, (member, outcome)): (usize, (&crate::push::PolledMirror, &Option<Outcome>))| {
            let bundle =
                bundles.iter().zip(sizes).find(|(bundle, _)| bundle.members().contains(&index));
            let (failure, error) = match outcome {
                Some(Outcome::Failed { failure, error }) => (Some(*failure), Some(error.clone())),
                _ => (None, None),
            };
            MirrorPlan {
                mirror: member.mirror.name().to_owned(),
                location: member.mirror.location().to_owned(),
                serves: member.current().map(|current| current.sequence()),
                is_newer: matches!(outcome, Some(Outcome::Newer { .. })),
                error,
                failure,
                is_current: *outcome == Some(Outcome::Current),
                is_staged: *outcome == Some(Outcome::Staged),
                is_joining: fleet::is_joining(&publication.members, index),
                wave: schedule.wave_of(member.mirror.name()),
                objects: bundle.map_or(0, |(bundle, _)| bundle.change.wanted.len() as u64),
                content_bytes: bundle.map_or(0, |(bundle, _)| bundle.new_bytes()),
                send_bytes: bundle.map_or(0, |(_, size)| *size),
                bases: bundle.map_or_else(BaseCounts::default, |(bundle, _)| bundle.bases.counts),
            }
        };
    publication.members.iter().zip(outcomes).enumerate().map(plan).collect()
}
