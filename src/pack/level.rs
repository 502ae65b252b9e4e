//! Compression levels, as written in the configuration and in bundle keys.

use std::fmt;
use std::str::FromStr;

/// How blocks are compressed. Written as `raw` or as a number from 1 to 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// No compression, for networks that are faster than a core can compress.
    Raw,
    /// zstd compression at this level, 1 to 19.
    Zstd(i32),
}

/// The string is not a valid [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a compression level: write `raw`, or a number from 1 to 19")]
pub struct ParseLevelError {
    /// The string, truncated to 80 characters.
    pub text: String,
}

impl Level {
    /// The highest zstd level. The `ultra` levels above it only enlarge the window, which no block
    /// can fill.
    pub const MAX: i32 = 19;

    /// Whether blocks can be encoded at this level: `false` for a zstd level that is out of range.
    #[must_use]
    pub fn is_valid(self) -> bool {
        match self {
            Self::Raw => true,
            Self::Zstd(level) => (1..=Self::MAX).contains(&level),
        }
    }
}

impl Default for Level {
    /// zstd -3: faster than a 1 Gbit/s link on one core.
    fn default() -> Self {
        Self::Zstd(3)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("raw"),
            Self::Zstd(level) => write!(f, "{level}"),
        }
    }
}

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, ParseLevelError> {
        if text == "raw" {
            return Ok(Self::Raw);
        }
        text.parse()
            .map(Self::Zstd)
            .ok()
            // Each level has one spelling, so `+3` and `03` are refused.
            .filter(|level| level.is_valid() && level.to_string() == text)
            .ok_or_else(|| ParseLevelError { text: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_one_spelling() {
        assert_eq!("raw".parse(), Ok(Level::Raw));
        for number in 1..=19 {
            let level = Level::Zstd(number);
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for wrong in ["", "0", "20", "-1", "+3", "03", "Raw", "zstd", "3 ", "99999999999"] {
            assert!(wrong.parse::<Level>().is_err(), "{wrong}");
        }
    }
}
