//! The list of mirrors that supplements the configuration: JSON lines with the keys of
//! `[[mirror]]`, in a file or written by a command.
//!
//! This module does not interpret the keys: a line becomes the same table that it would be in the
//! file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Spanned, Value};

use super::{Checker, ConfigError, MAX_BYTES, raw};
use crate::{command, fsx};

/// How long the command that writes the list may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) enum ListSource {
    File(PathBuf),
    Command {
        words: Vec<String>,
        /// Environment variables that the command does not inherit.
        secret_variables: Vec<String>,
    },
}

/// Reads a list. A command runs in the given directory.
pub(super) type ListReader = fn(&ListSource, &Path) -> Result<String, ConfigError>;

impl ListSource {
    /// The name of the list in messages, in place of a file's path.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Command { words, .. } => format!("the output of `{}`", words.join(" ")),
        }
    }
}

/// Reads the file, or runs the command.
pub(super) fn read(source: &ListSource, directory: &Path) -> Result<String, ConfigError> {
    let text = match source {
        ListSource::File(path) => fsx::read_text(path, MAX_BYTES + 1).map_err(ConfigError::List)?,
        ListSource::Command { words, secret_variables } => command::run(&command::CommandSpec {
            command: words,
            directory,
            variables: &[],
            secret_variables,
            input: "",
            // One byte more than allowed, so that a truncated list is detected.
            max_output_bytes: MAX_BYTES + 1,
            timeout: COMMAND_TIMEOUT,
        })
        .map_err(|source| ConfigError::Command { command: words.join(" "), source })?,
    };
    if text.len() as u64 > MAX_BYTES {
        return Err(ConfigError::ListTooLarge { list: source.name() });
    }
    Ok(text)
}

impl Checker<'_> {
    /// Interprets `mirrors_from`: a string is a file, and a list is a command and its arguments.
    pub(super) fn list_source(
        &self,
        from: &Spanned<Value>,
        secret_variables: Vec<String>,
    ) -> Result<ListSource, ConfigError> {
        let words = |values: &[Value]| -> Option<Vec<String>> {
            let words: Option<Vec<_>> =
                values.iter().map(|word| word.as_str().map(str::to_owned)).collect();
            words.filter(|words| words.first().is_some_and(|program| !program.is_empty()))
        };
        match from.as_ref() {
            Value::String(file) if !file.is_empty() => {
                Ok(ListSource::File(self.base_dir.join(file)))
            }
            Value::Array(values) => match words(values) {
                Some(words) => Ok(ListSource::Command { words, secret_variables }),
                None => Err(self.error(
                    from.span(),
                    "a command is a list of strings, beginning with the program",
                )),
            },
            _ => Err(self.error(
                from.span(),
                "write a file, as in \"mirrors.jsonl\", or a command, as in [\"inventory\", \
                 \"--json\"]",
            )),
        }
    }
}

/// A line of a list, as the table that it would be in the configuration.
pub(super) struct MirrorLine {
    number: usize,
    text: String,
    list: PathBuf,
}

/// The lines of a list, without empty lines.
pub(super) fn lines(text: &str, source: &ListSource) -> Result<Vec<MirrorLine>, ConfigError> {
    let list = PathBuf::from(source.name());
    let full = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    full.map(|(index, line)| MirrorLine::new(index + 1, line, &list)).collect()
}

impl MirrorLine {
    fn new(number: usize, line: &str, list: &Path) -> Result<Self, ConfigError> {
        // The line as if it were alone in a file, with an empty line in place of each line before
        // it, so that `Checker` reports the right line number.
        let padded = format!("{}{line}", "\n".repeat(number - 1));
        let error = |column: usize, message: String| {
            let start = padded.len() - line.len()
                + line.char_indices().nth(column.saturating_sub(1)).map_or(0, |(at, _)| at);
            Checker::new(&padded, list).error(start..start + 1, message)
        };
        let table: toml::Table = serde_json::from_str(line).map_err(|fault| {
            let text = fault.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            error(fault.column(), format!("not a JSON object with the keys of [[mirror]]: {what}"))
        })?;
        // Converted to TOML, so that the file and the lists need only one type and one set of
        // rules.
        let text = toml::to_string(&table).map_err(|fault| error(1, fault.to_string()))?;
        Ok(Self { number, text, list: list.to_owned() })
    }

    /// Calls `check` with the table, in which paths are relative to `base`. An error in the table
    /// is reported for this line.
    pub(super) fn check<T>(
        &self,
        base: &Path,
        check: impl FnOnce(&Checker<'_>, raw::RawMirror) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let checker = Checker { text: &self.text, path: &self.list, base_dir: base };
        let table = toml::from_str(&self.text).map_err(|error| checker.syntax_error(&error));
        table.and_then(|table| check(&checker, table)).map_err(|error| match error {
            ConfigError::Invalid { path, message, snippet, .. } => {
                // The snippet shows the faulty value as written in TOML: close enough to find it in
                // the line.
                ConfigError::Invalid { path, line: self.number, column: 1, message, snippet }
            }
            other => other,
        })
    }
}
