//! Group and modes of the served files. Each mirror has its own setting.
//!
//! There is one setting for the whole store, because files in several releases share inodes. A
//! change is made in place.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fsx::FileMode;

/// Group and modes of the served files and directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// The group id; `None` for the group that the system assigns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The mode of files.
    pub file_mode: ContentMode,
    /// The mode of directories.
    pub dir_mode: DirectoryMode,
}

impl Permissions {
    /// Whether these are the permissions of a store that does not set its own.
    pub(in crate::store) fn are_default(&self) -> bool {
        *self == Self::default()
    }

    /// The mode of a file. If the file is executable, every class that may read it may also execute
    /// it.
    #[must_use]
    pub const fn file(self, exec: bool) -> FileMode {
        let ContentMode(bits) = self.file_mode;
        FileMode { bits: if exec { bits | bits >> 2 } else { bits }, group: self.group }
    }

    /// The mode of a directory.
    #[must_use]
    pub const fn directory(self) -> FileMode {
        FileMode { bits: self.dir_mode.0, group: self.group }
    }
}

/// The mode of a file: read-only, readable by the owner and possibly by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentMode(u32);

/// The mode of a directory that only the owner may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirectoryMode(u32);

/// The string is not a valid mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// Not an octal number.
    #[error("is not a mode: write it in octal digits, for example \"0440\"")]
    Syntax,
    /// Not allowed for a file.
    #[error(
        "is not a file mode here: use \"0400\" plus any of 0044; files are read-only, and the tree \
         marks programs"
    )]
    File,
    /// Not allowed for a directory.
    #[error(
        "is not a directory mode here: use \"0700\" plus any of 0055; only the owner writes to it"
    )]
    Directory,
}

impl Default for ContentMode {
    fn default() -> Self {
        Self(0o444)
    }
}

impl Default for DirectoryMode {
    fn default() -> Self {
        Self(0o755)
    }
}

/// Parses an octal mode that contains all bits of `needed` and none outside `allowed`.
fn bits(text: &str, needed: u32, allowed: u32, refused: ModeError) -> Result<u32, ModeError> {
    if text.len() > 5 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return Err(ModeError::Syntax);
    }
    let bits = u32::from_str_radix(text, 8).map_err(|_| ModeError::Syntax)?;
    if bits & needed == needed && bits & !allowed == 0 { Ok(bits) } else { Err(refused) }
}

impl FromStr for ContentMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        bits(text, 0o400, 0o444, ModeError::File).map(Self)
    }
}

impl FromStr for DirectoryMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        bits(text, 0o700, 0o755, ModeError::Directory).map(Self)
    }
}

impl TryFrom<String> for ContentMode {
    type Error = ModeError;

    fn try_from(text: String) -> Result<Self, ModeError> {
        text.parse()
    }
}

impl TryFrom<String> for DirectoryMode {
    type Error = ModeError;

    fn try_from(text: String) -> Result<Self, ModeError> {
        text.parse()
    }
}

impl From<ContentMode> for String {
    fn from(mode: ContentMode) -> Self {
        mode.to_string()
    }
}

impl From<DirectoryMode> for String {
    fn from(mode: DirectoryMode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for ContentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Display for DirectoryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_file_and_directory_modes_are_refused() {
        for (text, exec) in [("0444", 0o555), ("440", 0o550), ("00400", 0o500), ("0404", 0o505)] {
            let permissions =
                Permissions { file_mode: text.parse().unwrap(), ..Permissions::default() };
            assert_eq!(permissions.file(true).bits, exec, "{text}");
        }
        for text in ["0640", "0040", "0555", "4444", "7", "0"] {
            assert_eq!(text.parse::<ContentMode>(), Err(ModeError::File), "{text}");
        }
        for text in ["", "rw", "0x1", "+400", "-400", "0448", "000000444"] {
            assert_eq!(text.parse::<ContentMode>().map(|mode| mode.0).unwrap_or(0), 0, "{text}");
        }
        for (text, is_taken) in [
            ("0755", true),
            ("0750", true),
            ("700", true),
            ("0775", false),
            ("2750", false),
            ("0555", false),
        ] {
            assert_eq!(text.parse::<DirectoryMode>().is_ok(), is_taken, "{text}");
        }
    }
}
