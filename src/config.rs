//! The file `headwater.toml`, which configures the content and mirrors for a push unless arguments
//! override it, and [`serve`], the configuration of a receiver.
//!
//! Turns text into a checked [`Config`] or into an error with line and column. Unknown keys are
//! errors: a typo must not turn a rule off. The mirrors may also come from a list, which is a file
//! or the output of a command. Paths in the result are relative to the directory of the file. Uses
//! the crates `toml`, `jiff` (durations), `bytesize` and `ignore` (to check patterns).
//!
//! This module does not know which file is used, which arguments override it, or what a mirror's
//! URL refers to.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use crate::command::CommandError;
use crate::fsx::{self, IoError};
use crate::mirror::has_token;
use crate::push::{MaxRemoved, MtimeSource, OnFailure, Require, RetentionRule};
use crate::scan::{NameRule, Root, SymlinkMode};
use crate::tree_path::{Site, TreePath};

mod access;
mod cache;
mod fleet;
mod list_rules;
mod mirror_list;
mod notify;
mod rate;
mod raw;
mod run;
pub mod serve;
mod suggest;
#[cfg(test)]
mod tests;

pub use access::{MirrorAccess, TokenSource};
pub use cache::CacheConfig;
pub use fleet::{Frozen, Label, MirrorConfig, MirrorName, NameError, WaveConfig};
pub use notify::{HooksConfig, NotifyConfig, PurgeConfig};
pub use rate::{ParseRateError, parse_rate};
pub use run::RunDefaults;
pub use suggest::closest;

/// The name of the file in the directory where the command runs.
pub const FILE_NAME: &str = "headwater.toml";

/// How many releases a mirror keeps by default.
pub const DEFAULT_KEEP: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");

/// Maximum size of the file, in bytes: far more than any fleet needs.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot use the configuration")]
    Read(#[from] IoError),
    /// The file is larger than any real configuration.
    #[error("{} is larger than 1 MiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The list of mirrors could not be read.
    #[error("cannot use the list of mirrors")]
    List(#[source] IoError),
    /// The command that lists the mirrors failed.
    #[error("the command {command:?} of `mirrors_from` failed")]
    Command {
        /// The command with its arguments.
        command: String,
        /// Why the command failed.
        source: CommandError,
    },
    /// The list of mirrors is larger than any real list.
    #[error("the list of mirrors from {list} is larger than 1 MiB")]
    ListTooLarge {
        /// The source of the list.
        list: String,
    },
    /// The text breaks a rule.
    #[error("{} line {line}, column {column}: {message}", path.display())]
    Invalid {
        /// The file, or a description of the command.
        path: PathBuf,
        /// The line number, counted from 1.
        line: usize,
        /// The column, counted in characters from 1.
        column: usize,
        /// The rule, on one line.
        message: String,
        /// The line of the file, with a mark below the error.
        snippet: Vec<String>,
    },
}

/// A checked `headwater.toml`. [`Config::default`] is the configuration without a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The site, if the file names one.
    pub site: Option<Site>,
    /// The content trees, merged into one; if there are none, the command line must name a tree.
    pub content: Vec<Root>,
    /// Paths that are not pushed, as lines in gitignore syntax.
    pub exclude: Vec<String>,
    /// How many releases each mirror keeps.
    pub keep: NonZeroU32,
    /// How long removed paths are still served. The first matching rule applies; if no rule
    /// matches, the built-in rules apply.
    pub keep_removed: Vec<RetentionRule>,
    /// The source of the modification times of changed files.
    pub mtime: MtimeSource,
    /// How symbolic links are handled.
    pub symlinks: SymlinkMode,
    /// How names that some systems do not support are handled.
    pub names: NameRule,
    /// Paths that a tree must have; a tree without them is refused.
    pub must_have: Vec<TreePath>,
    /// How many paths one push may remove.
    pub max_removed: MaxRemoved,
    /// Paths that are published although they look like secrets, as lines in gitignore syntax.
    pub allow_secrets: Vec<String>,
    /// The mirrors in file order, followed by the mirrors from the list. No two have the same name
    /// or location.
    pub mirrors: Vec<MirrorConfig>,
    /// Environment variables that a line in the list may name as the source of a token.
    pub token_envs: Vec<String>,
    /// Mirrors that this run leaves out: they are known, but not changed.
    pub skipped_mirrors: Vec<MirrorConfig>,
    /// Notifications about changes.
    pub notify: NotifyConfig,
    /// Which mirrors switch first, in order; no group is in two waves.
    pub waves: Vec<WaveConfig>,
    /// The location of the origin's cache, and how much content of old releases it keeps.
    pub cache: CacheConfig,
    /// The defaults for how commands run.
    pub run: RunDefaults,
    /// How many mirrors must be ready before any of them switches.
    pub require: Require,
    /// What happens to mirrors that have switched if another mirror then fails to switch.
    pub on_failure: OnFailure,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            site: None,
            content: Vec::new(),
            exclude: Vec::new(),
            keep: DEFAULT_KEEP,
            keep_removed: Vec::new(),
            mtime: MtimeSource::default(),
            symlinks: SymlinkMode::default(),
            names: NameRule::default(),
            must_have: Vec::new(),
            max_removed: MaxRemoved::default(),
            allow_secrets: Vec::new(),
            mirrors: Vec::new(),
            token_envs: Vec::new(),
            skipped_mirrors: Vec::new(),
            notify: NotifyConfig::default(),
            cache: CacheConfig::default(),
            run: RunDefaults::default(),
            waves: Vec::new(),
            require: Require::default(),
            on_failure: OnFailure::default(),
        }
    }
}

impl Config {
    /// Reads and checks the file at `path` and the list of mirrors that it names. If a command
    /// writes the list, runs it.
    ///
    /// # Errors
    /// Fails if the file or the list cannot be read or is invalid.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(&read(path)?, path, mirror_list::read)
    }

    /// Checks `text`, the content of the file at `path`. Does not use the disk: if the text names a
    /// list of mirrors, the list counts as empty.
    ///
    /// # Errors
    /// Returns [`ConfigError::Invalid`] for the first rule that the text breaks.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, path, |_, _| Ok(String::new()))
    }

    fn parse_with(
        text: &str,
        path: &Path,
        read_list: mirror_list::ListReader,
    ) -> Result<Self, ConfigError> {
        let checker = Checker::new(text, path);
        let file: raw::RawFile =
            toml::from_str(text).map_err(|error| checker.syntax_error(&error))?;
        checker.check(file, read_list)
    }

    /// The environment variables that contain secrets for mirrors or a CDN.
    #[must_use]
    pub fn secret_variables(&self) -> Vec<String> {
        let of_mirrors = self.all_mirrors().filter_map(MirrorConfig::token_variable);
        let all = of_mirrors
            .chain(self.notify.secret_variables())
            // Includes variables that a list may name but does not: they are in the environment all
            // the same.
            .chain(self.token_envs.iter().map(String::as_str));
        all.map(str::to_owned).collect()
    }

    /// All mirrors in the configuration, including those that this run leaves out.
    pub fn all_mirrors(&self) -> impl Iterator<Item = &MirrorConfig> {
        self.mirrors.iter().chain(&self.skipped_mirrors)
    }

    /// The mirror with this name.
    #[must_use]
    pub fn mirror(&self, name: &str) -> Option<&MirrorConfig> {
        self.mirrors.iter().find(|mirror| mirror.name.as_str() == name)
    }
}

/// The string is not a valid duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is {what}: write it like \"30s\", \"5m\", \"24h\", \"14d\" or \"1h 30m\"")]
pub struct ParseDurationError {
    text: String,
    what: &'static str,
}

/// Reads a duration such as `30s`, `1h 30m`, `14d` or `2w`. Units range from milliseconds to weeks,
/// and a day has 24 hours. Negative durations are refused.
///
/// # Errors
/// Fails if the string is not a valid duration.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    // A `Span`, not a `SignedDuration`, which supports neither days nor weeks.
    let duration = text.trim().parse::<jiff::Span>().and_then(|span| span.to_duration(relative));
    duration
        .ok()
        .and_then(|signed| Duration::try_from(signed).ok())
        .ok_or_else(|| duration_error(text))
}

fn duration_error(text: &str) -> ParseDurationError {
    let is_number =
        !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit());
    let what = if is_number { "a number without a unit" } else { "no duration" };
    ParseDurationError { text: text.to_owned(), what }
}

/// Reads the text of the file at `path`.
fn read(path: &Path) -> Result<String, ConfigError> {
    let text = fsx::read_text(path, MAX_BYTES + 1)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// Checks a raw file and converts it into a configuration.
struct Checker<'a> {
    text: &'a str,
    path: &'a Path,
    /// The directory that paths in the text are relative to. Never empty, so a path joined to it
    /// contains a `/`.
    base_dir: &'a Path,
}

impl<'a> Checker<'a> {
    fn new(text: &'a str, path: &'a Path) -> Self {
        let base_dir =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self { text, path, base_dir }
    }
}

impl Checker<'_> {
    fn check(
        &self,
        file: raw::RawFile,
        read_list: mirror_list::ListReader,
    ) -> Result<Config, ConfigError> {
        let defaults = Config::default();
        let run = self.run_defaults(&file)?;
        let rules = self.list_rules(&file)?;
        let notify =
            notify::RawNotify { hooks: file.hooks, purge: file.purge, metrics: file.metrics };
        // Checked before the mirrors: the command that lists them must not inherit the secrets that
        // are named here.
        let notify = self.notify(notify)?;
        let secret_variables = notify.secret_variables().map(str::to_owned).collect();
        let token_envs = rules.token_envs().to_vec();
        let list = fleet::MirrorList {
            from: file.mirrors_from.as_ref(),
            read: read_list,
            rules,
            secret_variables,
        };
        let mirrors = self.mirrors(file.mirror, &file.mirror_defaults, &list)?;
        let site = file.site.map(|site| self.parse_field(&site, Site::new)).transpose()?;
        let rule = |rule: raw::RawKeepRemoved| -> Result<RetentionRule, ConfigError> {
            let keep = self.duration(&rule.keep)?;
            Ok(RetentionRule { pattern: self.pattern(rule.pattern)?, keep })
        };
        Ok(Config {
            site,
            content: self.content(file.content)?,
            exclude: file
                .exclude
                .into_iter()
                .map(|line| self.pattern(line))
                .collect::<Result<_, _>>()?,
            allow_secrets: file
                .allow_secrets
                .into_iter()
                .map(|line| self.pattern(line))
                .collect::<Result<_, _>>()?,
            keep: file.keep.unwrap_or(defaults.keep),
            keep_removed: file.keep_removed.into_iter().map(rule).collect::<Result<_, _>>()?,
            mtime: file.mtime,
            symlinks: file.symlinks,
            names: file.names,
            must_have: file
                .must_have
                .iter()
                .map(|path| self.parse_field(path, TreePath::new))
                .collect::<Result<_, _>>()?,
            max_removed: file.max_removed.unwrap_or_default(),
            notify,
            token_envs,
            cache: self.cache(&file.cache)?,
            run,
            waves: self.waves(file.wave, &mirrors)?,
            mirrors,
            skipped_mirrors: Vec::new(),
            require: file.require.unwrap_or_default(),
            on_failure: file.on_failure,
        })
    }

    fn content(&self, trees: Vec<raw::RawContent>) -> Result<Vec<Root>, ConfigError> {
        let mut content: Vec<Root> = Vec::with_capacity(trees.len());
        for tree in trees {
            let at = tree.at.as_ref().map(|at| self.parse_field(at, TreePath::new)).transpose()?;
            let span = tree.at.map_or(tree.path.span(), |at| at.span());
            // Only equal locations are refused: one tree may lie below another, and the scan finds
            // paths that collide.
            if content.iter().any(|earlier| earlier.tree_prefix == at) {
                return Err(self.error(
                    span,
                    "another content tree has the same place: give each its own `at`",
                ));
            }
            if tree.path.as_ref().is_empty() {
                return Err(self.error(tree.path.span(), "the path is empty"));
            }
            content
                .push(Root { path: self.base_dir.join(tree.path.into_inner()), tree_prefix: at });
        }
        Ok(content)
    }

    fn parse_field<T, E: fmt::Display>(
        &self,
        text: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text.as_ref())
            .map_err(|fault| self.error(text.span(), format!("{:?} {fault}", text.as_ref())))
    }

    fn duration(&self, text: &Spanned<String>) -> Result<Duration, ConfigError> {
        parse_duration(text.as_ref()).map_err(|error| self.error(text.span(), error.to_string()))
    }

    fn pattern(&self, pattern: Spanned<String>) -> Result<String, ConfigError> {
        let span = pattern.span();
        if pattern.as_ref().trim().is_empty() {
            return Err(self.error(span, "the pattern is empty"));
        }
        // Parsed only to report an error with its line; the scan builds the rules.
        match ignore::gitignore::GitignoreBuilder::new("").add_line(None, pattern.as_ref()) {
            Ok(_) => Ok(pattern.into_inner()),
            Err(error) => Err(self.error(span, error.to_string())),
        }
    }

    fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        // Some messages of `toml` have two lines.
        let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
        self.error(
            error.span().unwrap_or(0..0),
            suggest::with_plain_types(suggest::with_suggestion(message)),
        )
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        // The span may belong to a different text, or end in the middle of a character. An error
        // about the file must not cause a panic.
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        // The line is printed, and someone may have pasted a token into it.
        let line = if has_token(line) { "(withheld: it contains a token)" } else { line };
        let number = before.matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        let marked = self.text[start..]
            .get(..span.len())
            .and_then(|marked| marked.lines().next())
            .unwrap_or("");
        let margin = number.to_string().len();
        let mark = "^".repeat(marked.chars().count().max(1));
        ConfigError::Invalid {
            path: self.path.to_owned(),
            line: number,
            column,
            message: message.into(),
            snippet: vec![
                format!("{number} | {line}"),
                format!("{:margin$} | {:2$}{mark}", "", "", column - 1),
            ],
        }
    }
}
