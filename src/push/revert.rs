//! Reverting: mirrors that switched get their previous content, as a new release above the bad one.

use crate::monitor::Monitor;
use crate::push::fleet::Fleet;
use crate::push::guards::Guards;
use crate::push::options::{Options, Policy, Require};
use crate::push::outcome::{Outcome, Report, Reverted};
use crate::push::source::{DecidedBy, Source};
use crate::release::{MAX_NOTE_BYTES, Partial, is_note};
use crate::text::error_chain;

/// Reverts the mirrors `back`, by index, from the release of `report` to `to`, and adds the result
/// to the report.
pub(super) fn revert(
    mut report: Report,
    back: &[usize],
    to: Option<u64>,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Report {
    let reason = report.stopped.clone().unwrap_or_default();
    let mut reverted = Reverted { reason: reason.clone(), sequence: None, error: None };
    let Some(to) = to else {
        reverted.error = Some("there is nothing before their first release".to_owned());
        report.reverted = Some(reverted);
        return report;
    };
    let mirrors = back.iter().map(|index| fleet.mirrors()[*index].clone()).collect();
    // A release that reverts only part of the fleet is not for the others: `heal` must not spread
    // it.
    let is_part = back.len() < fleet.mirrors().len();
    let names = || back.iter().map(|index| fleet.mirrors()[*index].name().to_owned()).collect();
    let mut why =
        format!("a push went back from release {}: {reason}", report.sequence.unwrap_or_default());
    while !is_note(&why) {
        why = why.chars().filter(|c| !c.is_control()).take(MAX_NOTE_BYTES / 4).collect();
    }
    let partial =
        if is_part { Some(Partial { mirrors: names(), why }) } else { options.partial.clone() };
    let options = Options {
        partial,
        note: report.sequence.map(|sequence| format!("back from release {sequence}")),
        order: None,
        allow_older: true,
        again: true,
        guards: Guards {
            must_have: Vec::new(),
            expunged: Vec::new(),
            allow_shrink: true,
            allow_secrets: true,
            ..options.guards.clone()
        },
        require: Require::AtLeast(1),
        policy: Policy::default(),
        ..options.clone()
    };
    let source = Source::Rollback { to: Some(to), by: DecidedBy::Push };
    match super::push(&source, &Fleet::new(mirrors), &options, monitor) {
        Err(error) => reverted.error = Some(error_chain(&error)),
        Ok(after) => {
            reverted.sequence = after.sequence;
            for (index, mirror) in back.iter().zip(after.mirrors) {
                if mirror.outcome.is_current() {
                    report.mirrors[*index].outcome = Outcome::Reverted;
                    report.mirrors[*index].now = after.sequence;
                } else {
                    reverted.error = Some(format!("{} did not go back", mirror.mirror));
                }
            }
        }
    }
    report.reverted = Some(reverted);
    report
}
