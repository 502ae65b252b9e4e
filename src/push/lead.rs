//! Activates the lead mirror first, then the others in parallel.
//!
//! All pushes order mirrors the same way, so two competing pushes meet at the same lead, and its
//! compare-and-set decides which push wins.

use crate::monitor::Monitor as _;
use crate::push::PushError;
use crate::push::activation::{MAX_ACTIVATION_ATTEMPTS, RaceWinner};
use crate::push::mirror_push::MirrorPush;
use crate::push::outcome::Outcome;
use crate::push::rollout::{Rollout, lead_order};
use crate::threads;

impl<'a> Rollout<'a> {
    /// Activates the publication on the `staged` mirrors and records their outcomes. Returns
    /// whether to start again on top of the other push's release.
    pub(super) fn activate(&mut self, staged: &[MirrorPush<'a>]) -> Result<bool, PushError> {
        let mut rest = staged_lead_order(staged);
        let mut tries = 0;
        while !rest.is_empty() {
            if self.context.monitor.is_cancelled() {
                return Err(PushError::Cancelled);
            }
            let lead = rest.remove(0);
            let mut activated = lead.try_activate(lead.served_before());
            if let Err(error) = &activated
                && lead.is_lost_race(error.kind())
            {
                match lead.query_race_winner() {
                    RaceWinner::Ours => activated = Ok(()),
                    // Another push took the slot and gave it up; stage again.
                    RaceWinner::NoRival
                        if tries < MAX_ACTIVATION_ATTEMPTS && lead.stage_alone().is_ok() =>
                    {
                        tries += 1;
                        rest.insert(0, lead);
                        continue;
                    }
                    // The mirror contradicts itself. It fails alone; the others get the release.
                    RaceWinner::NoRival => {}
                    race @ (RaceWinner::Older | RaceWinner::Newer | RaceWinner::Staged(_)) => {
                        return Ok(self.on_lost_race(lead, &race));
                    }
                }
            }
            match activated {
                Ok(()) => {
                    self.record(lead.index, Outcome::Activated);
                    // The lead has decided the race, so the order of the others is irrelevant.
                    self.activate_all(&rest);
                    return Ok(false);
                }
                // The next mirror becomes the lead.
                Err(error) => self.record(lead.index, lead.report_failure(&error)),
            }
        }
        Ok(false)
    }

    /// Activates the publication on `mirrors` in parallel, after the lead.
    pub(super) fn activate_all(&mut self, mirrors: &[MirrorPush<'a>]) {
        let activated = threads::each(mirrors, |mirror| (mirror.index, mirror.activate()));
        for (index, outcome) in activated {
            self.record(index, outcome);
        }
    }

    /// Handles a lost compare-and-set on `mirror`, with `race` as the winner: drops all staged
    /// releases. Returns whether to start again on top of the other release.
    pub(super) fn on_lost_race(&mut self, mirror: MirrorPush<'a>, race: &RaceWinner) -> bool {
        let (outcome, may_retry) = match *race {
            // A staged release might never be served, so it is replaced, as it would be by a push
            // that starts now.
            RaceWinner::Staged(by) if !mirror.wait_until_current(by) => {
                (Outcome::Displaced { by }, true)
            }
            RaceWinner::Older | RaceWinner::NoRival => (Outcome::Superseded, true),
            RaceWinner::Ours | RaceWinner::Newer | RaceWinner::Staged(_) => {
                (Outcome::Superseded, false)
            }
        };
        self.abandon_staged(&outcome);
        self.record(mirror.index, outcome);
        self.context.publication.is_retryable && may_retry
    }

    /// Drops the release on all mirrors that have staged it but not switched. `why` becomes their
    /// outcome.
    pub(super) fn abandon_staged(&mut self, why: &Outcome) {
        for run in self.mirrors.iter_mut().filter(|run| run.is(&Outcome::Staged)) {
            // If this fails, the release stays staged, unserved, until the next push takes the
            // slot.
            run.push.mirror().abandon(run.push.release().name()).ok();
            run.outcome = Some(why.clone());
        }
    }
}

/// The staged mirrors in lead order. The id of a new store is known only now.
fn staged_lead_order<'a>(staged: &[MirrorPush<'a>]) -> Vec<MirrorPush<'a>> {
    // A single mirror leads whatever its id, so there is no need to request the id.
    if staged.len() < 2 {
        return staged.to_vec();
    }
    lead_order(staged, |mirror| {
        mirror.known_store().or_else(|| mirror.mirror().state().ok()?.store)
    })
}
