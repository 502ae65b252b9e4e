//! The rollout: stages on all mirrors, checks that the tree is unchanged, and then switches.
//!
//! It uses one thread for each mirror and one pack builder for each distinct base manifest. No
//! mirror switches before the requirement is met. Then the lead, which is the first staged mirror
//! in the order of store ids, switches alone: of two racing pushes, the one that loses there has
//! switched no mirror.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use crate::fsx;
use crate::hash::ObjectId;
use crate::mirror::{ErrorKind, Mirror, MirrorError, MirrorState, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::origin::scratch::ManifestFile;
use crate::packing::pack_builder::{self, BuildError};
use crate::packing::pack_queue::{PackQueue, PackReceiver};
use crate::push::activation::{self, RaceWinner};
use crate::push::bundle::{self, Bundle, bundles};
use crate::push::options::{Goal, Options, Require};
use crate::push::outcome::{MirrorReport, Outcome, Report};
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::waves::{self, ExpectedProbes, WavesResult};
use crate::push::{PushError, fleet, latecomers};
use crate::release::{Release, Succession};
use crate::scan::ScanError;
use crate::text::error_chain;
use crate::threads;

/// How a rollout ended.
pub(super) enum RolloutEnd {
    /// The push has ended.
    Report(Report),
    /// Another push was quicker, but this one is newer: start again on top of it.
    Retry(Report),
    /// These mirrors, by index, must revert to the release with this sequence.
    Revert(Report, Vec<usize>, Option<u64>),
}

impl RolloutEnd {
    /// The report so far.
    pub(super) const fn report(&self) -> &Report {
        match self {
            Self::Report(report) | Self::Retry(report) | Self::Revert(report, ..) => report,
        }
    }
}

/// The index of a mirror and the result of staging there.
pub(super) type Staged = (usize, Result<Outcome, MirrorError>);

/// Maximum number of damaged objects to exclude as bases. With more, almost no object of the mirror
/// is intact, and its base is not used at all.
const MAX_EXCLUDED_BASES: usize = 10_000;

/// The message with the number of mirrors required and ready.
pub(super) fn unmet(require: Require, ready: usize, total: usize) -> String {
    let available = match ready {
        0 => "none is available".to_owned(),
        1 => "only 1 is available".to_owned(),
        ready => format!("only {ready} are available"),
    };
    match require {
        _ if total == 1 => "the mirror is not ready".to_owned(),
        Require::All => format!("all {total} mirrors are required, but {available}"),
        Require::AtLeast(_) | Require::Percent(_) => match require.of(total) {
            1 => format!("1 of {total} mirrors is required, but {available}"),
            needed => format!("{needed} of {total} mirrors are required, but {available}"),
        },
    }
}

/// Brings every mirror to the publication. Before any of them switches, `unchanged` checks whether
/// the source is still as it was loaded.
pub(super) fn run(
    publication: &Publication,
    unchanged: impl FnOnce() -> Result<(), ScanError>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<RolloutEnd, PushError> {
    let monitor = PushMonitor::new(monitor);
    let mut outcomes: Vec<Option<Outcome>> =
        publication.members.iter().map(|member| at_once(publication, member)).collect();
    for (member, outcome) in publication.members.iter().zip(&outcomes) {
        if let Some(outcome) = outcome {
            report_outcome(publication, member, outcome, &monitor);
        }
    }
    let bundles = bundles(publication, &outcomes, options, &monitor)?;
    let is_done =
        outcomes.iter().flatten().filter(|outcome| !matches!(outcome, Outcome::Staged)).count()
            == outcomes.len();
    let expected =
        if is_done { ExpectedProbes::new() } else { waves::expected(publication, options)? };
    let (switched, unmet) =
        roll_out(publication, &bundles, &mut outcomes, &expected, unchanged, options, &monitor)?;
    let mut report = report(publication, outcomes, &monitor, unmet);
    report.goal = options.policy.goal;
    report.stopped = switched.stopped;
    report.spread_ms = switched.spread_ms;
    let before = switched.back.iter().filter_map(|index| report.mirrors[*index].before).max();
    Ok(if switched.is_again {
        RolloutEnd::Retry(report)
    } else if switched.back.is_empty() {
        RolloutEnd::Report(report)
    } else {
        RolloutEnd::Revert(report, switched.back, before)
    })
}

/// Reports the failures of mirrors that cannot be updated.
pub(super) fn report_failures(
    publication: &Publication,
    outcomes: &[Option<Outcome>],
    monitor: &dyn Monitor,
) {
    for (member, outcome) in publication.members.iter().zip(outcomes) {
        if let Some(outcome @ Outcome::Failed { .. }) = outcome {
            report_outcome(publication, member, outcome, monitor);
        }
    }
}

/// Reports the outcome of a mirror to which nothing had to be sent.
fn report_outcome(
    publication: &Publication,
    member: &PolledMirror,
    outcome: &Outcome,
    monitor: &dyn Monitor,
) {
    let mirror = member.mirror.name().to_owned();
    match outcome {
        Outcome::Current => {
            monitor.event(Event::AlreadyCurrent { mirror, sequence: publication.release.sequence });
        }
        // A mirror that could not be polled was reported already.
        Outcome::Failed { error, .. } if member.state().is_some() => {
            monitor.event(Event::MirrorFailed { mirror, error: error.clone() });
        }
        _ => {}
    }
}

/// Stages and activates. Returns the result, or why nothing was activated.
fn roll_out(
    publication: &Publication,
    bundles: &[Bundle],
    outcomes: &mut Vec<Option<Outcome>>,
    expected: &ExpectedProbes,
    unchanged: impl FnOnce() -> Result<(), ScanError>,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<(WavesResult, Option<String>), PushError> {
    let (sender, staged) = unbounded();
    let (line_sender, line_errors) = unbounded();
    let queues: Vec<PackQueue<'_>> = (0..)
        .zip(bundles)
        .map(|(number, _)| {
            PackQueue::new(number, &publication.content_source, &publication.scratch, monitor)
        })
        .collect::<Result<_, _>>()?;
    let result = std::thread::scope(|scope| {
        for (bundle, queue) in bundles.iter().zip(&queues) {
            let receivers: Vec<_> =
                bundle.members().iter().map(|index| (*index, queue.subscribe())).collect();
            let line_ended = line_sender.clone();
            let make_packs = move || {
                if let Err(error) = bundle.make_packs(publication, queue, options, monitor) {
                    line_ended.send(error).ok();
                }
            };
            if let Err(error) = threads::start(scope, make_packs) {
                queue.end(Err(error_chain(&error)));
                line_sender.send(error.into()).ok();
            }
            for (index, receiver) in receivers {
                let has_staged = sender.clone();
                let stage = move || {
                    let staged = stage(publication, bundle, receiver, index, options, monitor);
                    has_staged.send((index, staged.map(|()| Outcome::Staged))).ok();
                };
                if let Err(error) = threads::start(scope, stage) {
                    sender.send((index, Err(error.into()))).ok();
                }
            }
        }
        latecomers::start(scope, publication, &sender, options, monitor);
        drop((sender, line_sender));
        let mut conductor =
            Coordinator { publication, options, monitor, outcomes, expected, staged: &staged };
        let result = conductor.run_all(unchanged);
        monitor.stop();
        result
    });
    if let Some(error) = line_errors.iter().find(|error| !matches!(error, BuildError::Cancelled))
        && !outcomes.iter().flatten().any(Outcome::is_current)
    {
        return Err(PushError::Build(error));
    }
    result
}

/// The outcome of a mirror that needs nothing or cannot be updated; `None` if it needs the release,
/// or has not responded yet.
pub(super) fn at_once(publication: &Publication, member: &PolledMirror) -> Option<Outcome> {
    let Some(state) = member.state() else { return member.error().map(Outcome::failed) };
    if state.current == Some(publication.release.name()) {
        return Some(Outcome::Current);
    }
    if publication.leaves_newer && is_newer(member, &publication.release) {
        return Some(Outcome::Apart);
    }
    if state.staged.as_ref().is_some_and(|staged| staged.name() == publication.release.name()) {
        return Some(Outcome::Staged);
    }
    unreplaceable(&publication.release, state)
}

/// The outcome of a mirror whose current release must not be replaced by `release`.
fn unreplaceable(release: &Release, state: &MirrorState) -> Option<Outcome> {
    let serves = state.current?;
    let Some(current) = state.current_release() else {
        return (serves.sequence() >= release.sequence).then_some(Outcome::Newer { serves });
    };
    match release.succession(current) {
        Succession::Follows => None,
        Succession::NotNewer => Some(Outcome::Newer { serves }),
        Succession::OtherHistory => Some(Outcome::Failed {
            failure: ErrorKind::OtherHistory,
            error: format!(
                "it serves release {serves} of history {}, and release {} is of history {}",
                current.history.short(),
                release.name(),
                release.history.short()
            ),
        }),
    }
}

/// Whether a mirror serves a newer release of a history that `release` did not take over.
fn is_newer(member: &PolledMirror, release: &Release) -> bool {
    let is_above = |current: &Release| {
        current.rank() > release.rank() && !release.replaces.contains(&current.history)
    };
    member.current_release().is_some_and(is_above)
}

/// Stages the publication on one mirror; if its base is damaged, tries again with other bases or
/// none.
fn stage(
    publication: &Publication,
    bundle: &Bundle,
    receiver: PackReceiver<'_, '_>,
    index: usize,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<(), MirrorError> {
    let mirror = &publication.members[index].mirror;
    let timer = publication.speeds.begin();
    let staged = mirror.stage(&bundle.request(publication), &receiver, monitor);
    // A transfer with retries or an interrupted one says nothing about the link.
    if staged.is_ok() {
        timer.record(mirror.location(), monitor.traffic(mirror.name()).sent_bytes);
    }
    drop((timer, receiver));
    resend_damaged(publication, index, bundle.base().cloned(), staged, options, monitor)
}

/// Stages the publication on one mirror with its own packs.
pub(super) fn stage_alone(
    publication: &Publication,
    index: usize,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<(), MirrorError> {
    let supply = |error: PushError| MirrorError::Source(Box::new(error));
    let base = match bundle::base_of(publication, &publication.members[index]) {
        Some(base) => bundle::find_base(publication, base).map_err(supply)?,
        None => None,
    };
    let staged =
        stage_on_base(publication, base.as_ref(), index, &HashSet::new(), options, monitor);
    resend_damaged(publication, index, base, staged, options, monitor)
}

/// Stages the publication again while a mirror reports its `base` as damaged: first without the
/// damaged objects, and finally without the base.
fn resend_damaged(
    publication: &Publication,
    index: usize,
    mut base: Option<Arc<ManifestFile>>,
    mut staged: Result<(), MirrorError>,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<(), MirrorError> {
    let mut excluded_bases = HashSet::new();
    while let Err(error) = &staged
        && error.kind() == ErrorKind::DamagedBase
        && base.is_some()
    {
        let known = excluded_bases.len();
        excluded_bases.extend(error.damaged_bases().iter().copied());
        // If no new objects are named, or too many are, the base is useless.
        let is_named = excluded_bases.len() > known && excluded_bases.len() <= MAX_EXCLUDED_BASES;
        base = base.filter(|_| is_named);
        let remedy =
            if is_named { "sending anew what builds on them" } else { "sending everything anew" };
        let message =
            format!("{}: {}: {remedy}", mirror(publication, index).name(), error_chain(error));
        monitor.event(Event::Warned { message });
        staged =
            stage_on_base(publication, base.as_ref(), index, &excluded_bases, options, monitor);
    }
    staged
}

fn stage_on_base(
    publication: &Publication,
    base: Option<&Arc<ManifestFile>>,
    index: usize,
    excluded_bases: &HashSet<ObjectId>,
    options: &Options,
    monitor: &PushMonitor<'_>,
) -> Result<(), MirrorError> {
    let supply = |error: PushError| MirrorError::Source(Box::new(error));
    let bundle = bundle::of_one(publication, base, index, excluded_bases, options, monitor)
        .map_err(supply)?;
    let queue = PackQueue::new(
        publication.members.len() + index,
        &publication.content_source,
        &publication.scratch,
        monitor,
    )?;
    std::thread::scope(|scope| {
        let receiver = queue.subscribe();
        // Its error reaches the mirror through the queue.
        threads::start(scope, || {
            pack_builder::run(&bundle.job(publication, false, options), None, &queue, monitor).ok()
        })?;
        // When this returns, the receiver is dropped, and the builder no longer waits for it.
        publication.members[index].mirror.stage(&bundle.request(publication), &receiver, monitor)
    })
}

/// Decides when to switch, and switches.
struct Coordinator<'a> {
    publication: &'a Publication,
    options: &'a Options,
    monitor: &'a PushMonitor<'a>,
    outcomes: &'a mut Vec<Option<Outcome>>,
    expected: &'a ExpectedProbes,
    staged: &'a Receiver<Staged>,
}

impl Coordinator<'_> {
    /// Returns the result, and the unmet requirement if nothing was activated.
    fn run_all(
        &mut self,
        unchanged: impl FnOnce() -> Result<(), ScanError>,
    ) -> Result<(WavesResult, Option<String>), PushError> {
        self.wait();
        let (ready, total) = self.ready();
        if self.monitor.is_cancelled() {
            return Err(PushError::Cancelled);
        }
        let lost = self.in_time().find_map(|index| Some((index, self.lost_race(index)?)));
        if let Some((index, race)) = lost {
            let is_again = activation::on_lost_race(
                self.publication,
                index,
                &race,
                self.outcomes,
                self.monitor,
            );
            return Ok((WavesResult { is_again, ..WavesResult::default() }, None));
        }
        if !self.options.require.is_met(ready, total) {
            return Ok((WavesResult::default(), Some(unmet(self.options.require, ready, total))));
        }
        if let Err(error) = unchanged() {
            // The tree that the release was made of no longer exists.
            activation::give_up(self.publication, self.outcomes, &Outcome::Skipped);
            return Err(error.into());
        }
        if self.options.policy.goal == Goal::Stage {
            self.activate_latecomers();
            return Ok((WavesResult::default(), None));
        }
        let switched = waves::switch(
            self.publication,
            self.expected,
            self.outcomes,
            self.options,
            self.monitor,
        )?;
        if !switched.back.is_empty() {
            activation::give_up(self.publication, self.outcomes, &Outcome::Skipped);
        } else if !switched.is_again && switched.stopped.is_none() {
            self.activate_latecomers();
        }
        Ok((switched, None))
    }

    /// Who won on a mirror that refused the publication because another push was quicker; `None` if
    /// no push was.
    fn lost_race(&self, index: usize) -> Option<RaceWinner> {
        let Some(Outcome::Failed { failure, .. }) = &self.outcomes[index] else { return None };
        // A mirror that failed before it was sent anything did not lose a race.
        let is_lost = self.publication.members[index].state().is_some()
            && activation::is_lost(self.publication, *failure);
        let race =
            is_lost.then(|| activation::ask_who_won(self.publication, index, self.options))?;
        (!matches!(race, RaceWinner::NoRelease)).then_some(race)
    }

    /// The number of ready mirrors and the number of all mirrors, of those that count.
    fn ready(&self) -> (usize, usize) {
        let counted = || fleet::counted(&self.publication.members);
        (
            counted().filter(|index| self.outcomes[*index].as_ref().is_some_and(is_ready)).count(),
            counted().count(),
        )
    }

    /// The mirrors that had responded when the release was decided.
    fn in_time(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.publication.members.len()).filter(|index| !self.publication.late.contains(index))
    }

    fn is_met(&self) -> bool {
        let (ready, total) = self.ready();
        self.options.require.is_met(ready, total)
    }

    /// Whether a mirror that counts has no outcome yet. Late mirrors count while the requirement is
    /// not met.
    fn is_waiting(&self) -> bool {
        let is_awaited = |index: &usize| !self.publication.late.contains(index) || !self.is_met();
        fleet::counted(&self.publication.members)
            .any(|index| self.outcomes[index].is_none() && is_awaited(&index))
    }

    /// Receives the results of staging until all mirrors are done, or until enough are and the
    /// straggler timeout is over.
    fn wait(&mut self) {
        let mut met_at: Option<Instant> = None;
        while self.is_waiting() {
            if met_at.is_none() && self.is_met() {
                met_at = Some(Instant::now());
            }
            let left = met_at
                .map_or(Duration::MAX, |met| self.options.patience.saturating_sub(met.elapsed()));
            match self.staged.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok((index, result)) => self.take(index, result),
                Err(RecvTimeoutError::Timeout) if met_at.is_none() => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, index: usize, result: Result<Outcome, MirrorError>) {
        let member = &self.publication.members[index];
        let mirror = member.mirror.name().to_owned();
        let sequence = self.publication.release.sequence;
        self.outcomes[index] = Some(match result {
            Ok(Outcome::Staged) => {
                self.monitor.event(Event::Staged { mirror, sequence });
                Outcome::Staged
            }
            Ok(outcome) => {
                report_outcome(self.publication, member, &outcome, self.monitor);
                outcome
            }
            Err(error) => {
                self.monitor.event(Event::MirrorFailed { mirror, error: error_chain(&error) });
                Outcome::failed(&error)
            }
        });
    }

    /// Activates late mirrors as they become ready.
    fn activate_latecomers(&mut self) {
        while let Ok((index, result)) = self.staged.recv() {
            self.take(index, result);
            if self.outcomes[index] == Some(Outcome::Staged)
                && self.options.policy.goal == Goal::Activate
            {
                self.outcomes[index] = Some(activation::activate_one(
                    self.publication,
                    index,
                    self.options,
                    self.monitor,
                ));
            }
        }
    }
}

/// Whether the mirror does not delay the switch of the others.
const fn is_ready(outcome: &Outcome) -> bool {
    outcome.is_current()
        || matches!(outcome, Outcome::Staged | Outcome::Newer { .. } | Outcome::Apart)
}

fn report(
    publication: &Publication,
    outcomes: Vec<Option<Outcome>>,
    monitor: &PushMonitor<'_>,
    unmet: Option<String>,
) -> Report {
    let now = fsx::unix_seconds();
    let report = publication.members.iter().zip(outcomes).map(|(member, outcome)| {
        let outcome = outcome.unwrap_or(Outcome::Skipped);
        let before = member.current().map(|current| current.sequence());
        MirrorReport {
            mirror: member.mirror.name().to_owned(),
            location: member.mirror.location().to_owned(),
            before,
            now: if outcome.is_current() { Some(publication.release.sequence) } else { before },
            outcome,
            new_bytes: monitor.new_bytes(member.mirror.name()),
            traffic: monitor.traffic(member.mirror.name()),
            expiries: member.expiries(),
            hook: None,
            needs_settling: member.needs_settling(now),
        }
    });
    let mirrors: Vec<MirrorReport> = report.collect();
    Report {
        site: publication.release.site.clone(),
        release: Some(publication.release.id()),
        sequence: Some(publication.release.sequence),
        is_new: publication.is_new,
        changes: publication.sums,
        new_bytes: mirrors.iter().map(|mirror| mirror.new_bytes).max().unwrap_or(0),
        goal: Goal::Activate,
        unmet,
        stopped: None,
        reverted: None,
        spread_ms: None,
        mirrors,
    }
}

/// The mirror with this index.
pub(super) fn mirror(publication: &Publication, index: usize) -> &Arc<dyn Mirror> {
    &publication.members[index].mirror
}
