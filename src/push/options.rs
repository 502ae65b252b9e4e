//! What a push can be told.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::origin::scratch::ScratchLocation;
use crate::origin::stores::KnownStores;
use crate::pack::Level;
use crate::push::guards::Guards;
use crate::push::retention::Retention;
use crate::release::Partial;
use crate::tree_path::{Site, TreePath};

/// A number that rises with the age of what is pushed: a CI run number, say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNumber {
    /// What counts: numbers of different streams are not compared.
    pub stream: String,
    /// The number.
    pub number: u64,
}

/// Where the modification times on mirrors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtimeMode {
    /// The release in which a path last changed: validators always change with content.
    #[default]
    Release,
    /// The file's own time when its content changes: for package mirrors.
    Source,
}

/// How many mirrors must have a release staged before any switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// All of them.
    #[default]
    All,
    /// At least so many.
    AtLeast(usize),
    /// At least this part of them, in percent, and one.
    Percent(u8),
}

impl Require {
    /// How many of `total` mirrors are enough.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::All => total,
            // Mirrors that are joining are in no total, and may be too many of the fleet.
            Self::AtLeast(count) => count.min(total),
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100).max(1),
        }
    }

    /// Whether `staged` of `total` mirrors are enough.
    #[must_use]
    pub fn is_met(self, staged: usize, total: usize) -> bool {
        staged >= self.of(total)
    }
}

/// How far a push goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// To a release that is served.
    #[default]
    Activate,
    /// To one that is complete on the mirrors and not served.
    Stage,
}

/// What becomes of mirrors that switched when another one then fails to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They keep the release.
    #[default]
    Leave,
    /// They go back to the content they had.
    Revert,
}

/// A file that visitors must get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where.
    pub url: String,
    /// Its path in the tree.
    pub path: TreePath,
}

/// Mirrors that switch together, after those of the waves before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wave {
    /// Their names.
    pub mirrors: Vec<String>,
    /// How long the release is served there before the probes, and before the next wave.
    pub soak: Duration,
    /// What must be right then; else the wave goes back to the content it had, and no other one switches.
    pub probes: Vec<Probe>,
}

/// What happens once enough mirrors are ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// How far to go.
    pub goal: Goal,
    /// What becomes of the others when one fails to switch.
    pub on_failure: OnFailure,
    /// Who switches first, in order; mirrors in no wave are the last one.
    pub waves: Vec<Wave>,
}

/// How content is compressed on its way. Written as `auto` or as a [`Level`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LevelChoice {
    /// Not at all to this machine; to others zstd 3, or more where an earlier push found the way slow.
    #[default]
    Auto,
    /// As told.
    Fixed(Level),
}

/// A text that is not a [`LevelChoice`].
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

/// Content of old releases that the origin keeps, to send what changed inside of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepContent {
    /// Of how many releases.
    pub releases: usize,
    /// At most so many bytes; 0 keeps nothing.
    pub most_bytes: u64,
}

impl Default for KeepContent {
    fn default() -> Self {
        Self { releases: 3, most_bytes: 8 << 30 }
    }
}

/// What a push can be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The site; `None`: the one that the mirrors name.
    pub site: Option<Site>,
    /// Free text for the release.
    pub note: Option<String>,
    /// The order of what is pushed.
    pub order: Option<RunNumber>,
    /// Publish although a higher order was published.
    pub allow_older: bool,
    /// Publish although a rollback left this content.
    pub again: bool,
    /// Make a new history, which takes over those that the mirrors have.
    pub new_history: bool,
    /// What is refused.
    pub guards: Guards,
    /// How long paths that went are served.
    pub retention: Retention,
    /// Where modification times come from.
    pub mtime: MtimeMode,
    /// How many mirrors must be staged.
    pub require: Require,
    /// What happens then.
    pub policy: Policy,
    /// The mirrors that the release is for, where that is a part of the fleet.
    pub partial: Option<Partial>,
    /// Threads.
    pub jobs: NonZeroUsize,
    /// How content is compressed.
    pub level: LevelChoice,
    /// A directory of our own at the origin, for what is too large for memory and what is kept for the next push.
    pub scratch: ScratchLocation,
    /// What is kept of old releases.
    pub keep_content: KeepContent,
    /// Which store each mirror had before.
    pub stores: KnownStores,
    /// The time, in milliseconds since 1970, at which the push began.
    pub began: u64,
    /// How long mirrors that are not ready are waited for, once enough are.
    pub patience: Duration,
    /// How long mirrors that have not answered are waited for, once enough have: what is pushed is decided without
    /// them, and they follow when they answer.
    pub answer_patience: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_auto_raw_or_of_zstd() {
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
