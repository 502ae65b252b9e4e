//! Runs a rollout: stages on all mirrors, checks that the tree is unchanged, and then switches.
//!
//! It uses one thread for each mirror and one pack builder for each distinct base manifest. No
//! mirror switches before the requirement is met. Then the lead, which is the first staged mirror
//! by store id, switches alone. If two pushes race, one of them loses at the lead, before it has
//! switched any mirror.

use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::mirror::MirrorError;
use crate::monitor::{Event, Monitor};
use crate::packing::pack_builder::BuildError;
use crate::packing::pack_queue::PackQueue;
use crate::push::activation::RaceWinner;
use crate::push::bundle::Bundle;
use crate::push::context::PushContext;
use crate::push::mirror_push::MirrorPush;
use crate::push::options::{Goal, Options};
use crate::push::outcome::{Outcome, Report};
use crate::push::publication::Publication;
use crate::push::push_monitor::PushMonitor;
use crate::push::revert::Revert;
use crate::push::rollout::{MirrorRun, Rollout, StagingResult};
use crate::push::waves::{self, ExpectedProbes, WavesResult};
use crate::push::{PushError, latecomers};
use crate::scan::ScanError;
use crate::text::error_chain;
use crate::threads;

/// How a rollout ended.
pub(super) enum RolloutEnd {
    /// The push has ended.
    Report(Report),
    /// Another push got there first, but this one is newer: start again on top of its release.
    Retry(Report),
    /// Mirrors must revert.
    Revert(Revert),
}

impl RolloutEnd {
    /// The report so far.
    pub(super) const fn report(&self) -> &Report {
        match self {
            Self::Report(report) | Self::Retry(report) | Self::Revert(Revert { report, .. }) => {
                report
            }
        }
    }
}

/// Brings every mirror to the publication. Before any of them switches, `check_unchanged` checks
/// that the source has not changed since it was loaded.
pub(super) fn run(
    publication: &Publication,
    check_unchanged: impl FnOnce() -> Result<(), ScanError>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<RolloutEnd, PushError> {
    let monitor = PushMonitor::new(monitor);
    let mut rollout = Rollout::new(PushContext { publication, options, monitor: &monitor });
    for run in &rollout.mirrors {
        if let Some(outcome) = &run.outcome {
            run.push.report(outcome);
        }
    }
    let bundles = rollout.bundles()?;
    let is_done = |run: &MirrorRun<'_>| run.outcome.is_some() && !run.is(&Outcome::Staged);
    // If no mirror needs the release, no probe runs, and the manifest of the release may not be
    // here.
    let expected = if rollout.mirrors.iter().all(is_done) {
        ExpectedProbes::new()
    } else {
        waves::expected_probes(publication, options)?
    };
    let (switched, unmet) = stage_and_activate(&mut rollout, &bundles, &expected, check_unchanged)?;
    let mut report = rollout.into_report(unmet);
    report.stopped = switched.stopped;
    report.spread_ms = switched.spread_ms;
    Ok(if switched.must_retry {
        RolloutEnd::Retry(report)
    } else if switched.to_revert.is_empty() {
        RolloutEnd::Report(report)
    } else {
        // The mirrors may have served different releases before, but a single release can restore
        // the content of only one.
        let to = switched.to_revert.iter().filter_map(|index| report.mirrors[*index].before).max();
        RolloutEnd::Revert(Revert { report, to_revert: switched.to_revert, to })
    })
}

/// Stages and activates. Returns the result, or why nothing was activated.
fn stage_and_activate(
    rollout: &mut Rollout<'_>,
    bundles: &[Bundle],
    expected: &ExpectedProbes,
    check_unchanged: impl FnOnce() -> Result<(), ScanError>,
) -> Result<(WavesResult, Option<String>), PushError> {
    let context @ PushContext { publication, monitor, .. } = rollout.context;
    let (sender, staged) = unbounded();
    let (build_sender, build_errors) = unbounded();
    let queues: Vec<PackQueue<'_>> = (0..)
        .zip(bundles)
        .map(|(number, _)| {
            PackQueue::new(number, &publication.content_source, &publication.scratch, monitor)
        })
        .collect::<Result<_, _>>()?;
    let result = std::thread::scope(|scope| {
        for (bundle, queue) in bundles.iter().zip(&queues) {
            Transfer { context, bundle, queue }.start(scope, &sender, &build_sender);
        }
        latecomers::start(scope, context, &sender);
        // The threads have copies. With these two dropped, the channels close when the last thread
        // ends.
        drop((sender, build_sender));
        let result = Coordinator { rollout, expected, staged: &staged }.run(check_unchanged);
        // The scope waits for all threads, so those that are still sending or waiting must end now.
        monitor.stop();
        result
    });
    if let Some(error) = build_errors.iter().find(|error| !matches!(error, BuildError::Cancelled))
        // Once a mirror has switched, the report tells more than this error.
        && !rollout.outcomes().any(Outcome::is_current)
    {
        return Err(PushError::Build(error));
    }
    result
}

/// The transfer of a bundle to the mirrors that need it.
#[derive(Clone, Copy)]
struct Transfer<'a> {
    context: PushContext<'a>,
    bundle: &'a Bundle,
    queue: &'a PackQueue<'a>,
}

impl<'a> Transfer<'a> {
    /// Starts the pack builder and, for each mirror, a thread that stages on it.
    fn start(
        self,
        scope: &'a Scope<'a, '_>,
        staged: &Sender<StagingResult>,
        build_errors: &Sender<BuildError>,
    ) {
        let Self { context, bundle, queue } = self;
        let subscribe = |index: &usize| (MirrorPush { context, index: *index }, queue.subscribe());
        // All mirrors subscribe before the first pack is made, so that none misses a pack.
        let receivers: Vec<_> = bundle.members().iter().map(subscribe).collect();
        let error_sender = build_errors.clone();
        let make_packs = move || {
            if let Err(error) = bundle.make_packs(context, queue) {
                error_sender.send(error).ok();
            }
        };
        if let Err(error) = threads::start(scope, make_packs) {
            // Without this, the mirrors' threads would wait forever for packs.
            queue.end(Err(error_chain(&error)));
            build_errors.send(error.into()).ok();
        }
        for (mirror, receiver) in receivers {
            let result_sender = staged.clone();
            let stage = move || {
                let result = mirror.stage(bundle, receiver).map(|()| Outcome::Staged);
                result_sender.send((mirror.index, result)).ok();
            };
            if let Err(error) = threads::start(scope, stage) {
                staged.send((mirror.index, Err(error.into()))).ok();
            }
        }
    }
}

/// Decides when to switch, and switches the mirrors.
struct Coordinator<'r, 'a> {
    rollout: &'r mut Rollout<'a>,
    expected: &'r ExpectedProbes,
    staged: &'r Receiver<StagingResult>,
}

impl<'a> Coordinator<'_, 'a> {
    /// Returns the result, and which requirement was unmet if nothing was activated.
    fn run(
        &mut self,
        check_unchanged: impl FnOnce() -> Result<(), ScanError>,
    ) -> Result<(WavesResult, Option<String>), PushError> {
        let PushContext { options, monitor, .. } = self.rollout.context;
        self.wait_for_staging();
        let (ready, total) = self.count_ready();
        if monitor.is_cancelled() {
            return Err(PushError::Cancelled);
        }
        // Checked before the requirement: a lost race may be why too few mirrors are ready, and it
        // shows what to do.
        if let Some((mirror, race)) = self.lost_race() {
            let is_again = self.rollout.on_lost_race(mirror, &race);
            return Ok((WavesResult { must_retry: is_again, ..WavesResult::default() }, None));
        }
        if !options.require.is_met(ready, total) {
            return Ok((WavesResult::default(), Some(options.require.unmet_message(ready, total))));
        }
        // After staging, which takes longest, and before the first switch, so that a changed tree
        // is not published.
        if let Err(error) = check_unchanged() {
            // The tree that the release was made from no longer exists.
            self.rollout.abandon_staged(&Outcome::Skipped);
            return Err(error.into());
        }
        if options.policy.goal == Goal::Stage {
            self.activate_latecomers();
            return Ok((WavesResult::default(), None));
        }
        let switched = self.rollout.switch(self.expected)?;
        if !switched.to_revert.is_empty() {
            self.rollout.abandon_staged(&Outcome::Skipped);
        } else if !switched.must_retry && switched.stopped.is_none() {
            self.activate_latecomers();
        }
        Ok((switched, None))
    }

    /// The first mirror at which this push lost the race to another push, and which push won there.
    /// Mirrors that had not responded when the release was decided do not count.
    fn lost_race(&self) -> Option<(MirrorPush<'a>, RaceWinner)> {
        self.rollout.mirrors.iter().filter(|run| !run.push.is_late()).find_map(|run| {
            let Some(Outcome::Failed { failure, .. }) = run.outcome else { return None };
            // A mirror that failed before anything was sent to it did not lose a race.
            let is_lost = run.push.polled().state().is_some() && run.push.is_lost_race(failure);
            let race = is_lost.then(|| run.push.query_race_winner())?;
            (!matches!(race, RaceWinner::NoRival)).then_some((run.push, race))
        })
    }

    /// The number of ready mirrors and the number of all mirrors. Includes only mirrors that count.
    fn count_ready(&self) -> (usize, usize) {
        let is_ready = |run: &&MirrorRun<'_>| run.outcome.as_ref().is_some_and(is_ready);
        (self.rollout.counted().filter(is_ready).count(), self.rollout.counted().count())
    }

    fn is_met(&self) -> bool {
        let (ready, total) = self.count_ready();
        self.rollout.context.options.require.is_met(ready, total)
    }

    /// Whether a mirror that counts has no outcome yet. Late mirrors count while the requirement is
    /// not met.
    fn is_waiting(&self) -> bool {
        let is_awaited = |run: &MirrorRun<'_>| !run.push.is_late() || !self.is_met();
        self.rollout.counted().any(|run| run.outcome.is_none() && is_awaited(run))
    }

    /// Receives staging results until all mirrors are done, or until enough are done and the
    /// straggler timeout has passed.
    fn wait_for_staging(&mut self) {
        let straggler_timeout = self.rollout.context.options.straggler_timeout;
        let mut met_at: Option<Instant> = None;
        while self.is_waiting() {
            if met_at.is_none() && self.is_met() {
                met_at = Some(Instant::now());
            }
            let left =
                met_at.map_or(Duration::MAX, |met| straggler_timeout.saturating_sub(met.elapsed()));
            match self.staged.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok((index, result)) => self.record_staging_result(index, result),
                // The straggler timeout begins only when enough mirrors are ready.
                Err(RecvTimeoutError::Timeout) if met_at.is_none() => {}
                Err(_) => return,
            }
        }
    }

    fn record_staging_result(&mut self, index: usize, result: Result<Outcome, MirrorError>) {
        let MirrorRun { push, outcome } = &mut self.rollout.mirrors[index];
        *outcome = Some(match result {
            Ok(Outcome::Staged) => {
                let (mirror, sequence) = (push.name().to_owned(), push.release().sequence);
                push.context.monitor.event(Event::Staged { mirror, sequence });
                Outcome::Staged
            }
            Ok(outcome) => {
                push.report(&outcome);
                outcome
            }
            Err(error) => push.report_failure(&error),
        });
    }

    /// Activates late mirrors as they become ready.
    fn activate_latecomers(&mut self) {
        while let Ok((index, result)) = self.staged.recv() {
            self.record_staging_result(index, result);
            let run = &mut self.rollout.mirrors[index];
            if run.is(&Outcome::Staged) && run.push.context.options.policy.goal == Goal::Activate {
                run.outcome = Some(run.push.activate());
            }
        }
    }
}

/// Whether the other mirrors can switch without waiting for this one.
const fn is_ready(outcome: &Outcome) -> bool {
    outcome.is_current()
        || matches!(outcome, Outcome::Staged | Outcome::Newer { .. } | Outcome::Apart)
}
