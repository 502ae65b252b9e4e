//! The order in which the mirrors of a push would switch, as far as it is known in advance.

use serde::Serialize;

use crate::push::options::{Goal, OnFailure, Options};
use crate::push::outcome::Outcome;
use crate::push::publication::Publication;
use crate::push::{activation, fleet, waves};

/// Mirrors that would switch together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WavePlan {
    /// The number of the wave, starting at 1. Mirrors without a wave form one after the last.
    pub number: usize,
    /// The names of the mirrors.
    pub mirrors: Vec<String>,
    /// How long these mirrors would serve the release before the probes run, in seconds.
    pub soak_seconds: u64,
    /// The URLs that would be fetched then and compared with the release.
    pub probes: Vec<String>,
}

/// The order in which mirrors would switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// The goal of the push.
    pub goal: Goal,
    /// How many mirrors must be ready before the first one switches.
    pub required: usize,
    /// The number of mirrors that count: joining ones do not.
    pub counted: usize,
    /// What would happen to mirrors that switched if another one then fails to switch.
    pub on_failure: OnFailure,
    /// The mirror that would switch first; `None` if that is only known when all are ready.
    pub lead: Option<String>,
    /// The waves in which any mirror would switch, in order.
    pub waves: Vec<WavePlan>,
}

impl Schedule {
    /// The schedule of the mirrors of the publication that have no outcome yet, or are staged.
    pub(super) fn new(
        publication: &Publication,
        outcomes: &[Option<Outcome>],
        options: &Options,
    ) -> Self {
        let name = |index: usize| publication.members[index].mirror.name().to_owned();
        let mut lead = None;
        let mut plans = Vec::new();
        for (number, (mut members, wave)) in (1..).zip(waves::members(publication, options)) {
            members.retain(|index| matches!(outcomes[*index], None | Some(Outcome::Staged)));
            if members.is_empty() {
                continue;
            }
            if plans.is_empty() {
                lead = leader(publication, &members).map(name);
            }
            plans.push(WavePlan {
                number,
                mirrors: members.into_iter().map(name).collect(),
                soak_seconds: wave.map_or(0, |wave| wave.soak.as_secs()),
                probes: wave
                    .iter()
                    .flat_map(|wave| &wave.probes)
                    .map(|probe| probe.url.clone())
                    .collect(),
            });
        }
        let counted = fleet::counted(&publication.members).count();
        Self {
            goal: options.policy.goal,
            required: options.require.of(counted),
            counted,
            on_failure: options.policy.on_failure,
            lead,
            waves: plans,
        }
    }

    /// The number of the wave in which the mirror of this name would switch.
    pub(super) fn wave_of(&self, mirror: &str) -> Option<usize> {
        self.waves
            .iter()
            .find(|wave| wave.mirrors.iter().any(|name| name == mirror))
            .map(|wave| wave.number)
    }
}

/// The mirror that leads; `None` if that is not known yet, because a new mirror gets its store id
/// only when it is staged.
fn leader(publication: &Publication, members: &[usize]) -> Option<usize> {
    let store = |index| activation::known_store(publication, index);
    let order = activation::in_order(publication, members, store);
    let first = *order.first()?;
    let is_joining = |index| fleet::is_joining(&publication.members, index);
    let like: Vec<usize> =
        order.into_iter().filter(|index| is_joining(*index) == is_joining(first)).collect();
    (like.len() == 1 || like.into_iter().all(|index| store(index).is_some())).then_some(first)
}
