//! How the program ends: the exit codes, and the words of a failure.
//!
//! The codes are an API. [`TABLE`] is the one place that lists them, the help
//! text prints it, and [`Exit::of`] is the one place that chooses.

use std::error::Error;
use std::io;

use serde::Serialize;

use super::output::{escape, without_tokens};
use super::terminal;
use headwater::text::error_chain;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// Anything else went wrong, or a check found faults.
    Failed,
    /// The arguments or the configuration are wrong.
    Usage,
    /// Some mirrors have the release, others do not.
    Partial,
    /// No mirror has the release.
    Nothing,
    /// A guard rail refused.
    Refused,
    /// A newer push has won.
    Superseded,
    /// Every mirror denied access.
    Denied,
    /// The content is missing, unreadable, or changed while it was read.
    Content,
    /// Every mirror was locked by someone else.
    Locked,
    /// The user asked to stop.
    Interrupted,
}

/// Every exit code and what it says, in the order in which they apply: of two
/// that fit, the earlier one is given.
pub(crate) const TABLE: [(Exit, u8, &str); 11] = [
    (Exit::Usage, 2, "wrong arguments or configuration; nothing was done"),
    (Exit::Interrupted, 130, "interrupted; every mirror is on a whole release, the next push goes on from here"),
    (Exit::Content, 8, "content is missing, unreadable, or changed while it was read"),
    (Exit::Refused, 5, "a guard rail refused; nothing was touched, the message names the flag"),
    (Exit::Superseded, 6, "a newer push has won; nothing was activated (0 with --superseded-ok)"),
    (Exit::Denied, 7, "nothing was activated: every mirror that failed denied access"),
    (Exit::Locked, 9, "nothing was activated: every mirror that failed was locked, also after --wait"),
    (Exit::Nothing, 4, "no mirror has the release, for other reasons; what had switched went back"),
    (Exit::Success, 0, "all mirrors have the release"),
    (Exit::Partial, 3, "some mirrors have the release, others do not"),
    (Exit::Failed, 1, "anything else; `verify` found faults, `status` found a mirror that is not current"),
];

/// What became of one mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MirrorOutcome {
    /// The release became current.
    Activated,
    /// It was current already.
    AlreadyCurrent,
    /// The mirror has something newer.
    Superseded,
    /// The mirror denied access.
    Denied,
    /// Someone else had the mirror's lock all the time.
    Locked,
    /// It failed in another way, or was held back because others failed.
    Failed,
}

impl MirrorOutcome {
    const fn is_served(self) -> bool {
        matches!(self, Self::Activated | Self::AlreadyCurrent)
    }
}

/// What an exit code is chosen from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExitInputs<'a> {
    /// The arguments or the configuration were wrong.
    pub(crate) is_misused: bool,
    /// The user asked to stop, and work was left undone.
    pub(crate) is_interrupted: bool,
    /// The content was missing, unreadable, or changed while read.
    pub(crate) is_content_bad: bool,
    /// A guard rail refused.
    pub(crate) is_refused: bool,
    /// `--superseded-ok` was given.
    pub(crate) is_superseded_ok: bool,
    /// What became of each mirror; none: the run did not come that far, in a way that no other fact names.
    pub(crate) outcomes: &'a [MirrorOutcome],
}

impl Exit {
    /// The code that applies: the first in [`TABLE`].
    pub(crate) fn of(facts: &ExitInputs<'_>) -> Self {
        let outcomes = facts.outcomes;
        let failures = || outcomes.iter().filter(|outcome| !outcome.is_served());
        let is_nothing_served = failures().count() == outcomes.len();
        let all_failures = |kind: MirrorOutcome| failures().all(|outcome| *outcome == kind);
        match () {
            () if facts.is_misused => Self::Usage,
            () if facts.is_interrupted => Self::Interrupted,
            () if facts.is_content_bad => Self::Content,
            () if facts.is_refused => Self::Refused,
            () if outcomes.is_empty() => Self::Failed,
            () if is_nothing_served && outcomes.contains(&MirrorOutcome::Superseded) => match facts.is_superseded_ok {
                true => Self::Success,
                false => Self::Superseded,
            },
            () if is_nothing_served && all_failures(MirrorOutcome::Denied) => Self::Denied,
            () if is_nothing_served && all_failures(MirrorOutcome::Locked) => Self::Locked,
            () if is_nothing_served => Self::Nothing,
            () if failures().next().is_none() => Self::Success,
            () => Self::Partial,
        }
    }

    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        // The test below shows that every one is in the table.
        TABLE.iter().find(|(exit, ..)| *exit == self).map_or(1, |(_, code, _)| *code)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Lines of the help that are laid out by hand fit a terminal with this many columns.
const HELP_COLUMNS: usize = 80;

/// The table as it stands in the help text.
pub(crate) fn help() -> String {
    let mut text = "Exit codes, the first that applies:\n".to_owned();
    for (_, code, meaning) in TABLE {
        text.push_str(&format!("  {code:>3}  {}\n", wrapped(meaning, HELP_COLUMNS - 7, 7)));
    }
    text
}

/// `text` in lines of at most `columns`, of which all but the first begin with `indent` spaces.
fn wrapped(text: &str, columns: usize, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}

/// What `--json` prints of a failure.
#[derive(Debug, Serialize)]
pub(crate) struct FailureOutput<'a> {
    headwater: &'static str,
    version: u32,
    exit_code: u8,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// Why the program ends early: an error, what to do next, and the code.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    details: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure because of `error`.
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into(), details: Vec::new(), hint: None }
    }

    /// The same, and what to do next.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(without_tokens(&hint.into()).into_owned());
        self
    }

    /// The same, with lines that show the offenders; see [`super::output::listed`].
    #[must_use]
    pub(crate) fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub(crate) fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// What to do next, if there is something to do.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// How the program ends with it.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// The error with its causes, on one line, for JSON.
    pub(crate) fn text(&self) -> String {
        without_tokens(&error_chain(&*self.error)).into_owned()
    }

    /// The object that `--json` prints in place of the result of `command`, which ends with `exit`.
    pub(crate) fn answer(&self, command: &'static str, exit: Exit) -> FailureOutput<'_> {
        let hint = self.hint.as_deref();
        FailureOutput { headwater: command, version: 1, exit_code: exit.code(), error: self.text(), hint }
    }

    /// The lines for people: `error: …`, the details, `hint: …`. Nothing in
    /// them steers a terminal; the first word alone may be coloured.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("\x1b[1;31merror:\x1b[0m {}\n", escape(&error_chain(&*self.error)));
        for line in &self.details {
            text.push_str(&format!("  {}\n", escape(line)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\x1b[1mhint:\x1b[0m {}\n", escape(hint)));
        }
        text
    }

    /// Writes the lines to stderr, without colour where that is not wanted.
    pub(crate) fn print(&self) {
        // When stderr is gone there is nobody left to tell; the code remains.
        eprint_raw(&self.render()).ok();
    }
}

/// Writes `text`, already escaped, to stderr.
pub(crate) fn eprint_raw(text: &str) -> io::Result<()> {
    terminal::write_stderr(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use MirrorOutcome::{Activated, AlreadyCurrent, Denied, Failed, Locked, Superseded};

    fn of(outcomes: &[MirrorOutcome]) -> u8 {
        Exit::of(&ExitInputs { outcomes, ..ExitInputs::default() }).code()
    }

    #[test]
    fn codes_are_those_of_the_design() {
        for (outcomes, code) in [
            (&[Activated, AlreadyCurrent][..], 0),
            (&[AlreadyCurrent], 0),
            (&[Activated, Failed], 3),
            (&[AlreadyCurrent, Denied], 3),
            (&[Activated, Superseded], 3),
            (&[Superseded, Superseded], 6),
            (&[Failed, Superseded], 6),
            (&[Denied, Denied], 7),
            (&[Denied, Locked], 4),
            (&[Locked], 9),
            (&[Failed, Locked], 4),
            (&[], 1),
        ] {
            assert_eq!(of(outcomes), code, "{outcomes:?}");
        }
    }

    #[test]
    fn superseded_is_success_for_those_who_say_so() {
        let exit = |outcomes| Exit::of(&ExitInputs { is_superseded_ok: true, outcomes, ..ExitInputs::default() });
        assert_eq!(exit(&[Superseded, Superseded]), Exit::Success);
        assert_eq!(exit(&[Failed]), Exit::Nothing);
    }

    #[test]
    fn the_first_in_the_table_applies() {
        let mut facts = ExitInputs { is_refused: true, outcomes: &[Activated], ..ExitInputs::default() };
        assert_eq!(Exit::of(&facts), Exit::Refused);
        facts.is_content_bad = true;
        assert_eq!(Exit::of(&facts), Exit::Content);
        facts.is_interrupted = true;
        assert_eq!(Exit::of(&facts), Exit::Interrupted);
        facts.is_misused = true;
        assert_eq!(Exit::of(&facts), Exit::Usage);
    }

    #[test]
    fn every_code_is_listed_once() {
        let mut codes: Vec<u8> = TABLE
            .iter()
            .map(|(exit, code, _)| {
                assert_eq!(exit.code(), *code);
                *code
            })
            .collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130]);
        assert!(help().contains("  130  interrupted"));
    }

    #[test]
    fn the_page_of_exit_codes_has_the_same_table() {
        let page = include_str!("../../docs/exit-codes.md");
        let rows: String = TABLE.iter().map(|(_, code, meaning)| format!("| {code} | {meaning} |\n")).collect();
        assert!(page.contains(&rows), "docs/exit-codes.md should have\n{rows}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot push")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("bad name \u{1b}[2J: {0}")]
    struct Middle(#[source] io::Error);

    #[test]
    fn causes_are_told_once_and_escaped() {
        let failure = Failure::new(Exit::Usage, Outer(Middle(io::Error::other("disk on fire"))))
            .with_details(vec!["a\nb".to_owned()])
            .with_hint("buy water");
        assert_eq!(
            anstream::adapter::strip_str(&failure.render()).to_string(),
            "error: cannot push: bad name \\u{1b}[2J: disk on fire\n  a\\u{a}b\nhint: buy water\n"
        );
        assert_eq!(failure.exit().code(), 2);
    }
}
