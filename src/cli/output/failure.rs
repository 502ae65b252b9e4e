//! The exit codes, and the text of a failure.
//!
//! The codes are an API. Only [`EXIT_CODES`] lists them, the help text prints that table, and only
//! [`Exit::from_inputs`] chooses a code.

use std::error::Error;
use std::io;

use headwater::text::error_chain;
use serde::Serialize;

use crate::cli::output::format::{escape, without_tokens};
use crate::cli::output::terminal;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// Any other failure, or a check that found faults.
    Failed,
    /// The arguments or the configuration are wrong.
    Usage,
    /// Some mirrors have the release; others do not.
    Partial,
    /// No mirror has the release.
    NoMirror,
    /// A guard rail refused the push.
    Refused,
    /// A newer push has won.
    Superseded,
    /// Every mirror denied access.
    Denied,
    /// The content is missing, unreadable, or changed while it was read.
    Content,
    /// Every mirror was locked by another run.
    Locked,
    /// The user interrupted the run.
    Interrupted,
}

/// Every exit code and its meaning, in order of precedence: if two codes apply, the program returns
/// the earlier code.
pub(crate) const EXIT_CODES: [(Exit, u8, &str); 11] = [
    // The code that clap returns for wrong arguments.
    (Exit::Usage, 2, "wrong arguments or configuration; nothing was done"),
    (
        Exit::Interrupted,
        // The exit code that a shell reports for a process that SIGINT ended: 128 plus the signal
        // number.
        130,
        "interrupted; every mirror is on a complete release, and the next push resumes",
    ),
    (Exit::Content, 8, "content is missing, unreadable, or changed while it was read"),
    (
        Exit::Refused,
        5,
        "a guard rail refused the push; nothing was changed, and the message names the flag",
    ),
    (Exit::Superseded, 6, "a newer push has won; nothing was activated (0 with --superseded-ok)"),
    (Exit::Denied, 7, "nothing was activated; every mirror that failed denied access"),
    (
        Exit::Locked,
        9,
        "nothing was activated; every mirror that failed was locked for longer than --wait",
    ),
    (
        Exit::NoMirror,
        4,
        "no mirror has the release, for other reasons; mirrors that switched were reverted",
    ),
    (Exit::Success, 0, "all mirrors have the release"),
    (Exit::Partial, 3, "some mirrors have the release, others do not"),
    (
        Exit::Failed,
        1,
        "any other failure; `verify` found faults, or `status` found a mirror that is not current",
    ),
];

/// The outcome of one mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MirrorOutcome {
    /// The mirror switched to the release.
    Activated,
    /// The release was already current.
    AlreadyCurrent,
    /// The mirror has a newer release.
    Superseded,
    /// The mirror denied access.
    Denied,
    /// Another run held the mirror's lock for the whole wait.
    Locked,
    /// The mirror failed in another way, or did not switch because others failed.
    Failed,
}

impl MirrorOutcome {
    const fn is_served(self) -> bool {
        matches!(self, Self::Activated | Self::AlreadyCurrent)
    }
}

/// The facts that determine the exit code.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExitInputs<'a> {
    /// The arguments or the configuration were wrong.
    pub(crate) is_usage_error: bool,
    /// The user interrupted the run before it finished.
    pub(crate) is_interrupted: bool,
    /// The content was missing, unreadable, or changed while read.
    pub(crate) is_content_bad: bool,
    /// A guard rail refused the push.
    pub(crate) is_refused: bool,
    /// `--superseded-ok` was given.
    pub(crate) is_superseded_ok: bool,
    /// The outcome of each mirror. Empty if the run failed earlier for a reason that no other field
    /// covers.
    pub(crate) outcomes: &'a [MirrorOutcome],
}

impl Exit {
    /// Returns the first code in [`EXIT_CODES`] that applies.
    pub(crate) fn from_inputs(inputs: &ExitInputs<'_>) -> Self {
        let outcomes = inputs.outcomes;
        let failures = || outcomes.iter().filter(|outcome| !outcome.is_served());
        let is_nothing_served = failures().count() == outcomes.len();
        let all_failures = |kind: MirrorOutcome| failures().all(|outcome| *outcome == kind);
        if inputs.is_usage_error {
            Self::Usage
        } else if inputs.is_interrupted {
            Self::Interrupted
        } else if inputs.is_content_bad {
            Self::Content
        } else if inputs.is_refused {
            Self::Refused
        // No exit code for mirrors applies, because no mirror was tried.
        } else if outcomes.is_empty() {
            Self::Failed
        } else if !is_nothing_served {
            if failures().next().is_none() { Self::Success } else { Self::Partial }
        // Even one newer push explains why nothing was activated, whatever else failed.
        } else if outcomes.contains(&MirrorOutcome::Superseded) {
            if inputs.is_superseded_ok { Self::Success } else { Self::Superseded }
        // Denied and locked apply only if all failures are of that kind: a script can then fix the
        // access, or simply wait. A mixture needs a person.
        } else if all_failures(MirrorOutcome::Denied) {
            Self::Denied
        } else if all_failures(MirrorOutcome::Locked) {
            Self::Locked
        } else {
            Self::NoMirror
        }
    }

    /// The number that the process returns.
    pub(crate) fn code(self) -> u8 {
        // A test below checks that the table contains every code.
        EXIT_CODES.iter().find(|(exit, ..)| *exit == self).map_or(1, |(_, code, _)| *code)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Width of the help text that is formatted here, in columns.
const HELP_COLUMNS: usize = 80;

/// The table as the help text shows it.
pub(crate) fn exit_code_help() -> String {
    // Wrapped here, because clap would not indent the second line of an entry.
    let mut text = "Exit codes (the first one that applies):\n".to_owned();
    for (_, code, meaning) in EXIT_CODES {
        // The code and the spaces around it take 7 columns.
        text.push_str(&format!("  {code:>3}  {}\n", wrapped(meaning, HELP_COLUMNS - 7, 7)));
    }
    text
}

/// Wraps `text` into lines of at most `columns`. All but the first start with `indent` spaces.
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

/// The JSON object of a failure.
#[derive(Debug, Serialize)]
pub(crate) struct FailureOutput<'a> {
    headwater: &'static str,
    version: u32,
    exit_code: u8,
    error: String,
    /// The paths of the content that caused the failure, one string each.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    paths: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// A failure that ends the program: the error, a hint and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    details: Vec<String>,
    paths: Option<PathLines>,
    hint: Option<String>,
}

/// The parts of an error about many paths: the error without the paths, and a line for each path.
#[derive(Debug)]
struct PathLines {
    summary: String,
    lines: Vec<String>,
}

impl Failure {
    /// Creates a failure with `error` as its cause.
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into(), details: Vec::new(), paths: None, hint: None }
    }

    /// Adds a hint that says what to do next.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        // A hint may repeat an argument, and a user may have typed a token there.
        self.hint = Some(without_tokens(&hint.into()).into_owned());
        self
    }

    /// Adds lines with details; see [`crate::cli::output::format::listed`].
    #[must_use]
    pub(crate) fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// Adds paths, each on its own line. `words` replaces the error text, which names the paths on
    /// one line.
    #[must_use]
    pub(crate) fn with_paths(mut self, words: String, lines: Vec<String>) -> Self {
        self.paths = Some(PathLines { summary: words, lines });
        self
    }

    /// Replaces the exit code.
    #[must_use]
    pub(crate) fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The hint, if there is one.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// The error with its causes, on one line, for JSON.
    pub(crate) fn error_text(&self) -> String {
        without_tokens(&error_chain(&*self.error)).into_owned()
    }

    /// The object that `--json` prints in place of the result of `command`, which ends with `exit`.
    pub(crate) fn json_output(&self, command: &'static str, exit: Exit) -> FailureOutput<'_> {
        let hint = self.hint.as_deref();
        let (error, paths) = match &self.paths {
            Some(paths) => (paths.summary.clone(), &*paths.lines),
            None => (self.error_text(), &[][..]),
        };
        FailureOutput { headwater: command, version: 1, exit_code: exit.code(), error, paths, hint }
    }

    /// The lines for people: `error: …`, the details, `hint: …`. Control characters
    /// are escaped.
    pub(crate) fn render(&self) -> String {
        let (error, paths) = match &self.paths {
            Some(paths) => (format!("{}:", paths.summary), &*paths.lines),
            None => (error_chain(&*self.error), &[][..]),
        };
        let mut text = format!("error: {}\n", escape(&error));
        for line in paths.iter().chain(&self.details) {
            text.push_str(&format!("  {}\n", escape(line)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", escape(hint)));
        }
        text
    }

    /// Writes the lines to stderr.
    pub(crate) fn print(&self) {
        // If stderr is closed, only the exit code remains.
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
        Exit::from_inputs(&ExitInputs { outcomes, ..ExitInputs::default() }).code()
    }

    #[test]
    fn mirror_outcomes_give_the_documented_exit_codes() {
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
    fn superseded_is_success_with_superseded_ok() {
        let exit = |outcomes| {
            Exit::from_inputs(&ExitInputs {
                is_superseded_ok: true,
                outcomes,
                ..ExitInputs::default()
            })
        };
        assert_eq!(exit(&[Superseded, Superseded]), Exit::Success);
        assert_eq!(exit(&[Failed]), Exit::NoMirror);
    }

    #[test]
    fn first_matching_row_decides_the_exit_code() {
        let mut facts =
            ExitInputs { is_refused: true, outcomes: &[Activated], ..ExitInputs::default() };
        assert_eq!(Exit::from_inputs(&facts), Exit::Refused);
        facts.is_content_bad = true;
        assert_eq!(Exit::from_inputs(&facts), Exit::Content);
        facts.is_interrupted = true;
        assert_eq!(Exit::from_inputs(&facts), Exit::Interrupted);
        facts.is_usage_error = true;
        assert_eq!(Exit::from_inputs(&facts), Exit::Usage);
    }

    #[test]
    fn every_exit_code_is_listed_once() {
        let mut codes: Vec<u8> = EXIT_CODES
            .iter()
            .map(|(exit, code, _)| {
                assert_eq!(exit.code(), *code);
                *code
            })
            .collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130]);
        assert!(exit_code_help().contains("  130  interrupted"));
    }

    #[test]
    fn exit_codes_page_has_the_same_table() {
        let page = include_str!("../../../docs/exit-codes.md");
        let rows: String = EXIT_CODES
            .iter()
            .map(|(_, code, meaning)| format!("| {code} | {meaning} |\n"))
            .collect();
        assert!(page.contains(&rows), "docs/exit-codes.md should have\n{rows}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot push")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("bad name \u{1b}[2J: {0}")]
    struct Middle(#[source] io::Error);

    #[test]
    fn causes_are_escaped_and_printed_once() {
        let failure = Failure::new(Exit::Usage, Outer(Middle(io::Error::other("disk on fire"))))
            .with_details(vec!["a\nb".to_owned()])
            .with_hint("buy water");
        assert_eq!(
            failure.render(),
            "error: cannot push: bad name \\u{1b}[2J: disk on fire\n  a\\u{a}b\nhint: buy water\n"
        );
        assert_eq!(failure.exit().code(), 2);
    }
}
