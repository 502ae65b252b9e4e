//! The file `headwater.toml`: what is pushed where, when no argument says it;
//! and [`serve`], what a receiver is told.
//!
//! Turns text into a checked [`Config`] or into an error that names line and
//! column. Unknown keys are errors: a typing error must not turn a rule off.
//! Paths in the result are relative to the directory of the file. Uses the
//! crates `toml`, `jiff` (durations), `bytesize` and `ignore` (to check patterns).
//!
//! Refuses to know which file it is, what arguments override, and what a
//! mirror's url leads to.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::fsx::{self, IoError};
use crate::mirror::has_token;
use crate::tree_path::{Site, TreePath};

mod access;
mod notify;
mod raw;
pub mod serve;
#[cfg(test)]
mod tests;

pub use access::{MirrorAccess, TokenSource};
pub use notify::{Hooks, Notify, Purge};

/// The name of the file in the directory where the command runs.
pub const FILE_NAME: &str = "headwater.toml";

/// The site of those who name none.
pub const DEFAULT_SITE: &str = "default";

/// Releases kept on a mirror by default.
pub const DEFAULT_KEEP: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");

/// Longest file, in bytes: far more than any fleet needs.
const MAX_BYTES: u64 = 1024 * 1024;

/// Longest name of a mirror, in bytes: it has to fit into a line of progress.
const MAX_NAME_BYTES: usize = 64;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot use the configuration")]
    Read(#[from] IoError),
    /// The file is larger than any configuration.
    #[error("{} is larger than 1 MiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The text breaks a rule.
    #[error("{} line {line}, column {column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The rule, on one line.
        message: String,
        /// The offending line of the file with a mark below the offender.
        snippet: Vec<String>,
    },
}

/// A checked `headwater.toml`, or, as [`Config::default`], none at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The site, if the file names one.
    pub site: Option<Site>,
    /// The content trees, merged into one; none: the command must name it.
    pub content: Vec<Content>,
    /// What is not pushed: lines in gitignore syntax.
    pub exclude: Vec<String>,
    /// Releases kept on each mirror.
    pub keep: NonZeroU32,
    /// How long removed paths are served, first match first; what matches
    /// none follows the built-in rules.
    pub keep_removed: Vec<KeepRemoved>,
    /// Where the times of changed files come from.
    pub mtime: MtimeSource,
    /// What becomes of symbolic links.
    pub symlinks: SymlinkMode,
    /// What becomes of names that not every system can hold.
    pub names: NamePolicy,
    /// Paths without which a tree is refused.
    pub must_have: Vec<TreePath>,
    /// How much may vanish in one push; nothing: the built-in limit.
    pub max_removed: Option<MaxRemoved>,
    /// The mirrors in the order of the file; names and urls differ.
    pub mirrors: Vec<MirrorConfig>,
    /// Who is told of a change.
    pub notify: Notify,
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
            names: NamePolicy::default(),
            must_have: Vec::new(),
            max_removed: None,
            mirrors: Vec::new(),
            notify: Notify::default(),
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or breaks a rule.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, path)
    }

    /// Checks `text`, the content of the file at `path`. Touches no disk.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], for the first rule that it breaks.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let checker = Checker { text, path };
        let file: raw::File = toml::from_str(text).map_err(|error| checker.syntax(&error))?;
        checker.check(file)
    }

    /// The mirror of this name.
    #[must_use]
    pub fn mirror(&self, name: &str) -> Option<&MirrorConfig> {
        self.mirrors.iter().find(|mirror| mirror.name.as_str() == name)
    }
}

/// A directory whose files are pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The directory, relative to the file's own.
    pub path: PathBuf,
    /// Where its files stand in the tree; nothing: at its root.
    pub at: Option<TreePath>,
}

/// How long paths that match are still served after the tree lost them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepRemoved {
    /// A pattern in gitignore syntax.
    pub pattern: String,
    /// How long; zero removes at once.
    pub keep: Duration,
}

/// Where the times of changed files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtimeSource {
    /// The time of the push, so that caches always notice a change.
    #[default]
    Push,
    /// The file's own time, as package mirrors want it.
    Source,
}

/// What becomes of symbolic links in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SymlinkMode {
    /// They are distributed as links.
    #[default]
    Keep,
    /// What they point to is distributed in their place.
    Follow,
    /// A tree with one is refused.
    Refuse,
}

/// What becomes of names that not every system can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamePolicy {
    /// They are warned of.
    #[default]
    Warn,
    /// A tree with one is refused.
    Portable,
}

/// How much may vanish in one push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxRemoved {
    /// This part of the paths, in percent, 0 to 100.
    Percent(u8),
    /// This many paths.
    Count(u64),
}

/// A text that is neither a percentage nor a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a percentage from \"0%\" to \"100%\", or a number of paths")]
pub struct ParseMaxRemovedError;

impl FromStr for MaxRemoved {
    type Err = ParseMaxRemovedError;

    fn from_str(text: &str) -> Result<Self, ParseMaxRemovedError> {
        match text.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent).ok_or(ParseMaxRemovedError)
            }
            None => text.parse().map(Self::Count).map_err(|_| ParseMaxRemovedError),
        }
    }
}

/// A mirror with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Its name.
    pub name: MirrorName,
    /// Where it is: a url, or a path that has a `/`.
    pub url: String,
    /// How it is reached, where it is on another machine.
    pub access: MirrorAccess,
}

/// A name for a mirror: visible characters, no `/` and no space, not
/// beginning with `-` or `.`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorName(Box<str>);

/// A text that is no name for a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mirror's name has 1 to 64 visible characters, no '/' or space, and does not begin with '-' or '.'")]
pub struct MirrorNameError;

impl MirrorName {
    /// The name `text`, checked.
    ///
    /// # Errors
    /// When it breaks a rule.
    pub fn new(text: &str) -> Result<Self, MirrorNameError> {
        let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_NAME_BYTES || text.starts_with(['-', '.']) || text.contains(bad) {
            return Err(MirrorNameError);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MirrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write it like \"30s\", \"5m\", \"24h\", \"14d\" or \"1h 30m\"")]
pub struct ParseDurationError(String);

/// Reads a duration: units from milliseconds to weeks, a day being 24 hours,
/// as in `30s`, `1h 30m`, `14d`, `2w`. Negative ones are refused.
///
/// # Errors
/// When it is none.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = text.trim().parse::<jiff::Span>().and_then(|span| span.to_duration(relative));
    duration.ok().and_then(|signed| Duration::try_from(signed).ok()).ok_or_else(|| ParseDurationError(text.to_owned()))
}

/// The text of the file at `path`.
fn read(path: &Path) -> Result<String, ConfigError> {
    let text = fsx::read_text(path, MAX_BYTES + 1)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// Turns a file as it is written into what it says.
struct Checker<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Checker<'_> {
    fn check(&self, file: raw::File) -> Result<Config, ConfigError> {
        let defaults = Config::default();
        let notify = notify::RawNotify { hooks: file.hooks, purge: file.purge, ping: file.ping, metrics: file.metrics };
        let site = file.site.map(|site| self.parsed(&site, Site::new)).transpose()?;
        let rule = |rule: raw::KeepRemoved| -> Result<KeepRemoved, ConfigError> {
            let keep =
                parse_duration(rule.keep.as_ref()).map_err(|error| self.error(rule.keep.span(), error.to_string()))?;
            Ok(KeepRemoved { pattern: self.pattern(rule.pattern)?, keep })
        };
        Ok(Config {
            site,
            content: self.content(file.content)?,
            exclude: file.exclude.into_iter().map(|line| self.pattern(line)).collect::<Result<_, _>>()?,
            keep: file.keep.unwrap_or(defaults.keep),
            keep_removed: file.keep_removed.into_iter().map(rule).collect::<Result<_, _>>()?,
            mtime: file.mtime,
            symlinks: file.symlinks,
            names: file.names,
            must_have: file.must_have.iter().map(|path| self.parsed(path, TreePath::new)).collect::<Result<_, _>>()?,
            max_removed: file.max_removed,
            mirrors: self.mirrors(file.mirror)?,
            notify: self.notify(notify)?,
        })
    }

    fn content(&self, trees: Vec<raw::Content>) -> Result<Vec<Content>, ConfigError> {
        let mut content: Vec<Content> = Vec::with_capacity(trees.len());
        for tree in trees {
            let at = tree.at.as_ref().map(|at| self.parsed(at, TreePath::new)).transpose()?;
            let span = tree.at.map_or(tree.path.span(), |at| at.span());
            if content.iter().any(|earlier| earlier.at == at) {
                return Err(self.error(span, "another content tree has the same place: give each its own `at`"));
            }
            if tree.path.as_ref().is_empty() {
                return Err(self.error(tree.path.span(), "the path is empty"));
            }
            content.push(Content { path: self.base().join(tree.path.into_inner()), at });
        }
        Ok(content)
    }

    fn mirrors(&self, raw_mirrors: Vec<raw::Mirror>) -> Result<Vec<MirrorConfig>, ConfigError> {
        let mut mirrors: Vec<MirrorConfig> = Vec::with_capacity(raw_mirrors.len());
        let mut names_by_url = BTreeMap::new();
        for mirror in raw_mirrors {
            let name = MirrorName::new(mirror.name.as_ref())
                .map_err(|error| self.error(mirror.name.span(), error.to_string()))?;
            if mirrors.iter().any(|earlier| earlier.name == name) {
                return Err(self.error(mirror.name.span(), format!("there is already a mirror named {name:?}")));
            }
            let url = self.url(&mirror.url)?;
            if let Some(other) = names_by_url.insert(url.trim_end_matches('/').to_owned(), name.clone()) {
                return Err(self.error(mirror.url.span(), format!("the mirror {other:?} has the same url")));
            }
            let access = self.access(&mirror)?;
            mirrors.push(MirrorConfig { name, url, access });
        }
        Ok(mirrors)
    }

    /// A url as it is, a path relative to the file's directory, always with a `/`.
    fn url(&self, url: &Spanned<String>) -> Result<String, ConfigError> {
        let text: &str = url.as_ref();
        if text.trim().is_empty() {
            return Err(self.error(url.span(), "the url is empty"));
        }
        if text.contains("://") {
            return Ok(text.to_owned());
        }
        let path = self.base().join(text);
        let path = path.to_str().ok_or_else(|| self.error(url.span(), "the path to this file is not UTF-8"))?;
        Ok(path.to_owned())
    }

    /// The directory of the file; never empty, so that what is joined to it has a `/`.
    fn base(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn parsed<T, E: fmt::Display>(
        &self,
        text: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text.as_ref()).map_err(|fault| self.error(text.span(), format!("{:?} {fault}", text.as_ref())))
    }

    fn pattern(&self, pattern: Spanned<String>) -> Result<String, ConfigError> {
        let span = pattern.span();
        if pattern.as_ref().trim().is_empty() {
            return Err(self.error(span, "the pattern is empty"));
        }
        match ignore::gitignore::GitignoreBuilder::new("").add_line(None, pattern.as_ref()) {
            Ok(_) => Ok(pattern.into_inner()),
            Err(error) => Err(self.error(span, error.to_string())),
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        // Some of toml's messages go over two lines.
        let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
        self.error(error.span().unwrap_or(0..0), message)
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let line = if has_token(line) { "(withheld: it has a token)" } else { line };
        let number = before.matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        let marked = self.text[start..].get(..span.len()).and_then(|marked| marked.lines().next()).unwrap_or("");
        let margin = number.to_string().len();
        let mark = "^".repeat(marked.chars().count().max(1));
        ConfigError::Invalid {
            path: self.path.to_owned(),
            line: number,
            column,
            message: message.into(),
            snippet: vec![format!("{number} | {line}"), format!("{:margin$} | {:2$}{mark}", "", "", column - 1)],
        }
    }
}
