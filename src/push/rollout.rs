//! The rollout: stage everywhere, look at the tree once more, then switch.
//!
//! One thread a mirror, one line of packs a distinct base manifest. Nothing
//! switches before the requirement is met. Then the lead, which is the first
//! staged mirror in order of store id, switches alone: of two racing pushes
//! the one that loses there has switched nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use crate::fsx;
use crate::hash::ObjectId;
use crate::mirror::{Failure, Mirror, MirrorError, MirrorState};
use crate::monitor::{Event, Monitor};
use crate::push::activation::{self, Race};
use crate::push::batch::{self, Batch, batches};
use crate::push::bundle::{PackShelf, Seat};
use crate::push::fleet::{self, Member};
use crate::push::gate::Gate;
use crate::push::options::{Goal, Options, Require};
use crate::push::outcome::{MirrorReport, Outcome, Report, error_chain};
use crate::push::pack_line::{self, LineError};
use crate::push::scratch::ManifestFile;
use crate::push::target::Target;
use crate::push::waves::{self, Expected, Switched};
use crate::push::{PushError, latecomers};
use crate::release::{Release, Succession};
use crate::scan::ScanError;
use crate::threads;

/// How a rollout ended.
pub(super) enum End {
    /// For good.
    Report(Report),
    /// Another push was quicker, but this one is newer: again on top of it.
    Again(Report),
    /// These mirrors, by index, are to go back to what the sequence names.
    Revert(Report, Vec<usize>, Option<u64>),
}

impl End {
    /// What became of each mirror until then.
    pub(super) const fn report(&self) -> &Report {
        match self {
            Self::Report(report) | Self::Again(report) | Self::Revert(report, ..) => report,
        }
    }
}

/// The index of a mirror, and what came of staging: its outcome, or why it failed.
pub(super) type Staged = (usize, Result<Outcome, MirrorError>);

/// Damaged objects of a mirror that are worked around; more mean that hardly any is whole.
const MAX_SHUNNED: usize = 10_000;

/// Says how many mirrors are needed and how many there are.
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

/// Brings every mirror of `target` to its release. Before any of them
/// switches, `unchanged` says whether the source is still as it was loaded.
pub(super) fn run(
    target: &Target,
    unchanged: impl FnOnce() -> Result<(), ScanError>,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<End, PushError> {
    let gate = Gate::new(monitor);
    let mut outcomes: Vec<Option<Outcome>> = target.members.iter().map(|member| at_once(target, member)).collect();
    for (member, outcome) in target.members.iter().zip(&outcomes) {
        if let Some(outcome) = outcome {
            report_outcome(target, member, outcome, &gate);
        }
    }
    let batches = batches(target, &outcomes, options, &gate)?;
    let is_done =
        outcomes.iter().flatten().filter(|outcome| !matches!(outcome, Outcome::Staged)).count() == outcomes.len();
    let expected = if is_done { Expected::new() } else { waves::expected(target, options)? };
    let (switched, unmet) = roll_out(target, &batches, &mut outcomes, &expected, unchanged, options, &gate)?;
    let mut report = report(target, outcomes, &gate, unmet);
    report.goal = options.policy.goal;
    report.stopped = switched.stopped;
    report.spread_ms = switched.spread_ms;
    let before = switched.back.iter().filter_map(|index| report.mirrors[*index].before).max();
    Ok(match switched.back.is_empty() {
        _ if switched.is_again => End::Again(report),
        true => End::Report(report),
        false => End::Revert(report, switched.back, before),
    })
}

/// Reports the failures of mirrors to which nothing can be done.
pub(super) fn report_failures(target: &Target, outcomes: &[Option<Outcome>], monitor: &dyn Monitor) {
    for (member, outcome) in target.members.iter().zip(outcomes) {
        if let Some(outcome @ Outcome::Failed { .. }) = outcome {
            report_outcome(target, member, outcome, monitor);
        }
    }
}

/// Reports the outcome of a mirror to which nothing had to be sent.
fn report_outcome(target: &Target, member: &Member, outcome: &Outcome, monitor: &dyn Monitor) {
    let mirror = member.mirror.name().to_owned();
    match outcome {
        Outcome::Current => monitor.event(Event::AlreadyCurrent { mirror, sequence: target.release.sequence }),
        // A mirror that could not be asked was reported then.
        Outcome::Failed { error, .. } if member.state().is_some() => {
            monitor.event(Event::MirrorFailed { mirror, error: error.clone() });
        }
        _ => {}
    }
}

/// Stages and activates; answers what came of it, or why nothing was activated.
fn roll_out(
    target: &Target,
    batches: &[Batch],
    outcomes: &mut Vec<Option<Outcome>>,
    expected: &Expected,
    unchanged: impl FnOnce() -> Result<(), ScanError>,
    options: &Options,
    gate: &Gate<'_>,
) -> Result<(Switched, Option<String>), PushError> {
    let (sender, staged) = unbounded();
    let (line_sender, line_errors) = unbounded();
    let shelves: Vec<PackShelf<'_>> = (0..)
        .zip(batches)
        .map(|(number, _)| PackShelf::new(number, &target.supplies, &target.scratch, gate))
        .collect::<Result<_, _>>()?;
    let result = std::thread::scope(|scope| {
        for (batch, shelf) in batches.iter().zip(&shelves) {
            let seats: Vec<_> = batch.members().iter().map(|index| (*index, shelf.seat())).collect();
            let line_ended = line_sender.clone();
            let make_packs = move || {
                if let Err(error) = batch.make_packs(target, shelf, options, gate) {
                    line_ended.send(error).ok();
                }
            };
            if let Err(error) = threads::start(scope, make_packs) {
                shelf.end(Err(error_chain(&error)));
                line_sender.send(error.into()).ok();
            }
            for (index, seat) in seats {
                let has_staged = sender.clone();
                let stage = move || {
                    let staged = stage(target, batch, seat, index, options, gate);
                    has_staged.send((index, staged.map(|()| Outcome::Staged))).ok();
                };
                if let Err(error) = threads::start(scope, stage) {
                    sender.send((index, Err(error.into()))).ok();
                }
            }
        }
        latecomers::start(scope, target, &sender, options, gate);
        drop((sender, line_sender));
        let mut conductor = Conductor { target, options, gate, outcomes, expected, staged: &staged };
        let result = conductor.conduct(unchanged);
        gate.stop();
        result
    });
    if let Some(error) = line_errors.iter().find(|error| !matches!(error, LineError::Cancelled))
        && !outcomes.iter().flatten().any(Outcome::is_current)
    {
        return Err(PushError::Line(error));
    }
    result
}

/// The outcome of a mirror that needs nothing, or to which nothing can be done; `None` if it needs the release, or has
/// not answered yet.
pub(super) fn at_once(target: &Target, member: &Member) -> Option<Outcome> {
    let Some(state) = member.state() else { return member.error().map(Outcome::failed) };
    if state.current == Some(target.release.name()) {
        return Some(Outcome::Current);
    }
    if target.leaves_newer && is_newer(member, &target.release) {
        return Some(Outcome::Apart);
    }
    if state.staged.as_ref().is_some_and(|staged| staged.name() == target.release.name()) {
        return Some(Outcome::Staged);
    }
    unreplaceable(&target.release, state)
}

/// The outcome of a mirror whose current release `release` may not replace.
fn unreplaceable(release: &Release, state: &MirrorState) -> Option<Outcome> {
    let serves = state.current?;
    let Some(current) = state.current_release() else {
        return (serves.sequence() >= release.sequence).then_some(Outcome::Newer { serves });
    };
    match release.succession(current) {
        Succession::Follows => None,
        Succession::NotNewer => Some(Outcome::Newer { serves }),
        Succession::OtherHistory => Some(Outcome::Failed {
            failure: Failure::OtherHistory,
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
fn is_newer(member: &Member, release: &Release) -> bool {
    let is_above = |current: &Release| current.rank() > release.rank() && !release.replaces.contains(&current.history);
    member.current_release().is_some_and(is_above)
}

/// Stages the target on one mirror; where its base turns out to be damaged, from nothing.
fn stage(
    target: &Target,
    batch: &Batch,
    seat: Seat<'_, '_>,
    index: usize,
    options: &Options,
    gate: &Gate<'_>,
) -> Result<(), MirrorError> {
    let mirror = &target.members[index].mirror;
    let passage = target.links.begin();
    let staged = mirror.stage(&batch.request(target), &seat, gate);
    // What was tried again and again, or broke off, says nothing of the way.
    if staged.is_ok() {
        passage.note(mirror.location(), gate.traffic(mirror.name()).sent_bytes);
    }
    drop((passage, seat));
    resend_damaged(target, index, batch.base().cloned(), staged, options, gate)
}

/// Stages the target on one mirror with packs of its own.
pub(super) fn stage_alone(
    target: &Target,
    index: usize,
    options: &Options,
    gate: &Gate<'_>,
) -> Result<(), MirrorError> {
    let supply = |error: PushError| MirrorError::Supply(Box::new(error));
    let base = match batch::base_of(target, &target.members[index]) {
        Some(base) => batch::find_base(target, base).map_err(supply)?,
        None => None,
    };
    let staged = stage_on_base(target, base.as_ref(), index, &HashSet::new(), options, gate);
    resend_damaged(target, index, base, staged, options, gate)
}

/// Stages the target again while a mirror finds its `base` damaged: without the objects that are, in the end without
/// the base.
fn resend_damaged(
    target: &Target,
    index: usize,
    mut base: Option<Arc<ManifestFile>>,
    mut staged: Result<(), MirrorError>,
    options: &Options,
    gate: &Gate<'_>,
) -> Result<(), MirrorError> {
    let mut shunned = HashSet::new();
    while let Err(error) = &staged
        && error.failure() == Failure::DamagedBase
        && base.is_some()
    {
        let known = shunned.len();
        shunned.extend(error.damaged_bases().iter().copied());
        // Objects that are not named, or named again and again: its base is of no use at all.
        let is_named = shunned.len() > known && shunned.len() <= MAX_SHUNNED;
        base = base.filter(|_| is_named);
        let remedy = if is_named { "sending anew what builds on them" } else { "sending everything anew" };
        let message = format!("{}: {}: {remedy}", mirror(target, index).name(), error_chain(error));
        gate.event(Event::Warned { message });
        staged = stage_on_base(target, base.as_ref(), index, &shunned, options, gate);
    }
    staged
}

fn stage_on_base(
    target: &Target,
    base: Option<&Arc<ManifestFile>>,
    index: usize,
    shunned: &HashSet<ObjectId>,
    options: &Options,
    gate: &Gate<'_>,
) -> Result<(), MirrorError> {
    let supply = |error: PushError| MirrorError::Supply(Box::new(error));
    let batch = batch::of_one(target, base, index, shunned, options, gate).map_err(supply)?;
    let shelf = PackShelf::new(target.members.len() + index, &target.supplies, &target.scratch, gate)?;
    std::thread::scope(|scope| {
        let seat = shelf.seat();
        // Its error reaches the mirror through the shelf.
        threads::start(scope, || pack_line::run(&batch.job(target, false, options), None, &shelf, gate).ok())?;
        // When this returns the seat goes, and the line need not wait for anyone.
        target.members[index].mirror.stage(&batch.request(target), &seat, gate)
    })
}

/// Decides when to switch, and does.
struct Conductor<'a> {
    target: &'a Target,
    options: &'a Options,
    gate: &'a Gate<'a>,
    outcomes: &'a mut Vec<Option<Outcome>>,
    expected: &'a Expected,
    staged: &'a Receiver<Staged>,
}

impl Conductor<'_> {
    /// Answers what came of it, and what was lacking if nothing was activated.
    fn conduct(
        &mut self,
        unchanged: impl FnOnce() -> Result<(), ScanError>,
    ) -> Result<(Switched, Option<String>), PushError> {
        self.wait();
        let (ready, total) = self.ready();
        if self.gate.is_cancelled() {
            return Err(PushError::Cancelled);
        }
        let lost = self.in_time().find_map(|index| Some((index, self.lost_race(index)?)));
        if let Some((index, race)) = lost {
            let is_again = activation::lose(self.target, index, &race, self.outcomes, self.gate);
            return Ok((Switched { is_again, ..Switched::default() }, None));
        }
        if !self.options.require.is_met(ready, total) {
            return Ok((Switched::default(), Some(unmet(self.options.require, ready, total))));
        }
        if let Err(error) = unchanged() {
            // The tree that it was made of is no more.
            activation::give_up(self.target, self.outcomes, &Outcome::Skipped);
            return Err(error.into());
        }
        if self.options.policy.goal == Goal::Stage {
            self.late();
            return Ok((Switched::default(), None));
        }
        let switched = waves::switch(self.target, self.expected, self.outcomes, self.options, self.gate)?;
        if !switched.back.is_empty() {
            activation::give_up(self.target, self.outcomes, &Outcome::Skipped);
        } else if !switched.is_again && switched.stopped.is_none() {
            self.late();
        }
        Ok((switched, None))
    }

    /// Who won on a mirror that refused the target because another push was quicker; `None` if nobody did.
    fn lost_race(&self, index: usize) -> Option<Race> {
        let Some(Outcome::Failed { failure, .. }) = &self.outcomes[index] else { return None };
        // One that failed before it was sent anything has lost to nobody.
        let is_lost = self.target.members[index].state().is_some() && activation::is_lost(self.target, *failure);
        let race = is_lost.then(|| activation::ask_race(self.target, index, self.options))?;
        (!matches!(race, Race::Nobody)).then_some(race)
    }

    /// How many mirrors are ready, and of how many, those that count.
    fn ready(&self) -> (usize, usize) {
        let counted = || fleet::counted(&self.target.members);
        (counted().filter(|index| self.outcomes[*index].as_ref().is_some_and(is_ready)).count(), counted().count())
    }

    /// The mirrors that had answered when the release was decided.
    fn in_time(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.target.members.len()).filter(|index| !self.target.late.contains(index))
    }

    fn is_met(&self) -> bool {
        let (ready, total) = self.ready();
        self.options.require.is_met(ready, total)
    }

    /// Whether a mirror that counts has no outcome yet. Late ones count as long as the others are too few.
    fn is_waiting(&self) -> bool {
        let is_awaited = |index: &usize| !self.target.late.contains(index) || !self.is_met();
        fleet::counted(&self.target.members).any(|index| self.outcomes[index].is_none() && is_awaited(&index))
    }

    /// Takes what the mirrors report until all have, or enough have and the rest had its time.
    fn wait(&mut self) {
        let mut met_at: Option<Instant> = None;
        while self.is_waiting() {
            if met_at.is_none() && self.is_met() {
                met_at = Some(Instant::now());
            }
            let left = met_at.map_or(Duration::MAX, |met| self.options.patience.saturating_sub(met.elapsed()));
            match self.staged.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok((index, result)) => self.take(index, result),
                Err(RecvTimeoutError::Timeout) if met_at.is_none() => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, index: usize, result: Result<Outcome, MirrorError>) {
        let member = &self.target.members[index];
        let mirror = member.mirror.name().to_owned();
        let sequence = self.target.release.sequence;
        self.outcomes[index] = Some(match result {
            Ok(Outcome::Staged) => {
                self.gate.event(Event::Staged { mirror, sequence });
                Outcome::Staged
            }
            Ok(outcome) => {
                report_outcome(self.target, member, &outcome, self.gate);
                outcome
            }
            Err(error) => {
                self.gate.event(Event::MirrorFailed { mirror, error: error_chain(&error) });
                Outcome::failed(&error)
            }
        });
    }

    /// Latecomers switch as they come.
    fn late(&mut self) {
        while let Ok((index, result)) = self.staged.recv() {
            self.take(index, result);
            if self.outcomes[index] == Some(Outcome::Staged) && self.options.policy.goal == Goal::Activate {
                self.outcomes[index] = Some(activation::one(self.target, index, self.options, self.gate));
            }
        }
    }
}

/// Whether nothing more has to be done before the others switch.
const fn is_ready(outcome: &Outcome) -> bool {
    outcome.is_current() || matches!(outcome, Outcome::Staged | Outcome::Newer { .. } | Outcome::Apart)
}

fn report(target: &Target, outcomes: Vec<Option<Outcome>>, gate: &Gate<'_>, unmet: Option<String>) -> Report {
    let now = fsx::unix_seconds();
    let report = target.members.iter().zip(outcomes).map(|(member, outcome)| {
        let outcome = outcome.unwrap_or(Outcome::Skipped);
        let before = member.current().map(|current| current.sequence());
        MirrorReport {
            mirror: member.mirror.name().to_owned(),
            location: member.mirror.location().to_owned(),
            before,
            now: if outcome.is_current() { Some(target.release.sequence) } else { before },
            outcome,
            new_bytes: gate.new_bytes(member.mirror.name()),
            traffic: gate.traffic(member.mirror.name()),
            expiries: member.expiries(),
            hook: None,
            needs_settling: member.needs_settling(now),
        }
    });
    let mirrors: Vec<MirrorReport> = report.collect();
    Report {
        site: target.release.site.clone(),
        release: Some(target.release.id()),
        sequence: Some(target.release.sequence),
        is_new: target.is_new,
        changes: target.sums,
        new_bytes: mirrors.iter().map(|mirror| mirror.new_bytes).max().unwrap_or(0),
        goal: Goal::Activate,
        unmet,
        stopped: None,
        reverted: None,
        spread_ms: None,
        mirrors,
    }
}

/// The mirrors of a target, for those that act on all of them.
pub(super) fn mirror(target: &Target, index: usize) -> &Arc<dyn Mirror> {
    &target.members[index].mirror
}
