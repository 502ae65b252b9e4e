//! The mirrors in a push and their outcomes.

use crate::fsx;
use crate::hash::StoreId;
use crate::mirror::MirrorError;
use crate::push::PushError;
use crate::push::bundle::{Bundle, make_bundles};
use crate::push::context::PushContext;
use crate::push::mirror_push::MirrorPush;
use crate::push::options::Wave;
use crate::push::outcome::{MirrorReport, Outcome, Report};

/// The state of a rollout. Only the coordinating thread has it: other threads get copies of
/// [`MirrorPush`], and the coordinator records their results here.
pub(super) struct Rollout<'a> {
    pub(super) context: PushContext<'a>,
    /// In the same order as the publication's members.
    pub(super) mirrors: Vec<MirrorRun<'a>>,
}

/// A mirror and its outcome.
pub(super) struct MirrorRun<'a> {
    pub(super) push: MirrorPush<'a>,
    /// `None` until the outcome is known.
    pub(super) outcome: Option<Outcome>,
}

/// The index of a mirror, and the result of staging on it.
pub(super) type StagingResult = (usize, Result<Outcome, MirrorError>);

/// The mirrors that switch together, and their wave; `None` for mirrors without a wave, which form
/// the last group.
pub(super) type WaveMembers<'a> = (Vec<MirrorPush<'a>>, Option<&'a Wave>);

impl<'a> Rollout<'a> {
    /// All mirrors of the publication. Those that need nothing or cannot be updated already have an
    /// outcome.
    pub(super) fn new(context: PushContext<'a>) -> Self {
        let run = |index| {
            let push = MirrorPush { context, index };
            MirrorRun { push, outcome: push.immediate_outcome() }
        };
        Self { context, mirrors: (0..context.publication.members.len()).map(run).collect() }
    }

    pub(super) fn record(&mut self, index: usize, outcome: Outcome) {
        self.mirrors[index].outcome = Some(outcome);
    }

    /// The outcomes known so far.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.mirrors.iter().filter_map(|run| run.outcome.as_ref())
    }

    /// The mirrors that count towards the requirement.
    pub(super) fn counted(&self) -> impl Iterator<Item = &MirrorRun<'a>> {
        self.mirrors.iter().filter(|run| !run.push.is_joining())
    }

    /// The bundles for the mirrors that need one. The base of a late mirror is not known yet.
    pub(super) fn bundles(&self) -> Result<Vec<Bundle>, PushError> {
        let needs_bundle = |run: &&MirrorRun<'_>| run.outcome.is_none() && !run.push.is_late();
        make_bundles(
            self.context,
            self.mirrors.iter().filter(needs_bundle).map(|run| run.push.index),
        )
    }

    /// The mirrors in each wave of the policy, then all others.
    pub(super) fn waves(&self) -> Vec<WaveMembers<'a>> {
        let mut left: Vec<MirrorPush<'a>> = self.mirrors.iter().map(|run| run.push).collect();
        let mut waves = Vec::new();
        for wave in &self.context.options.policy.waves {
            let (own, others) = left
                .into_iter()
                .partition(|mirror| wave.mirrors.iter().any(|name| name == mirror.name()));
            waves.push((own, Some(wave)));
            left = others;
        }
        waves.push((left, None));
        waves
    }

    /// The report. `unmet` says why nothing was activated.
    pub(super) fn into_report(self, unmet: Option<String>) -> Report {
        let publication = self.context.publication;
        let now = fsx::unix_seconds();
        let mirrors: Vec<MirrorReport> =
            self.mirrors.into_iter().map(|run| run.into_report(now)).collect();
        Report {
            site: publication.release.site.clone(),
            release: Some(publication.release.id()),
            sequence: Some(publication.release.sequence),
            is_new: publication.is_new,
            changes: publication.change_counts,
            new_bytes: mirrors.iter().map(|mirror| mirror.new_bytes).max().unwrap_or(0),
            goal: self.context.options.policy.goal,
            unmet,
            stopped: None,
            reverted: None,
            spread_ms: None,
            mirrors,
        }
    }
}

impl MirrorRun<'_> {
    pub(super) fn is(&self, outcome: &Outcome) -> bool {
        self.outcome.as_ref() == Some(outcome)
    }

    fn into_report(self, now: u64) -> MirrorReport {
        let Self { push, outcome } = self;
        let (polled, monitor) = (push.polled(), push.context.monitor);
        let outcome = outcome.unwrap_or(Outcome::Skipped);
        let before = push.served_before().map(|served| served.sequence());
        MirrorReport {
            mirror: push.name().to_owned(),
            location: push.mirror().location().to_owned(),
            before,
            now: if outcome.is_current() { Some(push.release().sequence) } else { before },
            outcome,
            new_bytes: monitor.new_bytes(push.name()),
            traffic: monitor.traffic(push.name()),
            expiries: polled.expiries(),
            hook: None,
            needs_clean_up: polled.needs_clean_up(now),
        }
    }
}

/// Mirrors in the order in which they lead.
pub(super) fn lead_order<'a>(
    mirrors: &[MirrorPush<'a>],
    store: impl Fn(MirrorPush<'a>) -> Option<StoreId>,
) -> Vec<MirrorPush<'a>> {
    // A competing push may not know about a joining mirror, so a joining mirror leads only if all
    // mirrors are joining.
    let mut order = mirrors.to_vec();
    order.sort_by_cached_key(|mirror| (mirror.is_joining(), store(*mirror), mirror.index));
    order
}
