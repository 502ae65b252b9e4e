//! Guard rails, which refuse releases that are probably a broken build.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::hash::HistoryId;
use crate::push::secret_files::{AllowedSecrets, is_secret};
use crate::release::RejectedContent;
use crate::tree_path::TreePath;

/// Maximum number of paths that one release may remove, written as a number or as a percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxRemoved {
    /// This number of paths.
    Count(u64),
    /// This percentage of all paths, 0 to 100. Removing at most 100 paths is always allowed.
    Percent(u8),
}

impl Default for MaxRemoved {
    fn default() -> Self {
        Self::Percent(50)
    }
}

/// The string is neither a percentage nor a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a percentage from \"0%\" to \"100%\", or a number of paths")]
pub struct ParseMaxRemovedError;

impl FromStr for MaxRemoved {
    type Err = ParseMaxRemovedError;

    fn from_str(text: &str) -> Result<Self, ParseMaxRemovedError> {
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
                _ => Err(ParseMaxRemovedError),
            },
            None => text.parse().map(Self::Count).map_err(|_| ParseMaxRemovedError),
        }
    }
}

/// If the limit is a percentage, removing up to this many paths is always allowed.
const MIN_REMOVED_PATHS: u64 = 100;

/// The settings of the guard rails.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// Paths that must exist in the tree.
    pub must_have: Vec<TreePath>,
    /// Paths that must no longer be served, not even as retired entries.
    pub expunged: Vec<TreePath>,
    /// How many paths may be removed.
    pub max_removed: MaxRemoved,
    /// Allow any number of removed paths, and an empty tree.
    pub allow_shrink: bool,
    /// Allow secrets, such as `.env` files and private keys.
    pub allow_secrets: bool,
    /// Paths at which secrets are allowed.
    pub allowed_secrets: AllowedSecrets,
}

/// The history that a mirror serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryOfMirror {
    /// The name of the mirror.
    pub mirror: String,
    /// The history of its current release.
    pub history: HistoryId,
    /// The sequence of its current release.
    pub sequence: u64,
    /// When the mirror's oldest release from that history was created, in seconds since 1970.
    pub since: u64,
}

impl fmt::Display for HistoryOfMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mirror, history, sequence, since } = self;
        write!(f, "{mirror} serves release {sequence} of history {}", history.short())?;
        match i64::try_from(*since).ok().and_then(|since| jiff::Timestamp::from_second(since).ok())
        {
            Some(since) => write!(f, " (there since {since})"),
            None => Ok(()),
        }
    }
}

/// Why a guard rail refused a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardFault {
    /// The mirrors have releases from different histories.
    #[error("the mirrors have different histories of this site: {}", histories(mirrors))]
    Histories {
        /// The mirrors that serve a release.
        mirrors: Vec<HistoryOfMirror>,
    },
    /// The tree has no paths.
    #[error("the tree is empty")]
    EmptyTree,
    /// Too many paths would be removed.
    #[error("{removed} of {total} paths would be removed")]
    TooManyRemoved {
        /// The number of paths.
        removed: u64,
        /// The number of live paths before the release.
        total: u64,
    },
    /// Paths that must exist are missing.
    #[error("must_have: the tree lacks {}", list(paths))]
    MissingPaths {
        /// The paths.
        paths: Vec<String>,
    },
    /// Paths that must no longer be served would still be served.
    #[error(
        "the tree contains paths that --expunge names, and would still serve them: {}",
        list(paths)
    )]
    Expunged {
        /// The paths.
        paths: Vec<String>,
    },
    /// Files look like secrets.
    #[error("the tree contains files that look like secrets: {}", list(paths))]
    Secrets {
        /// The paths.
        paths: Vec<String>,
    },
    /// The content was rolled back before.
    #[error("{0}")]
    Rejected(RejectedContent),
}

fn list(paths: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if paths.len() > SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - SHOWN));
    }
    text
}

impl Guards {
    /// Checks the live paths of a new tree.
    ///
    /// # Errors
    /// The fault from the first guard rail that refuses the release.
    pub fn check_tree<'p>(
        &self,
        live: impl Iterator<Item = &'p TreePath> + Clone,
    ) -> Result<(), GuardFault> {
        if live.clone().next().is_none() && !self.allow_shrink {
            return Err(GuardFault::EmptyTree);
        }
        // `must_have` may name a directory. The directory exists if any path is below it.
        let has = |path: &&TreePath| live.clone().any(|live| live.is_within(path.as_str()));
        let paths: Vec<String> =
            self.must_have.iter().filter(|path| !has(path)).map(ToString::to_string).collect();
        if !paths.is_empty() {
            return Err(GuardFault::MissingPaths { paths });
        }
        // A path that is still in the tree is published again, so `--expunge` would not affect it.
        let is_expunged = |path: &&TreePath| {
            self.expunged.iter().any(|expunged| path.is_within(expunged.as_str()))
        };
        let paths: Vec<String> = live.filter(is_expunged).map(ToString::to_string).collect();
        if !paths.is_empty() {
            return Err(GuardFault::Expunged { paths });
        }
        Ok(())
    }

    /// Checks the live paths of a new tree for names of secrets. `keys` are the paths of files that
    /// begin with a private key.
    ///
    /// # Errors
    /// [`GuardFault::Secrets`].
    pub fn check_secrets<'p>(
        &self,
        live: impl Iterator<Item = &'p TreePath>,
        keys: impl Iterator<Item = &'p TreePath>,
    ) -> Result<(), GuardFault> {
        if self.allow_secrets {
            return Ok(());
        }
        // A set, because a file may be found by both its name and its content.
        let secrets: BTreeSet<&TreePath> =
            live.filter(|path| is_secret(path)).chain(keys).collect();
        let refused = secrets.into_iter().filter(|path| !self.allowed_secrets.allows(path));
        let paths: Vec<String> = refused.map(ToString::to_string).collect();
        if paths.is_empty() { Ok(()) } else { Err(GuardFault::Secrets { paths }) }
    }

    /// Checks how many of `total` live paths would be removed.
    ///
    /// # Errors
    /// [`GuardFault::TooManyRemoved`].
    pub fn check_removed(&self, removed: u64, total: u64) -> Result<(), GuardFault> {
        let too_many = match self.max_removed {
            MaxRemoved::Count(limit) => removed > limit,
            MaxRemoved::Percent(percent) => {
                removed > MIN_REMOVED_PATHS && removed * 100 > total * u64::from(percent)
            }
        };
        if too_many && !self.allow_shrink {
            Err(GuardFault::TooManyRemoved { removed, total })
        } else {
            Ok(())
        }
    }
}

fn histories(mirrors: &[HistoryOfMirror]) -> String {
    let texts: Vec<String> = mirrors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guards: &Guards, paths: &[&str]) -> Result<(), GuardFault> {
        let paths: Vec<_> = paths.iter().map(|path| TreePath::new(path).unwrap()).collect();
        guards.check_tree(paths.iter())
    }

    #[test]
    fn expunged_path_in_the_tree_is_refused() {
        let guards =
            Guards { expunged: vec![TreePath::new("a/leak").unwrap()], ..Guards::default() };
        assert_eq!(check(&guards, &["a/leaks", "index.html"]), Ok(()));
        let found = check(&guards, &["a/leak/x.txt", "index.html"]);
        assert_eq!(found, Err(GuardFault::Expunged { paths: vec!["a/leak/x.txt".into()] }));
    }

    #[test]
    fn empty_tree_is_refused_unless_allowed() {
        assert_eq!(check(&Guards::default(), &[]), Err(GuardFault::EmptyTree));
        assert_eq!(check(&Guards { allow_shrink: true, ..Guards::default() }, &[]), Ok(()));
    }

    #[test]
    fn secrets_in_names_or_content_are_refused_unless_allowed() {
        let paths =
            [".git/config", "a/app.pem", "index.html"].map(|text| TreePath::new(text).unwrap());
        let check = |guards: &Guards| guards.check_secrets(paths.iter(), paths[1..2].iter());
        let fault = |paths: &[&str]| {
            Err(GuardFault::Secrets {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            })
        };
        assert_eq!(check(&Guards::default()), fault(&[".git/config", "a/app.pem"]));
        let allowed = |patterns: &[&str]| {
            let patterns: Vec<String> =
                patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            Guards { allowed_secrets: AllowedSecrets::new(&patterns).unwrap(), ..Guards::default() }
        };
        assert_eq!(check(&allowed(&["a/app.pem"])), fault(&[".git/config"]));
        assert_eq!(check(&allowed(&["a/app.pem", ".git/"])), Ok(()));
        assert_eq!(check(&Guards { allow_secrets: true, ..Guards::default() }), Ok(()));
    }

    #[test]
    fn must_have_path_can_be_a_file_or_a_directory() {
        let guards =
            |path| Guards { must_have: vec![TreePath::new(path).unwrap()], ..Guards::default() };
        let tree = ["a", "d-x", "d/e", "index.html"];
        for there in ["a", "d", "d/e", "index.html"] {
            assert_eq!(check(&guards(there), &tree), Ok(()), "{there}");
        }
        assert!(check(&guards("index"), &tree).is_err());
    }

    #[test]
    fn removal_of_half_a_large_tree_is_refused() {
        let guards = Guards::default();
        assert_eq!(guards.check_removed(100, 100), Ok(()));
        assert_eq!(guards.check_removed(101, 202), Ok(()));
        assert!(guards.check_removed(102, 203).is_err());
        assert!(
            Guards { max_removed: MaxRemoved::Count(3), ..guards }.check_removed(4, 1000).is_err()
        );
    }
}
