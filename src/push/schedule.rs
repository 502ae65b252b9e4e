//! When which mirror of a push would switch, as far as that can be told before.

use serde::Serialize;

use crate::push::options::{Goal, OnFailure, Options};
use crate::push::outcome::Outcome;
use crate::push::publication::Publication;
use crate::push::waves;
use crate::push::{activation, fleet};

/// Mirrors that would switch together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WavePlan {
    /// Its number, from 1; mirrors that are in no wave are in one after the last.
    pub number: usize,
    /// Their names.
    pub mirrors: Vec<String>,
    /// How long they would be left alone then, in seconds.
    pub soak_seconds: u64,
    /// What would be fetched after that and compared with the release.
    pub probes: Vec<String>,
}

/// When which mirror would switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// How far the push would go.
    pub goal: Goal,
    /// How many mirrors must be ready before the first one switches.
    pub required: usize,
    /// Of how many: those that are joining do not count.
    pub counted: usize,
    /// What would become of those that switched when another one fails to.
    pub on_failure: OnFailure,
    /// Who would switch before all others; nothing where that shows only when all are ready.
    pub lead: Option<String>,
    /// The waves in which any mirror would switch, in order.
    pub waves: Vec<WavePlan>,
}

impl Schedule {
    /// What `options` say of the mirrors of `target` that have no outcome yet, or are staged.
    pub(super) fn new(publication: &Publication, outcomes: &[Option<Outcome>], options: &Options) -> Self {
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
                probes: wave.iter().flat_map(|wave| &wave.probes).map(|probe| probe.url.clone()).collect(),
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
        self.waves.iter().find(|wave| wave.mirrors.iter().any(|name| name == mirror)).map(|wave| wave.number)
    }
}

/// The first of those that lead, once it is known which that is: a new one has an id only when it is staged.
fn leader(publication: &Publication, members: &[usize]) -> Option<usize> {
    let store = |index| activation::known_store(publication, index);
    let order = activation::in_order(publication, members, store);
    let first = *order.first()?;
    let is_joining = |index| fleet::is_joining(&publication.members, index);
    let like: Vec<usize> = order.into_iter().filter(|index| is_joining(*index) == is_joining(first)).collect();
    (like.len() == 1 || like.into_iter().all(|index| store(index).is_some())).then_some(first)
}
