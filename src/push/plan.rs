//! The plan for a push: runs the same code as a push, up to the point where something would change.

use serde::Serialize;

use crate::manifest::{Diff, diff};
use crate::mirror::{ErrorKind, PackSource as _};
use crate::monitor::Monitor;
use crate::origin::scratch::entries;
use crate::packing::base_selection::BaseCounts;
use crate::packing::pack_builder::{self, BuildError};
use crate::packing::pack_queue::PackQueue;
use crate::push::bundle::Bundle;
use crate::push::cache_fallback::with_cache_or_without;
use crate::push::churn::{Churn, find_churn};
use crate::push::context::PushContext;
use crate::push::fleet::Fleet;
use crate::push::options::Options;
use crate::push::outcome::{ChangeCounts, Outcome, Report};
use crate::push::prepare::{Prepared, prepare_plan};
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::rollout::{MirrorRun, Rollout};
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
    /// Whether the mirror serves a newer release and so would be left alone.
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
    /// Whether the mirror has no release yet while others have one. A push fills it, but does not
    /// count it towards the requirement.
    pub is_joining: bool,
    /// The number of the wave in which the mirror would switch, starting at 1.
    pub wave: Option<usize>,
    /// Objects that would be sent.
    pub objects: u64,
    /// Their size, in bytes.
    pub content_bytes: u64,
    /// Bytes that would be sent: packs and the manifest delta.
    pub send_bytes: u64,
    /// How many objects use each kind of base.
    pub bases: BaseCounts,
    /// The mirror whose block signatures were used, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

/// What a push would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanReport {
    /// The sequence of the release.
    pub sequence: u64,
    /// Whether the push would create the release.
    pub is_new: bool,
    /// How the release differs from the newest existing one.
    pub change_counts: ChangeCounts,
    /// How the release differs by path: a new release from the newest existing one, an existing
    /// release from that of the mirror furthest behind.
    pub diff: Diff,
    /// The difference that most changed files of a kind share.
    pub churn: Vec<Churn>,
    /// The times at which the mirrors would switch.
    pub schedule: Schedule,
    /// Why no mirror would switch, if too few would accept the release.
    pub unmet: Option<String>,
    /// The plan for each mirror.
    pub mirrors: Vec<MirrorPlan>,
}

/// What [`plan`] found.
#[derive(Debug)]
pub enum Planned {
    /// The push would create or distribute this release.
    Push(PlanReport),
    /// The push would be refused, because too few mirrors can be reached.
    Refused(Report),
}

/// Determines what a push would do, without changing any mirror.
///
/// # Errors
/// Like [`crate::push::push`].
pub fn plan(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Planned, PushError> {
    with_cache_or_without(options, |options| plan_once(source, fleet, options, monitor))
}

fn plan_once(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Planned, PushError> {
    let publication = match prepare_plan(source, fleet, options, monitor)? {
        Prepared::Refused(report) => return Ok(Planned::Refused(*report)),
        Prepared::Publication(publication) => publication,
    };
    let monitor = PushMonitor::new(monitor);
    let context = PushContext { publication: &publication, options, monitor: &monitor };
    let mut rollout = Rollout::new(context);
    let bundles = rollout.bundles()?;
    // Mirrors are queried as in a push. Otherwise, a plan could succeed although the push would
    // fail because of a full disk, a quota, or a read-only token.
    check_staging(&mut rollout, &bundles);
    for run in &rollout.mirrors {
        if let Some(outcome @ Outcome::Failed { .. }) = &run.outcome {
            run.push.report(outcome);
        }
    }
    let mut sizes = Vec::with_capacity(bundles.len());
    for (number, bundle) in (0..).zip(&bundles) {
        // Only packs that are actually built show how much compression saves.
        sizes.push(measure_packs(context, bundle, number)? + bundle.change.bytes.len() as u64);
    }
    let diff = compare(&publication, &bundles)?;
    let schedule = Schedule::new(&rollout);
    if !schedule.waves.is_empty() {
        // As in a push, it is an error if a probe can never succeed.
        waves::expected_probes(&publication, options)?;
    }
    let plan_of = |run: &MirrorRun<'_>| {
        let index = run.push.index;
        let bundle =
            bundles.iter().zip(&sizes).find(|(bundle, _)| bundle.members().contains(&index));
        let bundle = bundle.map(|(bundle, size)| (bundle, *size));
        MirrorPlan::new(run, bundle, schedule.wave_of(run.push.name()))
    };
    let mirrors = rollout.mirrors.iter().map(plan_of).collect();
    Ok(Planned::Push(PlanReport {
        sequence: publication.release.sequence,
        is_new: publication.is_new,
        change_counts: publication.change_counts,
        churn: find_churn(&diff, &publication.content_source, &monitor),
        diff,
        mirrors,
        schedule,
        unmet: unmet(&rollout),
    }))
}

/// Marks as failed the mirrors that would refuse to stage.
fn check_staging(rollout: &mut Rollout<'_>, bundles: &[Bundle]) {
    for bundle in bundles {
        let request = bundle.request(rollout.context.publication);
        for index in bundle.members() {
            let run = &mut rollout.mirrors[*index];
            if let Err(error) = run.push.mirror().check_stage(&request) {
                run.outcome = Some(Outcome::failed(&error));
            }
        }
    }
}

/// Why nothing would be activated, if too few mirrors would accept the release.
fn unmet(rollout: &Rollout<'_>) -> Option<String> {
    let is_usable = |run: &&MirrorRun<'_>| !matches!(run.outcome, Some(Outcome::Failed { .. }));
    let (usable, total) = (rollout.counted().filter(is_usable).count(), rollout.counted().count());
    let require = rollout.context.options.require;
    (!require.is_met(usable, total)).then(|| require.unmet_message(usable, total))
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

/// Builds the packs and adds up their sizes.
fn measure_packs(
    context: PushContext<'_>,
    bundle: &Bundle,
    number: usize,
) -> Result<u64, PushError> {
    let PushContext { publication, monitor, .. } = context;
    let queue = PackQueue::new(number, &publication.content_source, &publication.scratch, monitor)?;
    let receiver = queue.subscribe();
    std::thread::scope(|scope| {
        let build = || pack_builder::run(&bundle.pack_input(context, false), None, &queue, monitor);
        let builder = threads::start(scope, build).map_err(BuildError::from)?;
        let mut cursor = receiver.packs();
        let mut bytes = 0;
        // The builder reports its own errors.
        while let Ok(Some(pack)) = cursor.next() {
            bytes += pack.size();
        }
        builder.join().expect("building packs does not panic")?;
        Ok(bytes)
    })
}

impl MirrorPlan {
    /// The plan for a mirror that gets `bundle`, if any; the number is the packed size of the
    /// bundle.
    fn new(run: &MirrorRun<'_>, bundle: Option<(&Bundle, u64)>, wave: Option<usize>) -> Self {
        let (failure, error) = match &run.outcome {
            Some(Outcome::Failed { failure, error }) => (Some(*failure), Some(error.clone())),
            _ => (None, None),
        };
        Self {
            mirror: run.push.name().to_owned(),
            location: run.push.mirror().location().to_owned(),
            serves: run.push.served_before().map(|served| served.sequence()),
            is_newer: matches!(run.outcome, Some(Outcome::Newer { .. })),
            error,
            failure,
            is_current: run.is(&Outcome::Current),
            is_staged: run.is(&Outcome::Staged),
            is_joining: run.push.is_joining(),
            wave,
            objects: bundle.map_or(0, |(bundle, _)| bundle.change.wanted.len() as u64),
            content_bytes: bundle.map_or(0, |(bundle, _)| bundle.new_bytes()),
            send_bytes: bundle.map_or(0, |(_, size)| size),
            bases: bundle.map_or_else(BaseCounts::default, |(bundle, _)| bundle.bases.counts),
            signed_by: bundle.and_then(|(bundle, _)| bundle.bases.signed_by.clone()),
        }
    }
}
