//! Reverting: mirrors that switched get their previous content back, as a new release that is newer
//! than the bad one.

use crate::monitor::Monitor;
use crate::push::fleet::Fleet;
use crate::push::guards::Guards;
use crate::push::options::{Options, Policy, Require};
use crate::push::outcome::{Outcome, Report, Reverted};
use crate::push::source::{DecidedBy, Source};
use crate::release::{MAX_NOTE_BYTES, PartialScope, is_valid_note};
use crate::text::error_chain;

/// A push that stopped after mirrors had switched, and what they must revert to.
pub(super) struct Revert {
    /// The report of the push so far.
    pub(super) report: Report,
    /// The mirrors, by index.
    pub(super) to_revert: Vec<usize>,
    /// The sequence of the release with the previous content; `None` if there was no such release.
    pub(super) to: Option<u64>,
}

impl Revert {
    /// Reverts the mirrors, and adds the result to the report.
    pub(super) fn run(self, fleet: &Fleet, options: &Options, monitor: &dyn Monitor) -> Report {
        let Self { mut report, to_revert: back, to } = self;
        let reason = report.stopped.clone().unwrap_or_default();
        let mut reverted = Reverted { reason: reason.clone(), sequence: None, error: None };
        let Some(to) = to else {
            reverted.error = Some("there is no release before the first one".to_owned());
            report.reverted = Some(reverted);
            return report;
        };
        let mirrors = back.iter().map(|index| fleet.mirrors()[*index].clone()).collect();
        let names = || back.iter().map(|index| fleet.mirrors()[*index].name().to_owned()).collect();
        // A release that reverts only part of the fleet is not for the rest: `heal` must not spread
        // it.
        let partial = if back.len() < fleet.mirrors().len() {
            Some(PartialScope { mirrors: names(), why: partial_reason(&report, &reason) })
        } else {
            options.partial.clone()
        };
        let note = report.sequence.map(|sequence| format!("back from release {sequence}"));
        let options = Options { partial, note, ..without_checks(options) };
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
                        reverted.error = Some(format!("{} was not reverted", mirror.mirror));
                    }
                }
            }
        }
        report.reverted = Some(reverted);
        report
    }
}

/// The text for the release's record that says why it is only for the mirrors that revert.
fn partial_reason(report: &Report, reason: &str) -> String {
    let mut why =
        format!("a push reverted release {}: {reason}", report.sequence.unwrap_or_default());
    while !is_valid_note(&why) {
        // A character has at most 4 bytes, so the result always fits.
        why = why.chars().filter(|c| !c.is_control()).take(MAX_NOTE_BYTES / 4).collect();
    }
    why
}

/// The options for a push that nothing may stop: no guard rail, run number, requirement or wave.
fn without_checks(options: &Options) -> Options {
    Options {
        run_number: None,
        allow_older: true,
        allow_rejected: true,
        guards: Guards {
            must_have: Vec::new(),
            expunged: Vec::new(),
            allow_shrink: true,
            allow_secrets: true,
            ..options.guards.clone()
        },
        // Each mirror that reverts helps its visitors, whatever the others do.
        require: Require::AtLeast(1),
        policy: Policy::default(),
        ..options.clone()
    }
}
