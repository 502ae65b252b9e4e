//! The order in which the mirrors in a push would switch, as far as it is known in advance.

use serde::Serialize;

use crate::push::mirror_push::MirrorPush;
use crate::push::options::{Goal, OnFailure};
use crate::push::outcome::Outcome;
use crate::push::rollout::{Rollout, lead_order};

/// Mirrors that would switch together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WavePlan {
    /// The number of the wave, starting at 1. Mirrors without a wave form an extra wave at the end.
    pub number: usize,
    /// The names of the mirrors.
    pub mirrors: Vec<String>,
    /// How long these mirrors would serve the release before the probes run, in seconds.
    pub soak_seconds: u64,
    /// The URLs that would then be fetched and compared with the release.
    pub probes: Vec<String>,
}

/// The order in which mirrors would switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// The goal of the push.
    pub goal: Goal,
    /// How many mirrors must be ready before the first one switches.
    pub required: usize,
    /// The number of mirrors that count. Joining mirrors do not.
    pub counted: usize,
    /// What would happen to mirrors that had switched if another then failed to switch.
    pub on_failure: OnFailure,
    /// The mirror that would switch first; `None` if that is known only when all mirrors are ready.
    pub lead: Option<String>,
    /// The waves in which at least one mirror would switch, in order.
    pub waves: Vec<WavePlan>,
}

impl Schedule {
    /// The schedule for the mirrors that have no outcome yet or have staged the release.
    pub(super) fn new(rollout: &Rollout<'_>) -> Self {
        let options = rollout.context.options;
        let mut lead = None;
        let mut plans = Vec::new();
        for (number, (mut mirrors, wave)) in (1..).zip(rollout.waves()) {
            mirrors.retain(|mirror| {
                matches!(rollout.mirrors[mirror.index].outcome, None | Some(Outcome::Staged))
            });
            if mirrors.is_empty() {
                continue;
            }
            // Only the first wave has a lead: once a mirror serves the release, the race is
            // decided.
            if plans.is_empty() {
                lead = leader(&mirrors).map(|mirror| mirror.name().to_owned());
            }
            plans.push(WavePlan {
                number,
                mirrors: mirrors.into_iter().map(|mirror| mirror.name().to_owned()).collect(),
                soak_seconds: wave.map_or(0, |wave| wave.soak.as_secs()),
                probes: wave
                    .iter()
                    .flat_map(|wave| &wave.probes)
                    .map(|probe| probe.url.clone())
                    .collect(),
            });
        }
        let counted = rollout.counted().count();
        Self {
            goal: options.policy.goal,
            required: options.require.required_count(counted),
            counted,
            on_failure: options.policy.on_failure,
            lead,
            waves: plans,
        }
    }

    /// The number of the wave in which the mirror with this name would switch.
    pub(super) fn wave_of(&self, mirror: &str) -> Option<usize> {
        self.waves
            .iter()
            .find(|wave| wave.mirrors.iter().any(|name| name == mirror))
            .map(|wave| wave.number)
    }
}

/// The mirror that leads; `None` if not known yet, because a new mirror gets its store id only with
/// staging.
fn leader<'a>(mirrors: &[MirrorPush<'a>]) -> Option<MirrorPush<'a>> {
    let mut candidates = lead_order(mirrors, MirrorPush::known_store);
    let first = *candidates.first()?;
    candidates.retain(|mirror| mirror.is_joining() == first.is_joining());
    (candidates.len() == 1 || candidates.iter().all(|mirror| mirror.known_store().is_some()))
        .then_some(first)
}
