//! The options of a push.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::origin::scratch::ScratchLocation;
use crate::origin::stores::KnownStores;
use crate::pack::Level;
use crate::push::guards::Guards;
use crate::push::retention::Retention;
use crate::release::PartialScope;
use crate::tree_path::{Site, TreePath};
use crate::varint::MAX_NUMBER;

/// Maximum length of a stream's name, in bytes: every release repeats the name.
const MAX_STREAM_BYTES: usize = 200;

/// A number that rises with every run in a stream, such as a CI run number. Written as `STREAM:N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNumber {
    stream: String,
    number: u64,
}

/// Why a string or a number is not a valid [`RunNumber`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RunNumberError {
    /// The string does not have this form.
    #[error("write it as STREAM:N, for example `build:1234`")]
    Form,
    /// The name of the stream is invalid.
    #[error("the stream must have 1 to {MAX_STREAM_BYTES} bytes and no control characters")]
    Stream,
    /// The number is invalid.
    #[error("the number must be below 2^53")]
    Number,
}

impl RunNumber {
    /// The run number `number` in `stream`.
    ///
    /// # Errors
    /// If the stream or the number exceeds its limits.
    pub fn new(stream: &str, number: u64) -> Result<Self, RunNumberError> {
        if stream.is_empty() || stream.len() > MAX_STREAM_BYTES || stream.contains(char::is_control)
        {
            return Err(RunNumberError::Stream);
        }
        if number > MAX_NUMBER {
            return Err(RunNumberError::Number);
        }
        Ok(Self { stream: stream.to_owned(), number })
    }

    /// The name of the stream. Numbers in different streams are not compared.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The number in the stream.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl FromStr for RunNumber {
    type Err = RunNumberError;

    /// The number follows the last colon, because streams may contain colons.
    fn from_str(text: &str) -> Result<Self, RunNumberError> {
        let (stream, number) = text.rsplit_once(':').ok_or(RunNumberError::Form)?;
        Self::new(stream, number.parse().map_err(|_| RunNumberError::Form)?)
    }
}

impl fmt::Display for RunNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stream, self.number)
    }
}

/// The source of modification times on mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtimeSource {
    /// The time of the push that last changed a path, so that validators always change with the
    /// content.
    #[default]
    Push,
    /// The file's modification time, taken over when its content changes. For package mirrors.
    Source,
}

/// How many mirrors must have a release staged before any of them switches. Written as `all`,
/// `any`, a number from 1, or a percentage such as `80%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// All mirrors.
    #[default]
    All,
    /// At least this number of mirrors.
    AtLeast(usize),
    /// At least this percentage of the mirrors, and at least one mirror.
    Percent(u8),
}

impl Require {
    /// One mirror is enough.
    pub const ANY: Self = Self::AtLeast(1);

    /// Returns how many of `total` mirrors are enough.
    #[must_use]
    pub fn required_count(self, total: usize) -> usize {
        match self {
            Self::All => total,
            // Joining mirrors are not in `total`, so the number may exceed it.
            Self::AtLeast(count) => count.min(total),
            // Rounded up: 80% of three mirrors is all three, because two would be less than 80%.
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100).max(1),
        }
    }

    /// Whether `staged` of `total` mirrors are enough.
    #[must_use]
    pub fn is_met(self, staged: usize, total: usize) -> bool {
        staged >= self.required_count(total)
    }

    /// The message that says how many mirrors are required and how many are ready.
    pub(super) fn unmet_message(self, ready: usize, total: usize) -> String {
        let available = match ready {
            0 => "none is available".to_owned(),
            1 => "only 1 is available".to_owned(),
            ready => format!("only {ready} are available"),
        };
        match self {
            _ if total == 1 => "the mirror is not ready".to_owned(),
            Self::All => format!("all {total} mirrors are required, but {available}"),
            Self::AtLeast(_) | Self::Percent(_) => match self.required_count(total) {
                1 => format!("1 of {total} mirrors is required, but {available}"),
                needed => format!("{needed} of {total} mirrors are required, but {available}"),
            },
        }
    }
}

/// The string is not a valid [`Require`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write `all`, `any`, a number of at least 1, or a percentage from 1% to 100%")]
pub struct ParseRequireError;

impl FromStr for Require {
    type Err = ParseRequireError;

    fn from_str(text: &str) -> Result<Self, ParseRequireError> {
        match (text, text.strip_suffix('%')) {
            ("all", _) => Ok(Self::All),
            ("any", _) => Ok(Self::ANY),
            (_, Some(percent)) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(ParseRequireError),
            },
            (number, None) => match number.parse() {
                Ok(count @ 1..) => Ok(Self::AtLeast(count)),
                _ => Err(ParseRequireError),
            },
        }
    }
}

/// How far a push goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Until the release is served.
    #[default]
    Activate,
    /// Until the release is complete on the mirrors, but not served.
    Stage,
}

/// What happens to mirrors that have switched if another then fails to switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The mirrors keep the release.
    #[default]
    Leave,
    /// The mirrors revert to their previous content.
    Revert,
}

/// A file that visitors must be able to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The URL to request.
    pub url: String,
    /// The path of the file in the tree.
    pub path: TreePath,
}

/// Mirrors that switch together, after the earlier waves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wave {
    /// The names of the mirrors.
    pub mirrors: Vec<String>,
    /// How long these mirrors serve the release before the probes run and the next wave starts.
    pub soak: Duration,
    /// Probes that must succeed. Otherwise, the wave reverts to its previous content, and no
    /// further wave switches.
    pub probes: Vec<Probe>,
}

/// How mirrors switch once enough of them are ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The goal of the push.
    pub goal: Goal,
    /// What happens to the other mirrors if one fails to switch.
    pub on_failure: OnFailure,
    /// The waves in order. Mirrors without a wave form the last wave.
    pub waves: Vec<Wave>,
}

/// How content is compressed for transfer. Written as `auto` or as a [`Level`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LevelChoice {
    /// No compression for local mirrors; for others, zstd level 3, or higher for a slow link.
    #[default]
    Auto,
    /// This level.
    Fixed(Level),
}

/// The string is not a valid [`LevelChoice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write `auto`, `raw`, or a number from 1 to 19")]
pub struct ParseLevelChoiceError;

impl FromStr for LevelChoice {
    type Err = ParseLevelChoiceError;

    fn from_str(text: &str) -> Result<Self, ParseLevelChoiceError> {
        match text {
            "auto" => Ok(Self::Auto),
            level => level.parse().map(Self::Fixed).map_err(|_| ParseLevelChoiceError),
        }
    }
}

/// How much content of old releases the origin keeps, so that pushes send only what changed inside
/// files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepContent {
    /// The number of releases.
    pub releases: usize,
    /// Maximum size in bytes; 0 keeps nothing.
    pub max_bytes: u64,
}

impl Default for KeepContent {
    fn default() -> Self {
        Self { releases: 3, max_bytes: 8 << 30 }
    }
}

/// The options of a push.
#[derive(Debug, Clone)]
pub struct Options {
    /// The site; `None` for the mirrors' site.
    pub site: Option<Site>,
    /// A free-form note that is stored in the release.
    pub note: Option<String>,
    /// The run number of the push.
    pub run_number: Option<RunNumber>,
    /// Publish even if a higher run number was published.
    pub allow_older: bool,
    /// Publish even if this content was rolled back.
    pub allow_rejected: bool,
    /// Start a new history, which takes over the histories of the mirrors.
    pub new_history: bool,
    /// The guard rails.
    pub guards: Guards,
    /// How long removed paths are still served.
    pub retention: Retention,
    /// The source of modification times.
    pub mtime: MtimeSource,
    /// How many mirrors must have the release staged before any of them switches.
    pub require: Require,
    /// How the mirrors switch.
    pub policy: Policy,
    /// The mirrors that the release is for; `None` for the whole fleet.
    pub partial: Option<PartialScope>,
    /// The number of threads.
    pub jobs: NonZeroUsize,
    /// How content is compressed.
    pub level: LevelChoice,
    /// A directory on the origin for data that does not fit in memory, and for data that is kept
    /// for the next push.
    pub scratch: ScratchLocation,
    /// How much content of old releases to keep.
    pub keep_content: KeepContent,
    /// The store that each mirror had after the last push.
    pub stores: KnownStores,
    /// When the push began, in milliseconds since 1970.
    pub began: u64,
    /// Once enough mirrors are ready, how long to wait for the others.
    pub straggler_timeout: Duration,
    /// How long to wait for mirrors that have not responded, if enough have. The release is then
    /// decided without the others, which get it when they respond.
    pub response_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_auto_raw_or_a_zstd_level() {
        for (text, level) in [
            ("auto", LevelChoice::Auto),
            ("raw", LevelChoice::Fixed(Level::Raw)),
            ("19", LevelChoice::Fixed(Level::Zstd(19))),
        ] {
            assert_eq!(text.parse(), Ok(level), "{text}");
        }
        for bad in ["", "0", "20", "fast"] {
            assert!(bad.parse::<LevelChoice>().is_err(), "{bad}");
        }
    }
}
