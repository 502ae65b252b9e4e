//! Group and modes of the served files. Each mirror sets its own.
//!
//! Permissions belong to releases, by sequence number. A change applies from the next release on
//! and leaves the files of earlier ones alone, so that the metadata of an inode never changes and
//! verify knows what each slot must have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fsx::FileMode;

/// Group and modes of the files and directories of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// The group id; `None` for the group that the system assigns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Mode of a file.
    pub file_mode: ContentMode,
    /// Mode of a directory.
    pub dir_mode: DirectoryMode,
}

impl Permissions {
    /// The mode of a file. A class that may read an executable file may also execute it.
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

/// A text that is not a valid mode.
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

/// Parses an octal mode that has all bits of `needed` and none outside `allowed`.
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

/// Permissions, and the releases that they apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct PermissionEpoch {
    /// They apply to releases with a higher sequence number.
    pub(in crate::store) after: u64,
    pub(in crate::store) permissions: Permissions,
}

/// The permissions of the release `sequence`: those of the last epoch that includes it.
pub(in crate::store) fn permissions_at(eras: &[PermissionEpoch], sequence: u64) -> Permissions {
    eras.iter()
        .rev()
        .find(|era| era.after < sequence)
        .map(|era| era.permissions)
        .unwrap_or_default()
}

/// Adds an epoch that begins after `highest`, and drops the epochs that no release from `lowest` on
/// belongs to.
pub(in crate::store) fn epochs_with(
    eras: &[PermissionEpoch],
    permissions: Permissions,
    highest: u64,
    lowest: u64,
) -> Vec<PermissionEpoch> {
    let mut all: Vec<PermissionEpoch> =
        eras.iter().copied().filter(|era| era.after < highest).collect();
    all.push(PermissionEpoch { after: highest, permissions });
    let first = all.iter().rposition(|era| era.after < lowest).unwrap_or(0);
    all.split_off(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(group: u32) -> Permissions {
        Permissions { group: Some(group), ..Permissions::default() }
    }

    #[test]
    fn each_release_has_the_permissions_of_its_era() {
        let eras = epochs_with(&[], with(1), 0, u64::MAX);
        let eras = epochs_with(&eras, with(2), 7, 6);
        let groups = |eras: &[PermissionEpoch]| {
            [1, 6, 7, 8, 99].map(|sequence| permissions_at(eras, sequence).group)
        };
        assert_eq!(groups(&eras), [Some(1), Some(1), Some(1), Some(2), Some(2)]);
        // Changed again before any release used it.
        let again = epochs_with(&eras, with(3), 7, 6);
        assert_eq!(
            (again.len(), groups(&again)),
            (2, [Some(1), Some(1), Some(1), Some(3), Some(3)])
        );
        // Once all slots belong to the second epoch, the first is dropped.
        let later = epochs_with(&again, with(4), 9, 8);
        assert_eq!(
            (later.len(), permissions_at(&later, 8).group, permissions_at(&later, 10).group),
            (2, Some(3), Some(4))
        );
        assert_eq!(permissions_at(&epochs_with(&[], with(1), 5, 4), 5), Permissions::default());
    }

    #[test]
    fn only_modes_that_nobody_writes_through_are_taken() {
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
